"""Whose turn it is: one heap of the times at which peers want to be ticked."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tun.paths import NEVER

if TYPE_CHECKING:
    from tun.peer import Peer


class Alarms:
    """`peer.armed_us` is the time that counts; entries of other times are leftovers. Ties go by insertion."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Peer]] = []
        self._order = 0

    def arm(self, peer: Peer, when_us: int) -> None:
        """At the latest then."""
        if when_us < peer.armed_us:
            peer.armed_us = when_us
            self._order += 1
            heapq.heappush(self._heap, (when_us, self._order, peer))

    def due(self, now_us: int) -> Iterator[Peer]:
        """Each whose time has come, no longer armed."""
        while self._heap and self._heap[0][0] <= now_us:
            due_us, _, peer = heapq.heappop(self._heap)
            if due_us == peer.armed_us:
                peer.armed_us = NEVER
                yield peer

    def deadline_us(self) -> int:
        return self._heap[0][0] if self._heap else NEVER
