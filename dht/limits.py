"""How often somebody may: token buckets, one a key (a network, a link, everybody), bounded in number."""

from __future__ import annotations

from typing import Final

_NOBODY: Final[dict[bytes, int]] = {}  # of all that have nobody yet; never changed


class RateLimit:
    """`per_second` and a burst for each key; the least recently seen of `capacity` keys gives way."""

    __slots__ = ("_burst", "_capacity", "_full_at", "_per_second")

    def __init__(self, per_second: int, burst: int, capacity: int = 1024) -> None:
        self._per_second = per_second
        self._burst = burst
        self._capacity = capacity
        self._full_at = _NOBODY  # when the key's bucket is full again, us; the last seen last

    def allow(self, key: bytes, now_us: int) -> bool:
        if self._full_at is _NOBODY:
            self._full_at = {}
        full_at, cost_us = self._full_at, 1_000_000 // self._per_second
        full_at_us = max(full_at.get(key, 0), now_us) + cost_us
        if full_at_us > now_us + self._burst * cost_us:
            return False
        full_at.pop(key, None)
        full_at[key] = full_at_us
        if len(full_at) > self._capacity:
            del full_at[next(iter(full_at))]
        return True
