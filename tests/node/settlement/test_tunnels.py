"""A tunnel between two machines that lose messages, are killed, cheat, or do not come."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from crypto.pulse import TAU_ZQ, ZEQOND_MS
from node.settlement import wire as messages
from node.settlement.life import Code, State
from node.settlement.meters import EVERY_ZEQONDS, WINDOW_ZEQONDS
from node.settlement.payer import BLIND_LEAST_BYTES
from node.settlement.side import Measured
from node.settlement.terms import GB, MAX_LIFESPAN, MILLIONTHS, Unit
from node.settlement.wire import encode
from tests.node.settlement.market_kit import MB, Meter, Wire
from tests.node.settlement.market_steps import agree_and_settled, begun, carry, losing, pair, spoiling

# ------------------------------------------------------------------ what is lost is said again


@pytest.mark.parametrize("kind", [messages.Open, messages.Opened])
def test_an_open_that_is_lost_is_said_again(tmp_path: Path, wire: Wire, kind: type) -> None:
    losing(wire, kind, 2)
    relay, guest = pair(tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(10)
    assert guest.row(tunnel).began_at
    assert relay.row(tunnel).began_at


@pytest.mark.parametrize(
    "kind", [messages.Stated, messages.Paid, messages.Kept, messages.End, messages.Ended]
)
def test_every_note_may_be_lost(tmp_path: Path, wire: Wire, kind: type) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    losing(wire, kind, 3)
    assert carry(wire, guest, relay, 20) >= 16, "a window, whatever is lost"
    guest.terminate(tunnel)
    wire.run(25)
    assert agree_and_settled(guest, relay, tunnel).amount == 50 * MILLIONTHS


@pytest.mark.parametrize("whose", ["guest", "relay"])
def test_a_half_that_is_lost_is_said_again(tmp_path: Path, wire: Wire, whose: str) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)
    losing(wire, messages.Half, 2, {"guest": guest, "relay": relay}[whose])
    guest.terminate(tunnel)
    wire.run(25)
    agree_and_settled(guest, relay, tunnel)


@pytest.mark.parametrize("seconds", [5, 60])
def test_a_payer_that_was_killed_when_only_the_payee_had_both_halves_gets_the_other(
    tmp_path: Path, wire: Wire, seconds: int
) -> None:
    """While the payee still waits, and when it has forgotten all but the ledger."""
    relay, guest, tunnel = begun(tmp_path, wire)
    guest.friends.add(relay.machine_id)
    relay.friends.add(guest.machine_id)
    carry(wire, guest, relay, 20)
    losing(wire, messages.Half, 10**6, relay)
    guest.terminate(tunnel)
    wire.run(seconds)
    assert relay.row(tunnel).settled
    assert not guest.row(tunnel).settled
    guest.kill()
    losing(wire, messages.Half, 0)
    guest.start()
    guest.peers.add(relay.machine_id)  # a friend is one without a tunnel
    wire.run(5)
    agree_and_settled(guest, relay, tunnel)


# ------------------------------------------------------------------ two tunnels with one machine


@pytest.mark.parametrize("places", [1, 8])
def test_a_second_tunnel_takes_the_place_of_the_first_as_one_meter_is_paid_once(
    tmp_path: Path, wire: Wire, places: int
) -> None:
    relay, guest, first = begun(tmp_path, wire, max_tunnels=places)
    assert carry(wire, guest, relay, 20) == 20
    second = guest.ask(relay)
    wire.run(2)
    assert agree_and_settled(guest, relay, first).code is Code.REPLACED
    assert guest.row(second).state is relay.row(second).state is State.ACTIVE
    assert carry(wire, guest, relay, 30) == 30
    guest.terminate(second)
    wire.run(2)
    assert 29 * MB <= agree_and_settled(guest, relay, second).carried <= 30 * MB
    assert guest.row(first).carried <= 20 * MB


def test_machines_that_relay_for_each_other_shut_no_gate_of_the_other_tunnel(
    tmp_path: Path, wire: Wire
) -> None:
    relay, guest, there = begun(tmp_path, wire)
    guest.desk.policy = relay.policy
    back = relay.ask(guest)
    assert carry(wire, guest, relay, 1) == 1, "the other one has not begun"
    wire.run(1)
    assert relay.row(back).began_at
    guest.terminate(there)
    assert carry(wire, guest, relay, 20) == 20
    losing(wire, messages.Paid, 10**6)
    carry(wire, guest, relay, 40)
    assert not guest.open[relay.machine_id], "what is not paid shuts the gate, whatever else is open"
    relay.terminate(back)
    assert not guest.open[relay.machine_id]


# ------------------------------------------------------------------ ended before it began, or out of touch


@pytest.mark.parametrize("whose", ["guest", "relay"])
def test_who_ends_it_before_the_other_knows_that_it_began_tells_it(
    tmp_path: Path, wire: Wire, whose: str
) -> None:
    losing(wire, messages.Opened, 10**6)
    relay, guest = pair(tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    assert guest.row(tunnel).state is relay.row(tunnel).state is State.ACTIVE
    {"guest": guest, "relay": relay}[whose].terminate(tunnel)
    wire.run(35)
    for machine in (guest, relay):
        row = machine.row(tunnel)
        assert (row.state, row.code, row.settled) == (State.TERMINATED, Code.TERMINATED, True)
        assert not machine.peers


@pytest.mark.parametrize("whose", ["guest", "relay"])
@pytest.mark.parametrize("after", range(12))
def test_who_is_killed_at_the_end_and_is_back_at_once_settles(
    tmp_path: Path, wire: Wire, whose: str, after: int
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)
    dying = {"guest": guest, "relay": relay}[whose]
    dying.dies_in = after
    guest.terminate(tunnel)
    wire.run(1)
    dying.kill()
    wire.run(3)
    dying.start()
    wire.run(20)
    if not guest.row(tunnel).ended:  # killed before its word was on the disk
        guest.terminate(tunnel)
        wire.run(20)
    agree_and_settled(guest, relay, tunnel)
    wire.run(60)
    assert not guest.peers
    assert not relay.peers


# ------------------------------------------------------------------ credit, at work


def test_a_newcomer_is_served_one_gigabyte_at_once_and_pays_for_one(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carried = 0
    while wire.carry(guest, relay, 2 * MB, 6 * MB):
        carried += 8 * MB
        wire.run(0.25)
    assert GB <= carried <= GB + 16 * MB
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.code is Code.CREDIT
    assert row.amount == row.carried * 50 // 1000, "who is put out has agreed to no second gigabyte"
    again = guest.ask(relay)
    wire.run(1)
    assert guest.row(again).code is Code.BALANCE
    relay.kill()
    relay.start()
    once_more = guest.ask(relay)
    wire.run(1)
    assert guest.row(once_more).code is Code.BALANCE, "a restart forgets nothing"


# ------------------------------------------------------------------ meters


def test_what_was_carried_before_a_tunnel_is_none_of_it(tmp_path: Path, wire: Wire) -> None:
    """Friends have met before; and nobody has looked at the meter since."""
    relay, guest = pair(tmp_path, wire)
    for one, other in ((relay, guest), (guest, relay)):
        one.friends.add(other.machine_id)
        one.peers.add(other.machine_id)
        one.meters[other.machine_id] = Meter(sent=GB, received=GB)
        one.note = partial(one.hear_note, measured=False)  # type: ignore[method-assign]
    tunnel = guest.ask(relay)
    wire.run()
    assert relay.row(tunnel).began_at
    assert carry(wire, guest, relay, 20) == 20
    guest.terminate(tunnel)
    wire.run(2)
    assert agree_and_settled(guest, relay, tunnel).carried <= 20 * MB


def test_an_upload_right_after_a_restart_is_not_taken_for_a_relay_that_forwards_nothing(
    tmp_path: Path, wire: Wire
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire, Unit.ZEQOND)
    carry(wire, guest, relay, 4)
    wire.run(30)
    guest.kill()
    guest.start()
    guest.desk.measured(relay.machine_id, Measured(2 * BLIND_LEAST_BYTES, 0, 0, 20_000), wire.now_us)
    assert guest.row(tunnel).state is State.ACTIVE


# ------------------------------------------------------------------ time


@pytest.mark.parametrize("ahead_us", [-700_000, 700_000])
def test_a_tunnel_whose_time_is_over_has_expired_at_both_ends(
    tmp_path: Path, wire: Wire, ahead_us: int
) -> None:
    relay, guest = pair(tmp_path, wire)
    guest.desk._offset_us = ahead_us
    tunnel = guest.ask(relay, lifespan=20)
    wire.run(1)
    carry(wire, guest, relay, 20)
    wire.run(20)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.amount == 50 * MILLIONTHS
    for machine in (guest, relay):
        assert (machine.row(tunnel).state, machine.row(tunnel).code) == (State.EXPIRED, Code.LIFESPAN)


def test_a_partner_that_says_before_its_time_that_time_is_over_has_ended_it(
    tmp_path: Path, wire: Wire
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    relay.desk.on_note(guest.machine_id, encode(messages.End(tunnel, Code.LIFESPAN)), wire.now_us)
    assert relay.row(tunnel).state is State.TERMINATED
    relay.desk.actions.clear()


# ------------------------------------------------------------------ notes that are none


def test_a_half_that_answers_nothing_settles_nothing(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)
    spoilt: list[messages.Note] = []

    def other(note: messages.Note) -> messages.Note:
        if isinstance(note, messages.Half) and len(spoilt) < 3:
            spoilt.append(note)
            broken = note.block[:-1] + bytes([note.block[-1] ^ 1])
            guests = relay.ledger.head(guest.signer.public)
            return messages.Half(
                note.tunnel_id, [b"", broken, guests.raw if guests else b""][len(spoilt) - 1]
            )
        return note

    spoiling(wire, relay, other)
    guest.terminate(tunnel)
    wire.run(0.5)
    assert not guest.row(tunnel).settled
    wire.run(15)
    assert len(spoilt) == 3
    agree_and_settled(guest, relay, tunnel)


@pytest.mark.parametrize("lost_percent", [0, 5])
def test_a_tunnel_by_the_gigabyte_through_which_nothing_flows_is_silent(
    tmp_path: Path, wire: Wire, lost_percent: int
) -> None:
    """Also where the path lost more than it says, so that a little stays unpaid."""
    relay, guest, _ = begun(tmp_path, wire)
    for _ in range(45):
        wire.carry(guest, relay, MB // 10, 9 * MB // 10)
        relay.meters[guest.machine_id].sent += 9 * MB * lost_percent // 1000
        wire.run(0.25)
    wire.run(30)
    before = wire.delivered
    wire.run(600, 1_000_000)
    assert wire.delivered == before
    assert carry(wire, guest, relay, 20) == 20


def test_by_time_nobody_pays_for_what_was_no_service(tmp_path: Path, wire: Wire) -> None:
    """Neither while the relay was off, nor while its gate was shut; so neither counts as used."""
    relay, guest, tunnel = begun(tmp_path, wire, Unit.ZEQOND)
    wire.run(20)
    relay.kill()
    wire.run(100)
    relay.start()
    wire.run(20)
    guest.kill()
    wire.run(150)
    assert not relay.open[guest.machine_id]
    guest.start()
    wire.run(20)
    assert relay.open[guest.machine_id]
    guest.terminate(tunnel)
    wire.run(2)
    row = agree_and_settled(guest, relay, tunnel)
    served = (20 + 20 + 20) / TAU_ZQ + WINDOW_ZEQONDS
    assert served - EVERY_ZEQONDS - 4 <= row.zeqonds <= served + 4
    assert relay.credit.exposure(guest.machine_id) == row.zeqonds * MILLIONTHS


@pytest.mark.parametrize("restarts", [False, True])
def test_a_payee_that_heard_of_no_voucher_waits_for_it_until_they_meet(
    tmp_path: Path, wire: Wire, restarts: bool
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 3)
    wire.loses = lambda _number: True
    carry(wire, guest, relay, 3)
    guest.terminate(tunnel)
    relay.terminate(tunnel)
    wire.run(60)
    before = relay.row(tunnel)
    assert before.carried == 6 * MB
    if restarts:
        relay.kill()
        relay.start()
        assert relay.row(tunnel) == before, "it is shown as it ended"
    wire.loses = lambda _number: False
    assert guest.row(tunnel).amount == 50 * MILLIONTHS
    again = guest.ask(relay)
    wire.run(10)
    assert relay.row(again).began_at
    assert agree_and_settled(guest, relay, tunnel).amount == 50 * MILLIONTHS
    assert relay.credit.exposure(guest.machine_id) == relay.row(tunnel).value, "it is charged once"


def test_what_ended_long_ago_is_no_peer_after_a_start(tmp_path: Path, wire: Wire) -> None:
    relay, guest, _ = begun(tmp_path, wire)
    carry(wire, guest, relay, 10)
    guest.kill()
    wire.run(1000 * TAU_ZQ + 40, 1_000_000)
    assert not relay.peers
    for later_us, peers in ((0, {guest.machine_id}), (MAX_LIFESPAN * ZEQOND_MS * 1000, set())):
        wire.now_us += later_us
        relay.kill()
        relay.start()
        assert relay.peers == peers


def test_a_voucher_that_was_signed_when_the_payer_was_killed_is_shown_when_it_is_back(
    tmp_path: Path, wire: Wire
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    losing(wire, messages.Paid, 10**6)
    carry(wire, guest, relay, 6)
    guest.kill()
    losing(wire, messages.Paid, 0)
    guest.start()
    wire.run(1)
    raw = relay.ledger.raw_voucher(tunnel, given=False)
    assert raw == guest.ledger.raw_voucher(tunnel, given=True) != b""


def test_no_half_is_written_for_a_voucher_that_the_payee_does_not_have(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 10)
    losing(wire, messages.Paid, 3)
    guest.terminate(tunnel)
    for _ in range(60):
        wire.run(0.25)
        if guest.ledger.half_of(tunnel) is not None:
            raw = guest.ledger.raw_voucher(tunnel, given=True)
            assert relay.ledger.raw_voucher(tunnel, given=False) == raw
    agree_and_settled(guest, relay, tunnel)


def test_a_relay_that_is_not_paid_forwards_nothing_also_where_it_is_a_payer_there(
    tmp_path: Path, wire: Wire
) -> None:
    relay, guest, _ = begun(tmp_path, wire)
    guest.desk.policy = relay.policy
    back = relay.ask(guest)
    wire.run(1)
    assert guest.row(back).began_at
    losing(wire, messages.Paid, 10**6, guest)
    assert carry(wire, guest, relay, 40) <= 18


def test_a_session_that_the_payee_forgot_gives_way_to_the_newest(tmp_path: Path, wire: Wire) -> None:
    relay, guest = pair(tmp_path, wire)
    losing(wire, messages.Open, 1)
    tunnel = guest.ask(relay)
    wire.run(0.25)
    first = guest.row(tunnel).session
    relay.kill()
    relay.start()
    wire.run(5)
    assert relay.row(tunnel).began_at
    assert guest.row(tunnel).session == relay.row(tunnel).session != first


def test_loss_that_is_reported_stalls_nothing(tmp_path: Path, wire: Wire) -> None:
    relay, guest, _ = begun(tmp_path, wire)
    for _ in range(100):
        assert wire.carry(guest, relay, MB // 2, 8 * MB)
        relay.meters[guest.machine_id].sent += MB
        relay.meters[guest.machine_id].lost += MB
        wire.run(0.25)


def test_a_long_fast_way_has_a_wider_window(tmp_path: Path, wire: Wire) -> None:
    relay, guest, _ = begun(tmp_path, wire)
    relay.meters[guest.machine_id].rtt_us = 1_000_000
    losing(wire, messages.Paid, 10**6)
    carried = 0
    while wire.carry(guest, relay, 2 * MB, 8 * MB):
        carried += 10 * MB
        wire.run(0.25)
    assert 80 * MB <= carried <= 105 * MB, "two round trips of 40 MB a second"


def test_what_strangers_used_today_is_known_after_a_restart(tmp_path: Path, wire: Wire) -> None:
    wire.now_us += 57_600_000_000 - 10_000_000  # ten seconds before midnight
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)
    wire.run(20)
    carry(wire, guest, relay, 40)
    losing(wire, messages.Paid, 10**6)
    carry(wire, guest, relay, 5)
    relay.terminate(tunnel)
    day = relay.desk.day(wire.now_us)
    used = relay.credit.today(day), relay.credit.exposure(guest.machine_id)
    assert used[1] > used[0] >= 2 * MB
    relay.kill()
    relay.start()
    assert (relay.credit.today(day), relay.credit.exposure(guest.machine_id)) == used
