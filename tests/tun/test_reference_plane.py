"""The fast data path against the reference, byte for byte: tun/plane.py and tun/reference.py.

100,000 cases in `make soak`, a thousand in `make test`. The planes live on from case to case, as in a worker,
so that what they cache is tried as well.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.planes import REMOTE, Side, lane_keys
from tests.scale import SOAK
from tests.virtio_packets import Shape
from tests.wire_traffic import FIRSTS, ROOMS, Damage, damages, noise, trains, wakeups
from tun.reference import LaneKeys, seal, unseal
from tun.virtio import complete

CASES = 50_000 if SOAK else 500  # of each comparison
many = settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])

SENDERS = {span: Side("span" if span else "segments") for span in (False, True)}
for side in SENDERS.values():
    side.session(True, REMOTE)
RECEIVER = Side()
BARE = Side(vnet_hdr=False)


def keys_of(receiver: Side) -> LaneKeys:
    """A new session, whose sequences start anew."""
    receiver.session(False, 0x7777_0000)
    return lane_keys(receiver.index)


def bare(writes: list[bytes]) -> list[bytes]:
    return [packet for write in writes for packet in complete(bytearray(write), 0, len(write))]


@many
@given(wakeups, FIRSTS, ROOMS, st.booleans())
def test_sealing(reads: list[bytes], first: int, room: int, span: bool) -> None:
    assert SENDERS[span].seal(reads, first, room) == seal(reads, lane_keys(REMOTE), first, room, span)


@many
@given(
    st.lists(st.tuples(wakeups, st.booleans()), max_size=3),
    ROOMS,
    damages(hostile=True),
    st.lists(st.integers(0, 99), max_size=5),
    st.booleans(),
)
def test_opening(
    sent: list[tuple[list[bytes], bool]], room: int, damage: Damage, cuts: list[int], greeted: bool
) -> None:
    keys = keys_of(RECEIVER)
    datagrams: list[bytes] = []
    if greeted:  # before that, no train is believed
        datagrams += seal([Shape(payload=b"first").build()], keys, 999_999, room, False)
    later: list[bytes] = []
    for number, (reads, span) in enumerate(sent):
        later += seal(reads, keys, 1_000_000 + 1000 * number, room, span)
    received = trains(datagrams, []) + trains(damage.to(later), cuts)
    assert RECEIVER.unseal(received) == unseal(received, keys)


@many
@given(
    st.lists(st.tuples(wakeups, st.booleans()), max_size=2),
    ROOMS,
    damages(hostile=False),
    st.lists(st.integers(0, 99), max_size=30),
    st.booleans(),
)
def test_opening_all_at_once(
    sent: list[tuple[list[bytes], bool]], room: int, damage: Damage, cuts: list[int], gro: bool
) -> None:
    """In one wake-up, where datagrams that come singly are gathered: the same packets, joined as it may be.

    The same on a host whose TUN has no virtio_net_hdr."""
    for receiver in (RECEIVER, BARE):
        keys = keys_of(receiver)
        datagrams = seal([Shape(payload=b"first").build()], keys, 0, room, False)
        for number, (reads, span) in enumerate(sent):
            datagrams += damage.to(seal(reads, keys, 1 + 1000 * number, room, span))
        received = trains(datagrams, cuts) if gro else [[datagram] for datagram in datagrams]
        written = receiver.unseal(received, at_once=True)
        expected = bare(unseal(received, keys))
        assert (written if receiver is BARE else bare(written)) == expected


@given(wakeups, ROOMS)
def test_reading_without_virtio_net_hdr(reads: list[bytes], room: int) -> None:
    packets = bare(reads)[:60]
    sealed = seal([bytes(10) + packet for packet in packets], lane_keys(REMOTE), 0, room, False)
    assert BARE_SENDER.seal(packets, 0, room) == sealed


BARE_SENDER = Side(vnet_hdr=False)
BARE_SENDER.session(True, REMOTE)


_heads = st.tuples(
    st.integers(0xBF, 0xC9),
    st.integers(0, 3),
    st.integers(0, 70),
    st.integers(0, 255),
    st.sampled_from([0, 1]),
)


@st.composite
def hostile_trains(draw: st.DrawFn) -> tuple[int, bytes]:
    """Bytes of a train and the size of its datagrams, down to nothing; heads that may be right."""
    size = draw(st.one_of(st.integers(0, 70), st.sampled_from([511, 1200, 1452, 9000])))
    count = draw(st.integers(1, 70))
    kind, part, parts, place, known = draw(_heads)
    keys = lane_keys(RECEIVER.index)
    train = b""
    for number in range(count):
        iv = (
            keys.iv(draw(st.sampled_from([1_000_000 + number, 7, 2**32 - 1]))) if known else noise(12, number)
        )
        head = bytes([kind, (part + number) & 255, parts, (place + number) & 255]) + iv
        train += (head + noise(size, number))[:size]
    if draw(st.booleans()):  # heads every 16 bytes or more, whatever the size
        size = draw(st.integers(1, 70))
    return size, train[: max(1, len(train) - draw(st.integers(0, size)))] if train else b""


@given(st.lists(hostile_trains(), max_size=5), st.booleans())
def test_no_train_makes_it_raise(given_: list[tuple[int, bytes]], at_once: bool) -> None:
    """Whoever saw an index can write heads that look right, and trains of any size."""
    keys = keys_of(RECEIVER)
    first = seal([Shape(payload=b"first").build()], keys, 0, 1452, False)
    received = [
        [train[at : at + size] for at in range(0, len(train), size or 1)] or [b""] for size, train in given_
    ]
    assert len(RECEIVER.unseal([first, *received], at_once)) == 1


def test_an_empty_datagram() -> None:
    fresh = Side()
    assert fresh.unseal([[b""]]) == []
    keys = keys_of(fresh)
    record = seal([Shape(payload=b"first").build()], keys, 0, 1452, False)
    assert len(fresh.unseal([[b""], record, [b""]])) == 1


@pytest.mark.parametrize("kind", [0x00, 0xC0, 0xC1, 0xC2, 0xC3, 0xC8])
def test_a_stranger_s_short_datagram_behind_a_good_one(kind: int) -> None:
    """Shorter than a head: what stands behind it in the buffer is the head of what came before.

    That is a record that is done with, or the first part of a span whose sequence is still open."""
    for size in range(45):
        keys = keys_of(RECEIVER)
        first = seal([Shape(payload=b"first").build()], keys, 0, 1200, False)
        span = seal([Shape(payload=bytes(2000)).build()], keys, 1, 1200, False)
        assert len(span) == 2
        short = (bytes([kind]) + bytes(44))[:size]
        received = [first, [short], span[:1], [short], [short, short], span[1:], [short]]
        assert len(RECEIVER.unseal(received)) == 2


@pytest.mark.parametrize("rest", [1, 15, 16, 17])
def test_a_span_with_a_short_last_part_that_came_singly(rest: int) -> None:
    room = 1200
    keys = keys_of(RECEIVER)
    first = seal([Shape(payload=b"first").build()], keys, 0, room, False)
    packet = Shape(payload=bytes(2 * (room - 16) + rest - 6 - 16 - 10 - 40)).build()
    span = seal([packet], keys, 1, room, False)
    assert [len(part) for part in span] == [room, room, 16 + rest]
    received = [first, *([part] for part in reversed(span))]
    assert RECEIVER.unseal(received) == unseal(received, keys)
    assert len(RECEIVER.tun.written) == 2
