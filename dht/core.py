"""What the parts of discovery have in common: the face of a core (DESIGN.md section 2)."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, TypeVar

from dht.endpoints import Endpoint

_T = TypeVar("_T")


class Core(Protocol):
    """Times: microseconds, monotonic and Unix. `outgoing` and `events` are emptied outside, and stay
    the same lists."""

    outgoing: list[tuple[bytes, Endpoint]]
    events: list[Any]
    counters: Counter[str]

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None: ...
    def tick(self, now_us: int, unix_us: int) -> None: ...
    def deadline_us(self) -> int: ...


def taken(items: list[_T]) -> list[_T]:
    """All of them; the list is empty then, and still the same."""
    found = items.copy()
    items.clear()
    return found
