"""What tests of tunnels do again and again, with the machines of market_kit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from node.settlement import wire as messages
from node.settlement.life import Row
from node.settlement.terms import Unit
from node.settlement.wire import decode_note, encode
from tests.node.settlement.market_kit import MB, Machine, Wire, a_relay


def pair(path: Path, wire: Wire, **policy: object) -> tuple[Machine, Machine]:
    relay = a_relay(path, wire, **policy)  # type: ignore[arg-type]
    return relay, Machine("guest", path, wire)


def begun(path: Path, wire: Wire, unit: Unit = Unit.GB, **policy: object) -> tuple[Machine, Machine, bytes]:
    relay, guest = pair(path, wire, **policy)
    price = relay.policy.price(unit) if relay.policy else None
    tunnel = guest.ask(relay, unit=unit, price=price or 0)
    wire.run(1)
    assert guest.row(tunnel).began_at
    return relay, guest, tunnel


def carry(wire: Wire, guest: Machine, relay: Machine, megabytes: int) -> int:
    """In pieces of half a second; how many were carried."""
    for done in range(megabytes):
        if not wire.carry(guest, relay, MB // 5, 4 * MB // 5):
            return done
        wire.run(0.25)
    return megabytes


def losing(wire: Wire, kind: type, count: int, only: Machine | None = None) -> None:
    """The next `count` notes of this kind come as nothing that can be read."""
    left = [count]

    def spoil(machine: Machine, body: bytes) -> bytes:
        if isinstance(messages.decode_note(body), kind) and left[0] > 0 and only in (None, machine):
            left[0] -= 1
            return b""
        return body

    wire.spoil = spoil


def agree_and_settled(one: Machine, other: Machine, tunnel: bytes) -> Row:
    """Both ended, both halves in both ledgers, one amount."""
    here, there = one.row(tunnel), other.row(tunnel)
    assert here.ended
    assert there.ended
    assert (here.settled, there.settled) == (True, True)
    assert (here.amount, here.carried, here.zeqonds) == (there.amount, there.carried, there.zeqonds)
    assert one.ledger.verify().open == other.ledger.verify().open == 0
    return here


def spoiling(wire: Wire, machine: Machine, change: Callable[[messages.Note], messages.Note]) -> None:
    """It says another thing than its desk wants said."""

    def spoil(sender: Machine, body: bytes) -> bytes:
        return encode(change(decode_note(body))) if sender is machine else body

    wire.spoil = spoil
