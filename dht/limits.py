"""How often somebody may: token buckets, one a key (a network, a link, everybody), bounded in number."""

from __future__ import annotations

from collections import OrderedDict


class RateLimit:
    """`per_second` and a burst for each key; the least recently seen of `capacity` keys gives way."""

    __slots__ = ("_capacity", "_cost_us", "_depth_us", "_full_at")

    def __init__(self, per_second: int, burst: int, capacity: int = 1024) -> None:
        self._cost_us = 1_000_000 // per_second
        self._depth_us = self._cost_us * burst
        self._capacity = capacity
        self._full_at: OrderedDict[bytes, int] = OrderedDict()  # when the key's bucket is full again, us

    def allow(self, key: bytes, now_us: int) -> bool:
        full_at_us = max(self._full_at.get(key, 0), now_us) + self._cost_us
        if full_at_us > now_us + self._depth_us:
            return False
        self._full_at[key] = full_at_us
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)
        return True
