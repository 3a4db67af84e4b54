"""Overlays on an event heap: virtual time, latency and loss from a seed; dead nodes vanish."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import blake2b
from random import Random

import msgspec

from dht import contacts
from dht.endpoints import Endpoint, network
from dht.outcomes import Found, Got, Outcome, Put
from dht.overlay import Overlay

SECOND = 1_000_000
UNIX_US = 1_800_000_000 * SECOND
PORT = (51777).to_bytes(2, "big")


def entropy(name: str) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        found = b""
        while len(found) < size:
            found += blake2b(b"%s %d %d" % (name.encode(), count, len(found))).digest()
        return found[:size]

    return draw


class Shelf:
    """Storage that keeps whatever it is given, the last of each text before a colon."""

    def __init__(self) -> None:
        self.kept: dict[bytes, dict[bytes, bytes]] = {}
        self.middle = b""

    def put(self, key: bytes, record_bytes: bytes, source_network: bytes, unix: int) -> int:
        if record_bytes.startswith(b"bad"):
            return 2
        self.kept.setdefault(key, {})[record_bytes.partition(b":")[0]] = record_bytes
        return 0

    def values(self, key: bytes, unix: int) -> bytes:
        records = self.kept.get(key)
        return msgspec.msgpack.encode(list(records.values())) if records else b""

    def keys(self) -> list[bytes]:
        return list(self.kept)

    def center(self, node_id: bytes) -> None:
        self.middle = node_id


class Node:
    def __init__(self, world: World, endpoint: Endpoint, serving: bool = True) -> None:
        self.world = world
        self.endpoint = endpoint
        self.shelf = Shelf()
        draw = entropy(f"{world.seed} {endpoint.hex()}")
        self.overlay = Overlay(
            4 if len(endpoint) == 6 else 6, draw(24), draw, world.now_us, self.shelf, serving=serving
        )
        self.alive = True
        self.alarm_us = -1
        self.events: list[Outcome] = []
        self.on_event: Callable[[Outcome], None] | None = None

    @property
    def id(self) -> int:
        return int.from_bytes(contacts.node_id(self.overlay.where.tail, self.endpoint), "big")

    def settle(self) -> None:
        """After every call: send, hear what came of it, and set the alarm."""
        overlay, world = self.overlay, self.world
        for datagram, to in overlay.outgoing:
            world.send(datagram, self.endpoint, to)
        overlay.outgoing.clear()
        events = overlay.events[:]
        overlay.events.clear()
        for event in events:
            self.events.append(event)
            if self.on_event is not None:
                self.on_event(event)
        due_us = overlay.deadline_us()
        if self.alarm_us < 0 or due_us < self.alarm_us:
            self.alarm_us = due_us
            world.at(max(due_us, world.now_us), self.ring)
        if overlay.outgoing or overlay.events:
            self.settle()

    def ring(self) -> None:
        if self.alive and self.alarm_us >= 0:
            if self.world.now_us >= self.alarm_us:
                self.alarm_us = -1
                self.overlay.tick(self.world.now_us, self.world.unix_us)
            self.settle()


class World:
    """`loss` of 1,000 datagrams; latency 20 to 150 ms. `filter` may drop or look at datagrams."""

    def __init__(self, seed: int = 1, loss: int = 0) -> None:
        self.seed = seed
        self.now_us = 0
        self.loss = loss
        self.random = Random(seed)
        self.nodes: dict[Endpoint, Node] = {}
        self.sent = 0
        self.bytes = 0
        self.handled = 0
        self.filter: Callable[[bytes, Endpoint, Endpoint], bool] = lambda datagram, source, target: True
        self._heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    @property
    def unix_us(self) -> int:
        return UNIX_US + self.now_us

    def at(self, when_us: int, what: Callable[..., None], *arguments: object) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when_us, self._count, what, arguments))

    def send(self, datagram: bytes, source: Endpoint, target: Endpoint) -> None:
        self.sent += 1
        self.bytes += len(datagram)
        if self.random.randrange(1000) >= self.loss and self.filter(datagram, source, target):
            self.at(
                self.now_us + 20_000 + self.random.randrange(130_000), self._deliver, datagram, source, target
            )

    def _deliver(self, datagram: bytes, source: Endpoint, target: Endpoint) -> None:
        node = self.nodes.get(target)
        if node is not None and node.alive:
            self.handled += 1
            node.overlay.receive(datagram, source, self.now_us, self.unix_us)
            node.settle()

    def run(self, seconds: float) -> None:
        end_us = self.now_us + round(seconds * SECOND)
        heap = self._heap
        while heap and heap[0][0] <= end_us:
            self.now_us, _, what, arguments = heapq.heappop(heap)
            what(*arguments)
        self.now_us = end_us

    def endpoint(self) -> Endpoint:
        """A fresh one, in a network of its own."""
        while True:
            packed = bytes([self.random.randrange(11, 100), *self.random.randbytes(2), 1])
            if packed + PORT not in self.nodes and not any(
                network(packed + PORT) == network(other) for other in self.nodes
            ):
                return packed + PORT

    def join(
        self, start: Endpoint | None = None, endpoint: Endpoint | None = None, serving: bool = True
    ) -> Node:
        node = Node(self, endpoint or self.endpoint(), serving)
        self.nodes[node.endpoint] = node
        if start is not None:
            node.overlay.bootstrap([start], self.now_us)
        node.settle()
        return node

    def grow(self, count: int, every: float = 0.2) -> list[Node]:
        """Nodes that join one after the other, each by some earlier one."""
        nodes = list(self.nodes.values())
        for _ in range(count):
            nodes.append(self.join(self.random.choice(nodes).endpoint if nodes else None))
            self.run(every)
        return nodes

    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def closest(self, target: bytes, count: int = 20) -> list[Endpoint]:
        """The truth."""
        number = int.from_bytes(target, "big")
        living = sorted(self.living(), key=lambda node: node.id ^ number)
        return [node.endpoint for node in living[:count]]

    # ------------------------------------------------------------------ asking and waiting for it

    def find(self, node: Node, target: bytes) -> Found:
        handle = node.overlay.find(target, self.now_us)
        event = self._wait(node, handle)
        assert isinstance(event, Found)
        return event

    def put(self, node: Node, records: list[bytes], key: bytes) -> Put:
        handle = node.overlay.put(records, key, self.now_us)
        event = self._wait(node, handle)
        assert isinstance(event, Put)
        return event

    def get(self, node: Node, key: bytes, enough: bool = True) -> tuple[list[bytes], Got]:
        """All the records that came, and the last event. `enough`: one will do."""
        records: list[bytes] = []

        def hear(event: Outcome) -> None:
            if isinstance(event, Got) and event.handle == handle:
                records.extend(event.records)
                if enough and not event.final:
                    node.overlay.enough(handle, self.now_us)

        handle = node.overlay.get(key, self.now_us)
        node.on_event = hear
        event = self._wait(node, handle)
        node.on_event = None
        assert isinstance(event, Got)
        return records, event

    def _wait(self, node: Node, handle: int) -> Outcome:
        node.settle()
        for _ in range(600):
            for event in node.events:
                if getattr(event, "handle", 0) == handle and getattr(event, "final", True):
                    node.events.clear()
                    return event
            self.run(0.1)
        raise AssertionError("nothing came of it in a minute")
