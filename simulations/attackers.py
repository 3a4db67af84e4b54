"""Attackers of a simulated world: whole nodes that speak the wire, know of each other, and lie.

    eclipse   simulations/eclipsers.py: few, all around one node, which is to see nobody else
    poison    simulations/poisoners.py: many, anywhere; forged records, false contacts, nothing kept
    sybils    simulations/sybils.py: very many, in the mesh; bulletins end at them

They know more than they could: who is in the world, every lookup secret (as if all were listed), and what
was ever given to one of them. They cannot sign for others, receive at addresses that they do not have, or
hear what goes between others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Final, TypeAlias

import msgspec

from dht import contacts
from dht.contacts import Contact
from dht.deliveries import KEPT, PARTS_MISSING
from dht.endpoints import IPV4_BYTES, Endpoint
from dht.messages import (
    DHT,
    Dial,
    Find,
    Get,
    Nodes,
    Ping,
    Pong,
    Reach,
    Store,
    Stored,
    Values,
    decode_dht,
    encode_dht,
)
from dht.reach import ASKED
from dht.tokens import Tokens
from simulations.dice import Dice, Entropy
from simulations.discoverers import Discoverer, Discoverers
from simulations.host import Host, Site
from simulations.places import PORT
from simulations.population import Population
from simulations.scenario import Attackers
from simulations.workload import Workload
from simulations.world import World

FIRST_INDEX: Final = 1 << 20  # of their hosts; the nodes' are lower
NAMED: Final = 20

Head: TypeAlias = tuple[bytes, bytes, Endpoint, bytes]
"""What all answers begin with: transaction, tail, where the question came from, token."""
Question: TypeAlias = Ping | Find | Get | Store | Reach | Dial


class Attack(ABC):
    """One kind of attackers in one world. `count`: of them; `networks`: in which they are; `lies`: what they
    told, by what it was."""

    def __init__(
        self,
        attackers: Attackers,
        world: World,
        population: Population,
        workload: Workload,
        species: Discoverers,
        nodes: int,
    ) -> None:
        self.count = attackers.among(nodes)
        self.networks = 0
        self.lies: Counter[str] = Counter()
        self._attackers = attackers
        self._world = world
        self._population = population
        self._workload = workload
        self._species = species
        self._dice = Dice(world.seed, "attackers")
        self._admitted = 0

    @abstractmethod
    def prepare(self, joining_us: int) -> None:
        """Before anything happens. The nodes come within that time."""

    def start(self, until_us: int) -> None:  # noqa: B027 - most do nothing then
        """The minutes that count begin, and end then."""

    def _host(self, endpoint: Endpoint, region: int, access_us: int) -> Host:
        site = Site(region, access_us, self._dice.below(1_000_000))
        self._admitted += 1
        return Host(FIRST_INDEX + self._admitted, site, endpoint, hostile=True)

    def _anywhere(self) -> Host:
        """With an address as nodes have them."""
        places = self._population.places
        return self._host(places.address() + PORT, places.region(), places.access_us())

    def _entropy(self, host: Host) -> Entropy:
        return Entropy(self._world.seed, host.index)


class Circle:
    """What attackers of one kind know together."""

    def __init__(self, population: Population, lies: Counter[str]) -> None:
        self.lies = lies
        self.members: list[Contact] = []
        self._population = population

    def near(self, target: int, count: int = NAMED) -> list[Contact]:
        """Accomplices, those closest to it."""
        return _closest(self.members, target, count)

    def honest_near(self, target: int, count: int = NAMED) -> list[Contact]:
        """Nodes that serve, those closest to it, as they truly are."""
        cores = [host.core for host in self._population.present.items()]
        found = [overlay.where for core in cores if isinstance(core, Discoverer) for overlay in core.overlays]
        served = [
            contacts.at(where.tail, where.endpoint)
            for where in found
            if where.endpoint is not None and len(where.endpoint) == IPV4_BYTES
        ]
        return _closest(served, target, count)


class Liar(Discoverer):
    """A whole node, as others see it: it joins, keeps a table, answers. What it answers is made here.

    It receives at its address, so its tokens are good and it is in others' tables."""

    def __init__(
        self, host: Host, entropy: Callable[[int], bytes], species: Discoverers, circle: Circle, now_us: int
    ) -> None:
        species.introduce(host, entropy)
        super().__init__(host, entropy, species.records, now_us)
        self.circle = circle
        self.draw = entropy
        self.contact = contacts.at(self.overlays[0].where.tail, host.endpoint)
        self._own_tokens = Tokens(entropy, now_us)
        circle.members.append(self.contact)

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        question = _question(datagram) if len(source) == IPV4_BYTES else None
        if question is None:
            super().receive(datagram, source, now_us, unix_us)
        else:
            answer = self.answer(question, source, self._own_tokens.make(source, now_us), unix_us)
            self.outgoing.append((encode_dht(answer), source))

    def answer(
        self, question: Question, source: Endpoint, token: bytes, unix_us: int
    ) -> Pong | Nodes | Values | Stored:
        head = question.t, self.contact.tail, self.seen(source), token
        match question:
            case Find():
                return Nodes(*head, self.named(int.from_bytes(question.target, "big")))
            case Get():
                return self.values(question, head, unix_us)
            case Store():
                self.given(question)
                self.circle.lies["kept, it says, and drops"] += 1
                return Stored(*head, KEPT if question.part + 1 >= question.parts else PARTS_MISSING)
            case Reach():
                self.circle.lies["has somebody dial, it says"] += 1
                return Stored(*head, ASKED)
            case _:
                return Pong(*head)

    def seen(self, source: Endpoint) -> Endpoint:
        """Where it says that a question came from."""
        return source

    def named(self, target: int) -> bytes:
        """Contacts behind each other, for who asks for those close to it."""
        self.circle.lies["names its own"] += 1
        return join(self.circle.near(target))

    def values(self, question: Get, head: Head, unix_us: int) -> Values | Nodes:  # noqa: ARG002
        """For who asks what is stored."""
        return Nodes(*head, self.named(int.from_bytes(question.key, "big")))

    def given(self, question: Store) -> None:
        """It was to keep this."""


def join(named: Iterable[Contact]) -> bytes:
    return b"".join(contact.wire for contact in named)


def _closest(known: Iterable[Contact], target: int, count: int) -> list[Contact]:
    return nsmallest(count, known, key=lambda contact: contact.long_id ^ target)


def _question(datagram: bytes) -> Question | None:
    if not datagram or datagram[0] != DHT:
        return None
    try:
        message = decode_dht(datagram[1:])
    except msgspec.MsgspecError:
        return None
    return message if isinstance(message, Question) else None
