"""Who a DHT node is: an id that its network address decides, so that nobody chooses it.

    node id, 256 bits   ├ SHA-256(label ‖ network ‖ tail[0] mod 8), first 8 bytes ┼ tail, 24 random bytes ┤
    contact on the wire ├ tail 24 ┼ endpoint 6 or 18 ┤     30 or 42 bytes, from which the id follows

An id has nothing to do with machine_id, so a crawl ties no machine to an address. Its leading 64 bits have
eight values in each /24 (IPv6 /48), whoever asks from there: the idea is BEP 42's. Hashing a public key in
instead, as a first design had it, lets anyone grind keys until the id lies where they want it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from kademlia.node import Node

from dht import endpoints
from dht.endpoints import Endpoint

ID_BYTES: Final = 32
TAIL_BYTES: Final = 24
PLACES: Final = 8
_LABEL: Final = b"zeqnode dht id v1"


def node_id(tail: bytes, endpoint: Endpoint) -> bytes:
    """32 bytes, of a tail of 24 and the endpoint that the node is seen at."""
    place = bytes([tail[0] % PLACES])
    return hashlib.sha256(_LABEL + endpoints.network(endpoint) + place).digest()[:8] + tail


class Contact(Node):  # type: ignore[misc]  # kademlia has no types
    """One node as others see it. Immutable, and the same object wherever the same bytes are read: `of` keeps
    it, since a table of two hundred is mostly what a thousand others have too."""

    __slots__ = ("endpoint", "id", "long_id", "network", "scope", "tail", "usable", "wire")

    def __init__(self, wire: bytes) -> None:
        self.wire = wire
        self.tail = wire[:TAIL_BYTES]
        self.endpoint: Endpoint = wire[TAIL_BYTES:]
        self.network = endpoints.network(self.endpoint)
        self.usable = endpoints.usable(self.endpoint)
        self.scope = endpoints.scope(self.endpoint)
        self.id = node_id(self.tail, self.endpoint)
        self.long_id = int.from_bytes(self.id, "big")

    def __repr__(self) -> str:
        return f"Contact({self.id[:4].hex()}… {endpoints.text(self.endpoint)})"


@lru_cache(maxsize=65_536)
def of(wire: bytes) -> Contact:
    """The contact of 30 or 42 bytes."""
    return Contact(wire)


def at(tail: bytes, endpoint: Endpoint) -> Contact:
    """Who sent a datagram with this tail from there."""
    return of(tail + endpoint)


def split(joined: bytes, size: int) -> list[Contact]:
    """Contacts behind each other, of one family: `size` is 30 or 42. What cannot be sent to is left out."""
    if len(joined) % size:
        return []
    found = [of(joined[start : start + size]) for start in range(0, len(joined), size)]
    return [contact for contact in found if contact.usable]
