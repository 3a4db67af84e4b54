"""Spans: one AEAD over a whole super-packet, cut over n datagrams. Cheapest; one lost datagram loses all.

The same face as tun/segments.py: `send` what stands in the plane's input, `receive` a train of datagrams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from tun.flow import Flow, Source
from tun.frames import HEAD_BYTES, SPAN, TAG_BYTES
from tun.layout import ORIGIN, PLACES, TEXT

if TYPE_CHECKING:
    from tun.plane import Plane

MAX_RECORD = 70_000
MAX_LAYOUTS = 16


class _Chunks:
    """Views of heads and ciphertext in the order of the wire, for one size of chunk."""

    def __init__(self, heads: memoryview, sealed: memoryview, chunk: int) -> None:
        self.pieces: list[memoryview] = []
        for part in range(-(-MAX_RECORD // chunk)):
            self.pieces.append(heads[HEAD_BYTES * part : HEAD_BYTES * (part + 1)])
            self.pieces.append(sealed[chunk * part : chunk * (part + 1)])


class Spans:
    """Part of a plane."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._heads = memoryview(bytearray(HEAD_BYTES * 256))
        self._sealed = memoryview(bytearray(MAX_RECORD))
        self._chunks: dict[int, _Chunks] = {}

    def send(self, flow: Flow, end: int) -> None:
        """The record whose plaintext stands at TEXT … end of the input."""
        lane, heads = flow.lane, self._heads
        assert lane is not None
        chunk = flow.room - HEAD_BYTES
        length = end - TEXT + TAG_BYTES
        parts = -(-length // chunk)
        sequence = lane.sequence
        lane.sequence = sequence + 1
        head = bytes((SPAN, 0, parts, 0)) + lane.prefix + sequence.to_bytes(4, "big")
        heads[: HEAD_BYTES * parts] = head * parts
        heads[1 : HEAD_BYTES * parts : HEAD_BYTES] = PLACES[:parts]
        flow.encrypt(heads[4:HEAD_BYTES], self._plane.input[TEXT:end], None, self._sealed[:length])
        chunks = self._chunks.get(chunk)
        if chunks is None:
            if len(self._chunks) >= MAX_LAYOUTS:
                self._chunks.clear()
            chunks = self._chunks[chunk] = _Chunks(heads, self._sealed, chunk)
        pieces = chunks.pieces[: 2 * parts]
        pieces[-1] = self._sealed[(parts - 1) * chunk : length]
        # Copied into one piece: a join and one buffer cost less than sendmsg with 88 of them.
        self._plane.sender.send(flow, b"".join(pieces), flow.room, parts)

    def receive(self, length: int, size: int, source: Source) -> None:
        """A train of `length` bytes, datagrams of `size` bytes: most likely one whole span, or several."""
        plane, raw = self._plane, self._plane.raw
        start = 0
        while start < length:
            end = min(length, start + max(1, raw[start + 2]) * size)
            if end - start <= HEAD_BYTES or raw[start + 1] or not self._whole(start, end, size, source):
                plane.each(start, end, size, source)
            start = end

    def _whole(self, start: int, end: int, size: int, source: Source) -> bool:
        """The span at start … end, if it is one: one AEAD over it all."""
        plane, raw, received = self._plane, self._plane.raw, self._plane.received
        parts = -(-(end - start) // size)
        channel = plane.channel(bytes(received[start + 4 : start + 12]))
        sequence = int.from_bytes(raw[start + 12 : start + HEAD_BYTES], "big")
        if raw[start] != SPAN or raw[start + 2] != parts or channel is None or not channel.kept:
            return False
        if sequence < channel.window.next:
            return False
        first = start // size
        pieces = plane.layout(size).ciphertexts[first : first + parts]
        if (end - start) % size:
            pieces[-1] = received[start + (parts - 1) * size + HEAD_BYTES : end]
        stop = ORIGIN + end - start - HEAD_BYTES * parts - TAG_BYTES
        try:
            nonce = received[start + 4 : start + HEAD_BYTES]
            channel.decrypt(nonce, b"".join(pieces), None, plane.opened[ORIGIN:stop])
        except (InvalidTag, ValueError):  # not one record after all
            return False
        channel.window.accept_run(sequence, 1)
        plane.credit(channel, 1, source, end - start)
        plane.dispatch(channel, stop, sequence)
        return True
