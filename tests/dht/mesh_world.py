"""Gossip cores on an event heap: seeded latency and loss, virtual time, partitions, clocks that err."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

from dht import messages
from dht.endpoints import Endpoint
from dht.gossip import Gossip
from simulations.toycrypto import ToySignatures, ToySigner

SECOND = 1_000_000
HOUR = 3600
EPOCH_2026 = 1_780_000_000 * SECOND
TOPIC = "offers"
BODY_BYTES = 250
LATENCY_US = (20_000, 150_000)
NEVER = 1 << 62

_SIGNATURES = ToySignatures()
_STRUCTS = (
    *(messages.Open, messages.Opened, messages.Close, messages.Push, messages.Have),
    *(messages.Want, messages.Prune, messages.Graft, messages.Digest, messages.Alive),
)
KINDS = {struct.__struct_config__.tag: struct.__name__ for struct in _STRUCTS}


class Core(Protocol):
    """What stands at an address."""

    outgoing: list[tuple[bytes, Endpoint]]

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None: ...
    def tick(self, now_us: int, unix_us: int) -> None: ...
    def deadline_us(self) -> int: ...


class Node:
    def __init__(self, core: Core, endpoint: Endpoint, born_us: int) -> None:
        self.core, self.endpoint, self.born_us = core, endpoint, born_us
        self.signer = ToySigner(blake2b(endpoint, digest_size=32).digest())
        self.skew_us = self.group = 0
        self.timer_us = NEVER
        self.heard: dict[bytes, int] = {}  # a bulletin's id, and when


class World:
    """Candidates are drawn from `listed`. Datagrams between different `group`s are lost."""

    def __init__(self, seed: int = 1, loss: float = 0.01) -> None:
        self.random = random.Random(seed)
        self.loss, self.duplicated = loss, 0.0
        self.now_us = 0
        self.nodes: dict[Endpoint, Node] = {}
        self.listed: list[Endpoint] = []
        self.kinds: Counter[str] = Counter()  # datagrams that came to honest nodes
        self.bytes = 0
        self.trace = blake2b(digest_size=16)
        self.published: dict[bytes, int] = {}
        self._heap: list[tuple[int, int, Endpoint, Endpoint, bytes]] = []
        self._order = 0

    # ---------------------------------------------------------------- who is there

    def address(self, number: int, network: int | None = None) -> Endpoint:
        """In a network of its own, unless one is given."""
        net = number if network is None else network
        return bytes([20 + (net >> 16), net >> 8 & 255, net & 255, 1 + number % 250]) + b"\xca\x41"

    def add(self, number: int, *, skew_s: int = 0) -> Node:
        """An honest node."""
        draw = random.Random(f"{number} {self.random.random()}")
        core = Gossip(draw.randbytes, self.now_us, self._draw(draw), _SIGNATURES, difficulty=0)
        node = self.put(core, self.address(number))
        node.skew_us = skew_s * SECOND
        return node

    def _draw(self, draw: random.Random) -> Callable[[int], list[Endpoint]]:
        return lambda count: [draw.choice(self.listed) for _ in range(count)] if self.listed else []

    def put(self, core: Core, endpoint: Endpoint, listed: bool = True) -> Node:
        node = self.nodes[endpoint] = Node(core, endpoint, self.now_us)
        if listed:
            self.listed.append(endpoint)
        self._collect(node)
        return node

    def remove(self, node: Node) -> None:
        """It is gone without a word."""
        del self.nodes[node.endpoint]
        self.listed.remove(node.endpoint)

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes.values() if isinstance(node.core, Gossip)]

    @property
    def counters(self) -> Counter[str]:
        """Of all honest nodes together."""
        found: Counter[str] = Counter()
        for node in self.honest:
            found.update(gossip(node).counters)
        return found

    # ---------------------------------------------------------------- what happens

    def unix_us(self, node: Node) -> int:
        return EPOCH_2026 + self.now_us + node.skew_us

    def publish(self, node: Node) -> bytes:
        body = (b"%d %d" % (self.now_us, self._order)).ljust(BODY_BYTES, b".")
        core, now_us = gossip(node), self.now_us
        name = core.publish(TOPIC, body, node.signer, now_us, now_us, self.unix_us(node))
        self.published[name] = node.heard[name] = now_us
        self._collect(node)
        return name

    def run(self, seconds: float) -> None:
        end_us = self.now_us + round(seconds * SECOND)
        while self._heap and self._heap[0][0] <= end_us:
            self.now_us, _, source, target, datagram = heapq.heappop(self._heap)
            node = self.nodes.get(target)
            if node is not None and (
                self._arrives(node, source, datagram) if datagram else self._wakes(node)
            ):
                self._collect(node)
        self.now_us = end_us

    def _arrives(self, node: Node, source: Endpoint, datagram: bytes) -> bool:
        sender = self.nodes.get(source)
        if sender is not None and sender.group != node.group:
            return False
        if isinstance(node.core, Gossip):
            self.kinds[KINDS[datagram[2]]] += 1
            self.bytes += len(datagram)
            self.trace.update(self.now_us.to_bytes(8, "big") + source + node.endpoint + datagram)
        node.core.receive(datagram, source, self.now_us, self.unix_us(node))
        return True

    def _wakes(self, node: Node) -> bool:
        if node.timer_us != self.now_us:
            return False
        node.timer_us = NEVER
        if node.core.deadline_us() <= self.now_us:
            node.core.tick(self.now_us, self.unix_us(node))
        return True

    def _collect(self, node: Node) -> None:
        core = node.core
        for datagram, target in core.outgoing:
            self._send(datagram, node.endpoint, target)
        core.outgoing.clear()
        if isinstance(core, Gossip):
            for event in core.events:
                assert event.id not in node.heard, "heard twice"
                node.heard[event.id] = self.now_us
            core.events.clear()
        due_us = core.deadline_us()
        if due_us < node.timer_us:
            node.timer_us = max(due_us, self.now_us)
            self._later(node.timer_us, b"", node.endpoint, b"")

    def _send(self, datagram: bytes, source: Endpoint, target: Endpoint) -> None:
        assert len(datagram) <= messages.DATAGRAM_BYTES
        if self.random.random() < self.loss:
            return
        for _ in range(2 if self.random.random() < self.duplicated else 1):
            self._later(self.now_us + self.random.randint(*LATENCY_US), source, target, datagram)

    def _later(self, at_us: int, source: Endpoint, target: Endpoint, datagram: bytes) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_us, self._order, source, target, datagram))

    # ---------------------------------------------------------------- what came of it

    def delays(self, names: list[bytes], nodes: list[Node] | None = None) -> list[float]:
        """Sorted seconds from publication to each node that was there; infinity where it did not come."""
        found = []
        for name in names:
            sent_us = self.published[name]
            there = [node for node in nodes or self.honest if node.born_us <= sent_us]
            found += [(node.heard[name] - sent_us) / SECOND if name in node.heard else 1e9 for node in there]
        return sorted(found)


def gossip(node: Node) -> Gossip:
    assert isinstance(node.core, Gossip)
    return node.core


def mesh(size: int, seed: int = 1, settle_s: float = 30) -> World:
    """`size` honest nodes, each in a network of its own, linked."""
    world = World(seed)
    for number in range(size):
        world.add(number)
    world.run(settle_s)
    return world


def chatter(
    world: World, seconds: float, every_s: float = 2.0, nodes: list[Node] | None = None
) -> list[bytes]:
    """A bulletin of somebody every so often; their ids."""
    names = []
    pool = nodes or world.honest
    for _ in range(round(seconds / every_s)):
        names.append(world.publish(world.random.choice(pool)))
        world.run(every_s)
    return names


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
