"""Eclipsers: they stand all around one node, answer it first, and name nobody but each other, to all.

The victim's id is known to them before it comes. An id follows from the /24 and one of eight places, so they
cannot make ids near it: out of the networks that they can have, `choice` for each attacker, they take those
whose ids lie closest. So they are closer to the victim than nearly all nodes. They stand in its region on
lines without delay, call it every few seconds, and two of the three whom it knows first are of them.

The victim lives for half the time; then it begins anew each minute, with an empty table, and lookups from
its fifth second on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from dht import contacts
from dht.contacts import PLACES, TAIL_BYTES, Contact
from dht.endpoints import Endpoint
from dht.messages import Find, Get, Nodes, Ping, Pong, Stored, Values, decode_dht, encode_dht
from simulations.attackers import Attack, Circle, Head, Liar
from simulations.dice import Entropy
from simulations.discoverers import Discoverers
from simulations.host import Host, Site
from simulations.places import PORT
from simulations.scenario import MINUTE_US, SECOND_US

VICTIM_INDEX: Final = 1 << 19
FIRST_LOOKUP_US: Final = 5 * SECOND_US
LOOKUP_US: Final = 3 * SECOND_US
LAST_LOOKUP_US: Final = 20 * SECOND_US  # before its end, so that none is cut short
CALL_US: Final = 4 * SECOND_US
HONEST_FRIENDS: Final = 1  # of the three whom the victim knows first


class Placed:
    """Entropy of a node that chose the tail of its id: nothing else asks for 24 bytes."""

    def __init__(self, entropy: Callable[[int], bytes], tail: bytes) -> None:
        self._entropy = entropy
        self._tail = tail

    def __call__(self, size: int) -> bytes:
        return self._tail if size == TAIL_BYTES else self._entropy(size)


class Eclipser(Liar):
    """`victim`: its endpoint."""

    def __init__(
        self,
        host: Host,
        entropy: Callable[[int], bytes],
        species: Discoverers,
        circle: Circle,
        victim: Endpoint,
        now_us: int,
    ) -> None:
        super().__init__(host, entropy, species, circle, now_us)
        self._victim = victim
        self._token = b""
        self._call_us = now_us + CALL_US

    def values(self, question: Get, head: Head, unix_us: int) -> Values | Nodes:
        """By turns nothing, and bytes of no meaning."""
        nodes = super().values(question, head, unix_us)
        if self.draw(1)[0] & 1 or not isinstance(nodes, Nodes):
            self.circle.lies["nothing stored, it says"] += 1
            return nodes
        self.circle.lies["records of no meaning"] += 1
        page = msgspec.msgpack.encode([self.draw(200)])
        return Values(*head, nodes.contacts, len(page), self.draw(8), 0, page)

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        if source == self._victim:
            self._overhear(datagram)
        super().receive(datagram, source, now_us, unix_us)

    def tick(self, now_us: int, unix_us: int) -> None:
        super().tick(now_us, unix_us)
        if now_us >= self._call_us:
            self._call_us = now_us + CALL_US
            tail, target = self.contact.tail, self.draw(32)
            self.outgoing.append((encode_dht(Ping(self.draw(8), tail, self._token)), self._victim))
            self.outgoing.append((encode_dht(Find(self.draw(8), tail, self._token, target)), self._victim))
            self.circle.lies["calls at the victim"] += 2

    def deadline_us(self) -> int:
        return min(super().deadline_us(), self._call_us)

    def _overhear(self, datagram: bytes) -> None:
        """The token with which a call gets it into the victim's table."""
        try:
            message = decode_dht(datagram[1:])
        except msgspec.MsgspecError:
            return
        if isinstance(message, Pong | Nodes | Values | Stored) and message.token:
            self._token = message.token


class Eclipse(Attack):
    def prepare(self, joining_us: int) -> None:
        places = self._population.places
        self._circle = Circle(self._population, self.lies)
        self._region, self._until_us = places.region(), 0
        self._site = Site(self._region, places.access_us(), self._dice.below(1_000_000))
        self._endpoint = places.address() + PORT
        self._workload.victim = VICTIM_INDEX
        victim = self._victim()
        entropy = self._entropy(victim)
        self._species.introduce(victim, entropy)
        seen = self._species.core(victim, entropy, 0).overlays[0].where
        self._spots = self._closest_spots(contacts.at(seen.tail, self._endpoint))
        self.networks = len(self._spots)
        for number, spot in enumerate(self._spots):
            self._world.call_at(joining_us * (number + 1) // (self.count + 1), self._join, spot)

    def start(self, until_us: int) -> None:
        now_us = self._world.now_us
        self._until_us = until_us
        begins = [now_us, *range(now_us + (until_us - now_us) // 2, until_us - MINUTE_US + 1, MINUTE_US)]
        for begin_us, end_us in zip(begins, [*begins[1:], until_us], strict=True):
            self._world.call_at(begin_us, self._live, end_us)

    def _victim(self) -> Host:
        return Host(VICTIM_INDEX, self._site, self._endpoint)

    def _closest_spots(self, victim: Contact) -> list[Contact]:
        """One in each network; of a network the best of its eight places."""
        found = []
        for _ in range(self.count * self._attackers.choice):
            endpoint = self._population.places.address() + PORT
            random = self._dice.bits(184).to_bytes(TAIL_BYTES - 1, "big")
            spots = [contacts.at(bytes([place]) + random, endpoint) for place in range(PLACES)]
            found.append(min(spots, key=lambda spot: spot.long_id ^ victim.long_id))
        found.sort(key=lambda spot: spot.long_id ^ victim.long_id)
        return list({spot.network: spot for spot in reversed(found)}.values())[-self.count :]

    def _join(self, spot: Contact) -> None:
        host, now_us = self._host(spot.endpoint, self._region, 0), self._world.now_us
        entropy = Placed(self._entropy(host), spot.tail)
        core = Eclipser(host, entropy, self._species, self._circle, self._endpoint, now_us)
        core.bootstrap(self._population.introductions(), now_us)
        self._population.admit(host, core)

    def _live(self, until_us: int) -> None:
        """The victim comes, or comes again, and goes at the end."""
        world = self._world
        before = world.hosts.get(VICTIM_INDEX)
        if before is not None:
            world.remove(before)
            self._workload.left(before)
        host, now_us = self._victim(), world.now_us
        honest = self._population.introductions()[:HONEST_FRIENDS]
        liars = [self._dice.one_of(self._circle.members).endpoint for _ in range(2)]
        entropy = Entropy(world.seed, VICTIM_INDEX)
        self._species.introduce(host, entropy)
        core = self._species.make(host, entropy, [*liars, *honest], now_us, world.unix_us(host))
        world.add(host, core)
        for time_us in range(now_us + FIRST_LOOKUP_US, until_us - LAST_LOOKUP_US, LOOKUP_US):
            world.call_at(time_us, self._workload.ask, host)
