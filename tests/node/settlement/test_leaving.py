"""A relay that takes one voucher and leaves has earned what it carried, and no whole gigabyte."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypto.pulse import TAU_ZQ
from node.settlement import wire as messages
from node.settlement.life import Code, State
from node.settlement.terms import MILLIONTHS
from tests.node.settlement.market_kit import Wire
from tests.node.settlement.market_steps import agree_and_settled, begun, carry


def test_a_relay_that_says_goodbye_is_paid_pro_rata(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 10)
    relay.terminate(tunnel)
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.state is State.TERMINATED
    assert row.amount == row.carried * 50 // 1000 < 1 * MILLIONTHS


@pytest.mark.parametrize("code", [Code.LIFESPAN, Code.REPLACED, Code.BUDGET])
def test_whatever_it_says_why(tmp_path: Path, wire: Wire, code: Code) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 10)
    guest.note(relay.machine_id, messages.encode(messages.End(tunnel, code)))
    wire.run(5)
    assert guest.row(tunnel).amount < 1 * MILLIONTHS


def test_also_to_a_payer_that_was_killed_before_it_had_signed(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 10)
    guest.dies_in = 1  # the end is on its disk, and nothing after that
    relay.terminate(tunnel)
    wire.run(1)
    assert not guest.alive
    guest.start()
    wire.run(20)
    assert agree_and_settled(guest, relay, tunnel).amount < 1 * MILLIONTHS


def test_a_tunnel_that_has_lived_as_long_as_was_agreed_ends_in_agreement(tmp_path: Path, wire: Wire) -> None:
    """Whichever of the two says it first."""
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 10)
    wire.run(1000 * TAU_ZQ - 5)
    assert not guest.row(tunnel).ended
    wire.run(4)
    while not guest.row(tunnel).ended:
        relay.desk.tick(wire.now_us)
        relay.act()
        wire.run(0.25)
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert (row.state, row.amount) == (State.EXPIRED, 50 * MILLIONTHS) or row.code is Code.LIFESPAN
    assert row.amount == 50 * MILLIONTHS


def test_who_ends_a_tunnel_in_which_nothing_ever_came_pays_for_no_begun_gigabyte(
    tmp_path: Path, wire: Wire
) -> None:
    """It has waited long enough for a relay that takes all and sends nothing back."""
    relay, guest, tunnel = begun(tmp_path, wire)
    for _ in range(10):
        assert wire.carry(guest, relay, 1_000_000, 0)
        wire.run(0.5)
    guest.terminate(tunnel)
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.amount == row.carried * 50 // 1000 < 1 * MILLIONTHS
