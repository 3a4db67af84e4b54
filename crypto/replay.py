"""Sliding replay window (RFC 6479's purpose, another structure): one per lane, direction and epoch."""

from __future__ import annotations

WINDOW = 8192  # records; WireGuard's and Nebula's


class ReplayWindow:
    """Everything below `next` was seen, except the `holes`: in order, a check is one comparison.

    Only authenticated sequence numbers may be offered. Holds at most 2 × WINDOW numbers."""

    __slots__ = ("_holes", "next")

    def __init__(self) -> None:
        self.next = 0
        self._holes: set[int] = set()

    def accept(self, sequence: int) -> bool:
        """True once for every number that is not older than WINDOW below the highest seen."""
        expected = self.next
        if sequence == expected:
            self.next = expected + 1
            return True
        if sequence > expected:
            self.accept_run(sequence, 1)
            return True
        if sequence in self._holes:
            self._holes.discard(sequence)
            return sequence >= self.next - WINDOW
        return False

    def accept_run(self, first: int, count: int) -> None:
        """`count` numbers from `first` on, none of them below `next`: all are new."""
        expected = self.next
        self.next = first + count
        if first > expected:
            self._holes.update(range(max(expected, first + 1 - WINDOW), first))
            if len(self._holes) > 2 * WINDOW:
                oldest = self.next - WINDOW
                self._holes = {hole for hole in self._holes if hole >= oldest}

    def is_new(self, sequence: int) -> bool:
        """Would `accept` take it? Says so before the cipher is asked; only `accept` decides."""
        return sequence >= self.next or sequence in self._holes
