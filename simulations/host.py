"""A host of a simulated world, the site that it stands at, and the face of what runs on it."""

from __future__ import annotations

from typing import Any, Protocol

from dht.endpoints import Endpoint
from simulations.nats import Nat


class Core(Protocol):
    """Bytes and the time in; datagrams, events and the next deadline out. The lists are emptied outside."""

    outgoing: list[tuple[bytes, Endpoint]]
    events: list[Any]

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None: ...

    def tick(self, now_us: int, unix_us: int) -> None: ...

    def deadline_us(self) -> int: ...


class Site:
    """What one line to the internet has behind it: one public host, or a NAT with hosts inside.

    `lot`: 0 to 999,999, who is cut off when a share of all is. `hosts`: mostly one, so no dict."""

    __slots__ = ("access_us", "hosts", "lot", "nat", "region")

    def __init__(self, region: int, access_us: int, lot: int, nat: Nat | None = None) -> None:
        self.region = region
        self.access_us = access_us
        self.lot = lot
        self.nat = nat
        self.hosts: list[Host] = []

    def at(self, endpoint: Endpoint) -> Host | None:
        """Whose a datagram is, by what it is addressed to in the end: a public endpoint or one inside."""
        for host in self.hosts:
            if endpoint in (host.endpoint, host.endpoint6):
                return host
        return None


class Counts:
    """What a host carried: datagrams, and the bytes in them."""

    __slots__ = ("received", "received_bytes", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0


class Host:
    """`endpoint`: its own IPv4 one, private behind a NAT. `endpoint6`: never behind a NAT; b"" where it has
    none. `skew_us`: how far its clock is off. `known`: what its friends know of it, by its species. `acts`:
    how many things it has put on the heap. `chance`: the state of what the network does to its datagrams.
    `hostile`: an attacker's, which no figure counts."""

    __slots__ = (
        "acts",
        "born_us",
        "chance",
        "core",
        "counts",
        "died_us",
        "endpoint",
        "endpoint6",
        "hostile",
        "index",
        "known",
        "site",
        "skew_us",
        "wake_us",
    )

    def __init__(
        self,
        index: int,
        site: Site,
        endpoint: Endpoint,
        endpoint6: Endpoint = b"",
        skew_us: int = 0,
        hostile: bool = False,
    ) -> None:
        self.index = index
        self.hostile = hostile
        self.site = site
        self.endpoint = endpoint
        self.endpoint6 = endpoint6
        self.skew_us = skew_us
        self.core: Core
        self.known: Any = None
        self.acts = 0
        self.chance = index
        self.born_us = 0
        self.died_us: int | None = None
        self.wake_us: int | None = None
        self.counts = Counts()

    @property
    def is_public(self) -> bool:
        """Whether strangers reach its IPv4 endpoint."""
        return self.site.nat is None
