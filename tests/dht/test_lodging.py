"""Lodging: up to three homes, kept up, replaced when they fall silent, and who can disturb that."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.calls import Calls, HomesChanged
from dht.homes import handle_of
from dht.lodging import BARRED_US, HOMES, MISSES, REFRESH_US, RETRY_US
from dht.messages import Lodge, Lodged, decode_call, encode_call
from tests.callers import SECOND, SECRET, Node, Wire, at, entropy_of, lodged, machine_of

T = b"transact"


def homes(wire: Wire, count: int) -> list[Node]:
    found = [wire.node(f"home {number}", f"203.0.{113 + number}.1") for number in range(count)]
    for home in found:
        home.calls.serve(True)
    return found


def lodges(wire: Wire, lodger: Node, home: Node) -> list[Lodge]:
    found = [decode_call(one[1:]) for one in wire.traffic(lodger.endpoint, home.endpoint)]
    return [one for one in found if isinstance(one, Lodge)]


# ------------------------------------------------------------------ the ordinary course


def test_three_homes_of_many_candidates() -> None:
    wire = Wire()
    lodger, candidates = wire.node("lodger", "198.51.100.7", hidden=True), homes(wire, 6)
    lodger.calls.lodge([home.endpoint for home in candidates], wire.now_us)
    wire.run(2)
    assert [endpoint for endpoint, _ in lodger.calls.homes] == [home.endpoint for home in candidates[:3]]
    assert lodger.changes[-1] == HomesChanged(lodger.calls.homes, 0)
    assert [home.calls.lodgers for home in candidates] == [1, 1, 1, 0, 0, 0]


def test_a_home_is_shown_that_one_is_there_every_25_seconds() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    before, bytes_before = len(lodges(wire, lodger, home)), sum(len(one) for _, _, one in wire.log)
    wire.run(10 * 25)
    assert len(lodges(wire, lodger, home)) - before in (9, 10)
    assert sum(len(one) for _, _, one in wire.log) - bytes_before < 10 * 200, "7 bytes a second"
    assert lodger.changes == [HomesChanged((), 2), HomesChanged(lodger.calls.homes, 2)]


def test_a_proof_is_made_once_for_a_token() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    wire.run(299)
    assert len({one.proof for one in lodges(wire, lodger, home) if one.proof}) in (1, 2)
    wire.run(3600)
    assert home.calls.lodgers == 1
    assert len(lodger.calls.homes) == 1


def test_the_handle_is_the_same_after_a_restart_and_another_at_each_home() -> None:
    wire = Wire()
    lodger, found = lodged(wire, homes=3)
    before = lodger.calls.homes
    lodger.restart()
    lodger.calls.lodge([home.endpoint for home in found], wire.now_us)
    wire.run(1)
    assert lodger.calls.homes == before
    assert len({handle for _, handle in before}) == 3


def test_a_key_of_a_fixed_secret() -> None:
    core = Calls(machine_of("lodger"), (SECRET,), bytes(range(32)), entropy_of("lodger"), 0)
    core.lodge([at("203.0.113.1")], 0)
    rent = core._lodging._rents[at("203.0.113.1")]
    assert rent.signer.public.hex() == "89d9538f2adcc27222b9c790bda1984a6b9e4a6b2507dd65c41841376b721172"
    assert rent.handle == handle_of(rent.signer.public)


# ------------------------------------------------------------------ homes that fail


def test_a_silent_home_is_replaced() -> None:
    wire = Wire()
    lodger, found = wire.node("lodger", "198.51.100.7", hidden=True), homes(wire, 4)
    lodger.calls.lodge([home.endpoint for home in found], wire.now_us)
    wire.run(2)
    found[1].here = False
    wire.run((REFRESH_US + MISSES * RETRY_US) / SECOND + 2)
    assert [endpoint for endpoint, _ in lodger.calls.homes] == [found[n].endpoint for n in (0, 2, 3)]
    assert lodger.changes[-1].wanted == 0


def test_more_candidates_are_asked_for_when_there_are_none_left() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    assert lodger.changes[-1].wanted == 2
    home.here = False
    wire.run(60)
    assert lodger.changes[-1] == HomesChanged((), 3)
    [other] = [wire.node("other", "192.0.2.99")]
    other.calls.serve(True)
    lodger.calls.lodge([home.endpoint, other.endpoint], wire.now_us)
    wire.run(2)
    assert [endpoint for endpoint, _ in lodger.calls.homes] == [other.endpoint], "the silent one is barred"


def test_a_barred_home_may_come_again_after_ten_minutes() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    home.here = False
    wire.run(60)
    home.here = True
    lodger.calls.lodge([home.endpoint], wire.now_us)
    wire.run(2)
    assert not lodger.calls.homes
    wire.run(BARRED_US / SECOND)
    lodger.calls.lodge([home.endpoint], wire.now_us)
    wire.run(2)
    assert len(lodger.calls.homes) == 1


def test_a_lost_answer_or_two_change_nothing() -> None:
    wire = Wire(seed=3)
    lodger, [home] = lodged(wire)
    wire.loss = 5
    wire.run(1800)
    assert home.calls.lodgers == 1
    assert len(lodger.calls.homes) == 1


def test_a_full_home_is_not_asked_again_and_again() -> None:
    wire = Wire()
    lodger, [full, good] = wire.node("lodger", "198.51.100.7", hidden=True), homes(wire, 2)
    full.calls.serve(False)
    lodger.calls.lodge([full.endpoint, good.endpoint], wire.now_us)
    wire.run(60)
    assert [endpoint for endpoint, _ in lodger.calls.homes] == [good.endpoint]
    assert len(wire.traffic(lodger.endpoint, full.endpoint)) == 2


def test_a_home_that_restarted_is_lodged_with_again() -> None:
    """It knows neither its old tokens nor its lodgers."""
    wire = Wire()
    lodger, [home] = lodged(wire)
    home.restart()
    home.calls.serve(True)
    wire.run(30)
    assert home.calls.lodgers == 1
    assert len(lodger.calls.homes) == 1


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    """Where it is, a lodger stays; a move is refused, and other homes take its place."""
    wire = Wire()
    lodger, [home] = lodged(wire)
    lodger.restart()
    core = lodger.calls
    core.lodge([home.endpoint], wire.now_us)
    for _ in range(40):
        wire.now_us += SECOND // 10
        core.tick(wire.now_us, 10**15)  # a year ago
        for datagram, target in core.outgoing:
            home.calls.receive(datagram, lodger.endpoint, wire.now_us, wire.unix_us)
            assert target == home.endpoint
        core.outgoing.clear()
        for datagram, target in home.calls.outgoing:
            if target == lodger.endpoint:
                core.receive(datagram, home.endpoint, wire.now_us, 10**15)
        home.calls.outgoing.clear()
    assert len(core.homes) == 1


# ------------------------------------------------------------------ which homes


def test_one_home_in_a_network() -> None:
    wire = Wire()
    lodger = wire.node("lodger", "198.51.100.7", hidden=True)
    near = [wire.node(f"near {number}", f"203.0.113.{1 + number}") for number in range(4)]
    for home in near:
        home.calls.serve(True)
    [far] = [wire.node("far", "192.0.2.9")]
    far.calls.serve(True)
    lodger.calls.lodge([home.endpoint for home in (*near, far)], wire.now_us)
    wire.run(2)
    assert [endpoint for endpoint, _ in lodger.calls.homes] == [near[0].endpoint, far.endpoint]


def test_what_is_no_address_is_no_candidate() -> None:
    core = Calls(machine_of("lodger"), (SECRET,), bytes(32), entropy_of("lodger"), 0)
    core.lodge([b"", bytes(6), at("224.0.0.1"), b"\1" * 7], 0)
    core.tick(0, 0)
    assert not core.outgoing


def test_who_can_be_reached_leaves_and_is_forgotten() -> None:
    wire = Wire()
    lodger, found = lodged(wire, homes=2)
    lodger.calls.leave(wire.unix_us)
    wire.run(1)
    assert not lodger.calls.homes
    assert [home.calls.lodgers for home in found] == [0, 0]
    assert lodger.changes[-1] == HomesChanged((), HOMES)
    wire.run(3700)
    assert lodger.calls.deadline_us() == 1 << 62


# ------------------------------------------------------------------ who disturbs


def test_answers_that_nobody_asked_for() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    before = lodger.calls.homes
    for source in (home.endpoint, at("203.0.113.99")):
        for status in range(5):
            answer = encode_call(Lodged(T, b"token 8b", status, 90))
            lodger.calls.receive(answer, source, wire.now_us, wire.unix_us)
    wire.flush()
    assert lodger.calls.homes == before
    assert lodger.calls.counters["answer to no lodge of ours"] == 10


def test_a_home_that_always_wants_another_token_is_given_up() -> None:
    """It cannot make a lodger send for ever."""
    wire = Wire()
    lodger = wire.node("lodger", "198.51.100.7", hidden=True)
    endless = at("203.0.113.1")
    lodger.calls.lodge([endless], wire.now_us)
    sent = 0
    for number in range(600):
        wire.now_us += SECOND // 10
        lodger.calls.tick(wire.now_us, wire.unix_us)
        out, lodger.calls.outgoing[:] = list(lodger.calls.outgoing), []
        sent += len(out)
        for datagram, _ in out:
            message = decode_call(datagram[1:])
            answer = encode_call(Lodged(message.t, number.to_bytes(8, "big"), 2))
            lodger.calls.receive(answer, endless, wire.now_us, wire.unix_us)
    assert not lodger.calls.homes
    assert sent <= 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([b"", b"token 8b", b"another8"])), max_size=30))
def test_whatever_a_home_answers(answers: list[tuple[int, bytes]]) -> None:
    """At most one datagram for an answer, no exception, and a deadline that lies ahead."""
    core = Calls(machine_of("lodger"), (SECRET,), bytes(32), entropy_of("lodger"), 0)
    home, now_us = at("203.0.113.1"), 0
    core.lodge([home], 0)
    for status, token in answers:
        core.tick(now_us, now_us)
        rent = core._lodging._rents.get(home)
        if rent is None:
            return
        core.outgoing.clear()
        core.receive(encode_call(Lodged(rent.transaction, token, status, 90)), home, now_us, now_us)
        assert len(core.outgoing) <= 1
        assert core.deadline_us() > now_us
        now_us = min(core.deadline_us(), now_us + 30 * SECOND)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_candidates_are_bounded_and_each_is_asked_once(count: int) -> None:
    core = Calls(machine_of("lodger"), (SECRET,), bytes(32), entropy_of("lodger"), 0)
    candidates = [at(f"203.0.{number}.1") for number in range(count)]
    core.lodge([*candidates, *candidates], 0)
    core.tick(0, 0)
    assert len(core.outgoing) == min(count, HOMES)
    assert len(core._lodging._candidates) <= 32
