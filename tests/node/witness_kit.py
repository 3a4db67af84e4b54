"""Nodes with real ledgers that ask each other without a network (ask_world.py) and gossip; one market."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from crypto.identity import slug
from dht.calls import Recipient
from dht.marketplace import Listing
from dht.offers import Offer
from dht.signatures import Ed25519Signatures, MachineSigner
from dht.tags import Tagged
from node.asking import Unanswered
from node.books import Books
from node.contacts import Contacts
from node.forks import Forks
from node.ledger import Ledger
from node.restoring import Restoring
from node.settlement import blocks, vouchers
from node.settlement.blocks import Block, Partner, Party
from node.settlement.terms import GB, Unit, agree
from node.settlement.vouchers import Tunnel
from node.witnesses import Witnesses
from tests.node.ask_world import Mailbox, World

UNIX = 1_800_000_000
TERMS = agree(Unit.GB, 50, 1000)

_P = ParamSpec("_P")
_T = TypeVar("_T")


def unix() -> int:
    return UNIX + int(trio.current_time())


class HereBooks(Books):
    """In no thread: a clock that jumps would not wait for one."""

    async def call(
        self, function: Callable[Concatenate[Ledger, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        await trio.lowlevel.checkpoint()
        return function(self._ledger, *args, **kwargs)


class Town:
    """`market`: who offers, by its own word or another's. Whom `unfound` names cannot be found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World()
        self.market_of: dict[bytes, Listing] = {}
        self.unfound: set[bytes] = set()
        self.asked: list[tuple[bytes, str]] = []
        self._listeners: list[trio.MemorySendChannel[Tagged]] = []

    def add(self, listed: bool = True) -> Mailbox:
        box = self.world.add()
        if listed:
            self.offers(box.keys.machine_id, box.keys.bundle.ed25519)
        else:
            self.unfound.add(box.keys.machine_id)
        return box

    def offers(self, machine_id: bytes, signer: bytes) -> None:
        self.market_of[signer] = Listing(Offer(machine_id, 50, 1, 8, ("ANY",)), signer, 1, 2**40, None, False)

    async def refresh_market(self, country: str) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    def market(self, country: str, max_per_gb: int | None) -> list[Listing]:
        return list(self.market_of.values())

    async def find(self, machine_id: bytes) -> Recipient:
        await trio.lowlevel.checkpoint()
        if machine_id in self.unfound:
            raise Unanswered(f"{slug(machine_id)} is not found")
        return self.world.boxes[machine_id].recipient()

    @asynccontextmanager
    async def listen(self, pattern: str) -> AsyncIterator[trio.MemoryReceiveChannel[Tagged]]:
        sender, receiver = trio.open_memory_channel[Tagged](256)
        self._listeners.append(sender)
        try:
            yield receiver
        finally:
            self._listeners.remove(sender)

    def publish_tag(self, tag: str, body: bytes) -> int:
        for each in self._listeners:
            each.send_nowait(Tagged((1,), tag, b"a" * 32, b"", body, 7))
        return len(self._listeners)


class Node:
    """What node/services.py puts together of it."""

    def __init__(self, town: Town, box: Mailbox, ledger: Ledger) -> None:
        self.box = box
        self.ledger = ledger
        self.books = HereBooks(ledger)
        self.contacts = Contacts(town, box.asking, self._finding(town))
        self.forks = Forks(town, self.books)
        self.witnesses = Witnesses(
            *(self.machine_id, self.books, self.contacts, box.answering, self.forks.found, unix)
        )
        self.restoring = Restoring(self.books, self.contacts, box.answering, self.forks.found, unix)
        self.finds: list[bytes] = []

    @property
    def machine_id(self) -> bytes:
        return self.box.keys.machine_id

    @property
    def key(self) -> bytes:
        return self.box.keys.bundle.ed25519

    @property
    def partner(self) -> Partner:
        return Partner(machine_id=self.machine_id, key=self.key)

    def shown(self) -> None:
        for each in (self.forks.found, self.witnesses.shown, self.restoring.shown):
            each()

    def _finding(self, town: Town) -> Callable[[bytes], Awaitable[Recipient]]:
        async def find(machine_id: bytes) -> Recipient:
            self.finds.append(machine_id)
            return await town.find(machine_id)

        return find


def party(box: Mailbox) -> Party:
    return Party(machine_id=box.keys.machine_id, signer=MachineSigner(box.keys))


def open_ledger(box: Mailbox, path: Path) -> Ledger:
    return Ledger.open(path, party(box), Ed25519Signatures())


def path_of(town: Town, box: Mailbox) -> Path:
    return town.folder / box.keys.machine_id.hex()[:8]


@asynccontextmanager
async def nodes(town: Town, *boxes: Mailbox) -> AsyncIterator[list[Node]]:
    """All run; a second time is a restart: with their ledgers."""
    async with AsyncExitStack() as stack:
        made = []
        for box in boxes:
            ledger = open_ledger(box, path_of(town, box))
            stack.callback(ledger.close)
            made.append(Node(town, box, ledger))
        async with trio.open_nursery() as nursery:
            for node in made:
                await nursery.start(node.box.asking.run)
                await nursery.start(node.box.answering.run)
                await nursery.start(node.forks.run)
                await nursery.start(node.witnesses.run)
                await nursery.start(node.restoring.run)
            yield made
            nursery.cancel_scope.cancel()


def a_voucher(payer: Mailbox, payee: Mailbox, number: int) -> bytes:
    tunnel = Tunnel(
        session=bytes(32),
        tunnel_id=number.to_bytes(16, "big"),
        payer=payer.keys.machine_id,
        payee=payee.keys.machine_id,
        payer_key=payer.keys.bundle.ed25519,
        terms=TERMS,
    )
    return vouchers.write(tunnel, 1, GB, 0, 1, MachineSigner(payer.keys))


def pay(payer: Mailbox, payee: Node, number: int, before: Block | None = None) -> Block:
    """The payer's half, after `before` in one of its branches; the payee has signed its own."""
    raw = a_voucher(payer, payee.box, number)
    read = vouchers.read(raw)
    made = blocks.propose(
        *(party(payer), before, payee.partner, read.tunnel_id, blocks.voucher_hash(raw), read.amount, 7)
    )
    payee.ledger.keep([raw])
    payee.ledger.heard(payer.keys.bundle.ed25519)
    payee.ledger.earn(made, raw, payer.keys.bundle.ed25519, 8)
    payee.shown()
    return made
