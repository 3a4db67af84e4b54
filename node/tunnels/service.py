"""The service that asks for tunnels and accepts them: the desk, its disk, its peers, its clock.

    sealed events ─▶ on_request, on_answer ─┐
    notes of peers ─▶ the meters, on_note  ─┼─▶ Doer ─▶ disk, ledger, events, notes, peers, gates
    meters, time   ─▶ measured, tick       ─┘

Meters of peers that a tunnel uses are looked at twice a second, more often while much is carried.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from crypto.errors import PeerFault
from crypto.identity import slug
from dht.signatures import Ed25519Signatures, MachineSigner
from dht.tags import Tagged
from node.books import Books
from node.context import Context
from node.discovery import Discovery
from node.ledger import Ledger
from node.logs import Log
from node.offering import Offering
from node.replies import Replies
from node.settlement import wire
from node.settlement.credit import DAY_S, Credit
from node.settlement.desk import Desk
from node.settlement.life import Role, Row, State
from node.settlement.wire import Answer
from node.tunnels.disk import Disk, open_disk
from node.tunnels.doing import Doer
from node.tunnels.guarding import Guarding
from node.tunnels.keys import Keys
from node.tunnels.links import LOOK_SECONDS, Links, next_look
from node.tunnels.loading import load
from node.tunnels.offered import Offered
from node.tunnels.post import Post
from node.tunnels.store import TunnelStore
from node.tunnels.summons import Summons
from node.tunnels.watching import Watchers
from node.vault.secrets import Secrets
from tun.addresses import Address, text
from tun.engine import boot_us, unix_us
from tun.events import Connected, Event, Noted, Roamed

LAST_MAX: Final = 256

log = Log("tunnels")


class Service:
    """Made by `open_service`. `answered`: the last answer to each of our requests, by tunnel_id."""

    def __init__(
        self,
        context: Context,
        discovery: Discovery,
        desk: Desk,
        disk: Disk,
        books: Books | None,
        links: Links,
        post: Post,
        offering: Offering,
        offered: Offered,
        liars: set[bytes],
        past: dict[bytes, Row],
        keys: Keys,
    ) -> None:
        self.desk = desk
        self.disk = disk
        self.books = books
        self.post = post
        self.answered: dict[bytes, Answer] = {}
        self._context = context
        self._discovery = discovery
        self._links = links
        self._offering = offering
        self._offered = offered
        self._liars = liars
        self._past = past
        self._keys = keys
        self._summons = Summons(discovery, context.core, self.newest)
        self._wake = trio.Event()
        self._in_use = trio.Event()
        self._nap = trio.CancelScope()
        self._notes: list[tuple[bytes, bytes]] = []
        self._last: dict[bytes, Row] = {}  # of tunnels that have ended, the newest 256
        self._steps: dict[bytes, tuple[State, bool]] = {}
        self._watchers = Watchers()
        self.watch = self._watchers.watch
        self.guarding = Guarding(context.peers.guests, links, desk, self.poke)
        self.on_shown: Callable[[], None] = _pass
        """Told when the ledger may have learnt something of others."""
        self._doer = Doer(desk, disk, books, links, post.tell, self._changed, self._shown, os.urandom)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; what was begun with the disk is finished."""
        if self._offering.listed:
            await self.guarding.look()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.post.run)
            nursery.start_soon(self._context.peers.guests.run)
            nursery.start_soon(self._summons.run, list(self.desk.rows()))
            for tag in (wire.REQUEST_TAG, *wire.ANSWER_TAGS):
                nursery.start_soon(self._listen, tag)
            nursery.start_soon(self._by_the_clock)
            nursery.start_soon(self._look)
            self.poke()
            task_status.started()
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._hear()
                await self._doer.do()
                self._set_alarm()

    def poke(self) -> None:
        """After a call into the desk from elsewhere: have done what it wants."""
        self._wake.set()
        self._in_use.set()

    def newest(self, row: Row) -> Row:
        """What has become of it."""
        return self.desk.row(row.tunnel_id) or self._last.get(row.tunnel_id, row)

    async def grant(self, machine_id: bytes, amount: int | None) -> None:
        """What the owner extends to one machine, millionths; None: as to any other. Raises StorageFailed."""
        await self.disk.call(TunnelStore.grant, machine_id, amount)
        self._offered.grant(machine_id, amount)
        self.refresh()

    def refresh(self) -> None:
        """What is offered may be something else now: prices, places, what is extended."""
        self._offered.apply(self.desk)

    # ------------------------------------------------------------------ events

    def handle(self, event: Event) -> None:
        """Of the tunnel core, after it was dealt with."""
        match event:
            case Noted(machine_id, body):
                self._notes.append((machine_id, body))
                self._wake.set()
            case Connected(machine_id, address):
                if machine_id in self.desk.partners():
                    self._reached(machine_id, address)
                    self.desk.connected(machine_id, boot_us())
                    self.poke()
            case Roamed(machine_id, _, address):
                self._reached(machine_id, address)
                self.poke()
            case _:
                pass

    def _reached(self, machine_id: bytes, address: Address | None) -> None:
        if address is not None and "%" not in address[0]:  # a link has another number after a start
            self.desk.reached(machine_id, text(address))

    async def _hear(self) -> None:
        """Notes; the meters first, as a statement may be about what they do not have yet."""
        if not self._notes:
            return
        notes, self._notes = self._notes, []
        await self._context.engine.refresh()
        for machine_id in {machine_id for machine_id, _ in notes}:
            self._measure(machine_id)
        for machine_id, body in notes:
            self.desk.on_note(machine_id, body, boot_us())
            await self._doer.do()

    async def _listen(self, tag: str) -> None:
        async with self._discovery.listen(tag) as heard:
            async for event in heard:
                if event.bundle:  # sealed to this machine; what is gossiped under this tag is nobody's
                    await self._on_event(event)

    async def _on_event(self, event: Tagged) -> None:
        if event.tag == wire.REQUEST_TAG:
            await self._on_request(event)
        else:
            answer = self.desk.on_answer(event.tag, event.author, event.body, boot_us())
            if answer is not None:
                self.answered[answer.tunnel_id] = answer
        self.poke()

    async def _on_request(self, event: Tagged) -> None:
        """Its payer chooses the id, and one that was settled is settled for ever: so the desk has to know of
        what is over, too."""
        await self.guarding.look()
        self.refresh()
        try:
            tunnel_id = wire.decode_request(event.body).tunnel_id
        except PeerFault:
            self.desk.counters["request for a tunnel that cannot be read"] += 1
            return
        kept = await self.disk.call(TunnelStore.find, tunnel_id)
        if kept is not None:
            self._past[tunnel_id] = kept
        await self._learn_of(event.bundle[:32])
        self.desk.on_request(event.bundle, event.body, boot_us())
        self._past.clear()
        log.info("asked for a tunnel", by=slug(event.author))

    async def _learn_of(self, key: bytes) -> None:
        """Whether it lies, for the desk, which cannot ask the disk."""
        if self.books is not None and await self.books.call(Ledger.lies, key):
            self._liars.add(key)

    # ------------------------------------------------------------------ meters and time

    async def _look(self) -> None:
        seconds = LOOK_SECONDS
        while True:
            while not self.desk.in_use():
                self._in_use = trio.Event()
                await self._in_use.wait()
            await trio.sleep(seconds)
            seconds = next_look(seconds, await self.look())

    async def look(self) -> int:
        """Have the desk know what all meters say now. Bytes since the last look, of who carried most."""
        await self._context.engine.refresh()
        since = self._carried()
        for machine_id in self.desk.in_use():
            self._measure(machine_id)
        self._wake.set()
        return since

    def _carried(self) -> int:
        """Bytes since the last look, of the peer that carried most."""
        most = 0
        for machine_id in self.desk.in_use():
            meter = self._links.measured(machine_id)
            if meter is not None:
                total = meter.sent + meter.received
                most = max(most, total - self._links.seen.get(machine_id, total))
                self._links.seen[machine_id] = total
        return most

    def _measure(self, machine_id: bytes) -> None:
        meter = self._links.measured(machine_id)
        if meter is not None:
            self.desk.measured(machine_id, meter, boot_us())

    async def _by_the_clock(self) -> None:
        while True:
            with trio.CancelScope() as self._nap:
                self._set_alarm()
                await trio.sleep_forever()
            self.desk.tick(boot_us())
            self._wake.set()

    def _set_alarm(self) -> None:
        """For the desk's next deadline, which whatever was done may have moved; 30 s at most, as it may
        lie further off than a clock can tell."""
        wait_s = max(0, self.desk.deadline_us() - boot_us()) / 1e6
        self._nap.deadline = trio.current_time() + min(wait_s, 30.0)

    # ------------------------------------------------------------------ who watches

    async def _changed(self, row: Row) -> None:
        self._log(row)
        self.post.forget(row)
        await self._keys.changed(row)
        if row.ended:
            self._last[row.tunnel_id] = row
            if len(self._last) > LAST_MAX:
                oldest = next(iter(self._last))
                del self._last[oldest]
                self.answered.pop(oldest, None)
        self._offering.keep_door(any(each.role is Role.PAYEE for each in self.desk.rows()))
        self._watchers.tell(row)

    def _log(self, row: Row) -> None:
        """Once for each step: asked, agreed, carrying, over."""
        step = (row.state, bool(row.began_at))
        if self._steps.get(row.tunnel_id) == step:
            return
        self._steps[row.tunnel_id] = step
        if row.ended:
            del self._steps[row.tunnel_id]
        word = "carries" if row.state is State.ACTIVE and row.began_at else str(row.state)
        fields = {"code": str(row.code)} if row.code else {}
        log.info(f"tunnel {word}", partner=slug(row.partner), role=row.role, **fields)

    def _shown(self) -> None:
        self.on_shown()


def _pass() -> None:
    """Where nobody wants to know."""


@asynccontextmanager
async def open_service(
    context: Context,
    discovery: Discovery,
    offering: Offering,
    replies: Replies,
    books: Books | None,
    secrets: Secrets,
) -> AsyncIterator[Service]:
    """With what the disk has; `run` it then. Raises StorageFailed."""
    core, peers = context.core, context.peers
    async with open_disk(context.config.node.state / "tunnels.db") as disk:
        post, liars, past = Post(discovery, replies), set[bytes](), dict[bytes, Row]()
        links = Links(core, context.engine, peers, post.where)
        grants = await disk.call(TunnelStore.grants)
        offered = Offered(
            lambda: offering.own,
            lambda: (context.config.relay, context.config.credit),
            peers.machine_of,
            books is not None,
            grants,
            lambda: not peers.guests.why,
        )
        offset_us = unix_us() - boot_us()
        day = unix_us() // 1_000_000 // DAY_S
        loaded = await load(disk, books, day, links.is_friend)
        credit = Credit(offered.extended(), loaded.exposures, loaded.today, day, links.is_friend)
        signer = MachineSigner(context.keys)
        desk = Desk(
            *(context.keys.machine_id, signer, Ed25519Signatures(), credit),
            *(core.transcripts, past.get, liars.__contains__, offset_us),
        )
        offered.apply(desk)
        desk.load(loaded.rows, boot_us())
        for row, _ in loaded.rows:
            post.load(row)
        keys = Keys(core, secrets)
        yield Service(
            context, discovery, desk, disk, books, links, post, offering, offered, liars, past, keys
        )
