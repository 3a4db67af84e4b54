"""Real tunnel cores joined by a virtual wire: seeded loss, duplication, delay and tampering, virtual time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv6Address, ip_address

from crypto.identity import MachineKeys, ula
from crypto.kem import Primitives, RealPrimitives
from tun.addresses import Address, of_ip
from tun.core import TunnelCore
from tun.events import Event
from tun.frames import OVERHEAD_BYTES
from tun.host import PeerConfig

SECOND = 1_000_000
EPOCH_2026 = 1_780_000_000 * SECOND
LOOKUP = bytes(range(16))

Filter = Callable[[bytes, Address, Address], list[bytes]]


def at(host: str, port: int = 51777) -> Address:
    return of_ip(ip_address(host), port)


@dataclass(eq=False)
class Node:
    """A core at an address, with a wall clock of its own (`skew_us`)."""

    name: str
    core: TunnelCore
    address: Address
    keys: MachineKeys
    skew_us: int = 0
    events: list[Event] = field(default_factory=list)
    packets: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def id(self) -> bytes:
        return self.keys.machine_id

    @cached_property
    def ula(self) -> IPv6Address:
        return ula(self.id)

    def peer_config(self, **changes: object) -> PeerConfig:
        config = PeerConfig(self.keys.bundle, self.name, LOOKUP, [self.address])
        for key, value in changes.items():
            setattr(config, key, value)
        return config


class Wire:
    """Carries datagrams between nodes by address. `filter` may drop, copy or change each one."""

    def __init__(self, seed: int = 0, latency_us: int = 10_000, primitives: Primitives | None = None) -> None:
        self.random = random.Random(seed)
        self.now_us = 0
        self.latency_us = latency_us
        self.loss = 0.0
        self.jitter_us = 0
        self.duplicate = 0.0
        self.delays: dict[tuple[Address, Address], int] = {}  # one way, where it is not `latency_us`
        self.filter: Filter | None = None
        self.nodes: list[Node] = []
        self.log: list[tuple[Address, Address, bytes]] = []
        self.keep_log = True
        self._primitives = primitives or RealPrimitives()
        self._flying: list[tuple[int, int, bytes, Address, Address]] = []
        self._order = 0

    def node(
        self, name: str, host: str, skew_us: int = 0, mtu: int = 1404, keys: MachineKeys | None = None
    ) -> Node:
        keys = keys or MachineKeys.generate(self.random.randbytes)
        core = TunnelCore(keys, LOOKUP, self._primitives, self.random.randbytes, self.now_us, inner_mtu=mtu)
        node = Node(name, core, at(host), keys, skew_us)
        core.local_hosts = frozenset({host})
        self.nodes.append(node)
        return node

    def restart(self, node: Node) -> None:
        """kill -9 and start again: the same keys at the same address, and nothing that was in memory."""
        mtu = node.core.full_payload - OVERHEAD_BYTES
        hosts = node.core.local_hosts
        node.core = TunnelCore(
            node.keys, LOOKUP, self._primitives, self.random.randbytes, self.now_us, inner_mtu=mtu
        )
        node.core.local_hosts = hosts

    def unix_us(self, node: Node) -> int:
        return EPOCH_2026 + self.now_us + node.skew_us

    def introduce(self, a: Node, b: Node, **changes: object) -> None:
        """Both know each other already; neither calls before it has something to send."""
        for here, there in ((a, b), (b, a)):
            here.core.add_peer(there.peer_config(**{"eager": False, **changes}), [], self.now_us)

    def send(self, source: Node, target: Node, payload: bytes = b"", size: int = 0) -> bytes:
        """An IPv6 packet (next header 59, none) from one node's TUN."""
        packet = ipv6(source.ula, target.ula, payload.ljust(size, b"."))
        source.core.send(packet, self.now_us, self.unix_us(source))
        self.collect(source)
        return packet

    def collect(self, node: Node) -> None:
        core = node.core
        if core.outgoing:
            for datagram, address in core.outgoing:
                self.put(datagram, node.address, address)
            core.outgoing.clear()
        if core.events:
            node.events += core.events
            core.events.clear()
        if core.packets:
            node.packets += [(self.now_us, packet) for packet in core.packets]
            core.packets.clear()

    def put(self, datagram: bytes, source: Address, target: Address) -> None:
        """Onto the wire, as an attacker may too."""
        if self.keep_log:
            self.log.append((source, target, datagram))
        for piece in [datagram] if self.filter is None else self.filter(datagram, source, target):
            copies = 2 if self.duplicate and self.random.random() < self.duplicate else 1
            for _ in range(copies):
                if not self.loss or self.random.random() >= self.loss:
                    self.inject(piece, source, target)

    def inject(self, datagram: bytes, source: Address, target: Address) -> None:
        """An attacker's own datagram, with any source: it passes the filter by and is never lost."""
        self._order += 1
        delay = self.delays.get((source, target), self.latency_us) if self.delays else self.latency_us
        if self.jitter_us:
            delay += self.random.randrange(self.jitter_us + 1)
        heapq.heappush(self._flying, (self.now_us + delay, self._order, datagram, source, target))

    def next_us(self) -> int:
        due_us = self._flying[0][0] if self._flying else 2**63
        for node in self.nodes:
            due_us = min(due_us, node.core.deadline_us())
        return due_us

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        end = self.now_us + round(seconds * SECOND)
        for node in self.nodes:
            self.collect(node)
        while (due_us := self.next_us()) <= end:
            self.now_us = max(self.now_us, due_us)
            while self._flying and self._flying[0][0] <= self.now_us:
                _, _, datagram, source, target = heapq.heappop(self._flying)
                for node in self.nodes:
                    if node.address == target:
                        node.core.receive(datagram, source, self.now_us, self.unix_us(node))
                        self.collect(node)
            for node in self.nodes:
                if node.core.deadline_us() <= self.now_us:
                    node.core.tick(self.now_us, self.unix_us(node))
                    self.collect(node)
        self.now_us = end


def ipv6(source: IPv6Address, destination: IPv6Address, payload: bytes) -> bytes:
    head = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([59, 64])
    return head + source.packed + destination.packed + payload
