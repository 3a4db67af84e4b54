"""The reference of the wire format by itself: what arrives is what was sent, as far as it arrives."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from tests.virtio_packets import ACK, PSH, UDP, Shape
from tests.wire_traffic import FIRSTS, ROOMS, Damage, damages, reads, trains, wakeups
from tun.frames import SEGMENT, SPAN
from tun.reference import LaneKeys, seal, unseal
from tun.virtio import check, complete

KEYS = LaneKeys(bytes(range(32)), 0x11223341, 0x55667788)


def bare(writes: list[bytes]) -> list[bytes]:
    """The IP packets, finished."""
    return [packet for write in writes for packet in complete(bytearray(write), 0, len(write))]


def deliverable(read: bytes) -> bool:
    """A small super-packet of one segment is no kernel's; the receiver refuses it."""
    return len(read) > 610 or not read[1] or check(bytearray(read), 0, len(read))


@given(wakeups, FIRSTS, ROOMS, st.booleans())
def test_everything_arrives_in_order(given_: list[bytes], first: int, room: int, span: bool) -> None:
    datagrams = seal(given_, KEYS, first, room, span)
    assert all(len(datagram) <= room for datagram in datagrams)
    sent = bare([read for read in given_ if deliverable(read)])
    assert bare(unseal([[datagram] for datagram in datagrams], KEYS)) == sent
    assert bare(unseal(trains(datagrams, []), KEYS)) == sent
    nonces = [datagram[4:16] for datagram in datagrams if datagram[0] != SPAN or not datagram[1]]
    assert len(set(nonces)) == len(nonces)
    assert [int.from_bytes(nonce[8:], "big") for nonce in nonces] == [
        first + number for number in range(len(nonces))
    ]


@given(reads(), FIRSTS, ROOMS, st.booleans())
def test_a_super_packet_in_one_train_is_written_as_it_was_read(
    read: bytes, first: int, room: int, span: bool
) -> None:
    record = seal([Shape(payload=b"first").build()], KEYS, first, room, span)
    writes = unseal([record, *trains(seal([read], KEYS, first + 1, room, span), [])], KEYS)[1:]
    normal = bytearray(read)
    if check(normal, 0, len(normal)):
        # A train has 65,507 bytes at most: a larger super-packet is cut by the network, not in a span.
        if len(writes) == 1 or span:
            assert writes == [normal]
        assert bare(writes) == bare([read])


@given(wakeups, ROOMS, st.booleans(), damages(hostile=False), st.lists(st.integers(0, 99), max_size=5))
def test_what_arrives_is_what_was_sent_once(
    given_: list[bytes], room: int, span: bool, damage: Damage, cuts: list[int]
) -> None:
    datagrams = seal(given_, KEYS, 0, room, span)
    sent = bare(given_)
    got = bare(unseal(trains(damage.to(datagrams), cuts), KEYS))
    for packet in got:
        sent.remove(packet)  # raises where there is none left


@given(wakeups, ROOMS, st.booleans(), damages(hostile=True), st.lists(st.integers(0, 99), max_size=5))
def test_nothing_raises_and_nothing_false_passes(
    given_: list[bytes], room: int, span: bool, damage: Damage, cuts: list[int]
) -> None:
    datagrams = damage.to(seal(given_, KEYS, 0, room, span))
    sent = bare(given_)
    for packet in bare(unseal(trains(datagrams, cuts), KEYS)):
        sent.remove(packet)


@given(st.lists(st.lists(st.binary(max_size=80), max_size=4), max_size=6))
def test_garbage(strangers: list[list[bytes]]) -> None:
    assert unseal([train for train in strangers if train], KEYS) == []


def test_a_lost_segment_is_lost_alone() -> None:
    shape = Shape(payload=bytes(range(256)) * 20, gso=1000, flags=ACK | PSH)
    record = seal([Shape(payload=b"first").build()], KEYS, 0, 1452, False)
    segments = seal([shape.build()], KEYS, 1, 1452, False)
    assert [datagram[:4] for datagram in segments] == [bytes([SEGMENT, 0, 1, i]) for i in range(6)]
    writes = unseal([record, segments[:2] + segments[3:5], segments[5:]], KEYS)[1:]
    assert len(writes) == 3  # 0 and 1, 3 and 4, 5
    assert bare(writes) == shape.cut()[:2] + shape.cut()[3:]


def test_a_swapped_place_is_noticed() -> None:
    """The clear place only cuts runs: what is authentic says which segment it is."""
    shape = Shape(payload=bytes(range(256)) * 12, gso=1000, flags=ACK | PSH)
    record = seal([Shape(payload=b"first").build()], KEYS, 0, 1452, False)
    one, two, three, four = seal([shape.build()], KEYS, 1, 1452, False)
    swapped = [two[:3] + b"\0" + two[4:], one[:3] + b"\1" + one[4:], three, four]
    assert sorted(bare(unseal([record, swapped], KEYS)[1:])) == sorted(shape.cut())


def test_vectors() -> None:
    """Every form of datagram: heads as they stand, all bytes by their digest."""
    small = [Shape(4, UDP, b"a" * size).build() for size in (5, 6)]
    whole = Shape(payload=bytes(range(256)) * 6, gso=500, flags=ACK | PSH).build()
    segments = seal([*small, whole], KEYS, 254, 1200, False)
    spans = seal([small[0], whole], KEYS, 254, 1200, True)
    assert [datagram[:16].hex() for datagram in segments] == [
        "c00001001122334155667788000000fe",
        "c10001001122334155667788000000ff",
        "c1000101112233415566778800000100",
        "c1000102112233415566778800000101",
        "c1000103112233415566778800000102",
    ]
    assert [datagram[:16].hex() for datagram in spans] == [
        "c00001001122334155667788000000fe",
        "c20002001122334155667788000000ff",
        "c20102001122334155667788000000ff",
    ]
    assert [len(datagram) for datagram in segments] == [127, 588, 588, 588, 124]
    assert [len(datagram) for datagram in spans] == [81, 1200, 440]
    digest = sha256(b"".join(segments + spans)).hexdigest()
    assert digest == "ec01fad14df23fee134e8b14066d5dce098234154c066be91dcf6594082974e7"
