"""Two machines, or more, from the request to the two halves in their ledgers."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.settlement.actions import Tell
from node.settlement.desk import MAX_WAITING, NoSuchTunnel, ToOurselves
from node.settlement.life import Code, InvalidState, State
from node.settlement.outbox import NEVER
from node.settlement.policy import Accept
from node.settlement.terms import MILLIONTHS, Unit, agree
from node.settlement.wire import (
    ACCEPTED_TAG,
    PENDING_TAG,
    REFUSED_TAG,
    Answer,
    Request,
    decode_answer,
    encode,
)
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


# ------------------------------------------------------------------ by hand


def test_two_accepts_at_once_are_one(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    relay.desk.accept(tunnel, wire.now_us)
    for by_hand in (relay.desk.accept, relay.desk.refuse):
        with pytest.raises(InvalidState, match="the tunnel is active, so it cannot be"):
            by_hand(tunnel, wire.now_us)
    relay.act()
    wire.run(1)
    assert guest.row(tunnel).began_at
    assert len([row for row in relay.stored() if not row.ended]) == 1
    for by_hand in (guest.desk.accept, guest.desk.refuse):
        with pytest.raises(InvalidState):
            by_hand(tunnel, wire.now_us)
        with pytest.raises(NoSuchTunnel):
            by_hand(b"n" * 16, wire.now_us)
    with pytest.raises(NoSuchTunnel):
        relay.desk.terminate(b"n" * 16, wire.now_us)


def test_a_payer_does_not_accept_its_own_request(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    with pytest.raises(InvalidState):
        guest.desk.accept(tunnel, wire.now_us)
    assert guest.row(tunnel).state is State.PENDING


def test_who_is_refused_by_hand_hears_it_and_who_asks_again_hears_the_same(
    tmp_path: Path, wire: Wire
) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run(1)
    relay.desk.on_request(guest.bundle, request_of(wire, tunnel_id=tunnel), wire.now_us)
    assert [tag for tag, _ in answers(relay)] == [PENDING_TAG]
    relay.desk.refuse(tunnel, wire.now_us)
    relay.act()
    wire.run(1)
    assert (guest.row(tunnel).state, guest.row(tunnel).code) == (State.REFUSED, Code.DECLINED)
    relay.desk.on_request(guest.bundle, request_of(wire, tunnel_id=tunnel), wire.now_us)
    assert [(tag, answer.code) for tag, answer in answers(relay)] == [(REFUSED_TAG, "DECLINED")]


def test_the_same_request_twice_is_one_tunnel_and_one_answer(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire), Machine("guest", tmp_path, wire)
    body = request_of(wire)
    relay.desk.on_request(guest.bundle, body, wire.now_us)
    [first] = answers(relay)
    relay.desk.on_request(guest.bundle, body, wire.now_us)
    assert answers(relay) == [first]
    assert first[0] == ACCEPTED_TAG
    mallory = Machine("mallory", tmp_path, wire)
    relay.desk.on_request(mallory.bundle, body, wire.now_us)
    assert not relay.desk.actions, "who asks by somebody's name learns nothing"
    relay.desk.on_request(guest.bundle, b"\xc1", wire.now_us)
    relay.desk.on_request(b"short", body, wire.now_us)
    assert relay.desk.counters["request for a tunnel that cannot be read"] == 2


def test_no_more_wait_than_the_owner_can_look_through(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    for number in range(MAX_WAITING):
        relay.desk.on_request(
            guest.bundle, request_of(wire, tunnel_id=number.to_bytes(16, "big")), wire.now_us
        )
    assert {tag for tag, _ in answers(relay)} == {PENDING_TAG}
    relay.desk.on_request(guest.bundle, request_of(wire, tunnel_id=b"x" * 16), wire.now_us)
    assert [(tag, answer.code) for tag, answer in answers(relay)] == [(REFUSED_TAG, "TARGET_FULL")]


# ------------------------------------------------------------------ places, prices


def test_who_carried_nothing_for_five_minutes_gives_way_and_nobody_else(tmp_path: Path, wire: Wire) -> None:
    relay = a_relay(tmp_path, wire, max_tunnels=2)
    one, two, three = (Machine(name, tmp_path, wire) for name in ("one", "two", "three"))
    tunnels = [each.ask(relay) for each in (one, two)]
    wire.run(1)
    refused = three.ask(relay)
    wire.run(1)
    assert three.row(refused).code is Code.FULL
    wire.run(310, 1_000_000)
    wire.carry(one, relay, MB, MB)
    wire.run(1)
    accepted = three.ask(relay)
    wire.run(1)
    assert three.row(accepted).state is State.ACTIVE
    assert one.row(tunnels[0]).state is State.ACTIVE
    assert two.row(tunnels[1]).code is Code.GAVE_WAY


@pytest.mark.parametrize(
    ("price", "lifespan", "unit", "agreed"),
    [
        (50, 1000, Unit.GB, True), (49, 1000, Unit.GB, True), (51, 1000, Unit.GB, False),
        (50, 1001, Unit.GB, False), (50, 1000, Unit.ZEQOND, False),
    ],
)  # fmt: skip
def test_a_payer_agrees_to_what_it_asked_for_or_a_lower_price(
    tmp_path: Path, wire: Wire, price: int, lifespan: int, unit: Unit, agreed: bool
) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    wire.run()
    terms = agree(unit, price, lifespan).encoded
    answer = Answer(tunnel_id=tunnel, terms=terms, balance_zeq=0, min_required_zeq=0, left=5)
    assert guest.desk.on_answer(ACCEPTED_TAG, relay.machine_id, encode(answer), wire.now_us) == answer
    guest.act()
    row = guest.row(tunnel)
    assert (row.state, row.left) == (State.ACTIVE if agreed else State.REFUSED, 5)
    assert row.code is (Code.NONE if agreed else Code.PRICE)


def test_an_answer_that_is_none_is_counted(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire, accept=Accept.HAND), Machine("guest", tmp_path, wire)
    tunnel = guest.ask(relay)
    assert guest.desk.on_answer(ACCEPTED_TAG, relay.machine_id, b"", wire.now_us) is None
    answer = Answer(tunnel_id=tunnel, terms=b"terms", balance_zeq=0, min_required_zeq=0, left=0)
    guest.desk.on_answer(ACCEPTED_TAG, relay.machine_id, encode(answer), wire.now_us)
    assert guest.desk.counters["answer to a request that cannot be read"] == 1
    assert guest.row(tunnel).code is Code.PRICE


def test_a_request_that_cannot_be_brought_has_lapsed(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire), Machine("guest", tmp_path, wire)
    wire.loses = lambda _number: True
    tunnel = guest.ask(relay)
    guest.desk.undelivered(tunnel, wire.now_us)
    guest.act()
    assert (guest.row(tunnel).state, guest.row(tunnel).code) == (State.EXPIRED, Code.UNANSWERED)
    assert guest.desk.deadline_us() == NEVER


def test_who_does_not_come_gives_its_place_back(tmp_path: Path, wire: Wire) -> None:
    relay, guest = a_relay(tmp_path, wire, max_tunnels=1), Machine("guest", tmp_path, wire)
    relay.desk.on_request(guest.bundle, request_of(wire), wire.now_us)
    relay.act()
    wire.run(175)
    assert relay.row(b"t" * 16).state is State.ACTIVE
    wire.run(10)
    assert (relay.row(b"t" * 16).state, relay.row(b"t" * 16).code) == (State.EXPIRED, Code.NEVER_CAME)
    wire.run(40)
    assert not relay.peers
    assert relay.desk.deadline_us() == NEVER
