"""What came a moment ago: which neighbours have it, and when the others are told its id.

Of two neighbours one speaks first, as the id's first bit decides, so that most are told once and not twice;
the other does where the first was silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dht.endpoints import Endpoint
from dht.link import Link
from dht.parts import NEVER

FAST_US: Final = 250_000  # from a bulletin's coming to its id's going out, for the side that speaks first
SLOW_US: Final = 600_000  # from then on, for the other side


class Spread:
    """A bulletin that came a moment ago: from whom (a link's bit), and who is known to have it."""

    __slots__ = ("having", "source")

    def __init__(self, source: int, having: int) -> None:
        self.source, self.having = source, having


class Ripples:
    """`fresh`: by the bulletin's id."""

    __slots__ = ("_fast", "_slow", "fresh")

    def __init__(self) -> None:
        self.fresh: dict[bytes, Spread] = {}
        self._fast: list[tuple[int, bytes]] = []  # the first due first: few, and a deque is 600 bytes
        self._slow: list[tuple[int, bytes]] = []

    @property
    def due_us(self) -> int:
        """When `due` has something to say."""
        due_us = self._fast[0][0] if self._fast else NEVER
        if self._slow and self._slow[0][0] < due_us:
            due_us = self._slow[0][0]
        return due_us

    def add(self, name: bytes, source: int, having: int, now_us: int) -> None:
        """A bulletin from a link's bit; `having`: the bits of all that have it."""
        self.fresh[name] = Spread(source, having)
        self._fast.append((now_us + FAST_US, name))

    def due(self, links: Mapping[Endpoint, Link], now_us: int) -> dict[Link, list[bytes]]:
        """Ids for neighbours that have not had the bulletin from us or told us of it."""
        batches: dict[Link, list[bytes]] = {}
        for name in _until(self._fast, now_us):
            if self._tell(name, links, batches, first=True):
                self._slow.append((now_us + SLOW_US, name))
            else:
                del self.fresh[name]
        for name in _until(self._slow, now_us):
            self._tell(name, links, batches, first=False)
            del self.fresh[name]
        if not self.fresh:
            self.fresh.clear()  # what it took when there were many
        return batches

    def _tell(
        self, name: bytes, links: Mapping[Endpoint, Link], batches: dict[Link, list[bytes]], *, first: bool
    ) -> bool:
        """Whether somebody is left who may not have it."""
        spread = self.fresh[name]
        speaks = name[0] & 1 == 0
        left = False
        for link in links.values():
            if spread.having & link.bit:
                continue
            if first and link.outbound != speaks:
                left = True
                continue
            spread.having |= link.bit
            batches.setdefault(link, []).append(name)
        return left


def _until(queue: list[tuple[int, bytes]], now_us: int) -> list[bytes]:
    """The ids that are due, taken out."""
    count = next((place for place, (due_us, _) in enumerate(queue) if due_us > now_us), len(queue))
    names = [name for _, name in queue[:count]]
    del queue[:count]
    return names
