"""Networks and addresses that are left alone for a while."""

from __future__ import annotations

from typing import Final

REMEMBERED: Final = 4096  # networks barred, addresses avoided
_NOBODY: Final[dict[bytes, int]] = {}  # of all that have nobody yet; never changed


class Shunned:
    """Of one kind, for `while_us` each; the oldest is let off where there are too many."""

    __slots__ = ("_until", "_while_us")

    def __init__(self, while_us: int) -> None:
        self._until = _NOBODY
        self._while_us = while_us

    def add(self, who: bytes, now_us: int) -> None:
        if self._until is _NOBODY:
            self._until = {}
        self._until.pop(who, None)
        self._until[who] = now_us + self._while_us
        if len(self._until) > REMEMBERED:
            del self._until[next(iter(self._until))]

    def until(self, who: bytes) -> int:
        """0 for who is not shunned."""
        return self._until.get(who, 0)
