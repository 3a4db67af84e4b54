"""Two machines, or more, from the request to the two halves in their ledgers."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.settlement.actions import Tell
from node.settlement.desk import ToOurselves
from node.settlement.life import InvalidState, State
from node.settlement.policy import Accept
from node.settlement.terms import MILLIONTHS, Unit
from node.settlement.wire import ACCEPTED_TAG, REFUSED_TAG, Answer, Request, decode_answer, encode
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


def request_of(wire: Wire, lifespan: int = 1000, unit: Unit = Unit.GB, tunnel_id: bytes = b"t" * 16) -> bytes:
    draft = Request(
        tunnel_id=tunnel_id,
        pricing_unit=unit,
        price_zeq=10**9,
        lifespan_zeqonds=lifespan,
        reply_secret=wire.entropy(16),
    )
    return encode(draft)


def answers(machine: Machine) -> list[tuple[str, Answer]]:
    """What the desk wants told; nothing is carried out."""
    told = [each for each in machine.desk.actions if isinstance(each, Tell)]
    machine.desk.actions.clear()
    return [(each.tag, decode_answer(each.body)) for each in told]


# ------------------------------------------------------------------ the same request twice


def test_the_name_of_a_tunnel_that_is_over_is_not_taken_again(tmp_path: Path, wire: Wire) -> None:
    """Its vouchers would be lower than those that are kept, so none would be: service for nothing."""
    relay, guest = a_relay(tmp_path, wire), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    wire.carry(guest, relay, 9 * MB, 9 * MB)
    guest.terminate(tunnel)
    wire.run(60)
    ended = relay.row(tunnel)
    assert ended.settled
    for _ in range(2):
        relay.desk.on_request(guest.bundle, request_of(wire, tunnel_id=tunnel), wire.now_us)
        [(tag, answer)] = answers(relay)
        assert (tag, answer.code) == (REFUSED_TAG, "TERMINATED")
        relay.kill()
        relay.start()
    assert relay.row(tunnel) == ended
    assert relay.terminate(tunnel) == ended


# ------------------------------------------------------------------ what a stranger may ask


def test_a_price_for_which_no_sum_can_be_written_down_is_refused(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire, per_zeqond_zeq=10**9), Machine("guest", tmp_path, wire)
    relay.desk.on_request(guest.bundle, request_of(wire, 86_400, Unit.ZEQOND), wire.now_us)
    [(tag, answer)] = answers(relay)
    assert (tag, answer.code) == (REFUSED_TAG, "INVALID_LIFESPAN")


@pytest.mark.parametrize("owed", [1, 10**15])
def test_a_friend_that_is_owed_something_can_read_the_answer(tmp_path: Path, wire: Wire, owed: int) -> None:
    relay, guest = a_relay(tmp_path, wire), Machine("guest", tmp_path, wire)
    relay.friends.add(guest.machine_id)
    relay.credit.used(guest.machine_id, -owed, 0)
    tunnel = guest.ask(relay)
    wire.run(1)
    assert guest.row(tunnel).state is State.ACTIVE


# ------------------------------------------------------------------ out of time


@pytest.mark.parametrize("late_s", [600.3, 86_400.0])
def test_nothing_is_accepted_after_it_lapsed_also_before_the_next_tick(
    tmp_path: Path, wire: Wire, late_s: float
) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    assert relay.row(tunnel).state is guest.row(tunnel).state is State.PENDING
    wire.now_us += round(late_s * 1_000_000)
    for tag in (ACCEPTED_TAG, REFUSED_TAG):
        terms = guest.row(tunnel).terms
        answer = Answer(tunnel_id=tunnel, terms=terms, balance_zeq=0, min_required_zeq=0, left=0)
        guest.desk.on_answer(tag, relay.machine_id, encode(answer), wire.now_us)
        guest.act()
    for by_hand in (relay.desk.accept, relay.desk.refuse):
        with pytest.raises(InvalidState, match="the tunnel is expired, so it cannot be"):
            by_hand(tunnel, wire.now_us)
        relay.act()
    assert relay.terminate(tunnel).state is guest.terminate(tunnel).state is State.EXPIRED


def test_a_machine_asks_itself_for_nothing(tmp_path: Path, wire: Wire) -> None:
    relay = a_relay(tmp_path, wire)
    with pytest.raises(ToOurselves):
        relay.ask(relay)
    assert not relay.desk.actions
    relay.desk.on_request(relay.bundle, request_of(wire), wire.now_us)
    assert not relay.desk.actions
    assert relay.desk.counters["request for a tunnel to ourselves"] == 1
