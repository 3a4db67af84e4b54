"""What a node publishes of itself, and when it does so again.

    item ─ due ─▶ records ─▶ put in every overlay ─ kept by many ─▶ due again in an hour, sooner under churn
                                  ├─ by fewer than ten, or little was known ─▶ again after 10 s … an hour
                                  └─ by nobody ─▶ again after 15 s, 30 s … five minutes

Nodes that stored a record go, and others come that are closer to its key, so what is published has to be
published again long before it expires. A mesh whose nodes come and go quickly says so by unanswered questions
(`hurry`), and intervals shrink with it. Who began a mesh published to the two that came first: in a mesh that
has grown since, nobody looks for a record there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from dht.overlay import Overlay
from dht.parts import NEVER
from dht.records import Record

AGAIN_US: Final = 3_600_000_000
SOONEST_US: Final = 300_000_000
RETRY_US: Final = 15_000_000
APART_US: Final = 10_000_000  # an older word (dht/sets.py) stays beside a newer one that follows too soon
SETTLE_US: Final = 4_000_000  # after a start, until enough are known that lookups end where others' do
FEW: Final = 10  # of the 20 that are wanted
YOUNG: Final = 20  # contacts; with fewer, others too may just have begun, and not know who is closest
FEW_US: Final = 10_000_000

Make: TypeAlias = Callable[[int], list[Record]]
"""The item's records as they are at this Unix time (µs); none: it is nothing now."""


class _Item:
    __slots__ = ("due_us", "few_us", "least", "make", "put_us", "retry_us", "stored", "waiting")

    def __init__(self, make: Make, due_us: int) -> None:
        self.make = make
        self.due_us = due_us
        self.put_us = -APART_US
        self.retry_us = RETRY_US
        self.few_us = FEW_US
        self.waiting = 0
        self.stored = 0
        self.least = FEW  # that any of its puts was kept by, for all that is known


class Announcer:
    """`overlays`: all of ours; `entropy(n)` gives n random bytes, so that not everybody is due at once."""

    __slots__ = ("_entropy", "_items", "_overlays", "_puts", "due_us")

    def __init__(self, overlays: tuple[Overlay, ...], entropy: Callable[[int], bytes]) -> None:
        self.due_us = NEVER
        self._overlays = overlays
        self._entropy = entropy
        self._items: dict[str, _Item] = {}
        self._puts: dict[tuple[int, int], _Item] = {}  # by overlay and handle

    def set(self, name: str, make: Make, now_us: int, later_us: int = 0, apart_us: int = APART_US) -> None:
        """Publish this under a name of ours, in place of what had it, from `later_us` on, and no sooner than
        `apart_us` after that was."""
        item = self._items.get(name)
        if item is None:
            item = self._items[name] = _Item(make, now_us + later_us)
        item.make = make
        item.due_us = max(now_us + later_us, item.put_us + apart_us)
        self.due_us = min(self.due_us, item.due_us)

    def drop(self, name: str) -> None:
        """Publish it no more; what others have of it expires."""
        self._items.pop(name, None)

    def stored(self, name: str) -> int:
        """How many nodes kept the last one."""
        item = self._items.get(name)
        return item.stored if item is not None else 0

    def done(self, overlay: Overlay, handle: int, stored: int, now_us: int) -> None:
        """A put has ended; others' handles are passed over."""
        item = self._puts.pop((id(overlay), handle), None)
        if item is None:
            return
        item.waiting -= 1
        item.stored += stored
        item.least = min(item.least, stored)
        if item.waiting == 0:
            self._schedule(item, now_us)

    def tick(self, now_us: int, unix_us: int) -> None:
        if now_us < self.due_us:
            return
        for item in list(self._items.values()):
            if item.due_us <= now_us and item.waiting == 0:
                self._publish(item, now_us, unix_us)
        self.due_us = min((one.due_us for one in self._items.values() if not one.waiting), default=NEVER)

    def _publish(self, item: _Item, now_us: int, unix_us: int) -> None:
        somebody = [overlay for overlay in self._overlays if overlay.size]
        item.stored, item.least = 0, FEW
        if any(overlay.size < YOUNG for overlay in somebody):
            item.least = 0
        item.put_us = now_us if somebody else now_us - APART_US + SETTLE_US
        item.due_us = now_us + AGAIN_US
        for record in item.make(unix_us):
            for overlay in somebody:
                handle = overlay.put([record.raw], record.key, now_us)
                self._puts[id(overlay), handle] = item
                item.waiting += 1
        if not item.waiting:
            self._schedule(item, now_us)

    def _schedule(self, item: _Item, now_us: int) -> None:
        if item.stored:
            item.retry_us = RETRY_US
            # Where nobody is known, nobody answers either: that says nothing of what was stored.
            hurry = min((overlay.hurry for overlay in self._overlays if overlay.size), default=1000)
            wait_us = max(SOONEST_US, AGAIN_US * hurry // 1000)
            wait_us -= wait_us // 8 * self._entropy(1)[0] // 256
            if item.least < FEW:
                wait_us, item.few_us = min(wait_us, item.few_us), min(2 * item.few_us, AGAIN_US)
            else:
                item.few_us = FEW_US
        else:
            wait_us, item.retry_us = item.retry_us, min(2 * item.retry_us, SOONEST_US)
        # Never later than what was asked for meanwhile.
        item.due_us = min(item.due_us, now_us + wait_us) if item.due_us > now_us else now_us + wait_us
        self.due_us = min(self.due_us, item.due_us)
