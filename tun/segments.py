"""Segments: a super-packet as a train of records, one a datagram. A lost one is lost alone.

Each carries the super-packet's headers, so that any run of them is a smaller super-packet. The same face as
tun/spans.py: `send` what stands in the plane's input, `receive` a train of datagrams.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from tun.flow import Channel, Flow, Source
from tun.frames import (
    HEAD_BYTES,
    HINT,
    MAX_SEGMENTS,
    PREFIX_BYTES,
    SEALED_BYTES,
    SEGMENT,
    Kind,
)
from tun.layout import INNER, ORIGIN, PLACES, TEXT, TrainLayout, drive

if TYPE_CHECKING:
    from tun.plane import Plane

MAX_LAYOUTS = 24
MIN_HEADERS = 28  # IPv4 and UDP
MAX_PAYLOAD = 65_535
_TWICE = PLACES + PLACES


class _Sending:
    """Views of the input and of a train of ours, fixed by segment size and header length."""

    def __init__(self, source: memoryview, segment: int, headers: int) -> None:
        count = min(MAX_SEGMENTS, MAX_PAYLOAD // segment + 1)
        plain = PREFIX_BYTES + headers + segment
        self.size = size = plain + SEALED_BYTES
        self.train = train = memoryview(bytearray(count * size))
        train[0::size] = bytes([SEGMENT]) * count
        train[2::size] = b"\1" * count
        train[3::size] = PLACES[:count]
        starts = range(0, count * size, size)
        self.nonces = [train[at + 4 : at + HEAD_BYTES] for at in starts]
        self.sealed = [train[at + HEAD_BYTES : at + size] for at in starts]
        texts = range(TEXT, TEXT + count * segment, segment)
        self.texts = [source[at : at + plain] for at in texts]
        self.headers = [slice(at, at + PREFIX_BYTES + headers) for at in texts]
        self._prefix = b""
        self._stamped = 0  # how many heads have the prefix
        self._high = -1
        self._raised = 0  # and how many the high bytes

    def stamp(self, prefix: bytes, first: int, count: int) -> None:
        """IVs first, first + 1 … into `count` heads: one strided store for a byte that has changed."""
        train, size = self.train, self.size
        end = count * size
        if prefix != self._prefix or count > self._stamped:
            for i in range(8):
                train[4 + i : end : size] = prefix[i : i + 1] * count
            self._prefix, self._stamped = prefix, count
        low, high = first & 255, first >> 8
        train[15:end:size] = _TWICE[low : low + count]
        if low + count > 256:  # a carry inside the train
            cut = 256 - low
            before, after = high.to_bytes(3, "big"), (high + 1).to_bytes(3, "big")
            for i in range(3):
                train[12 + i : end : size] = before[i : i + 1] * cut + after[i : i + 1] * (count - cut)
            self._raised = 0
        elif high != self._high or count > self._raised:
            bytes_ = high.to_bytes(3, "big")
            for i in range(3):
                train[12 + i : end : size] = bytes_[i : i + 1] * count
            self._high, self._raised = high, count


class Segments:
    """Part of a plane."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._sending: dict[tuple[int, int], _Sending] = {}
        self._scratch = memoryview(bytearray(MAX_PAYLOAD + 1))

    def send(self, flow: Flow, end: int, headers: int, segment: int, count: int) -> None:
        """The super-packet at TEXT … end of the input, its prefix written: `count` segments."""
        plane, lane = self._plane, flow.lane
        assert lane is not None
        views = self._sending.get((segment, headers))
        if views is None:
            if len(self._sending) >= MAX_LAYOUTS:
                self._sending.clear()
            views = self._sending[segment, headers] = _Sending(plane.input, segment, headers)
        first = lane.sequence
        lane.sequence = first + count
        views.stamp(lane.prefix, first, count)
        text = plane.input
        header = bytes(text[TEXT : ORIGIN + 10 + headers])
        last = end - ORIGIN - 10 - headers - (count - 1) * segment
        full = count if last == segment else count - 1
        # The headers are written over the tail of the segment just encrypted, directly before the next one's
        # payload; the map ends with its shortest list, and no bytecode runs between two segments.
        drive(
            map(
                flow.encrypt,
                views.nonces[:full],
                views.texts,
                map(text.__setitem__, views.headers, repeat(header)),
                views.sealed,
            )
        )
        total = full * views.size
        if full < count:
            place = views.headers[full]
            text[place] = header
            plain = PREFIX_BYTES + headers + last
            flow.encrypt(
                views.nonces[full],
                text[place.start : place.start + plain],
                None,
                views.train[total + HEAD_BYTES : total + SEALED_BYTES + plain],
            )
            total += SEALED_BYTES + plain
        plane.sender.send(flow, views.train[:total], views.size, count)

    def receive(self, channel: Channel, length: int, size: int, source: Source) -> None:
        """A train of `length` bytes, datagrams of `size` bytes: runs of consecutive places and sequences."""
        plane, raw = self._plane, self._plane.raw
        count = -(-length // size)
        if length - (count - 1) * size <= SEALED_BYTES:  # a runt at the end
            count -= 1
            length = count * size
        layout = plane.layout(size)
        sequences = layout.sequences(count).unpack_from(raw)
        first, place = sequences[0], raw[3]
        places = bytes(plane.received[3:length:size])
        if places == PLACES[place : place + count] and sequences == tuple(range(first, first + count)):
            self._run(channel, layout, 0, count, first, length, source)
            return
        start = 0
        while start < count:  # several super-packets, perhaps of several lanes
            stop = start + 1
            while (
                stop < count
                and sequences[stop] == sequences[stop - 1] + 1
                and places[stop] == places[stop - 1] + 1
            ):
                stop += 1
            end, at = min(length, stop * size), start * size
            head = bytes(plane.received[at + 4 : at + 12])
            found = plane.channel(head)
            if found is None or not found.kept:
                plane.each(at, end, size, source)
            else:
                self._run(found, layout, start, stop - start, sequences[start], end, source)
            start = stop

    def _run(
        self,
        channel: Channel,
        layout: TrainLayout,
        start: int,
        count: int,
        first: int,
        end: int,
        source: Source,
    ) -> None:
        """Datagrams start … start + count − 1, until byte `end`: a part of one super-packet, or all of it.

        The hints only cut the run; what it is stands in the authenticated prefix, and must fit."""
        plane, received, size = self._plane, self._plane.received, layout.size
        window = channel.window
        if count == 1 or first < window.next or start + count > layout.count:
            plane.each(start * size, end, size, source)
            return
        last = (start + count - 1) * size
        plain = end - last - SEALED_BYTES
        tail = self._scratch[:plain]
        try:
            # The last one says how long the headers are, and so where all the others go.
            channel.decrypt(
                received[last + 4 : last + HEAD_BYTES], received[last + HEAD_BYTES : end], None, tail
            )
            prefix = bytes(tail[:PREFIX_BYTES])
            kind, segments, headers, base, _ = HINT.unpack_from(prefix)
            step = size - SEALED_BYTES - PREFIX_BYTES - headers
            place = (first - base) & 255
            fits = step > 0 and headers >= MIN_HEADERS and plain > PREFIX_BYTES + headers
            if kind != Kind.SUPER or not fits or place + count > segments + 1:
                plane.each(start * size, end, size, source)
                return
            at = ORIGIN + (count - 1) * step
            plane.opened[at : at + plain] = tail
            nonces, ciphertexts, places = layout.backwards(start, count - 1, headers)
            drive(map(channel.decrypt, nonces, ciphertexts, repeat(None), places))
        except InvalidTag:
            plane.each(start * size, end, size, source)
            return
        if plane.opened[ORIGIN : ORIGIN + PREFIX_BYTES] != prefix:  # two super-packets under hints of one
            plane.each(start * size, end, size, source)
            return
        window.accept_run(first, count)
        plane.credit(channel, count, source, end - start * size)
        plane.deliver_super(channel.flow, INNER, at + plain, headers, place, count, segments + 1)
