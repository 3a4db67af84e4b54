"""Sealed events in datagrams: cut into parts of 900 bytes, and put together again where they arrive.

An event's id is SHA-256(sealed bytes), first 8 bytes, so that whatever comes together wrongly is noticed; and
only who receives at an address (its token has been checked) can add to what comes from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, TypeAlias

from dht.endpoints import Endpoint, network
from dht.messages import Event

PART_BYTES: Final = 900
MAX_PARTS: Final = 9
SEALED_BYTES: Final = PART_BYTES * MAX_PARTS
PARTIAL_US: Final = 10_000_000  # a sender has given up by then
MAX_PARTIAL: Final = 64
MAX_PARTIAL_PER_NETWORK: Final = 8

NEVER: Final = 1 << 62

Key: TypeAlias = tuple[Endpoint, bytes, bytes]  # source, handle, event


class Parcel:
    """A sealed event as it travels."""

    __slots__ = ("chunks", "event")

    def __init__(self, sealed: bytes) -> None:
        assert sealed
        assert not len(sealed) % PART_BYTES
        assert len(sealed) <= SEALED_BYTES
        self.event = event_id(sealed)
        self.chunks = tuple(sealed[at : at + PART_BYTES] for at in range(0, len(sealed), PART_BYTES))

    def __len__(self) -> int:
        return PART_BYTES * len(self.chunks)


def event_id(sealed: bytes) -> bytes:
    """8 bytes."""
    return sha256(sealed).digest()[:8]


def well_formed(message: Event) -> bool:
    """Whether it is one of so few parts, and a whole one; or a question, which has no chunk."""
    return (
        0 < message.parts <= MAX_PARTS
        and message.part < message.parts
        and len(message.chunk) in (0, PART_BYTES)
    )


class _Partial:
    __slots__ = ("born_us", "chunks", "count", "network")

    def __init__(self, count: int, source: Endpoint, now_us: int) -> None:
        self.count = count
        self.network = network(source)
        self.born_us = now_us
        self.chunks: dict[int, bytes] = {}


class Partials:
    """Events of which parts are missing: 64 in all, 8 of one network, for ten seconds; at most 0.5 MB."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: dict[Key, _Partial] = {}

    def __len__(self) -> int:
        return len(self._partial)

    @property
    def due_us(self) -> int:
        """When there is something to forget."""
        return next((partial.born_us + PARTIAL_US for partial in self._partial.values()), NEVER)

    def has(self, key: Key, now_us: int) -> bool:
        partial = self._partial.get(key)
        return partial is not None and now_us - partial.born_us < PARTIAL_US

    def have(self, key: Key) -> int:
        """A bit for each part that is here."""
        partial = self._partial.get(key)
        return sum(1 << part for part in partial.chunks) if partial else 0

    def add(self, key: Key, message: Event, now_us: int) -> bytes | None:
        """The sealed event, once no part is missing."""
        partial = self._partial.get(key)
        if partial is None or partial.count != message.parts or now_us - partial.born_us >= PARTIAL_US:
            partial = self._admit(key, message, now_us)
        partial.chunks[message.part] = message.chunk
        if len(partial.chunks) < partial.count:
            return None
        del self._partial[key]
        return b"".join(partial.chunks[part] for part in range(partial.count))

    def _admit(self, key: Key, message: Event, now_us: int) -> _Partial:
        self._partial.pop(key, None)
        self.expire(now_us)
        partial = _Partial(message.parts, key[0], now_us)
        alike = [k for k, p in self._partial.items() if p.network == partial.network]
        if len(alike) >= MAX_PARTIAL_PER_NETWORK:
            del self._partial[alike[0]]
        elif len(self._partial) >= MAX_PARTIAL:
            del self._partial[_oldest_of_the_fullest(self._partial.items())]
        self._partial[key] = partial
        return partial

    def expire(self, now_us: int) -> None:
        """Forget what is older than ten seconds."""
        for key in [k for k, p in self._partial.items() if now_us - p.born_us >= PARTIAL_US]:
            del self._partial[key]


def _oldest_of_the_fullest(partial: Iterable[tuple[Key, _Partial]]) -> Key:
    sizes: dict[bytes, int] = {}
    items = list(partial)
    for _, one in items:
        sizes[one.network] = sizes.get(one.network, 0) + 1
    fullest = max(sizes.values())
    return next(key for key, one in items if sizes[one.network] == fullest)
