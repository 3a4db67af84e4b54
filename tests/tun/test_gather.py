"""Spans and trains of segments whose datagrams come singly, also in several wake-ups."""

from __future__ import annotations

import pytest

from tests.planes import HOME, MAX_AT_ONCE, NOW, Side, lane_keys
from tests.virtio_packets import Shape
from tun.frames import HEAD_BYTES, SEGMENT
from tun.reference import seal

ROOM = 1452
FULL = 45  # segments of a super-packet: as many as fit into 64 KiB
PACKET = Shape(version=6, options=b"\1" * 12, payload=bytes(range(250)) * 36, gso=1300).build()
SMALL = Shape(payload=b"small").build()


class Receiving(Side):
    """A side that has heard its peer; what is `sealed` is for it."""

    def __init__(self, at_once: int = MAX_AT_ONCE) -> None:
        super().__init__()
        self.udp.at_once = at_once
        self.session(False, 0x7777_0000)
        self.keys = lane_keys(self.index)
        assert len(self.unseal([seal([SMALL], self.keys, 0, ROOM, False)])) == 1

    def sealed(self, first: int, span: bool, packet: bytes = PACKET) -> list[bytes]:
        return seal([packet], self.keys, first, ROOM, span)

    def wake(self, *datagrams: bytes) -> list[bytes]:
        """What is written to the TUN for datagrams that come singly, all in one wake-up."""
        return self.unseal([[each] for each in datagrams], at_once=True)


@pytest.mark.parametrize("span", [False, True])
def test_one_wake_up_makes_one_packet(span: bool) -> None:
    side = Receiving()
    assert side.wake(*side.sealed(1, span)) == [PACKET]


def test_a_span_that_comes_in_several_wake_ups_stays_where_it_is() -> None:
    side = Receiving()
    span = side.sealed(1, True)
    assert len(span) > 5
    assert side.wake(*span[:2]) == []
    assert side.wake(span[2]) == []
    assert side.table.flows[b"m" * 16].spans._partial == {}
    assert side.wake(*span[3:]) == [PACKET]


def test_the_next_span_begins_behind_it() -> None:
    side = Receiving()
    first, second = side.sealed(1, True), side.sealed(2, True)
    assert side.wake(*first, *second[:3]) == [PACKET]
    assert side.wake(*second[3:]) == [PACKET]


@pytest.mark.parametrize("gap", [1, 3])
def test_a_part_that_is_lost_costs_its_span_and_no_other(gap: int) -> None:
    side = Receiving()
    first, second = side.sealed(1, True), side.sealed(2, True)
    del first[gap]
    assert side.wake(*first) == []
    assert side.wake(*second[:4]) == []
    assert side.wake(*second[4:]) == [PACKET]


def test_a_part_that_comes_before_the_others_completes_it_at_once() -> None:
    """Nothing more comes that could end the waiting."""
    side = Receiving()
    span = side.sealed(1, True)
    assert side.wake(span[-1]) == []
    assert side.wake(*span[:3]) == []
    assert side.wake(*span[3:-1]) == [PACKET]


def test_other_records_do_not_wait_for_the_rest_of_a_span() -> None:
    side = Receiving()
    span = side.sealed(1, True)
    small = seal([SMALL], side.keys, 2, ROOM, False)
    side.wake(*span[:3])
    assert len(side.wake(*small)) == 1
    assert side.wake(*span[3:]) == [PACKET]


def test_what_another_worker_received_does_not_overwrite_it() -> None:
    side = Receiving()
    span = side.sealed(1, True)
    (small,) = seal([SMALL], side.keys, 2, ROOM, False)
    side.wake(*span[:3])
    side.plane.given(small, HOME, NOW)
    assert len(side.tun.written) == 1
    assert side.wake(*span[3:]) == [PACKET]


def test_parts_that_are_not_the_next_ones_are_not_waited_for() -> None:
    side = Receiving()
    span = side.sealed(1, True)
    side.wake(span[0], span[2])
    assert side.table.flows[b"m" * 16].spans._partial
    assert side.wake(span[1], *span[3:]) == [PACKET]


def test_segments_of_the_next_packet_in_the_same_train_are_opened_together() -> None:
    """A train put together here may be longer than any that UDP_GRO makes."""
    side = Receiving(at_once=64)
    packets = [
        Shape(version=6, options=b"\1" * 12, payload=bytes([fill]) * 1300 * FULL, gso=1300).build()
        for fill in (1, 2)
    ]
    first, second = (side.sealed(at, False, packet) for packet, at in zip(packets, (1, 46), strict=True))
    assert len(first) == len(second) == FULL
    written = side.wake(*first, *second)
    assert written[0] == packets[0]
    headers = len(packets[0]) - 1300 * FULL
    assert [len(each[headers:]) // 1300 for each in written] == [FULL, 64 - FULL, 2 * FULL - 64]
    assert b"".join(each[headers:] for each in written[1:]) == packets[1][headers:]


def test_no_more_is_put_together_than_there_is_room_for() -> None:
    """Jumbo frames that waited behind a datagram of another size."""
    side = Receiving(at_once=64)
    (small,) = seal([SMALL], side.keys, 2, ROOM, False)
    jumbo = bytes([SEGMENT, 0, 1, 0]) + small[4:HEAD_BYTES] + bytes(9000)
    assert len(side.wake(bytes([SEGMENT]) + jumbo[1:1200], *[jumbo] * 30, small)) == 1
    assert side.plane.counters == {"record refused": 31}
