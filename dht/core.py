"""What the parts of discovery have in common: the face of a core (DESIGN.md section 2)."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, Protocol, TypeVar

from dht.endpoints import IPV4_BYTES, IPV6_BYTES, Endpoint
from dht.messages import CALLS, DHT, GOSSIP

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


@cache
def whose(*overlays: int) -> dict[tuple[int, int], int]:
    """Which core a datagram is for, by its first byte and the bytes of its source: one of the overlays, for
    endpoints of these sizes, then gossip, then calls. One for all nodes alike."""
    found = {(DHT, size): number for number, size in enumerate(overlays)}
    for size in (IPV4_BYTES, IPV6_BYTES):
        found |= {(GOSSIP, size): len(overlays), (CALLS, size): len(overlays) + 1}
    return found
