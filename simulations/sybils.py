"""Sybils in the mesh: forty for each node, say, who take every place they get and let nothing pass.

    swallower   a third: polite, answers when asked whether it lives, has no bulletin for anybody
    boaster     a third: announces at once what any of them has heard of, on all its links, and gives nothing
    whim        a third: swallows too, grafts and prunes as it likes

Each calls every node again and again, not one is a whole node: they are cheap. `listed` ones answer in the
DHT too, name only each other there and make themselves known, so that nodes call them. So many of them stand
in one /24 as the scenario says; what an address costs is hardly anything, what a network costs is something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from dht import bulletin as bulletins
from dht import contacts
from dht.bulletin import ID_BYTES
from dht.contacts import TAIL_BYTES
from dht.deliveries import KEPT
from dht.endpoints import Endpoint
from dht.messages import (
    DHT,
    GOSSIP,
    Alive,
    Close,
    Dial,
    Digest,
    Find,
    Get,
    GossipMessage,
    Graft,
    Have,
    Nodes,
    Open,
    Opened,
    Ping,
    Pong,
    Prune,
    Push,
    Reach,
    Store,
    Stored,
    Values,
    decode_dht,
    decode_gossip,
    encode_dht,
    encode_gossip,
)
from dht.tokens import Tokens
from simulations.attackers import Attack, Circle, join
from simulations.host import Host
from simulations.places import PORT
from simulations.population import Population
from simulations.scenario import SECOND_US

EAGER_US: Final = 20 * SECOND_US  # as long after its coming it calls nodes fast
FAST_US: Final = SECOND_US
SLOW_US: Final = 5 * SECOND_US
FEW: Final = 16  # ids in one announcement
SWALLOWER, BOASTER, WHIM = range(3)


class Ring(Circle):
    """`heard`: ids of bulletins that came to any of them, in that order."""

    def __init__(self, population: Population, lies: Counter[str]) -> None:
        super().__init__(population, lies)
        self.heard: list[bytes] = []
        self._known: set[bytes] = set()
        self._people = population

    def hear(self, names: bytes) -> None:
        for start in range(0, len(names), ID_BYTES):
            name = names[start : start + ID_BYTES]
            if name not in self._known:
                self._known.add(name)
                self.heard.append(name)

    def victim(self, number: int) -> Endpoint | None:
        """One of the nodes, another for each number."""
        count = len(self._people.present)
        return self._people.present.at(number % count).endpoint if count else None


class Sybil:
    """A core. `manner`: what it does of all that."""

    def __init__(
        self, host: Host, entropy: Callable[[int], bytes], ring: Ring, manner: int, listed: bool, now_us: int
    ) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Any] = []
        self._entropy, self._ring, self._manner, self._listed = entropy, ring, manner, listed
        self._tokens = Tokens(entropy, now_us)
        self._contact = contacts.at(entropy(TAIL_BYTES), host.endpoint)
        self._links: dict[Endpoint, bytes] = {}  # and the cookie that the node wants to see
        self._calls: dict[Endpoint, bytes] = {}
        self._turn = int.from_bytes(entropy(2), "big")
        self._told = len(ring.heard)
        self._eager_until_us = now_us + EAGER_US
        self._due_us = self._call_us = now_us
        if listed:
            ring.members.append(self._contact)

    def deadline_us(self) -> int:
        return self._due_us

    def tick(self, now_us: int, unix_us: int) -> None:  # noqa: ARG002
        if now_us < self._due_us:
            return
        if now_us >= self._call_us:
            self._call_us = now_us + (FAST_US if now_us < self._eager_until_us else SLOW_US)
            self._call()
        self._due_us = now_us + FAST_US
        if self._manner == BOASTER:
            self._boast()
        elif self._manner == WHIM:
            for endpoint, theirs in self._links.items():
                lot = self._entropy(1)[0]
                if lot < 64:
                    self._say(Graft(theirs) if lot & 1 else Prune(theirs), endpoint)

    def _call(self) -> None:
        self._turn += 1
        victim = self._ring.victim(self._turn)
        if victim is None:
            return
        if victim not in self._links:
            self._calls = {victim: self._entropy(8)}
            self._say(Open(self._calls[victim]), victim)
        if self._listed and self._turn & 1:
            find = Find(self._entropy(8), self._contact.tail, b"", self._entropy(32), bytes(300))
            self.outgoing.append((encode_dht(find), victim))

    def _boast(self) -> None:
        news = self._ring.heard[self._told :][:FEW]
        self._told += len(news)
        if news:
            for endpoint, theirs in self._links.items():
                self._say(Have(theirs, b"".join(news)), endpoint)
                self._ring.lies["bulletins promised"] += len(news)

    # ------------------------------------------------------------------ datagrams

    def receive(
        self,
        datagram: bytes,
        source: Endpoint,
        now_us: int,
        unix_us: int,  # noqa: ARG002
    ) -> None:
        first = datagram[0] if datagram else 0
        try:
            if first == GOSSIP:
                self._gossip(decode_gossip(datagram[1:]), source)
            elif first == DHT and self._listed:
                self._answer(decode_dht(datagram[1:]), source, now_us)
        except msgspec.MsgspecError:
            return

    def _gossip(self, message: GossipMessage, source: Endpoint) -> None:
        ring = self._ring
        match message:
            case Open():
                if message.yours:
                    self._links[source] = message.mine
                cookie = message.yours or self._entropy(8)
                self._say(Opened(message.mine, cookie, taken=bool(message.yours)), source)
            case Opened():
                self._opened(message, source)
            case Close():
                self._links.pop(source, None)
                self._calls.pop(source, None)
            case Push():
                ring.lies["bulletins swallowed"] += 1
                bulletin = bulletins.parse(message.message)
                ring.hear(b"" if bulletin is None else bulletin.id)
            case Have():
                ring.hear(message.ids)
            case Alive() if message.answer and source in self._links:
                self._say(Alive(self._links[source], answer=False), source)
            case Digest() if source in self._links:
                self._say(Digest(self._links[source], message.sums), source)

    def _opened(self, message: Opened, source: Endpoint) -> None:
        mine = self._calls.get(source)
        if mine != message.yours:
            return
        if message.taken:
            self._links[source] = message.mine
            self._say(Graft(message.mine), source)
            self._ring.lies["places taken"] += 1
        else:
            self._say(Open(mine, message.mine), source)

    def _answer(self, message: Any, source: Endpoint, now_us: int) -> None:
        token = self._tokens.make(source, now_us)
        tail = self._contact.tail
        match message:
            case Find() | Get():
                target = message.target if isinstance(message, Find) else message.key
                named = join(self._ring.near(int.from_bytes(target, "big")))
                answer: Nodes | Stored | Pong | Ping = Nodes(message.t, tail, source, token, named)
            case Store() | Reach():
                answer = Stored(message.t, tail, source, token, KEPT)
            case Ping() | Dial():
                answer = Pong(message.t, tail, source, token)
            case Nodes() | Values() if message.token:
                # A node's answer: with the token in it, a call gets us into its table.
                answer = Ping(self._entropy(8), tail, message.token)
            case _:
                return
        self.outgoing.append((encode_dht(answer), source))

    def _say(self, message: GossipMessage, to: Endpoint) -> None:
        self.outgoing.append((encode_gossip(message), to))


class Sybils(Attack):
    """A cold start: they come from the first moment on, while the nodes come."""

    def prepare(self, joining_us: int) -> None:  # noqa: ARG002
        self._ring = Ring(self._population, self.lies)
        self._address = b""
        for number in range(self.count):
            time_us = self._attackers.joining_us * (number + 1) // (self.count + 1)
            self._world.call_at(time_us, self._join, number)

    def _join(self, number: int) -> None:
        places, now_us = self._population.places, self._world.now_us
        if number % self._attackers.per_network:
            address = places.beside(self._address)
        else:
            address = places.address()
            self.networks += 1
        self._address = address
        host = self._host(address + PORT, places.region(), places.access_us())
        core = Sybil(host, self._entropy(host), self._ring, number % 3, self._attackers.listed, now_us)
        self._population.admit(host, core)
