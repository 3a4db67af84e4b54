"""Token buckets per source, bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class RateLimit:
    """`per_second` and a burst for each key; the least recently seen of `capacity` keys gives way."""

    def __init__(self, per_second: int, burst: int, capacity: int = 4096) -> None:
        self._cost_us = 1_000_000 // per_second
        self._depth_us = self._cost_us * burst
        self._capacity = capacity
        self._full_at: OrderedDict[Hashable, int] = OrderedDict()  # key -> when its bucket is full again, us

    def allow(self, key: Hashable, now_us: int) -> bool:
        full_at = self._full_at.get(key, 0)
        if full_at < now_us:
            full_at = now_us
        full_at += self._cost_us
        if full_at > now_us + self._depth_us:
            return False
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)
        return True
