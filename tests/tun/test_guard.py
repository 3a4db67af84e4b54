"""The door: what a stranger's handshake datagram meets, in which order, and what it costs us at most."""

from __future__ import annotations

from collections import Counter
from hashlib import shake_256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.cookies import COOKIE_REPLY_BYTES, mac1_key, open_cookie
from crypto.errors import HandshakeRefused
from tests.pair import SECOND, at
from tun import fragments
from tun.addresses import Address
from tun.frames import COOKIE, KEY_REQUEST, MESSAGE1
from tun.guard import (
    ALL_REPLIES_BURST,
    ALL_REPLIES_PER_SECOND,
    HANDSHAKE_BURST,
    HANDSHAKES_PER_SECOND,
    LOAD_PER_SECOND,
    REPLIES_PER_SECOND,
    REPLY_BURST,
    Guard,
)
from tun.limits import RateLimit

MACHINE_ID, LOOKUP = bytes(range(32)), bytes(range(16))
KEY = mac1_key(MACHINE_ID, LOOKUP)
HERE, THERE = at("192.0.2.1"), at("198.51.100.1")


class Door:
    """A guard, what it sent, and what it counted."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.counters: Counter[str] = Counter()
        calls = iter(range(10**9))
        self.guard = Guard(
            MACHINE_ID,
            LOOKUP,
            lambda size: shake_256(next(calls).to_bytes(8, "big")).digest(size),
            lambda datagram, address: self.sent.append((datagram, address)),
            self.counters,
            0,
        )

    def admit(self, datagrams: list[bytes], source: Address = HERE, now_us: int = 0) -> list[bytes]:
        """The messages that came through."""
        admitted = [self.guard.admit(datagram, source, now_us) for datagram in datagrams]
        return [message for message in admitted if message is not None]

    def load(self, now_us: int = 0) -> None:
        """From elsewhere, a fragment again and again: more than it takes in one second."""
        self.admit(message(0)[:1] * (LOAD_PER_SECOND + 1), THERE, now_us)
        self.sent.clear()

    def cookie(self, datagram: bytes) -> bytes:
        """Out of the only reply that was sent."""
        [(reply, _)] = self.sent
        self.sent.clear()
        return open_cookie(reply, KEY, fragments.mac1_of(datagram))


def body(salt: int, size: int = 3646) -> bytes:
    return shake_256(salt.to_bytes(4, "big")).digest(size)


def message(salt: int, cookie: bytes | None = None, size: int = 3646) -> list[bytes]:
    return [fragments.seal(bare, KEY, cookie) for bare in fragments.cut(MESSAGE1, body(salt, size))]


def request(salt: int = 0, cookie: bytes | None = None, size: int = 480) -> bytes:
    bare = (bytes([KEY_REQUEST, 0, 0, 0]) + body(salt, 16)).ljust(size - 32, b"\0")
    return fragments.seal(bare, KEY, cookie)


# ------------------------------------------------------------------ who may knock


def test_a_message_and_a_request_come_through() -> None:
    door = Door()
    assert door.admit(message(1)) == [body(1)]
    assert door.admit([request()]) == [request()]
    assert not door.sent


@pytest.mark.parametrize("size", [0, 1, 63, 479, 1201, 65507])
def test_a_datagram_of_wrong_size_is_dropped_before_any_mac(size: int) -> None:
    door = Door()
    for kind in (MESSAGE1, KEY_REQUEST):
        assert door.guard.admit(bytes([kind]) + bytes(max(size - 1, 0)), HERE, 0) is None
    assert door.counters == {"handshake datagram of wrong size": 2}


def test_a_fragment_of_message_1_has_600_bytes_at_least() -> None:
    """Else what we answer could be more than three times what came."""
    door = Door()
    assert door.admit(message(1, size=599 - 60)) == []
    assert door.admit(message(1, size=600 - 60)) == [body(1, 540)]


def listed(datagrams: list[bytes]) -> list[bytes]:
    """The same under the key of who knows machine_id alone."""
    return [fragments.seal(each[:-32], mac1_key(MACHINE_ID, b"")) for each in datagrams]


def test_who_is_listed_takes_requests_and_messages_of_who_knows_machine_id_alone() -> None:
    door = Door()
    for datagrams, through in (([request()], listed([request()])), (message(1), [body(1)])):
        assert door.admit(listed(datagrams)) == []
        door.guard.listed = True
        assert door.admit(listed(datagrams)) == through
        door.guard.listed = False
        assert door.admit(listed(datagrams)) == []
    door.guard.listed = True
    assert door.admit([request()]) == [request()]
    assert door.admit(message(2)) == [body(2)], "who knows the lookup secret goes on as before"
    door.counters.clear()
    wrong = [fragments.seal(each[:-32], mac1_key(MACHINE_ID, bytes(16))) for each in message(3)]
    assert door.admit(wrong * 300) == []
    assert door.counters == {"mac1 refused": 300 * len(wrong)}
    assert not door.sent


def test_under_load_a_stranger_of_a_listed_machine_gets_in_with_a_cookie_and_only_with_its_own_key() -> None:
    door = Door()
    door.guard.listed = True
    door.load()
    plain = listed(message(1))
    assert door.admit(plain) == []
    [(reply, to)] = door.sent
    assert to == HERE
    key = mac1_key(MACHINE_ID, b"")
    cookie = open_cookie(reply, key, fragments.mac1_of(plain[0]))
    with pytest.raises(HandshakeRefused):
        open_cookie(reply, KEY, fragments.mac1_of(plain[0]))
    assert door.admit([fragments.seal(each[:-32], key, cookie) for each in plain]) == [body(1)]


def test_the_rate_of_a_source_is_one_whichever_key_it_uses() -> None:
    door = Door()
    door.guard.listed = True
    got = [
        door.admit(listed(message(salt, size=1000)) if salt % 2 else message(salt, size=1000))
        for salt in range(10)
    ]
    assert sum(map(len, got)) == HANDSHAKE_BURST


def test_a_stranger_of_a_listed_machine_gets_a_cookie_under_load_that_it_can_open() -> None:
    door = Door()
    door.guard.listed = True
    door.load()
    [datagram] = listed([request()])
    assert door.admit([datagram]) == []
    [(reply, _)] = door.sent
    key = mac1_key(MACHINE_ID, b"")
    cookie = open_cookie(reply, key, fragments.mac1_of(datagram))
    proven = fragments.seal(datagram[:-32], key, cookie)
    assert door.admit([proven]) == [proven]


def test_who_does_not_know_whom_they_call_gets_nothing_and_leaves_nothing() -> None:
    door = Door()
    for key in (bytes(32), mac1_key(MACHINE_ID, b""), mac1_key(MACHINE_ID, bytes(16)), mac1_key(LOOKUP, b"")):
        wrong = [fragments.seal(bare, key) for bare in fragments.cut(MESSAGE1, body(1))]
        assert door.admit(wrong * 500) == []
    assert not door.sent
    assert door.counters == {"mac1 refused": 4 * 500 * 4}
    assert door.admit(message(1)) == [body(1)], "what is refused by mac1 puts nobody under load"


@given(st.binary(min_size=1, max_size=1300), st.sampled_from([MESSAGE1, KEY_REQUEST]))
def test_arbitrary_bytes_are_refused_in_silence(data: bytes, kind: int) -> None:
    door = Door()
    assert door.guard.admit(bytes([kind]) + data[1:], HERE, 0) is None
    assert not door.sent


@given(st.binary(min_size=449, max_size=1168), st.sampled_from([MESSAGE1, KEY_REQUEST]), st.booleans())
def test_arbitrary_bytes_under_a_right_mac1_raise_nothing(data: bytes, kind: int, loaded: bool) -> None:
    door = Door()
    if loaded:
        door.load()
    datagram = fragments.seal(bytes([kind]) + data[1:], KEY)
    got = door.guard.admit(datagram, HERE, 0)
    assert got is None or kind == KEY_REQUEST
    assert sum(len(reply) for reply, _ in door.sent) * 3 <= len(datagram)


# ------------------------------------------------------------------ the rate of each source


def test_five_at_once_and_twenty_a_second_from_one_source() -> None:
    assert (HANDSHAKES_PER_SECOND, HANDSHAKE_BURST) == (20, 5)
    door = Door()
    assert len(door.admit([m for salt in range(10) for m in message(salt, size=1000)])) == 5
    admitted = 0
    for tenth in range(1, 101):
        now_us = tenth * SECOND // 10
        many = [m for salt in range(4) for m in message(1000 * tenth + salt, size=1000)]
        admitted += len(door.admit(many, at("192.0.2.1", tenth), now_us))  # ports do not matter
    assert admitted in range(195, 206)
    assert len(door.admit(message(1, size=1000), at("192.0.2.2"), 10 * SECOND)) == 1


def test_an_ipv6_64_is_one_source() -> None:
    door = Door()
    same = [door.admit([request(n)], at(f"2001:db8::{n + 1:x}")) for n in range(10)]
    assert [bool(got) for got in same] == [True] * 5 + [False] * 5
    assert door.admit([request(99)], at("2001:db8:0:1::1"))


def test_whoever_spoofs_a_callers_address_does_not_use_up_the_callers_rate() -> None:
    """A few whole forgeries a second in somebody's name: that caller proves its address, and gets in."""
    door = Door()
    for salt in range(30):
        door.admit(message(salt, size=1000))
    door.sent.clear()
    [caller] = message(1000, size=1000)
    assert door.admit([caller]) == []
    [proven] = message(1000, door.cookie(caller), size=1000)
    assert door.admit([proven]) == [body(1000, 1000)]
    for salt in range(2000, 2010):
        door.admit(message(salt, size=1000))
    [again] = message(1001, proven_cookie(door), size=1000)
    assert door.admit([again]) == [body(1001, 1000)]


def proven_cookie(door: Door) -> bytes:
    return door.guard.jar.cookie(bytes([192, 0, 2, 1]) + (51777).to_bytes(2, "big"), 0)


def test_a_proven_source_has_a_rate_too() -> None:
    door = Door()
    cookie = proven_cookie(door)
    got = [door.admit(message(salt, cookie, size=1000)) for salt in range(10)]
    assert [bool(messages) for messages in got] == [True] * 5 + [False] * 5
    assert not door.sent, "who has a cookie needs no other"


def test_the_number_of_sources_kept_is_bounded() -> None:
    limit = RateLimit(20, 5, capacity=100)
    for number in range(1000):
        assert limit.allow(number.to_bytes(4, "big"), 0)
    assert len(limit._full_at) == 100


# ------------------------------------------------------------------ under load


def test_under_load_a_cookie_is_asked_for_once_a_message_and_serves() -> None:
    door = Door()
    door.load()
    plain = message(1)
    assert door.admit(plain) == []
    [(reply, to)] = door.sent
    assert (reply[0], len(reply), to) == (COOKIE, COOKIE_REPLY_BYTES, HERE)
    cookie = door.cookie(plain[0])
    assert door.admit(message(1, cookie)) == [body(1)]
    assert not door.sent
    assert door.admit([request()]) == []
    assert door.cookie(request()) == cookie
    assert door.admit([request(0, cookie)]) == [request(0, cookie)]


def test_under_load_another_addresss_cookie_does_not_serve() -> None:
    door = Door()
    door.load()
    plain = message(1)
    door.admit(plain)
    cookie = door.cookie(plain[0])
    for elsewhere in (THERE, at("192.0.2.1", 51778), at("192.0.2.2"), at("2001:db8::1")):
        assert door.admit(message(1, cookie), elsewhere) == []
        [(_, to)] = door.sent
        assert to == elsewhere
        door.sent.clear()


def test_a_cookie_lasts_two_minutes_at_most() -> None:
    door = Door()
    cookie = proven_cookie(door)
    door.load(119 * SECOND)
    assert door.admit(message(1, cookie), now_us=119 * SECOND) == [body(1)]
    door.load(120 * SECOND)
    assert door.admit(message(2, cookie), now_us=120 * SECOND) == []


def test_under_load_nothing_is_kept() -> None:
    door = Door()
    door.load()
    kept = len(door.guard._partial)
    for number in range(500):
        door.admit(message(number), at(f"10.{number >> 8}.{number & 255}.1"))
    assert len(door.guard._partial) == kept
    assert len(door.sent) == 500


def test_load_lasts_a_second_after_it_ended() -> None:
    door = Door()
    door.load(1_999_000)
    assert door.admit(message(1), now_us=2_500_000) == []
    assert door.admit(message(2), now_us=3_600_000) == [body(2)]


def test_256_in_a_second_are_no_load_yet() -> None:
    door = Door()
    door.admit(message(0)[:1] * (LOAD_PER_SECOND - 4), THERE)
    assert door.admit(message(1)) == [body(1)]
    assert door.admit(message(2)) == []
    assert door.sent


def test_half_of_all_partial_messages_are_load_and_it_ends_when_they_have_expired() -> None:
    door = Door()
    for number in range(130):  # a hundred a second: by itself no load
        door.admit(message(number)[:1], at(f"10.0.{number}.1"), number * SECOND // 100)
    assert door.sent, "the last of them met a closed door"
    door.sent.clear()
    assert door.admit(message(1000), now_us=10 * SECOND) == [body(1000)]
    assert not door.sent


# ------------------------------------------------------------------ what answering a flood costs


def test_a_flood_from_one_port_is_answered_so_often_and_no_more() -> None:
    door = Door()
    [first, *_] = message(1)
    for hundredth in range(500):  # 10,000 a second
        door.admit([first] * 100, THERE, hundredth * SECOND // 100)
    asked = 500 * 100 - LOAD_PER_SECOND
    assert len(door.sent) in range(5 * REPLIES_PER_SECOND, 5 * REPLIES_PER_SECOND + REPLY_BURST + 2)
    assert door.counters["cookie reply over the rate limit"] == asked - len(door.sent)


def test_an_honest_caller_behind_the_floods_own_address_has_its_cookie_at_once() -> None:
    """And so has whoever else calls while forty ports of one host flood with 40,000 a second."""
    door = Door()
    [first, *_] = message(1)
    for hundredth in range(100):
        for port in range(1000, 1040):
            door.admit([first] * 10, at("198.51.100.1", port), hundredth * SECOND // 100)
    for number, source in enumerate((at("198.51.100.1", 999), HERE, at("2001:db8::9")), start=10):
        door.sent.clear()
        plain = message(number)
        assert door.admit(plain, source, SECOND) == []
        assert door.admit(message(number, door.cookie(plain[0])), source, SECOND) == [body(number)]


def test_all_replies_together_are_bounded_too() -> None:
    door = Door()
    [first, *_] = message(1)
    for hundredth in range(100):
        for number in range(500):  # 50,000 a second, each from elsewhere
            door.admit([first], at(f"10.{hundredth}.{number >> 8}.{number & 255}"), hundredth * SECOND // 100)
    most = ALL_REPLIES_PER_SECOND + ALL_REPLIES_BURST
    assert len(door.sent) in range(most - 500, most + 2)
