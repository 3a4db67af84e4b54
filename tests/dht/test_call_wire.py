"""Calls on the wire: a fixed vector of every message, and parts of events put together again."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.messages import CallMessage, Event, Lodge, Lodged, Taken, decode_call, encode_call
from dht.parts import (
    MAX_PARTIAL,
    MAX_PARTIAL_PER_NETWORK,
    MAX_PARTS,
    PART_BYTES,
    PARTIAL_US,
    SEALED_BYTES,
    Key,
    Parcel,
    Partials,
    event_id,
    well_formed,
)
from tests.callers import at

T, TOKEN, HANDLE, EVENT = b"transact", b"token 8b", b"handle, 16 bytes", b"event 8b"
HERE = at("192.0.2.1")


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Lodge(T, b"", TOKEN), "d29801c4087472616e73616374c400c408746f6b656e203862c40000c400c2"),
        (
            Lodge(T, TOKEN, TOKEN, bytes(32), 2**63 - 1, bytes(64), True),
            "d29801c4087472616e73616374c408746f6b656e203862c408746f6b656e203862c4200000000000"
            "000000000000000000000000000000000000000000000000000000cf7fffffffffffffffc4400000"
            "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
            "00000000000000000000000000000000000000000000c3",
        ),
        (
            Event(T, b"", HANDLE, EVENT, 0, 3, b""),
            "d29802c4087472616e73616374c400c41068616e646c652c203136206279746573c4086576656e742038620003c400",
        ),
        (
            Event(T, TOKEN, bytes(16), EVENT, 2, 3, b"chunk"),
            "d29802c4087472616e73616374c408746f6b656e203862c410000000000000000000000000000000"
            "00c4086576656e742038620203c4056368756e6b",
        ),
        (Lodged(T, TOKEN, 2), "d29510c4087472616e73616374c408746f6b656e2038620200"),
        (Lodged(T, TOKEN, 0, 90), "d29510c4087472616e73616374c408746f6b656e203862005a"),
        (Taken(T, TOKEN, 0, 5), "d29611c4087472616e73616374c408746f6b656e2038620005c400"),
        (
            Taken(T, TOKEN, 1, 0, b"receipt!"),
            "d29611c4087472616e73616374c408746f6b656e2038620100c4087265636569707421",
        ),
    ],
)
def test_every_message_has_a_fixed_encoding(message: CallMessage, wire: str) -> None:
    assert encode_call(message).hex() == wire
    assert decode_call(bytes.fromhex(wire)[1:]) == message


@given(st.binary(max_size=1200))
def test_arbitrary_bytes_raise_what_is_said(data: bytes) -> None:
    try:
        message = decode_call(data)
    except msgspec.MsgspecError:
        return
    assert decode_call(encode_call(message)[1:]) == message


def test_a_thousand_arrays_in_each_other() -> None:
    """In a field of a later version, which is read past: msgspec raises RecursionError there."""
    taken = encode_call(Taken(T, TOKEN, 0, 5, b""))[1:]
    nested = bytes([taken[0] + 1]) + taken[1:] + b"\x91" * 1100 + b"\x90"
    with pytest.raises(msgspec.MsgspecError):
        decode_call(nested)


def test_the_largest_datagram_fits() -> None:
    part = Event(T, TOKEN, HANDLE, EVENT, MAX_PARTS - 1, MAX_PARTS, bytes(PART_BYTES))
    assert len(encode_call(part)) == 956


# ------------------------------------------------------------------ parts


def parcel(parts: int = 3, seed: int = 0) -> Parcel:
    return Parcel(random.Random(seed).randbytes(PART_BYTES * parts))


def messages(parcel: Parcel) -> list[Event]:
    count = len(parcel.chunks)
    return [Event(T, TOKEN, HANDLE, parcel.event, i, count, chunk) for i, chunk in enumerate(parcel.chunks)]


def key(parcel: Parcel, source: bytes = HERE) -> Key:
    return source, HANDLE, parcel.event


@given(st.integers(1, MAX_PARTS), st.randoms(use_true_random=False))
def test_parts_come_together_in_any_order_and_number(count: int, order: random.Random) -> None:
    whole, partials = parcel(count), Partials()
    parts = messages(whole)
    arriving = parts + order.choices(parts, k=5)
    order.shuffle(arriving)
    seen: set[int] = set()
    for message in arriving:
        seen.add(message.part)
        found = partials.add(key(whole), message, 0)
        assert (found is not None) is (len(seen) == count)
        if found is not None:
            assert found == b"".join(whole.chunks)
            assert event_id(found) == whole.event
            break
        assert partials.have(key(whole)) == sum(1 << part for part in seen)


def test_what_cannot_be_a_part() -> None:
    def event(part: int, parts: int, size: int) -> Event:
        return Event(T, TOKEN, HANDLE, EVENT, part, parts, bytes(size))

    assert SEALED_BYTES == 8100
    for part, parts, size in [(0, 1, 900), (8, 9, 900), (0, 3, 0)]:
        assert well_formed(event(part, parts, size))
    for part, parts, size in [(0, 0, 900), (3, 3, 900), (0, 10, 900), (0, 3, 899), (0, 3, 901), (0, 0, 0)]:
        assert not well_formed(event(part, parts, size))


def test_nobody_elses_parts_mix_in() -> None:
    """The same event id from another address is another heap of parts."""
    whole, partials = parcel(), Partials()
    first, second, third = messages(whole)
    other = key(whole, at("192.0.2.2"))
    assert partials.add(key(whole), first, 0) is None
    assert partials.add(other, msgspec.structs.replace(second, chunk=bytes(900)), 0) is None
    assert partials.add(key(whole), third, 0) is None
    assert partials.add(key(whole), second, 0) == b"".join(whole.chunks)


def test_a_partial_event_is_kept_ten_seconds() -> None:
    whole, partials = parcel(), Partials()
    first, second, third = messages(whole)
    assert partials.add(key(whole), first, 0) is None
    assert partials.due_us == PARTIAL_US
    assert partials.add(key(whole), second, PARTIAL_US - 1) is None
    assert partials.add(key(whole), third, PARTIAL_US) is None, "its beginning is forgotten"
    assert partials.have(key(whole)) == 0b100
    partials.expire(2 * PARTIAL_US)
    assert len(partials) == 0


def flood(partials: Partials, networks: int, count: int, now_us: int) -> list[Key]:
    """First parts of that many events, from so many networks in turn."""
    keys = []
    for number in range(count):
        one = parcel(2, number + now_us)
        source = at(f"203.0.{number % networks}.{1 + number // networks % 250}")
        keys.append(key(one, source))
        partials.add(keys[-1], messages(one)[0], now_us)
        assert len(partials) <= MAX_PARTIAL
    return keys


def test_one_network_has_eight_and_all_have_64() -> None:
    partials = Partials()
    flood(partials, 1, 500, 0)
    assert len(partials) == MAX_PARTIAL_PER_NETWORK
    flood(partials, 50, 500, 1)
    assert len(partials) == MAX_PARTIAL


def test_a_flooding_network_drives_out_nobody() -> None:
    """Of a full store, the fullest network gives way: that is the flooder's own."""
    partials = Partials()
    honest = flood(partials, 50, MAX_PARTIAL, 0)
    for number in range(1000):
        one = parcel(2, 5000 + number)
        partials.add(key(one, at("198.51.100.1", 1 + number)), messages(one)[0], 1)
    assert sum(partials.has(one, 1) for one in honest) >= MAX_PARTIAL - 3


def test_a_caller_among_a_flood_from_everywhere_is_put_together() -> None:
    whole, partials = parcel(), Partials()
    first, second, third = messages(whole)
    partials.add(key(whole), first, 0)
    for number in range(1000):
        one = parcel(2, number)
        source = at(f"203.0.{number % 10}.{1 + number % 250}")
        partials.add(key(one, source), messages(one)[0], number)
    assert partials.add(key(whole), second, 1000) is None
    assert partials.add(key(whole), third, 1001) == b"".join(whole.chunks)
