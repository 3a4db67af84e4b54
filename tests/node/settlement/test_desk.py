"""Two machines, or more, from the request to the two halves in their ledgers."""

from __future__ import annotations

from pathlib import Path

from node.settlement.life import State
from node.settlement.terms import MILLIONTHS
from tests.node.settlement.market_kit import MB, Machine, Wire, a_relay


def test_a_stranger_asks_is_accepted_carries_pays_and_settles(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    assert guest.row(tunnel).state is State.ACTIVE
    assert guest.row(tunnel).began_at
    assert relay.row(tunnel).session == guest.row(tunnel).session
    for _ in range(40):
        assert wire.carry(guest, relay, 1 * MB, 9 * MB)
        wire.run(0.5)
    guest.terminate(tunnel)
    wire.run(3)
    for machine in (guest, relay):
        row = machine.row(tunnel)
        assert (row.state, row.settled) == (State.TERMINATED, True)
        assert row.amount == 50 * MILLIONTHS
        assert row.carried == 400 * MB or row.carried >= 396 * MB
        assert machine.ledger.verify().pairs == 1
    assert relay.ledger.accounts()[0].earned == guest.ledger.accounts()[0].spent == 50 * MILLIONTHS
