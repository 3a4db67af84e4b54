"""Sliding replay window (RFC 6479's purpose, another structure): one per lane, direction and epoch."""

from __future__ import annotations

WINDOW = 8192  # records; WireGuard's and Nebula's


class ReplayWindow:
    """Everything below `next` was seen, except the `holes`: in order, a check is one comparison.

    Only authenticated sequence numbers may be offered. Holds at most 2 × WINDOW numbers."""

    __slots__ = ("_holes", "_next")

    def __init__(self) -> None:
        self._next = 0
        self._holes: set[int] = set()

    def accept(self, sequence: int) -> bool:
        """True once for every number that is not older than WINDOW below the highest seen."""
        expected = self._next
        if sequence == expected:
            self._next = expected + 1
            return True
        if sequence > expected:
            self._holes.update(range(max(expected, sequence + 1 - WINDOW), sequence))
            self._next = sequence + 1
            if len(self._holes) > 2 * WINDOW:
                oldest = self._next - WINDOW
                self._holes = {hole for hole in self._holes if hole >= oldest}
            return True
        if sequence in self._holes:
            self._holes.discard(sequence)
            return sequence >= self._next - WINDOW
        return False
