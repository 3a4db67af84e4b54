"""Machines that call each other over a wire with a seed: loss, duplicates, reordering, and NATs."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import shake_256

from crypto.identity import MachineKeys
from crypto.kem import HybridKey, RealPrimitives
from dht.calls import Called, Calls, HomesChanged, Machine, Recipient, Sent
from dht.endpoints import Endpoint, pack
from dht.signatures import MachineSigner

SECOND = 1_000_000
UNIX_US = 1_782_000_000_000_000
SECRET = bytes(range(16))


@cache
def keys_of(name: str) -> MachineKeys:
    return MachineKeys.from_bytes(shake_256(b"zeqnode callers: " + name.encode()).digest(128))


@cache
def machine_of(name: str) -> Machine:
    keys = keys_of(name)
    static = HybridKey(keys.x25519_key, keys.ml_kem_key)
    return Machine(keys.bundle, static, MachineSigner(keys), RealPrimitives())


def entropy_of(name: str) -> Callable[[int], bytes]:
    calls = iter(range(10**9))
    return lambda size: shake_256(f"{name} {next(calls)}".encode()).digest(size)


def at(host: str, port: int = 51777) -> Endpoint:
    return pack(host, port)


class Node:
    """One machine. `hidden`: behind a NAT that lets in only who was sent something in the last minute."""

    def __init__(self, wire: Wire, name: str, endpoint: Endpoint, hidden: bool = False) -> None:
        self.wire, self.name, self.endpoint, self.hidden = wire, name, endpoint, hidden
        self.machine = machine_of(name)
        self.calls = self._core()
        self.open_us: dict[Endpoint, int] = {}
        self.here = True
        self.called: list[Called] = []
        self.sent: dict[int, Sent] = {}
        self.changes: list[HomesChanged] = []
        self.heard: list[tuple[bytes, Endpoint]] = []

    def _core(self) -> Calls:
        lodging = shake_256(b"lodging " + self.name.encode()).digest(32)
        entropy = entropy_of(f"{self.name} {self.wire.now_us}")
        return Calls(self.machine, (SECRET,), lodging, entropy, self.wire.now_us)

    def restart(self, saved: bytes = b"") -> None:
        self.calls = self._core()
        if saved:
            self.calls.load(saved)

    def recipient(
        self, homes: Sequence[tuple[Endpoint, bytes]] | None = None, direct: bool = True
    ) -> Recipient:
        """As others know it."""
        homes = self.calls.homes if homes is None else homes
        return Recipient(self.machine.bundle, SECRET, (self.endpoint,) if direct else (), tuple(homes))

    def send(self, to: Recipient, tag: str = "vpn.tunnel.request", body: bytes = b"hello") -> int:
        return self.calls.send(to, tag, body, self.wire.now_us, self.wire.unix_us)

    def collect(self) -> None:
        for event in self.calls.events:
            if isinstance(event, Called):
                self.called.append(event)
            elif isinstance(event, Sent):
                assert event.handle not in self.sent, "a call ends once"
                self.sent[event.handle] = event
            else:
                self.changes.append(event)
        self.calls.events.clear()


class Wire:
    """`loss`, `twice`: per cent. Latency 20 to 40 ms, so that datagrams overtake each other."""

    def __init__(self, seed: int = 0, loss: int = 0, twice: int = 0, jitter_us: int = 0) -> None:
        self.now_us = 5 * SECOND
        self.random = random.Random(seed)
        self.loss, self.twice, self.jitter_us = loss, twice, jitter_us
        self.nodes: dict[Endpoint, Node] = {}
        self.log: list[tuple[Endpoint, Endpoint, bytes]] = []
        self.change: Callable[[bytes, Endpoint, Endpoint], bytes | None] = lambda datagram, _source, _to: (
            datagram
        )
        self._heap: list[tuple[int, int, bytes, Endpoint, Endpoint]] = []
        self._order = 0

    @property
    def unix_us(self) -> int:
        return UNIX_US + self.now_us

    def node(self, name: str, host: str, hidden: bool = False) -> Node:
        node = Node(self, name, at(host), hidden)
        self.nodes[node.endpoint] = node
        return node

    def move(self, node: Node, host: str) -> None:
        del self.nodes[node.endpoint]
        node.endpoint = at(host)
        self.nodes[node.endpoint] = node

    def put(self, datagram: bytes, source: Endpoint, target: Endpoint) -> None:
        self.log.append((source, target, datagram))
        for _ in range(1 + (self.random.randrange(100) < self.twice)):
            if self.random.randrange(100) >= self.loss:
                self._order += 1
                arrives_us = self.now_us + 20_000 + self.random.randrange(self.jitter_us + 1)
                heapq.heappush(self._heap, (arrives_us, self._order, datagram, source, target))

    def flush(self) -> None:
        for node in list(self.nodes.values()):
            node.collect()
            for datagram, target in node.calls.outgoing:
                assert len(datagram) <= 1200
                assert datagram[0] == 0xD2
                node.open_us[target] = self.now_us
                changed = self.change(datagram, node.endpoint, target)
                if changed is not None and node.here:
                    self.put(changed, node.endpoint, target)
            node.calls.outgoing.clear()

    def run(self, seconds: float) -> None:
        """Until then, and no timer may be due in between without moving on."""
        end_us = self.now_us + int(seconds * SECOND)
        while True:
            self.flush()
            due_us = min(
                (node.calls.deadline_us() for node in self.nodes.values() if node.here), default=end_us
            )
            next_us = min(self._heap[0][0] if self._heap else end_us, max(due_us, self.now_us))
            if next_us >= end_us:
                break
            self.now_us = next_us
            if self._heap and self._heap[0][0] <= next_us:
                self._deliver(*heapq.heappop(self._heap)[2:])
            for node in list(self.nodes.values()):
                if node.here and node.calls.deadline_us() <= next_us:
                    node.calls.tick(next_us, self.unix_us)
                    assert node.calls.deadline_us() > next_us, "a tick that does nothing comes again for ever"
        self.now_us = end_us

    def _deliver(self, datagram: bytes, source: Endpoint, target: Endpoint) -> None:
        node = self.nodes.get(target)
        if node is None or not node.here:
            return
        if node.hidden and self.now_us - node.open_us.get(source, -60 * SECOND) >= 60 * SECOND:
            return
        node.heard.append((datagram, source))
        node.calls.receive(datagram, source, self.now_us, self.unix_us)

    def traffic(self, source: Endpoint, target: Endpoint) -> list[bytes]:
        return [datagram for one, other, datagram in self.log if (one, other) == (source, target)]


def lodged(wire: Wire, name: str = "lodger", homes: int = 1) -> tuple[Node, list[Node]]:
    """A hidden machine and its homes."""
    lodger = wire.node(name, "198.51.100.7", hidden=True)
    found = [wire.node(f"home {number}", f"203.0.{113 + number}.1") for number in range(homes)]
    for home in found:
        home.calls.serve(True)
    lodger.calls.lodge([home.endpoint for home in found], wire.now_us)
    wire.run(1)
    assert len(lodger.calls.homes) == homes
    return lodger, found
