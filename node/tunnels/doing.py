"""What the desk wants done, done: the disk first, then what may be said after it.

    actions ─▶ all Learn, one write for all Keep, one for all Save of the batch ─▶ the others, in order

A row may say that its tunnel is settled, so it is written after the half that it says so for.

While the disk refuses, nothing that comes after it happens, and no tunnel carries: what could not be written
down would be carried for nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import trio

from crypto.errors import LocalFault, PeerFault
from crypto.identity import slug
from node import meeting
from node.books import Books
from node.errors import StorageFailed
from node.ledger import ChainBehind, Ledger
from node.logs import Log
from node.settlement import actions, blocks, wire
from node.settlement.actions import Action
from node.settlement.blocks import BadBlock, Block, Partner
from node.settlement.desk import Desk
from node.settlement.life import Row
from node.settlement.wire import Half, Shown
from node.tunnels.disk import Disk
from node.tunnels.links import Links
from tun.engine import boot_us
from tun.errors import TunError

AGAIN_SECONDS: Final = 2.0

log = Log("tunnels")

_ForLedger: TypeAlias = actions.Spend | actions.Earn | actions.Repeat | actions.Greet | actions.Read


class Doer:
    """`books`: None without a ledger. `changed(row)` is for whoever watches; `tell` brings events; `shown()`
    is called when the ledger was shown something."""

    def __init__(
        self,
        desk: Desk,
        disk: Disk,
        books: Books | None,
        links: Links,
        tell: Callable[[actions.Tell], None],
        changed: Callable[[Row], Awaitable[None]],
        shown: Callable[[], None],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._desk = desk
        self._disk = disk
        self._books = books
        self._links = links
        self._tell = tell
        self._changed = changed
        self._shown = shown
        self._entropy = entropy

    async def do(self) -> None:
        """Until the desk wants nothing more."""
        while self._desk.actions:
            batch = list(self._desk.actions)
            self._desk.actions.clear()
            await self._persist(batch)
            barred: set[bytes] = set()  # key bundles of who could not be let in: no word of an agreement
            for action in batch:
                if isinstance(action, actions.Admit):
                    await self._admit(action.row, barred)
                elif not isinstance(action, actions.Tell) or action.bundle not in barred:
                    await self._do(action)

    async def _persist(self, batch: Iterable[Action]) -> None:
        """Comes back when all of it is on the disk, however long that takes."""
        rows = [each.row for each in batch if isinstance(each, actions.Save)]
        raws = [each.voucher for each in batch if isinstance(each, actions.Keep)]
        halves = [each.block for each in batch if isinstance(each, actions.Learn)]
        if not rows and not raws and not halves:
            return
        shut = False
        while True:
            try:
                if self._books is not None:
                    await self._write_down(self._books, halves, raws)
                await self._disk.save(rows)
                break
            except StorageFailed as error:
                if not shut:
                    log.warning("tunnels carry nothing until the disk takes what is signed", error=error)
                    self._links.shut(self._desk.in_use())
                    shut = True
                await trio.sleep(AGAIN_SECONDS)
        if shut:
            log.info("the disk works again")
            self._desk.open_again()

    async def _write_down(self, books: Books, halves: Iterable[bytes], raws: list[bytes]) -> None:
        """In the ledger. Raises StorageFailed; a half that contradicts another is none of a disk's faults."""
        for half in halves:
            try:
                await books.call(Ledger.learn, blocks.read(half))
                self._shown()
            except (PeerFault, BadBlock) as error:
                self._desk.counters[f"ledger: {error}"] += 1
        if raws:
            await books.call(Ledger.keep, raws)

    async def _do(self, action: Action) -> None:
        match action:
            case actions.Spend() | actions.Earn() | actions.Repeat() | actions.Greet() | actions.Read():
                await self._settle(action)
            case actions.Tell():
                self._tell(action)
            case actions.Send(machine_id, body):
                self._links.send(machine_id, body)
            case actions.Call(machine_id):
                self._links.call(machine_id)
            case actions.Dismiss(machine_id):
                await self._links.dismiss(machine_id)
            case actions.Gate(machine_id, opened):
                self._links.gate(machine_id, opened)
            case actions.Changed(row):
                await self._changed(row)

    async def _admit(self, row: Row, barred: set[bytes]) -> None:
        try:
            await self._links.admit(row)
        except TunError as error:
            log.warning("a tunnel's partner is not let in", machine=slug(row.partner), why=error)
            barred.add(row.bundle)
            self._desk.not_admitted(row.tunnel_id, boot_us())

    # ------------------------------------------------------------------ the ledger

    async def _settle(self, action: _ForLedger) -> None:
        if self._books is None:
            return
        try:
            await self._book(self._books, action)
            self._shown()
        except ChainBehind as error:
            log.info("not signed yet", why=error)
            if isinstance(action, actions.Spend):
                self._desk.not_halved(action.row.tunnel_id, boot_us())
        except (PeerFault, BadBlock) as error:
            self._desk.counters[f"ledger: {error}"] += 1
        except LocalFault as error:
            log.warning("a half of a pair could not be written", why=error)
        except StorageFailed as error:  # it is asked for again when the two meet again
            log.warning("the ledger could not be written", error=error)

    async def _book(self, books: Books, action: _ForLedger) -> None:
        zeqond = self._desk.zeqond(boot_us())
        match action:
            case actions.Spend(row, raw):
                half = await books.call(Ledger.spend, raw, row.partner_key, zeqond)
                self._desk.halved(row.tunnel_id, half.raw, boot_us())
            case actions.Earn(row, raw, proposal):
                earned = await self._earned(books, row, raw, proposal, zeqond)
                if earned is not None:
                    self._desk.halved(row.tunnel_id, earned.raw, boot_us())
            case actions.Repeat(machine_id, tunnel_id, proposal):
                ours = await books.call(Ledger.answer_to, blocks.read(proposal))
                if ours is not None:
                    self._links.send(machine_id, wire.encode(Half(tunnel_id, ours.raw)))
            case actions.Greet(row):
                self._show(row, await books.call(meeting.opening, _partner(row), self._entropy), True)
            case actions.Read(row, body):
                self._show(row, await books.call(meeting.received, _partner(row), body), False)

    async def _earned(self, books: Books, row: Row, raw: bytes, proposal: bytes, zeqond: int) -> Block | None:
        """Without a proposal: what was earned before, if it was."""
        if not proposal:
            return await books.call(Ledger.half_of, row.tunnel_id)
        asked = blocks.read(proposal)
        return await books.call(Ledger.earn, asked, raw, row.partner_key, zeqond)

    def _show(self, row: Row, notes: Iterable[bytes], opening: bool) -> None:
        for number, note in enumerate(notes):
            shown = Shown(row.tunnel_id, opening and not number, note)
            self._links.send(row.partner, wire.encode(shown))


def _partner(row: Row) -> Partner:
    return Partner(machine_id=row.partner, key=row.partner_key)
