"""Trains put together by ourselves, where no GRO on the way here has joined their datagrams.

Whatever of a train waits in the socket is received behind its first datagram, in place, with one call. What
cannot join, which is a larger one, a train, one from elsewhere and whatever came behind those, comes next.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tun.datagrams import Train
from tun.flow import Channel, Source
from tun.frames import HEAD_BYTES, MAX_SEGMENTS, SPAN
from tun.layout import PLACES

if TYPE_CHECKING:
    from tun.plane import Plane


class Gather:
    """Part of a plane. `waits`: there is something to `take` before the socket is asked."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._aside: deque[Train] = deque()
        self._begun: tuple[int, int, Source] | None = None  # stands in the plane's `received`
        self.waits = False

    def take(self) -> tuple[int, int, Source]:
        """The next train now stands in `received`: its length, the size of its datagrams, where from."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self.waits = bool(self._aside)
            return begun
        datagrams, size, source = self._aside.popleft()
        self.waits = bool(self._aside)
        self._plane.received[: len(datagrams)] = datagrams
        return len(datagrams), size, source

    def settle(self) -> None:
        """No more of it in this wake-up: what was set aside, one by one."""
        while self._aside:
            length, size, source = self.take()
            self._plane.each(0, length, size or 1, source)

    def clear(self) -> None:
        """`received` is wanted for something else."""
        if self._begun is not None:
            self._plane.each(0, *self.take())

    def join(self, channel: Channel, length: int, size: int, source: Source) -> int:
        """The length of the train now; 0 where the rest of a span is still on its way.

        A span of which all that came is in order stays where it is until the next wake-up: nothing of it can
        be opened before it is whole, and to set each part aside as it comes costs a receiver that is faster
        than the sender more than all else."""
        raw, aside = self._plane.raw, self._aside
        span = raw[0] == SPAN
        most = min(MAX_SEGMENTS, len(raw) // size)
        limit = (min(most, raw[2] - raw[1]) if span else most) * size
        while aside and length < limit and not length % size:
            datagrams, each, where = aside[0]
            if len(datagrams) > size or each != len(datagrams) or where != source:
                return length
            aside.popleft()
            self.waits = bool(aside)
            self._plane.received[length : length + each] = datagrams
            length += each
        if length >= limit or length % size:
            return length
        count = (limit - length) // size
        length, others, more = self._plane.udp.receive_more(raw, length, size, count, source)
        if others:
            aside.extend(others)
            self.waits = True
        if (
            span
            and not (more or others or length % size)
            and length < limit
            and self._is_begun(channel, size, length)
        ):
            self._begun, self.waits = (length, size, source), True
            return 0
        return length

    def _is_begun(self, channel: Channel, size: int, length: int) -> bool:
        """Are these the first parts of one span, and no others of it have come before them?"""
        received = self._plane.received
        iv = bytes(received[4:HEAD_BYTES])
        return (
            bytes(received[1:length:size]) == PLACES[: length // size]
            and bytes(received[length - size + 4 : length - size + HEAD_BYTES]) == iv
            and iv not in channel.flow.spans
        )
