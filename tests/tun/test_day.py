"""A day of virtual time between two cores that roam every minute, judged by the longest silence."""

from __future__ import annotations

import random

import pytest

from tests.pair import SECOND, Node, Wire, at, ipv6
from tests.scale import seconds, times

MINUTES = times(24 * 60)
EVERY_US = SECOND // 10
KEEPALIVE = 10.0


class Gaps:
    """The longest time between two deliveries at one node, and how many there were."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.last_us = 0
        self.longest_us = 0
        self.count = 0

    def note(self) -> None:
        for now_us, _ in self._node.packets:
            self.longest_us = max(self.longest_us, now_us - self.last_us)
            self.last_us = now_us
        self.count += len(self._node.packets)
        self._node.packets.clear()

    def end(self, now_us: int) -> None:
        """The silence at the end counts too."""
        self.longest_us = max(self.longest_us, now_us - self.last_us)


def move(wire: Wire, node: Node, number: int, known: bool) -> None:
    """To an address that it never had, in another network; `known`: its kernel tells it."""
    host = f"{100 if node.name == 'a' else 101}.{number >> 8}.{number & 255}.7"
    node.address = at(host)
    if known:
        node.core.network_changed([host], wire.now_us, wire.unix_us(node))
        wire.collect(node)


def day(both_ways: bool, known: bool, minutes: int = MINUTES) -> tuple[Wire, list[Gaps]]:
    """One packet every 100 ms; in the middle of every minute one of the two is somewhere else.

    Moves are 30 s apart at least: two that lost each other at once need somebody who knows where they are."""
    wire = Wire(seed=24)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    wire.introduce(a, b)
    wire.keep_log = False
    moments = random.Random(24)
    senders = [(a, ipv6(a.ula, b.ula, bytes(32)))]
    gaps = [Gaps(b)]
    if both_ways:
        senders.append((b, ipv6(b.ula, a.ula, bytes(32))))
        gaps.append(Gaps(a))
    for minute in range(minutes):
        roams_at = moments.randrange(150, 450)
        for step in range(600):
            for sender, packet in senders:
                sender.core.send(packet, wire.now_us, wire.unix_us(sender))
                wire.collect(sender)
            if step == roams_at:
                early = moments.random() * EVERY_US / SECOND
                wire.run(early)
                move(wire, (a, b)[minute % 2], minute, known)
                wire.run(EVERY_US / SECOND - early)
            else:
                wire.run(EVERY_US / SECOND)
        for gap in gaps:
            gap.note()
        a.events.clear()
        b.events.clear()
    for gap in gaps:
        gap.end(wire.now_us)
    return wire, gaps


@pytest.mark.timeout(seconds(400))
def test_traffic_both_ways_never_stops_for_a_second() -> None:
    _, gaps = day(both_ways=True, known=True)
    assert [gap.longest_us < SECOND for gap in gaps] == [True, True], [gap.longest_us for gap in gaps]
    assert all(gap.count > 0.999 * MINUTES * 600 for gap in gaps), [gap.count for gap in gaps]


@pytest.mark.timeout(seconds(400))
def test_traffic_one_way_never_stops_for_longer_than_a_keepalive() -> None:
    """Nobody tells the machine that moved; only its next keepalive shows where it is now."""
    wire, [gap] = day(both_ways=False, known=False)
    round_trip = 2 * wire.latency_us / SECOND
    assert gap.longest_us / SECOND <= KEEPALIVE + 2 * round_trip + EVERY_US / SECOND
