"""Clocks that are wrong, and the Retry that makes them not matter (DESIGN.md section 5)."""

from __future__ import annotations

import pytest

from crypto.cookies import Refusal, open_refusal, seal_refusal
from crypto.handshake import Initiator, Opening
from crypto.kem import RealPrimitives
from tests.forgery import called, connected, current, deliver, message1_datagrams, payloads, static_of
from tests.pair import SECOND, Node, Wire, at
from tun.events import TurnedAway
from tun.frames import COOKIE, MESSAGE2, REFUSAL

YEAR_US = 365 * 24 * 3600 * SECOND
ELSEWHERE = at("203.0.113.66", 4444)


def two(skew_a_us: int = 0, skew_b_us: int = 0) -> tuple[Wire, Node, Node]:
    wire = Wire(seed=3)
    a = wire.node("a", "192.0.2.1", skew_us=skew_a_us)
    b = wire.node("b", "198.51.100.1", skew_us=skew_b_us)
    wire.introduce(a, b)
    return wire, a, b


class Caller:
    """Makes a's message 1s by hand, so that each may carry any clock and any token."""

    def __init__(self, wire: Wire, a: Node, b: Node) -> None:
        self.wire, self.a, self.b = wire, a, b

    def call(self, clock_us: int, token: bytes = bytes(24), source: Node | None = None) -> list[bytes]:
        """What b answers, a token where it is a Retry."""
        return self.send(*self.message(clock_us, token), source)

    def message(self, clock_us: int, token: bytes = bytes(24)) -> tuple[Initiator, list[bytes]]:
        a, b = self.a, self.b
        initiator = Initiator(static_of(a), a.keys.bundle, b.keys.bundle, RealPrimitives())
        return initiator, message1_datagrams(initiator.message1(Opening(clock_us, 64, token)), b.id)

    def send(self, initiator: Initiator, datagrams: list[bytes], source: Node | None = None) -> list[bytes]:
        answers = deliver(self.wire, self.b, datagrams, (source or self.a).address)
        tokens = []
        for datagram, _ in answers:
            if datagram[0] == REFUSAL:
                kind, token = open_refusal(datagram, initiator.control_key())
                assert kind is Refusal.RETRY
                tokens.append(token)
        return tokens or [datagram[:1] for datagram, _ in answers]


ANSWERED = [bytes([MESSAGE2])] * 3


@pytest.mark.parametrize("skewed", ["a", "b"])
@pytest.mark.parametrize("years", [-50, -1, 1, 60])
def test_a_machine_whose_clock_is_years_off_connects_with_one_round_trip_more(
    skewed: str, years: int
) -> None:
    wire, a, b = two(years * YEAR_US * (skewed == "a"), years * YEAR_US * (skewed == "b"))
    wire.send(a, b, b"hello")
    wire.run(0.1)
    assert connected(a, b)
    assert payloads(b) == [b"hello"]
    kinds = [datagram[0] for source, _, datagram in wire.log if source == b.address]
    assert kinds.count(REFUSAL) == 1


def test_a_clock_that_was_once_wrong_locks_nobody_out() -> None:
    """A year ahead at first; the true time, which is not above the stored one, later."""
    wire, a, b = two(skew_a_us=YEAR_US)
    wire.send(a, b, b"from the future")
    wire.run(1)
    assert b.core.peers[a.id].config.last_clock_us > wire.unix_us(b)
    a.skew_us = 0
    wire.run(300)  # the session is long gone
    wire.send(a, b, b"in time")
    wire.run(1)
    assert connected(a, b)
    assert payloads(b) == [b"from the future", b"in time"]
    assert b.core.peers[a.id].config.last_clock_us <= wire.unix_us(b)


def test_ten_minutes_are_the_most_that_a_clock_may_be_off_without_a_retry() -> None:
    for skew_us, retried in ((599 * SECOND, 0), (601 * SECOND, 1), (-599 * SECOND, 0), (-601 * SECOND, 1)):
        wire, a, b = two(skew_a_us=skew_us)
        wire.send(a, b, b"hello")
        wire.run(0.1)
        assert connected(a, b)
        assert b.core.counters["message 1 answered with a retry"] == retried


def test_a_retry_token_serves_once() -> None:
    wire, a, b = two()
    caller = Caller(wire, a, b)
    [token] = caller.call(0)
    with_token = caller.message(0, token)
    assert caller.send(*with_token) == ANSWERED
    wire.now_us += 11 * SECOND  # the identical message 2 is no longer kept
    [second] = caller.send(*with_token)  # the same message 1 again, recorded with its token
    assert second != token
    [third] = caller.call(0, token)  # another message 1 with the used token
    assert caller.call(0, third) == ANSWERED


def test_a_retry_token_lasts_two_minutes_at_most() -> None:
    for later_s, answered in ((50, True), (121, False)):
        wire, a, b = two()
        caller = Caller(wire, a, b)
        [token] = caller.call(0)
        wire.now_us += later_s * SECOND
        assert (caller.call(0, token) == ANSWERED) is answered


def test_a_retry_token_is_bound_to_its_source() -> None:
    wire, a, b = two()
    caller = Caller(wire, a, b)
    [token] = caller.call(0)
    other = wire.node("other", "192.0.2.2")
    assert caller.call(0, token, source=other) != ANSWERED
    assert caller.call(0, token) == ANSWERED


def test_a_retry_token_is_bound_to_its_initiator() -> None:
    wire, a, b = two()
    other = wire.node("other", "192.0.2.1")  # behind the same NAT: same source
    wire.introduce(other, b)
    [token] = Caller(wire, a, b).call(0)
    assert Caller(wire, other, b).call(0, token) != ANSWERED
    assert Caller(wire, a, b).call(0, token) == ANSWERED


def test_a_retry_token_changed_in_any_byte_does_not_serve() -> None:
    wire, a, b = two()
    caller = Caller(wire, a, b)
    [token] = caller.call(0)
    for place in range(24):
        wire.now_us += SECOND // 10
        wrong = token[:place] + bytes([token[place] ^ 1]) + token[place + 1 :]
        assert caller.call(0, wrong) != ANSWERED
    assert caller.call(0, token) == ANSWERED


def test_a_retry_token_from_before_a_restart_does_not_serve() -> None:
    wire, a, b = two()
    [token] = Caller(wire, a, b).call(0)
    again = wire.node("b", "198.51.100.2", keys=b.keys)
    again.core.add_peer(a.peer_config(eager=False), [], 0)
    assert Caller(wire, a, again).call(0, token) != ANSWERED


def test_a_refusal_that_is_forged_or_changed_is_ignored() -> None:
    """Whoever sees message 1 knows its id; without the key of its transcript nothing follows from that."""
    wire, a, b = two(skew_a_us=YEAR_US)
    first = called(wire, a, b)
    message_id = first[0][4:12]
    [(true, _)] = deliver(wire, b, first, a.address)
    for place in range(len(true)):
        changed = true[:place] + bytes([true[place] ^ 1 << place % 8]) + true[place + 1 :]
        assert not deliver(wire, a, [changed], b.address)
    for kind in Refusal:
        forged = seal_refusal(bytes(32), message_id, kind, wire.random.randbytes, bytes(24))
        assert not deliver(wire, a, [forged, forged[:-1], forged + b"\0"], b.address)
    assert not [event for event in a.events if isinstance(event, TurnedAway)]
    again = deliver(wire, a, [true], b.address)
    assert len(again) == len(first), "the true Retry is still taken up, by a fresh message 1"
    for datagram, _ in again:
        wire.put(datagram, a.address, b.address)
    wire.run(0.1)
    assert connected(a, b)


def test_a_recorded_refusal_does_not_work_on_another_message_1() -> None:
    wire, a, b = two(skew_a_us=YEAR_US)
    wire.send(a, b, b"hello")
    wire.run(1)
    [refusal] = [d for source, _, d in wire.log if source == b.address and d[0] == REFUSAL]
    session = current(a, b)
    first = called(wire, a, b)
    spliced = refusal[:4] + first[0][4:12] + refusal[12:]
    assert not deliver(wire, a, [refusal, spliced], b.address)
    assert current(a, b) is session


def test_a_retry_is_smaller_than_what_it_answers_and_needs_a_whole_message_1() -> None:
    wire, a, b = two()
    _, datagrams = Caller(wire, a, b).message(0)
    assert not deliver(wire, b, datagrams[:-1], ELSEWHERE)
    assert not deliver(wire, b, datagrams[-1:], a.address), "fragments of two sources make no message"
    answers = deliver(wire, b, datagrams, a.address)
    assert sum(len(d) for d, _ in answers) < sum(map(len, datagrams)) // 50


# ------------------------------------------------------------------ under load


def load(wire: Wire, node: Node, datagram: bytes) -> None:
    """More than 256 datagrams with a right mac1 in one second."""
    deliver(wire, node, [datagram] * 257, ELSEWHERE)


def test_under_load_a_handshake_takes_one_round_trip_more_and_completes() -> None:
    wire, a, b = two()
    load(wire, b, called(wire, a, b)[0])
    a.core.peers[b.id].handshakes.end_attempt()
    wire.send(a, b, b"hello")
    wire.run(0.045)  # message 1, cookie, message 1, message 2: four times 10 ms
    assert connected(a, b) or current(a, b) is not None
    wire.run(0.1)
    assert connected(a, b)
    assert payloads(b) == [b"hello"]
    kinds = [datagram[0] for source, _, datagram in wire.log if source == b.address]
    assert kinds.count(COOKIE) == 1


def test_under_load_nothing_is_kept_without_a_cookie() -> None:
    wire, a, b = two()
    first = called(wire, a, b)
    load(wire, b, first[0])
    for number in range(50):
        answers = deliver(wire, b, first, at(f"203.0.{number}.1"))
        assert [datagram[0] for datagram, _ in answers] == [COOKIE]
        assert sum(len(d) for d, _ in answers) * 3 < sum(map(len, first))
    assert not b.core.peers[a.id].keypairs.all()


def test_a_cookie_for_one_address_does_not_serve_at_another() -> None:
    wire, a, b = two()
    first = called(wire, a, b)
    load(wire, b, first[0])
    [(reply, _)] = deliver(wire, b, first, a.address)
    assert reply[0] == COOKIE
    with_cookie = [d for d, _ in deliver(wire, a, [reply], b.address)]
    assert [d[:-16] for d in with_cookie] == [d[:-16] for d in first]
    assert [d[0] for d, _ in deliver(wire, b, with_cookie, ELSEWHERE)] == [COOKIE]
    assert [d[0] for d, _ in deliver(wire, b, with_cookie, at("192.0.2.1", 1))] == [COOKIE]
    assert {d[0] for d, _ in deliver(wire, b, with_cookie, a.address)} == {MESSAGE2}


def test_a_cookie_reply_that_is_forged_changed_or_from_elsewhere_is_ignored() -> None:
    wire, a, b = two()
    first = called(wire, a, b)
    load(wire, b, first[0])
    [(reply, _)] = deliver(wire, b, first, a.address)
    for place in range(len(reply)):
        if place in (1, 2, 3):
            continue
        changed = reply[:place] + bytes([reply[place] ^ 1 << place % 8]) + reply[place + 1 :]
        assert not deliver(wire, a, [changed], b.address)
    assert not deliver(wire, a, [reply], ELSEWHERE)
    assert len(deliver(wire, a, [reply], b.address)) == len(first)
    assert not deliver(wire, a, [reply], b.address), "a cookie that is known sends nothing again"


def test_a_retry_goes_through_under_load_too() -> None:
    wire, a, b = two(skew_a_us=-YEAR_US)
    load(wire, b, called(wire, a, b)[0])
    a.core.peers[b.id].handshakes.end_attempt()
    wire.send(a, b, b"hello")
    wire.run(0.5)
    assert payloads(b) == [b"hello"]


def test_forged_handshakes_in_a_callers_name_do_not_keep_the_caller_out() -> None:
    """By somebody who knows whom they call, and spoofs the caller's address: too few for load."""
    wire, a, b = two()

    def flood(count: int) -> None:
        for _ in range(count):
            garbage = wire.random.randbytes(1000)
            for datagram in message1_datagrams(garbage, b.id):
                wire.inject(datagram, a.address, b.address)

    for round_ in range(10):
        flood(5)
        if round_ == 5:
            wire.send(a, b, b"hello")
        wire.run(0.05)
    assert connected(a, b)
    assert payloads(b) == [b"hello"]
    assert b.core.counters["handshake under load without cookie"] == 0


@pytest.mark.parametrize("second_ms", [1, 10, 30, 200])
def test_a_wrong_clock_over_two_paths_at_once_connects(second_ms: int) -> None:
    """The peer is called at two addresses and sees two sources; a token is good for one of them."""
    wire, a, b = two(skew_a_us=YEAR_US)
    other_a, other_b = at("192.0.2.99"), at("198.51.100.99")
    a.core.peers[b.id].config.addresses = [b.address, other_b]
    for path in ((other_a, b.address), (other_b, a.address)):
        wire.delays[path] = second_ms * 1000

    def second_path(datagram: bytes, source: object, target: object) -> list[bytes]:
        if target == other_b:
            wire.inject(datagram, other_a, b.address)
        elif target == other_a:
            wire.inject(datagram, other_b, a.address)
        return [datagram]

    wire.filter = second_path
    wire.send(a, b, b"hello")
    wire.run(2)
    assert connected(a, b)
    assert payloads(b) == [b"hello"]
    assert b.core.counters["message 1 answered with a retry"] <= 4
