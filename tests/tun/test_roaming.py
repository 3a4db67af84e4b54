"""Roaming, forged sources, clocks that step, and paths of every size: two cores on a virtual wire."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.pair import SECOND, Node, Wire, at
from tun.addresses import Address
from tun.events import Connected, Disconnected, Roamed
from tun.frames import HEAD_BYTES, LAST_RECORD_TYPE, MESSAGE1, OVERHEAD_BYTES, SPAN, TAG_BYTES
from tun.paths import BASE_PAYLOAD, PROBE_EVERY_US

VICTIM = at("203.0.113.66", 53)
YEAR_US = 365 * 86_400 * SECOND
KEEPALIVE_BYTES = HEAD_BYTES + TAG_BYTES
FULL = 1404 + OVERHEAD_BYTES


def pair(mtu: int = 1404, **changes: object) -> tuple[Wire, Node, Node]:
    wire = Wire(seed=5)
    a, b = wire.node("a", "192.0.2.1", mtu=mtu), wire.node("b", "198.51.100.1", mtu=mtu)
    wire.introduce(a, b, **changes)
    return wire, a, b


def connected(mtu: int = 1404) -> tuple[Wire, Node, Node]:
    """a called b, and the size of their path is known."""
    wire, a, b = pair(mtu)
    wire.send(a, b)
    wire.run(1)
    for node in (a, b):
        node.packets.clear()
        node.events.clear()
    wire.log.clear()
    return wire, a, b


def traffic(wire: Wire, ways: list[tuple[Node, Node]], seconds: float, size: int = 40) -> list[int]:
    """A numbered packet each way every 50 ms; how many were sent on each way."""
    steps = round(seconds / 0.05)
    for _ in range(steps):
        for source, target in ways:
            wire.send(source, target, b"%d " % wire.now_us, size)
        wire.run(0.05)
    return [steps] * len(ways)


def longest_gap(node: Node, start_us: int, end_us: int) -> float:
    times = [start_us, *(now_us for now_us, _ in node.packets), end_us]
    return max(later - earlier for earlier, later in pairwise(times)) / SECOND


def payload(node: Node, other: Node) -> int:
    """The largest datagram that `node` sends to `other`."""
    return node.core.peers[other.id].paths.payload


def move(wire: Wire, node: Node, host: str, known: bool = True) -> Address:
    node.address = at(host)
    if known:
        node.core.network_changed([host], wire.now_us, wire.unix_us(node))
        wire.collect(node)
    return node.address


# ---------------------------------------------------------------------------------- forged sources


class Forger:
    """On the wire: what `wanted` says yes to arrives first from VICTIM, then (unless `take`) as it was."""

    def __init__(self, wire: Wire, wanted: Callable[[bytes, Address], bool], take: bool = False) -> None:
        self._wire, self._wanted, self._take = wire, wanted, take
        self._forging = False
        self.forged = 0
        wire.filter = self

    def __call__(self, datagram: bytes, source: Address, target: Address) -> list[bytes]:
        if self._forging or source == VICTIM or not self._wanted(datagram, source):
            return [datagram]
        self._forging = True
        self._wire.put(datagram, VICTIM, target)
        self._forging = False
        self.forged += 1
        return [] if self._take else [datagram]


def balance(wire: Wire) -> tuple[int, int]:
    """Bytes that came from the victim's address, and bytes that went there."""
    out = sum(len(datagram) for _, target, datagram in wire.log if target == VICTIM)
    return sum(len(datagram) for source, _, datagram in wire.log if source == VICTIM), out


@pytest.mark.parametrize("size", [0, 100, 1364])
@pytest.mark.parametrize("take", [False, True], ids=["copied", "taken"])
def test_one_forged_source_gets_at_most_three_times_its_bytes(size: int, take: bool) -> None:
    """One record of a's reaches b first from the victim's address, while a downloads from b."""
    wire, a, b = connected()
    traffic(wire, [(b, a)], 1, 1364)
    forger = Forger(wire, lambda datagram, source: source == a.address and not forger.forged, take)
    if size:
        wire.send(a, b, size=size)
    start_us = wire.now_us
    [sent] = traffic(wire, [(b, a)], 20, 1364)
    wire.run(1)
    assert forger.forged == 1
    got, out = balance(wire)
    assert 0 < out <= 3 * got
    assert len([None for now_us, _ in a.packets if now_us > start_us]) == sent
    assert not [event for event in b.events if isinstance(event, Roamed)]


@pytest.mark.parametrize("take", [False, True], ids=["copied", "taken"])
def test_every_record_forged_and_still_no_flood(take: bool) -> None:
    """For five minutes, rekeys included. `taken`: b never hears a from where a is, and still sends there."""
    wire, a, b = connected()
    Forger(wire, lambda datagram, source: source == a.address and datagram[0] <= LAST_RECORD_TYPE, take)
    start_us = wire.now_us
    [sent, _] = traffic(wire, [(b, a), (a, b)], 300, 1000)
    wire.run(1)
    got, out = balance(wire)
    assert 0 < out <= 3 * got
    assert out < got // 10, "only challenges go there"
    assert len([None for now_us, _ in a.packets if now_us > start_us]) == sent
    assert not [event for event in b.events if isinstance(event, Roamed)]


def test_a_forged_source_of_the_first_message_1_gets_no_download() -> None:
    """Message 1 arrives from the victim's address too, and before: b answers both, and a confirms.

    The record that confirms says nothing about the address that the first answer went to."""
    wire = Wire(seed=5)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    a.core.add_peer(b.peer_config(eager=False), [], wire.now_us)
    b.core.add_peer(a.peer_config(eager=False, addresses=[]), [], wire.now_us)
    Forger(wire, lambda datagram, source: datagram[0] == MESSAGE1)
    waiting = [wire.send(b, a, b"%d " % number, 1364) for number in range(128)]
    wire.send(a, b)
    wire.run(10)
    got, out = balance(wire)
    assert got > 3600
    assert 0 < out <= 3 * got
    assert [packet for _, packet in a.packets] == waiting


def test_a_forged_source_of_a_rekey_s_message_1_gets_no_download() -> None:
    wire, a, b = connected()
    traffic(wire, [(a, b)], 118)
    Forger(wire, lambda datagram, source: datagram[0] == MESSAGE1)
    sent = 0
    for step in range(3000):  # 11 Mb/s for three seconds
        if step % 100 == 0:
            wire.send(a, b)
        wire.send(b, a, size=1364)
        sent += 1
        wire.run(0.001)
    wire.run(1)
    got, out = balance(wire)
    assert got > 3600
    assert 0 < out <= 3 * got
    assert len(a.packets) == sent


def test_candidates_are_few() -> None:
    """A forger with many addresses to blame makes b remember four of them."""
    wire, a, b = connected()
    wire.filter = lambda datagram, source, target: []
    for _ in range(300):
        wire.send(a, b)
    wire.filter = None
    records = [datagram for source, _, datagram in wire.log if source == a.address]
    for number, record in enumerate(records):
        wire.put(record, at(f"203.0.113.{number % 200}", 1000 + number), b.address)
        wire.run(0.001)
        assert len(b.core.peers[a.id].paths._candidates) <= 4
    wire.run(10)
    assert not b.core.peers[a.id].paths._candidates


# ---------------------------------------------------------------------------------- true roaming


@pytest.mark.parametrize("known", [True, False], ids=["told", "found out"])
def test_a_true_roam_takes_one_round_trip(known: bool) -> None:
    wire, a, b = connected()
    old = a.address
    traffic(wire, [(b, a), (a, b)], 5)
    moved_us = wire.now_us
    a.packets.clear()
    new = move(wire, a, "203.0.113.5", known)
    traffic(wire, [(b, a), (a, b)], 5)
    assert [event for event in b.events if isinstance(event, Roamed)] == [Roamed(a.id, old, new)]
    first = next(n for n, (_, target, _) in enumerate(wire.log) if target == new)
    assert len(wire.log[first][2]) == OVERHEAD_BYTES + 8, "the first datagram there is the challenge"
    heard_us = wire.latency_us
    switched = heard_us + 2 * wire.latency_us
    assert longest_gap(a, moved_us, wire.now_us) <= (switched + wire.latency_us) / SECOND + 0.05


def test_both_roam_in_turn_without_end() -> None:
    """Forty moves, ten seconds apart, packets both ways: each costs at most a round trip's worth."""
    wire, a, b = connected()
    start_us, sent = wire.now_us, 0
    for number in range(40):
        move(wire, (a, b)[number % 2], f"203.0.{number}.9")
        sent += traffic(wire, [(b, a), (a, b)], 10)[0]
    for node in (a, b):
        assert longest_gap(node, start_us, wire.now_us) < 0.2
        assert len(node.packets) >= sent - 2 * 40


def test_a_roam_during_a_rekey_does_not_leave_the_handshake_behind() -> None:
    """b moves in silence just before a calls again: a's attempt must follow it to the new address."""
    wire, a, b = connected()
    traffic(wire, [(a, b)], 117)
    start_us = wire.now_us
    move(wire, b, "203.0.113.9", known=False)
    traffic(wire, [(a, b)], 100)
    assert longest_gap(b, start_us, wire.now_us) <= 10.2
    assert len([event for event in a.events if isinstance(event, Connected)]) == 1


def test_an_old_address_taken_by_a_stranger_gets_nothing_back() -> None:
    """After a roam, a late record from the old address starts a check there and moves nothing."""
    wire, a, b = connected()
    old = a.address
    wire.filter = lambda datagram, source, target: []
    wire.send(a, b)
    wire.filter = None
    [(_, _, late)] = wire.log
    move(wire, a, "203.0.113.5")
    wire.run(1)
    wire.log.clear()
    wire.put(late, old, b.address)
    traffic(wire, [(b, a)], 10)
    there = [datagram for _, target, datagram in wire.log if target == old]
    assert sum(map(len, there)) <= 3 * len(late)
    assert b.core.peers[a.id].paths.endpoint == a.address


# ---------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("sign", [-1, 1], ids=["back", "ahead"])
@pytest.mark.parametrize("who", ["a", "b", "both"])
def test_a_stepped_clock_changes_nothing(who: str, sign: int) -> None:
    """A year's step in mid-transfer, and back again later, with rekeys before, between and after."""
    wire, a, b = connected()
    stepped = [node for node in (a, b) if who in (node.name, "both")]
    start_us, sent = wire.now_us, 0
    for skew_us in (0, sign * YEAR_US, 0, sign * YEAR_US):
        for node in stepped:
            node.skew_us = skew_us
        sent += traffic(wire, [(a, b), (b, a)], 130)[0]
    wire.run(1)
    for node in (a, b):
        assert len(node.packets) == sent
        assert [packet for _, packet in node.packets] == list(dict.fromkeys(p for _, p in node.packets))
        assert longest_gap(node, start_us, wire.now_us - SECOND) < 0.1
        assert not [event for event in node.events if isinstance(event, Disconnected)]
        assert len([event for event in node.events if isinstance(event, Connected)]) >= 4


def test_a_clock_that_steps_in_mid_handshake() -> None:
    """Message 1 is on its way when its sender's clock jumps a year back; nothing is lost."""
    wire, a, b = pair()
    a.skew_us = YEAR_US
    wire.send(a, b)
    wire.run(0.005)
    a.skew_us = 0
    [sent] = traffic(wire, [(a, b)], 5)
    wire.run(1)
    assert len(b.packets) == sent + 1


# ---------------------------------------------------------------------------------- the size of a path


def narrow(wire: Wire, most: int) -> None:
    """From here on the path carries datagrams of at most so many bytes, and says nothing."""
    wire.filter = lambda datagram, source, target: [datagram] if len(datagram) <= most else []


def sizes(wire: Wire, to: Node) -> list[int]:
    return [len(datagram) for _, target, datagram in wire.log if target == to.address]


def test_a_path_starts_small_and_a_probe_raises_it() -> None:
    wire, a, b = pair()
    wire.send(a, b, size=1364)
    wire.run(0.031)  # the handshake, and the first packet on its way
    records = [d for _, target, d in wire.log if target == b.address and d[0] == SPAN]
    assert len(records) == 2
    assert max(map(len, records)) <= BASE_PAYLOAD
    wire.run(1)
    assert [packet[40:50] for _, packet in b.packets] == [b"." * 10]
    assert payload(a, b) == payload(b, a) == FULL
    wire.log.clear()
    wire.send(a, b, size=1364)
    assert sizes(wire, b) == [FULL]


@pytest.mark.parametrize("inner", [1280, 1404])
def test_a_path_of_1280_bytes_carries_every_packet_in_two(inner: int) -> None:
    """IPv6's least outside, and 1,280 inside all the same."""
    wire, a, b = pair()
    narrow(wire, 1280 - 48)
    packet = wire.send(a, b, size=inner - 40)
    wire.run(5)
    assert len(packet) == inner
    assert [p for _, p in b.packets] == [packet]
    wire.log.clear()
    [sent] = traffic(wire, [(a, b)], 100, inner - 40)
    wire.run(1)
    assert len(b.packets) == sent + 1
    assert payload(a, b) == BASE_PAYLOAD
    spans = [d for _, target, d in wire.log if target == b.address and d[0] == SPAN]
    assert len(spans) >= 2 * sent


def test_a_path_that_shrinks_is_found_out_and_one_that_grows_too() -> None:
    """Large records are lost for as long as the next probe takes; small ones never."""
    wire, a, b = connected()
    assert payload(a, b) == FULL
    narrow(wire, 1280 - 48)
    traffic(wire, [(a, b), (b, a)], PROBE_EVERY_US / SECOND + 3)
    assert payload(a, b) == payload(b, a) == BASE_PAYLOAD
    wire.send(a, b, size=1364)
    wire.run(0.1)
    assert len(b.packets[-1][1]) == 1404
    wire.filter = None
    traffic(wire, [(a, b), (b, a)], PROBE_EVERY_US / SECOND + 3)
    assert payload(a, b) == payload(b, a) == FULL


def test_the_kernel_says_too_big() -> None:
    """EMSGSIZE: down at once, up again after a minute if the path allows."""
    wire, a, b = connected()
    narrow(wire, 1280 - 48)
    a.core.too_big(b.address, wire.now_us)
    wire.send(a, b, size=1364)
    traffic(wire, [(a, b)], 30, 40)
    assert len(b.packets[0][1]) == 1404
    wire.filter = None
    traffic(wire, [(a, b)], 29, 40)
    assert payload(a, b) == BASE_PAYLOAD
    traffic(wire, [(a, b)], 3, 40)
    assert payload(a, b) == FULL


def test_too_big_for_another_address_changes_nothing() -> None:
    wire, a, b = connected()
    a.core.too_big(VICTIM, wire.now_us)
    assert payload(a, b) == FULL


def test_a_lost_probe_is_repeated() -> None:
    wire, a, b = pair()
    lost: list[bytes] = []

    def lose_two(datagram: bytes, source: Address, target: Address) -> list[bytes]:
        if len(datagram) == FULL and source == a.address and len(lost) < 2:
            lost.append(datagram)
            return []
        return [datagram]

    wire.filter = lose_two
    wire.send(a, b)
    wire.run(2)
    assert len(lost) == 2
    assert payload(a, b) == FULL


def test_a_roam_proves_the_size_again() -> None:
    wire, a, b = connected()
    narrow(wire, 1280 - 48)
    move(wire, a, "203.0.113.5")
    [sent, _] = traffic(wire, [(b, a), (a, b)], 10, 1364)
    assert len(a.packets) >= sent - 2
    assert payload(a, b) == payload(b, a) == BASE_PAYLOAD


def test_jumbo_frames_inside() -> None:
    """An inner MTU of 8,904: over a large path in one, over a small one in eight."""
    wire, a, b = connected(mtu=8904)
    wire.send(a, b, size=8864)
    wire.run(0.1)
    assert len(b.packets[-1][1]) == 8904
    assert sizes(wire, b)[-1] == 8904 + OVERHEAD_BYTES == payload(a, b)
    narrow(wire, 1472)
    move(wire, a, "203.0.113.5")
    wire.run(3)
    wire.log.clear()
    wire.send(a, b, size=8864)
    wire.run(0.1)
    assert len(b.packets[-1][1]) == 8904
    assert len([d for d in sizes(wire, b) if d > KEEPALIVE_BYTES]) == 8
    assert payload(a, b) == BASE_PAYLOAD


def test_spans_survive_reordering_and_copies() -> None:
    wire, a, b = pair()
    wire.jitter_us, wire.duplicate = 40_000, 0.3
    narrow(wire, 1280 - 48)
    wire.send(a, b)
    wire.run(3)
    b.packets.clear()
    packets = [wire.send(a, b, b"%d " % number, 1364) for number in range(20)]
    wire.run(2)
    assert sorted(p for _, p in b.packets) == sorted(packets)


def test_what_is_not_a_span_or_never_whole_is_bounded() -> None:
    """Whoever has seen a receiver index can send parts; they fill no more than a fixed room."""
    wire, a, b = connected()
    wire.send(a, b, size=100)
    head = next(d for _, target, d in wire.log if target == b.address)[:HEAD_BYTES]
    keypair = b.core.peers[a.id].keypairs.current
    assert keypair is not None
    for number in range(3000):
        part = bytes([SPAN, number % 63, 64, 0]) + head[4:12] + (number // 63).to_bytes(4, "big")
        b.core.receive(part + bytes(60_000), VICTIM, wire.now_us, wire.unix_us(b))
    held = sum(len(piece) for pieces in keypair.spans._partial.values() for piece in pieces if piece)
    assert held <= 2**20
    narrow(wire, 1280 - 48)
    b.core.too_big(a.address, wire.now_us)
    a.core.too_big(b.address, wire.now_us)
    wire.send(a, b, size=1364)
    wire.run(0.1)
    assert len(b.packets[-1][1]) == 1404
