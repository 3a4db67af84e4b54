"""Whom a payee asks to call it after a start, where, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import trio
from msgspec import structs

from crypto.identity import BUNDLE_BYTES, KeyBundle
from dht.calls import Recipient
from node.discovery import Discovery
from node.links import Links
from node.reaching import CALL_TAG, decode_call
from node.settlement import terms, wire
from node.settlement.life import Role, Row, State
from node.settlement.terms import Unit
from node.settlement.wire import Request
from node.tunnels.summons import Summons
from tun.core import TunnelCore

SECRET = bytes(range(16))
HERE, THERE, LAST = (bytes([192, 0, 2, number, 0xCA, 0x41]) for number in (1, 2, 3))
REQUEST = Request(
    tunnel_id=bytes(16),
    pricing_unit=Unit.GB,
    price_zeq=50,
    lifespan_zeqonds=100,
    reply_secret=SECRET,
    endpoints=(THERE,),
)


def a_row(**changes: object) -> Row:
    row = Row(
        tunnel_id=REQUEST.tunnel_id,
        role=Role.PAYEE,
        state=State.ACTIVE,
        bundle=b"\x01" * BUNDLE_BYTES,
        terms=terms.agree(Unit.GB, 50, 100).encoded,
        asked_at=1,
        began_at=2,
        answer_to=wire.encode(REQUEST),
        place="192.0.2.3:51777",
    )
    return structs.replace(row, **changes)


class World:
    """Discovery and a core: `asked` is when whom, since the start. `current`: the session with the payer."""

    def __init__(self, row: Row, seconds: float) -> None:
        """`seconds`: after so many there is a session."""
        self.asked: list[tuple[float, Recipient]] = []
        self.links = Links()
        self.row = row
        self.peers = {KeyBundle(row.bundle).machine_id: SimpleNamespace(keypairs=self)}
        self._since = trio.current_time()
        self._seconds = seconds

    @property
    def current(self) -> object:
        return object() if self.passed >= self._seconds else None

    @property
    def passed(self) -> float:
        return trio.current_time() - self._since

    def places(self) -> tuple[tuple[bytes, ...], tuple[()]]:
        return (HERE,), ()

    async def send_event(self, to: Recipient, tag: str, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert (tag, decode_call(body)) == (CALL_TAG, [HERE])
        self.asked.append((self.passed, to))

    async def run(self) -> list[float]:
        """When it asked."""
        await Summons(cast(Discovery, self), cast(TunnelCore, self), lambda _row: self.row).run([self.row])
        return [when for when, _ in self.asked]


async def test_it_asks_more_and_more_rarely_until_there_is_a_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(a_row(), 100)
    assert await world.run() == [0, 2, 6, 14, 30, 62]
    to = world.asked[0][1]
    assert (to.secret, to.endpoints) == (SECRET, (LAST, THERE))


async def test_who_ended_it_before_the_start_asks_for_half_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await World(a_row(state=State.TERMINATED, ended_at=9), 1000).run() == [0, 2, 6, 14, 30]


async def test_nobody_is_asked_once_it_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    world = World(a_row(), 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        await trio.sleep(3)
        world.row = a_row(state=State.TERMINATED, ended_at=9)
    assert len(world.asked) == 2


async def test_neither_a_payer_asks_nor_who_has_not_agreed(autojump_clock: trio.testing.MockClock) -> None:
    assert await World(a_row(role=Role.PAYER), 1000).run() == []
    assert await World(a_row(state=State.PENDING), 1000).run() == []
