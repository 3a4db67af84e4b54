"""Bulletins that neighbours announced and that have not come: whom to ask for each, and when.

    announced ── 500 ms, in which the tree mostly brings it ──▶ asked of the best of those who announced it
       asked ── 1.5 s without it ──▶ asked of the next best; nobody left: forgotten

Forgotten is not lost: the next who announces it, or the next digest, begins anew.
"""

from __future__ import annotations

import heapq
from typing import Final

from dht.link import RETRY_US, Link

WAIT_US: Final = 500_000
LATER_US: Final = 1_000_000  # as long as a neighbour has enough to do
MISSING: Final = 2048  # ids in all, for whatever neighbours claim to have
MISSING_OF_ONE: Final = 1024  # ids that one neighbour was the first to announce
HOLDERS: Final = 4
WINDOW: Final = 32  # bulletins asked of a neighbour at a time


class _Lack:
    __slots__ = ("asked", "first", "holders")

    def __init__(self, first: Link) -> None:
        self.first = first
        self.holders = [first]
        self.asked: Link | None = None

    def add(self, link: Link) -> None:
        """One more who announced it; of too many the least trusted goes, but not while it is asked."""
        self.holders.append(link)
        if len(self.holders) > HOLDERS:
            self.holders.remove(min((one for one in self.holders if one is not self.asked), key=_trust))


class Missing:
    """`due_us`: when `due` wants to be called; far off when nothing is missing."""

    __slots__ = ("_heap", "_lacks", "due_us")

    NEVER: Final = 1 << 62

    def __init__(self) -> None:
        self._lacks: dict[bytes, _Lack] = {}
        self._heap: list[tuple[int, bytes]] = []
        self.due_us = self.NEVER

    def __len__(self) -> int:
        return len(self._lacks)

    def announced(self, name: bytes, link: Link, now_us: int) -> bool:
        """A neighbour has a bulletin that we do not know; False if there is no room to remember it."""
        lack = self._lacks.get(name)
        if lack is not None:
            if link not in lack.holders:
                lack.add(link)
            return True
        if len(self._lacks) >= MISSING or link.claims >= MISSING_OF_ONE:
            return False
        link.claims += 1
        self._lacks[name] = _Lack(link)
        self._again(name, now_us + WAIT_US)
        return True

    def came(self, name: bytes, link: Link) -> int:
        """It is here, from `link`; the set of those who announced it, as a number of their bits."""
        lack = self._lacks.pop(name, None)
        if lack is None:
            return 0
        lack.first.claims -= 1
        if lack.asked is not None:
            lack.asked.asked -= 1
            link.kept += lack.asked is link
        return sum(holder.bit for holder in lack.holders if holder.open)

    def due(self, now_us: int) -> list[tuple[Link, list[bytes]]]:
        """What to ask of whom now."""
        wanted: dict[Link, list[bytes]] = {}
        while self._heap and self._heap[0][0] <= now_us:
            name = heapq.heappop(self._heap)[1]
            lack = self._lacks.get(name)
            if lack is None:
                continue
            link = self._next(lack, now_us)
            if link is None:
                lack.first.claims -= 1
                del self._lacks[name]
            elif link.asked >= WINDOW or not link.may_ask(now_us):
                self._again(name, now_us + LATER_US)
            else:
                lack.asked = link
                link.asked += 1
                wanted.setdefault(link, []).append(name)
                self._again(name, now_us + RETRY_US)
        if not self._lacks:
            self._lacks.clear()  # what it took when there were many
        self.due_us = self._heap[0][0] if self._heap else self.NEVER
        return list(wanted.items())

    def _next(self, lack: _Lack, now_us: int) -> Link | None:
        """Whom to ask, after who was asked and did not give it."""
        if lack.asked is not None:
            lack.asked.asked -= 1
            lack.asked.failed(now_us)
            lack.holders.remove(lack.asked)
            lack.asked = None
        lack.holders = [holder for holder in lack.holders if holder.open]
        return max(lack.holders, key=_trust, default=None)

    def _again(self, name: bytes, at_us: int) -> None:
        heapq.heappush(self._heap, (at_us, name))
        self.due_us = self._heap[0][0]


def _trust(link: Link) -> tuple[int, bool]:
    return link.trust
