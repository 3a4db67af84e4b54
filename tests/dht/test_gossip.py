"""ZeqMesh: neighbours, the tree of pushes and its repair, reconciliation, and strangers who mean no good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import shake_256
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import MachineKeys
from dht import bulletin as bulletins
from dht import endpoints
from dht.bulletin import Bulletin
from dht.endpoints import Endpoint
from dht.gossip import Gossip
from dht.messages import GOSSIP, Push, decode_gossip, encode_gossip
from dht.signatures import MachineSigner

SECOND = 1_000_000
UNIX = 1_795_000_000 * SECOND
HOUR = 3600
LATENCY = 30_000
AUTHOR = MachineSigner(MachineKeys.from_bytes(bytes(range(128))))


def entropy(seed: int) -> Callable[[int], bytes]:
    calls: Iterator[int] = count()
    return lambda size: shake_256(seed.to_bytes(4, "big") + next(calls).to_bytes(8, "big")).digest(size)


class Mesh:
    """`size` nodes in networks of their own. `cut(a, b)`: whether nothing passes between them now."""

    def __init__(self, size: int) -> None:
        self.now = 10**9
        self.where = [endpoints.pack(f"203.{number}.7.1", 51777) for number in range(1, size + 1)]
        self.cut: Callable[[int, int], bool] = lambda _a, _b: False
        self.sent = 0
        self.nodes = [
            Gossip(entropy(number), self.now, self._others(number), difficulty=0) for number in range(size)
        ]
        self.heard: list[list[Bulletin]] = [[] for _ in range(size)]
        self._wire: list[tuple[int, int, bytes, int]] = []
        self.run(30)

    def _others(self, number: int) -> Callable[[int], list[Endpoint]]:
        draw = entropy(1000 + number)

        def candidates(wanted: int) -> list[Endpoint]:
            order = sorted(range(len(self.where)), key=lambda _other: draw(4))
            return [self.where[other] for other in order if other != number][:wanted]

        return candidates

    @property
    def unix(self) -> int:
        return UNIX + self.now

    def run(self, seconds: float) -> None:
        until = self.now + int(seconds * SECOND)
        while True:
            for number, node in enumerate(self.nodes):
                self.heard[number] += node.events
                node.events.clear()
                for datagram, to in node.outgoing:
                    other = self.where.index(to)
                    self.sent += 1
                    if not self.cut(number, other):
                        self._wire.append((self.now + LATENCY, other, datagram, number))
                node.outgoing.clear()
            due = min(max(self.now, node.deadline_us()) for node in self.nodes)
            arrives = self._wire[0][0] if self._wire else 2**62
            if min(due, arrives) > until:
                self.now = until
                return
            if arrives <= due:
                self.now, to_node, datagram, sender = self._wire.pop(0)
                self.nodes[to_node].receive(datagram, self.where[sender], self.now, self.unix)
            else:
                self.now = due
                for node in self.nodes:
                    if node.deadline_us() <= due:
                        node.tick(self.now, self.unix)

    def publish(self, number: int, body: bytes, sequence: int = 1) -> bytes:
        return self.nodes[number].publish("news", body, AUTHOR, sequence, self.now, self.unix)

    def bodies(self, number: int) -> list[bytes]:
        return [each.body for each in self.heard[number]]


def test_everybody_has_neighbours_and_hears_what_one_says() -> None:
    mesh = Mesh(30)
    assert all(3 <= len(node.links) <= 24 for node in mesh.nodes)
    mesh.publish(4, b"hello")
    mesh.run(5)
    assert all(mesh.bodies(number) == [b"hello"] for number in range(30) if number != 4)
    assert mesh.heard[4] == [], "one's own is no news"


def test_a_tree_is_left_of_the_first_flood() -> None:
    """Duplicates prune links: each message comes little more often than once."""
    mesh = Mesh(30)
    for number in range(12):
        mesh.publish(0, b"warm %d" % number, number)
        mesh.run(3)
    came = sum(node.counters["bulletins that came twice"] for node in mesh.nodes)
    for number in range(10):
        mesh.publish(0, b"then %d" % number, 100 + number)
        mesh.run(3)
    twice = sum(node.counters["bulletins that came twice"] for node in mesh.nodes) - came
    assert twice / (10 * 30) < 0.4
    assert all(len(heard) == 22 for heard in mesh.heard[1:])


def test_an_idle_mesh_is_quiet() -> None:
    mesh = Mesh(12)
    mesh.run(300)
    before = mesh.sent
    mesh.run(600)
    assert (mesh.sent - before) / 12 / 600 < 1.0, "datagrams a node and second"


def test_a_partition_of_an_hour_heals() -> None:
    """Both sides learn what the other said meanwhile."""
    mesh = Mesh(16)
    mesh.cut = lambda a, b: (a < 8) != (b < 8)
    mesh.run(120)
    mesh.publish(1, b"left")
    mesh.publish(9, b"right", 2)
    mesh.run(HOUR)
    assert b"right" not in mesh.bodies(3)
    mesh.cut = lambda _a, _b: False
    mesh.run(900)
    assert all(b"right" in mesh.bodies(number) for number in range(8))
    assert all(b"left" in mesh.bodies(number) for number in range(8, 16))


@pytest.mark.parametrize("age", [7 * 24 * HOUR, 3 * HOUR, -15 * 60])
def test_a_week_old_replay_and_one_from_the_future_are_refused(age: int) -> None:
    mesh = Mesh(3)
    link = next(link for link in mesh.nodes[0]._links.by_endpoint.values())
    old = bulletins.compose("news", b"old", AUTHOR, (mesh.unix - age * SECOND) // 777_000, 1, 0)
    mesh.nodes[0].receive(encode_gossip(Push(link.mine, old.wire)), link.endpoint, mesh.now, mesh.unix)
    assert mesh.nodes[0].events == []
    assert mesh.nodes[0].counters["bulletins out of date"] == 1
    assert len(mesh.nodes[0].links) == 2, "a clock that is wrong is no crime"


def test_ten_minutes_of_skew_are_borne() -> None:
    mesh = Mesh(3)
    link = next(iter(mesh.nodes[0]._links.by_endpoint.values()))
    for number, minutes in enumerate((-9, 9)):
        when = (mesh.unix + minutes * 60 * SECOND) // 777_000
        early = bulletins.compose("news", b"%d" % minutes, AUTHOR, when, number, 0)
        mesh.nodes[0].receive(encode_gossip(Push(link.mine, early.wire)), link.endpoint, mesh.now, mesh.unix)
    assert [event.body for event in mesh.nodes[0].events] == [b"-9", b"9"]


def test_a_forged_bulletin_costs_the_neighbour_its_link() -> None:
    mesh = Mesh(3)
    link = next(iter(mesh.nodes[0]._links.by_endpoint.values()))
    good = bulletins.compose("news", b"good", AUTHOR, mesh.unix // 777_000, 1, 0)
    forged = good.wire[:-1] + bytes([good.wire[-1] ^ 1])
    mesh.nodes[0].receive(encode_gossip(Push(link.mine, forged)), link.endpoint, mesh.now, mesh.unix)
    assert mesh.nodes[0].events == []
    assert link.endpoint not in mesh.nodes[0]._links.by_endpoint


def test_who_cannot_show_the_cookie_is_not_heard() -> None:
    mesh = Mesh(3)
    link = next(iter(mesh.nodes[0]._links.by_endpoint.values()))
    good = bulletins.compose("news", b"good", AUTHOR, mesh.unix // 777_000, 1, 0)
    mesh.nodes[0].receive(encode_gossip(Push(bytes(8), good.wire)), link.endpoint, mesh.now, mesh.unix)
    assert mesh.nodes[0].events == []
    assert mesh.nodes[0].counters["gossip from who is no neighbour"] == 1


def test_a_flood_of_one_neighbour_is_bounded_and_ends_its_link() -> None:
    mesh = Mesh(3)
    link = next(iter(mesh.nodes[0]._links.by_endpoint.values()))
    for number in range(3000):
        one = bulletins.compose("news", b"%d" % number, AUTHOR, mesh.unix // 777_000, number, 0)
        mesh.nodes[0].receive(encode_gossip(Push(link.mine, one.wire)), link.endpoint, mesh.now, mesh.unix)
    assert len(mesh.nodes[0].events) <= 250
    assert link.endpoint not in mesh.nodes[0]._links.by_endpoint


@pytest.mark.parametrize(
    "topic", [b"\xa4\xff\xfe\xfd\xfc", b"\x91" * 900 + b"\x00"], ids=["not UTF-8", "arrays in each other"]
)
def test_a_bulletin_that_no_decoder_likes_ends_nothing_but_the_link(topic: bytes) -> None:
    """Neither fault is one of msgspec's own errors."""
    mesh = Mesh(3)
    link = next(iter(mesh.nodes[0]._links.by_endpoint.values()))
    good = bulletins.compose("news", b"", AUTHOR, mesh.unix // 777_000, 1, 0)
    bad = good.wire.replace(b"\xa4news", topic)
    mesh.nodes[0].receive(encode_gossip(Push(link.mine, bad)), link.endpoint, mesh.now, mesh.unix)
    assert mesh.nodes[0].events == []
    assert link.endpoint not in mesh.nodes[0]._links.by_endpoint


@given(st.binary(max_size=1200))
def test_no_datagram_of_a_stranger_raises(noise: bytes) -> None:
    node = Gossip(entropy(1), 0, lambda _count: [], difficulty=0)
    node.receive(bytes([GOSSIP]) + noise, endpoints.pack("203.0.114.1", 9), SECOND, UNIX)
    assert node.events == []
    for datagram, _ in node.outgoing:
        decode_gossip(datagram[1:])
        assert len(datagram) <= 3 * (len(noise) + 1)
