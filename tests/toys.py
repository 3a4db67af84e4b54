"""Nodes of a few lines for simulated worlds: they find each other through node 0 and flood their offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dht.endpoints import Endpoint
from simulations.dice import Entropy
from simulations.host import Core, Host
from simulations.population import Watcher

NEVER_US = 1 << 62
FRIENDS = 8
_HELLO, _ASK, _TELL, _OFFER = b"\xd0\x92\x01", b"\xd0\x92\x03", b"\xd0\x92\x12", b"\xd1\x92\x04"


class Toy:
    """Says hello to whom it knows every 20 s; who said hello is a friend, who asks is answered, offers are
    passed to all friends once."""

    def __init__(self, entropy: Entropy, known: Sequence[Endpoint], now_us: int) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Any] = []
        self.counters: Counter[str] = Counter()
        self.entropy = entropy
        self.friends = list(known)
        self.asked: dict[bytes, int] = {}
        self.seen: set[bytes] = set()
        self.at_us = now_us
        self.events.append(("published", b""))

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        kind, rest = datagram[:3], datagram[3:]
        if kind == _HELLO and source not in self.friends and len(self.friends) < FRIENDS:
            self.friends.append(source)
        elif kind == _ASK:
            self.outgoing.append((_TELL + rest, source))
        elif kind == _TELL and rest in self.asked:
            self.events.append(("found", self.asked.pop(rest)))
        elif kind == _OFFER:
            self.pass_on(rest)

    def tick(self, now_us: int, unix_us: int) -> None:
        self.at_us = now_us + 20_000_000
        self.counters["hello"] += len(self.friends)
        self.outgoing += [(_HELLO, friend) for friend in self.friends]

    def deadline_us(self) -> int:
        return self.at_us

    def ask(self, endpoint: Endpoint) -> int:
        handle = int.from_bytes(self.entropy(4), "big")
        self.asked[handle.to_bytes(8, "big")] = handle
        self.outgoing.append((_ASK + handle.to_bytes(8, "big"), endpoint))
        return handle

    def pass_on(self, offer: bytes) -> None:
        if offer not in self.seen:
            self.seen.add(offer)
            self.events.append(("heard", offer))
            self.outgoing += [(_OFFER + offer, friend) for friend in self.friends]


class Toys:
    """A Species."""

    def make(
        self, host: Host, entropy: Entropy, known: Sequence[Endpoint], now_us: int, unix_us: int
    ) -> Core:
        return Toy(entropy, known, now_us)

    def introduce(self, host: Host, entropy: Entropy) -> None:
        host.known = [entropy(8), 0]

    def name_offer(self, host: Host) -> bytes:
        host.known[1] += 1
        name: bytes = host.known[0] + host.known[1].to_bytes(4, "big")
        return name

    def befriend(self, host: Host, known: Sequence[Endpoint], now_us: int) -> None:
        pass

    def look_up(self, host: Host, target: Host, now_us: int, unix_us: int) -> int:
        assert isinstance(host.core, Toy)
        return host.core.ask(target.endpoint)

    def offer(self, host: Host, name: bytes, now_us: int, unix_us: int) -> None:
        assert isinstance(host.core, Toy)
        host.core.pass_on(name)

    def bury(self, core: Core) -> None:
        pass

    def counters(self, host: Host) -> Counter[str]:
        assert isinstance(host.core, Toy)
        return host.core.counters

    def hand_on(self, host: Host, watcher: Watcher) -> None:
        for what, value in host.core.events:
            if what == "found":
                watcher.looked_up(host, value, found=True, right=True, hops=1, messages=2)
            elif what == "published":
                watcher.published(host)
            else:
                watcher.heard(host, value)
        host.core.events.clear()
