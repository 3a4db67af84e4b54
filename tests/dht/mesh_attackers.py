"""Attackers of the mesh, as cores that stand in the same world as honest nodes."""

from __future__ import annotations

import random
from collections.abc import Callable

from dht.endpoints import Endpoint
from dht.messages import (
    Alive,
    Close,
    Digest,
    GossipMessage,
    Have,
    Open,
    Opened,
    Want,
    decode_gossip,
    encode_gossip,
)
from tests.dht.mesh_world import SECOND, World

Make = Callable[[bytes], list[GossipMessage]]
"""What to say now to who is shown this cookie."""


class Swallower:
    """A Sybil: keeps links to as many honest nodes as let it in, is polite on them, and passes nothing on."""

    LINKS = 8
    EVERY_US = 2 * SECOND

    def __init__(self, victims: list[Endpoint], seed: int, now_us: int) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.random = random.Random(seed)
        self.victims = victims
        self.links: dict[Endpoint, bytes] = {}  # and the cookie that the victim wants to see
        self.calling: dict[Endpoint, bytes] = {}
        self.due_us = now_us + self.random.randrange(self.EVERY_US)

    def say(self, message: GossipMessage, to: Endpoint) -> None:
        self.outgoing.append((encode_gossip(message), to))

    def deadline_us(self) -> int:
        return self.due_us

    def tick(self, now_us: int, unix_us: int) -> None:
        self.due_us = now_us + self.EVERY_US
        self.calling.clear()
        for _ in range(min(2, self.LINKS - len(self.links))):
            victim = self.random.choice(self.victims)
            if victim not in self.links:
                self.calling[victim] = self.random.randbytes(8)
                self.say(Open(self.calling[victim]), victim)

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        message = decode_gossip(datagram[1:])
        if isinstance(message, Open):
            if message.yours:
                self.links[source] = message.mine
            self.say(Opened(message.mine, b"sybil...", taken=bool(message.yours)), source)
        elif isinstance(message, Opened):
            self.opened(message, source)
        elif isinstance(message, Close):
            self.links.pop(source, None)
        elif source in self.links:
            self.neighbour_says(message, source)

    def opened(self, message: Opened, source: Endpoint) -> None:
        mine = self.calling.get(source)
        if mine != message.yours:
            return
        if message.taken:
            self.links[source] = message.mine
        else:
            self.say(Open(mine, message.mine), source)

    def neighbour_says(self, message: GossipMessage, source: Endpoint) -> None:
        if isinstance(message, Alive) and message.answer:
            self.say(Alive(self.links[source], answer=False), source)
        elif isinstance(message, Digest):
            self.say(Digest(self.links[source], message.sums), source)


class Talker(Swallower):
    """Says what `make` gives four times a second on every link that it has, and counts what it said."""

    LINKS = 6
    EVERY_US = SECOND // 4

    def __init__(self, victims: list[Endpoint], seed: int, now_us: int, make: Make) -> None:
        super().__init__(victims, seed, now_us)
        self.make = make
        self.said = 0

    def tick(self, now_us: int, unix_us: int) -> None:
        super().tick(now_us, unix_us)
        for endpoint, theirs in self.links.items():
            made = self.make(theirs)
            self.said += len(made)
            for message in made:
                self.say(message, endpoint)


class Boaster(Swallower):
    """Announces at once whatever it hears of, on all its links, and gives none of it."""

    def neighbour_says(self, message: GossipMessage, source: Endpoint) -> None:
        super().neighbour_says(message, source)
        if isinstance(message, Have):
            for endpoint, theirs in self.links.items():
                self.say(Have(theirs, message.ids), endpoint)
        assert not isinstance(message, Want) or message.ids


def sybils(world: World, each: int, a_network: int) -> None:
    """`each` swallowers for every honest node, so many in each network; nobody dials them."""
    victims = list(world.listed)
    for number in range(each * len(victims)):
        core = Swallower(victims, number, world.now_us)
        where = world.address(number % a_network, 100_000 + number // a_network)
        world.put(core, where, listed=False)
