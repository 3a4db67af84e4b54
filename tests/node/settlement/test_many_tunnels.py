"""Tunnels that wait for a partner who may never come back cost those that carry something nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from tests.node.settlement.market_kit import MB, Machine, Wire, a_relay


def _calls_of_a_look(relay: Machine, guest: Machine) -> int:
    """Calls in Python that it takes to tell the desk what one peer has carried."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        relay.measure(guest.machine_id)
        relay.desk.deadline_us()
    finally:
        sys.setprofile(None)
    return calls


def test_what_is_left_by_payers_who_vanished_costs_nothing(tmp_path: Path) -> None:
    wire = Wire()
    relay = a_relay(tmp_path, wire, max_tunnels=40)
    guests = [Machine(f"guest {number}", tmp_path, wire) for number in range(31)]
    for guest in guests[:30]:
        guest.ask(relay)
        wire.run(1)
        assert wire.carry(guest, relay, 1 * MB, 9 * MB)
        wire.run(1)
    thieves, guest = guests[:30], guests[30]
    guest.ask(relay)
    wire.run(1)
    before = _calls_of_a_look(relay, guest)
    for thief in thieves:
        thief.kill()
    for row in relay.desk.rows():
        if row.partner != guest.machine_id:
            relay.terminate(row.tunnel_id)
    wire.run(60)
    asleep = [row for row in relay.desk.rows() if row.ended and not row.settled]
    assert len(asleep) == 30
    assert _calls_of_a_look(relay, guest) < before / 5


def test_they_are_taken_up_when_the_two_meet_again(tmp_path: Path) -> None:
    wire = Wire()
    relay, guest = a_relay(tmp_path, wire), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    assert wire.carry(guest, relay, 1 * MB, 9 * MB)
    wire.run(1)
    guest.kill()
    relay.terminate(tunnel)
    wire.run(60)
    assert not relay.row(tunnel).settled
    guest.start()
    guest.ask(relay)
    wire.run(10)
    assert relay.row(tunnel).settled
    assert guest.row(tunnel).settled
