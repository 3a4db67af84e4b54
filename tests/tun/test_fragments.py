"""Fragments of handshake messages: the layout, putting together again, and what is kept for strangers."""

from __future__ import annotations

from hashlib import blake2s, sha256, shake_256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pair import at
from tun.addresses import Address
from tun.fragments import (
    MAX_PARTIAL,
    MAX_PER_NETWORK,
    MAX_PER_SOURCE,
    PARTIAL_US,
    Reassembly,
    cut,
    mac1_holds,
    mac2_holds,
    message_id,
    seal,
)
from tun.frames import MESSAGE1, MESSAGE2

KEY, COOKIE = bytes(range(32)), bytes(range(16))
HERE = at("192.0.2.1")


def datagrams(message: bytes, key: bytes = KEY) -> list[bytes]:
    return [seal(bare, key) for bare in cut(MESSAGE1, message)]


def body(salt: int, size: int = 3646) -> bytes:
    """Some message; another one for each salt."""
    return shake_256(salt.to_bytes(4, "big")).digest(size)


def network(number: int, host: int = 1, port: int = 51777) -> Address:
    """An address in the /24 of this number."""
    return at(f"10.{number >> 8}.{number & 255}.{host}", port)


# ------------------------------------------------------------------ the layout


@pytest.mark.parametrize(("size", "count"), [(1, 1), (1108, 1), (1109, 2), (1248, 2), (2270, 3), (3646, 4)])
def test_a_datagram_is_laid_out_as_drawn(size: int, count: int) -> None:
    message, answers = body(7, size), b"answered"
    pieces = [seal(bare, KEY, COOKIE) for bare in cut(MESSAGE2, message, answers)]
    assert len(pieces) == count
    chunks = [piece[20 + 8 * count : -32] for piece in pieces]
    assert b"".join(chunks) == message
    digests = b"".join(sha256(chunk).digest()[:8] for chunk in chunks)
    for number, piece in enumerate(pieces):
        assert len(piece) <= 1200
        assert piece[:4] == bytes([MESSAGE2, number, count, 0])
        assert piece[4:12] == sha256(message).digest()[:8] == message_id(message)
        assert piece[12:20] == answers
        assert piece[20 : 20 + 8 * count] == digests
        assert piece[-32:-16] == blake2s(piece[:-32], key=KEY, digest_size=16).digest()
        assert piece[-16:] == blake2s(piece[:-16], key=COOKIE, digest_size=16).digest()


def test_without_a_cookie_mac2_is_zeros_and_proves_nothing() -> None:
    [piece] = datagrams(b"x")
    assert piece[-16:] == bytes(16)
    assert mac1_holds(piece, KEY)
    assert not mac2_holds(piece, COOKIE)


def test_macs_cover_every_byte_before_them() -> None:
    piece = seal(cut(MESSAGE1, body(1, 500))[0], KEY, COOKIE)
    assert mac1_holds(piece, KEY)
    assert mac2_holds(piece, COOKIE)
    for place in range(len(piece)):
        changed = piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
        assert mac1_holds(changed, KEY) is (place >= len(piece) - 16)
        assert not mac2_holds(changed, COOKIE)


# ------------------------------------------------------------------ together again


@given(st.data())
def test_in_any_order_with_any_copies_a_message_comes_out_once_for_each_full_set(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 5000))
    message = data.draw(st.randoms(use_true_random=False)).randbytes(size)
    pieces = datagrams(message)
    order = data.draw(st.permutations([*pieces, *data.draw(st.lists(st.sampled_from(pieces), max_size=8))]))
    reassembly, missing, whole = Reassembly(), set(pieces), 0
    for piece in order:
        missing.discard(piece)
        got = reassembly.add(piece, HERE, 0)
        assert (got is not None) is (not missing)
        if got is not None:
            assert got == message
            whole += 1
            missing = set(pieces)
    assert whole >= 1
    assert len(reassembly) == (missing != set(pieces))


def test_two_messages_and_two_sources_do_not_mix() -> None:
    reassembly = Reassembly()
    one, two = datagrams(body(1)), datagrams(body(2))
    for first, second in zip(one[:-1], two[:-1], strict=True):
        for source in (HERE, at("192.0.2.1", 1)):
            assert reassembly.add(first, source, 0) is None
            assert reassembly.add(second, source, 0) is None
    assert len(reassembly) == 4
    assert reassembly.add(two[-1], HERE, 0) == body(2)
    assert reassembly.add(one[-1], at("192.0.2.1", 1), 0) == body(1)
    assert reassembly.add(one[-1], at("192.0.2.1", 2), 0) is None


def test_what_is_no_fragment_of_a_message_is_not_kept() -> None:
    reassembly = Reassembly()
    piece = datagrams(body(1))[0]
    count = piece[2]

    def changed(place: int, value: int) -> bytes:
        return piece[:place] + bytes([value]) + piece[place + 1 :]

    refused = [
        changed(1, 1),  # another's place
        changed(1, count),
        changed(1, 255),
        changed(2, 0),
        changed(2, 1),
        changed(2, 6),
        changed(2, 255),
        changed(20, piece[20] ^ 1),  # its own digest
        changed(60, piece[60] ^ 1),  # its chunk
        piece[: 20 + 8 * count + 32],  # an empty chunk
        piece[:64],
    ]
    for datagram in refused:
        assert reassembly.add(datagram, HERE, 0) is None
        assert len(reassembly) == 0


def test_a_full_set_that_is_not_the_message_it_names_is_dropped_and_frees_its_place() -> None:
    reassembly = Reassembly()
    pieces = [piece[:4] + bytes(8) + piece[12:] for piece in datagrams(body(1))]
    assert [reassembly.add(piece, HERE, 0) for piece in pieces] == [None] * 4
    assert len(reassembly) == 0


@given(
    st.binary(min_size=64, max_size=1200),
    st.integers(0, 255),
    st.integers(0, 7),
    st.integers(0, 3_000_000),
)
def test_arbitrary_bytes_under_a_right_mac1_are_no_more_than_dropped(
    data: bytes, index: int, count: int, now_us: int
) -> None:
    reassembly = Reassembly()
    datagram = data[:1] + bytes([index, count]) + data[3:]
    assert reassembly.add(datagram, HERE, now_us) is None
    assert len(reassembly) == 0


# ------------------------------------------------------------------ what is kept, and for how long


def test_a_partial_message_is_kept_for_two_seconds_and_no_longer() -> None:
    for later_us, whole in ((PARTIAL_US - 1, True), (PARTIAL_US, False)):
        reassembly = Reassembly()
        pieces = datagrams(body(1))
        for piece in pieces[:-1]:
            reassembly.add(piece, HERE, 1000)
        assert (reassembly.add(pieces[-1], HERE, 1000 + later_us) == body(1)) is whole


def test_new_chunks_do_not_prolong_a_partial_messages_life() -> None:
    reassembly = Reassembly()
    pieces = datagrams(body(1))
    for number, piece in enumerate(pieces):
        got = reassembly.add(piece, HERE, number * PARTIAL_US * 2 // 5)
    assert got is None


def test_expire_empties_it_by_the_clock_alone() -> None:
    reassembly = Reassembly()
    for number in range(100):
        reassembly.add(datagrams(body(number))[0], network(number), number * 20_000)
    reassembly.expire(PARTIAL_US + 990_000)
    assert len(reassembly) == 50
    reassembly.expire(3 * PARTIAL_US)
    assert len(reassembly) == 0


def test_two_from_one_source() -> None:
    assert MAX_PER_SOURCE == 2
    reassembly = Reassembly()
    messages = [datagrams(body(number, 2000)) for number in range(3)]
    for first, _ in messages:
        reassembly.add(first, HERE, 0)
    assert len(reassembly) == 2
    assert reassembly.add(messages[1][1], HERE, 0) is not None
    assert reassembly.add(messages[2][1], HERE, 0) is not None
    assert reassembly.add(messages[0][1], HERE, 0) is None, "the oldest made room"


def test_eight_from_one_network_whatever_else_is_free() -> None:
    assert MAX_PER_NETWORK == 8
    reassembly = Reassembly()
    for host in range(1, 255):
        reassembly.add(datagrams(body(host))[0], network(1, host), 0)
        assert len(reassembly) == min(host, 8)
    for port in range(1, 100):
        reassembly.add(datagrams(body(port))[0], network(1, 1, port), 0)
        assert len(reassembly) == 8


def test_an_ipv6_48_is_one_network() -> None:
    reassembly = Reassembly()
    for number in range(20):
        reassembly.add(datagrams(body(number))[0], at(f"2001:db8:1:{number:x}::1"), 0)
    assert len(reassembly) == 8
    reassembly.add(datagrams(body(99))[0], at("2001:db8:2::1"), 0)
    assert len(reassembly) == 9


def test_256_in_all_and_the_fullest_network_makes_room() -> None:
    assert MAX_PARTIAL == 256
    reassembly = Reassembly()
    single = [datagrams(body(number, 2000)) for number in range(200)]
    for number, (first, _) in enumerate(single):
        reassembly.add(first, network(number), 0)
    for group in range(32):
        for host in range(1, 9):
            reassembly.add(datagrams(body(1000 + 8 * group + host))[0], network(1000 + group, host), 0)
    assert len(reassembly) == 256
    whole = [reassembly.add(last, network(number), 0) for number, (_, last) in enumerate(single)]
    assert all(whole), "networks with one partial message lost nothing to those with eight"


def test_a_flood_from_everywhere_stays_within_the_bound() -> None:
    reassembly = Reassembly()
    for number in range(2000):
        reassembly.add(datagrams(body(number))[0], network(number), 0)
        assert len(reassembly) <= 256
    assert len(reassembly) == 256


def test_an_honest_burst_survives_a_flood_that_ends_before_it() -> None:
    reassembly = Reassembly()
    for number in range(1000):
        reassembly.add(datagrams(body(number))[0], network(number % 300, number % 250 + 1), 0)
    got = [reassembly.add(piece, HERE, 0) for piece in datagrams(body(5000))]
    assert got[-1] == body(5000)


@given(forged=st.lists(st.integers(0, 1), min_size=4, max_size=4), copies=st.integers(1, 3))
def test_one_forged_message_at_a_time_before_each_true_fragment_changes_nothing(
    forged: list[int], copies: int
) -> None:
    """From the very source of the true ones. Two new ones between two true ones would win that burst."""
    reassembly = Reassembly()
    true, got = datagrams(body(1)), None
    for number, piece in enumerate(true):
        for _ in range(copies):
            if forged[number]:
                reassembly.add(datagrams(body(100 + number))[0], HERE, 0)
        got = reassembly.add(piece, HERE, 0)
    assert got == body(1)
