"""When a peer speaks unasked, and when it is silent: every timer of DESIGN section 14, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from crypto.session import REJECT_ZEQONDS, REKEY_ZEQONDS, ZEQOND_US
from tests.pair import SECOND, Node, Wire, at
from tun.addresses import Address
from tun.events import Connected, Disconnected, NoAnswer
from tun.frames import HEAD_BYTES, LAST_RECORD_TYPE, MESSAGE1, TAG_BYTES

REKEY = REKEY_ZEQONDS * ZEQOND_US / SECOND
REKEY_ON_RECEIVE = 212 * ZEQOND_US / SECOND
REJECT = REJECT_ZEQONDS * ZEQOND_US / SECOND
KEEPALIVE_BYTES = HEAD_BYTES + TAG_BYTES
HOUR = 3600.0


@dataclass
class Tap:
    """Writes down everything on the wire with its time, and lets through what `passes` says."""

    wire: Wire
    passes: Callable[[bytes, Address, Address], bool] = lambda datagram, source, target: True
    seen: list[tuple[float, Address, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wire.filter = self

    def __call__(self, datagram: bytes, source: Address, target: Address) -> list[bytes]:
        self.seen.append((self.wire.now_us / SECOND, source, datagram))
        return [datagram] if self.passes(datagram, source, target) else []

    def calls(self, node: Node) -> list[float]:
        """When the node sent a fresh message 1, for the first time."""
        first: dict[bytes, float] = {}
        for when, source, datagram in self.seen:
            if datagram[0] == MESSAGE1 and source == node.address:
                first.setdefault(datagram[4:12], when)
        return sorted(first.values())

    def keepalives(self, node: Node) -> list[float]:
        return [t for t, source, d in self.seen if source == node.address and len(d) == KEEPALIVE_BYTES]

    def silence(self, passes: bool) -> None:
        self.passes = lambda datagram, source, target: passes


def pair(**changes: object) -> tuple[Wire, Node, Node, Tap]:
    wire = Wire(seed=9)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    wire.introduce(a, b, **changes)
    return wire, a, b, Tap(wire)


def connected(**changes: object) -> tuple[Wire, Node, Node, Tap]:
    """a called b at 0, with one packet; the sizes of the path are known."""
    wire, a, b, tap = pair(**changes)
    wire.send(a, b)
    wire.run(2)
    b.packets.clear()
    return wire, a, b, tap


def every(wire: Wire, ways: list[tuple[Node, Node]], seconds: float, step: float = 1.0) -> int:
    """A packet each way at every step; how many each sent."""
    count = round(seconds / step)
    for number in range(count):
        for source, target in ways:
            wire.send(source, target, b"%d " % number)
        wire.run(step)
    return count


def has_keys(node: Node, other: Node) -> bool:
    return bool(node.core.peers[other.id].keypairs.all())


def count(node: Node, kind: type) -> int:
    return len([event for event in node.events if isinstance(event, kind)])


# ---------------------------------------------------------------------------------- rekey and expiry


def test_the_initiator_calls_again_after_154_zeqonds_of_use() -> None:
    wire, a, b, tap = connected()
    sent = every(wire, [(a, b), (b, a)], 600)
    calls = tap.calls(a)
    assert tap.calls(b) == []
    assert len(calls) == 6
    for before, after in pairwise(calls):
        assert REKEY <= after - before <= REKEY + 1.1
    assert len(a.packets) == len(b.packets) == sent


def test_who_only_receives_calls_again_after_212_zeqonds() -> None:
    wire, a, b, tap = connected()
    sent = every(wire, [(b, a)], 400)
    assert tap.calls(b) == []
    first, second, third = tap.calls(a)
    assert REKEY_ON_RECEIVE <= second - first <= REKEY_ON_RECEIVE + 1.1
    assert REKEY_ON_RECEIVE <= third - second <= REKEY_ON_RECEIVE + 1.1
    assert len(a.packets) == sent


def test_without_traffic_the_session_ends_after_231_zeqonds_on_both_sides() -> None:
    wire, a, b, _ = connected()
    wire.run(REJECT - 2 - 0.001)
    assert has_keys(a, b)
    assert has_keys(b, a)
    wire.run(0.001)
    assert not has_keys(a, b)
    assert has_keys(b, a), "b accepted message 1 a little later than a sent it"
    wire.run(0.1)
    assert not has_keys(b, a)
    for node in (a, b):
        assert count(node, Disconnected) == 1
        assert not [slot for slot in node.core.indexes._by_slot.values() if slot]


def test_a_peer_that_vanished_is_called_for_and_its_keys_end() -> None:
    """Nothing comes back any more: no record is sent with keys older than 231 zeqonds."""
    wire, a, b, tap = connected()
    tap.silence(passes=False)
    every(wire, [(a, b)], 400)
    records = [t for t, source, d in tap.seen if source == a.address and d[0] <= LAST_RECORD_TYPE]
    assert REJECT - 1.1 <= max(records) < REJECT
    assert not has_keys(a, b)
    assert count(a, NoAnswer) >= 1


def test_after_a_long_silence_one_packet_brings_the_tunnel_back() -> None:
    wire, a, b, _ = connected()
    wire.run(HOUR)
    packet = wire.send(b, a)
    wire.run(0.2)
    assert [p for _, p in a.packets] == [packet]


# ---------------------------------------------------------------------------------- keepalives


def test_keepalives_answer_data_after_ten_seconds_and_after_twenty() -> None:
    """The second is for who has moved since the first; then it is silent."""
    wire, a, b, tap = connected()
    wire.run(30)
    tap.seen.clear()
    wire.send(a, b)
    wire.run(25)
    assert tap.keepalives(b) == pytest.approx([32 + 10.01, 32 + 20.01])
    assert len(tap.seen) == 3


def test_no_keepalive_where_data_went_back() -> None:
    wire, a, b, tap = connected()
    tap.seen.clear()
    every(wire, [(a, b), (b, a)], 100, step=5)
    assert tap.keepalives(a) + tap.keepalives(b) == []


def test_one_way_traffic_gets_a_keepalive_every_ten_seconds() -> None:
    wire, a, b, tap = connected()
    tap.seen.clear()
    every(wire, [(a, b)], 100)
    back = [t for t, source, _ in tap.seen if source == b.address]
    assert max(later - earlier for earlier, later in pairwise(back)) <= 11.1
    assert 8 <= len(tap.keepalives(b)) <= 10


def test_fifteen_seconds_without_a_reply_start_a_handshake() -> None:
    wire, a, b, tap = connected()
    tap.passes = lambda datagram, source, target: source != b.address
    since = wire.now_us / SECOND
    every(wire, [(a, b)], 30)
    assert tap.calls(a)[1] == pytest.approx(since + 15)


def test_keepalives_alone_ask_for_no_reply() -> None:
    """Only data does; else two idle machines would call each other for ever."""
    wire, a, b, tap = connected(keepalive=True)
    tap.passes = lambda datagram, source, target: source != b.address
    wire.run(100)
    assert len(tap.calls(a)) == 1


def nat(wire: Wire, tap: Tap, inside: Node, lasts: float = 30) -> None:
    """A router in front of `inside` that forgets a mapping after so many seconds without outgoing traffic."""
    inside.core.local_hosts = frozenset({"10.0.0.2"})
    last: dict[Address, float] = {}

    def passes(datagram: bytes, source: Address, target: Address) -> bool:
        now = wire.now_us / SECOND
        if source == inside.address:
            last[target] = now
        return target != inside.address or now - last.get(source, -lasts) < lasts

    tap.passes = passes


@pytest.mark.parametrize("caller", ["a", "b"])
def test_behind_a_nat_the_way_in_stays_open(caller: str) -> None:
    """A packet every 25 s from within; after an hour of silence a packet gets in at once, whoever called."""
    wire, a, b, tap = pair()
    nat(wire, tap, a)
    wire.send(a, b)
    wire.run(1)
    if caller == "b":
        every(wire, [(b, a)], 3)
    tap.seen.clear()
    for _ in range(12):
        wire.run(300)
        packet = wire.send(b, a)
        wire.run(0.2)
        assert [p for _, p in a.packets][-1] == packet
    outgoing = sorted(t for t, source, _ in tap.seen if source == a.address)
    assert max(later - earlier for earlier, later in pairwise(outgoing)) <= 25.5


def test_behind_a_nat_an_idle_hour_costs_little() -> None:
    wire, a, b, tap = pair()
    nat(wire, tap, a)
    wire.send(a, b)
    wire.run(60)
    tap.seen.clear()
    wire.run(HOUR)
    size = sum(len(datagram) + 48 for _, _, datagram in tap.seen)
    assert 100 <= len(tap.keepalives(a)) <= 3600 / 25 + 3600 / 125 + 1, "one confirms each handshake"
    assert size / HOUR < 100, "bytes per second"
    assert tap.keepalives(b) == []


def test_a_configured_keepalive_needs_no_nat() -> None:
    wire, a, b, tap = connected(keepalive=True)
    tap.seen.clear()
    wire.run(100)
    assert len(tap.keepalives(a)) in (3, 4, 5)
    wire.run(HOUR)
    assert has_keys(a, b)


@pytest.mark.parametrize("eager", [True, False])
def test_an_idle_pair_is_silent_for_ever(eager: bool) -> None:
    wire, a, b, tap = connected(eager=eager)
    wire.send(b, a)
    wire.run(REJECT + 1)
    tap.seen.clear()
    wire.run(HOUR)
    assert tap.seen == []


# ---------------------------------------------------------------------------------- nobody answers


def test_who_has_traffic_tries_for_90_seconds_and_says_so() -> None:
    """A fresh message 1 every five seconds and a third at most; then what waited is dropped."""
    wire, a, b, tap = pair()
    tap.silence(passes=False)
    old = wire.send(a, b, b"old")
    wire.run(89.9)
    assert count(a, NoAnswer) == 0
    wire.run(5.5)
    assert count(a, NoAnswer) == 1
    calls = tap.calls(a)
    assert all(5 <= later - earlier <= 5.34 for earlier, later in pairwise(calls))
    tap.silence(passes=True)
    new = wire.send(a, b, b"new")
    wire.run(1)
    packets = [packet for _, packet in b.packets]
    assert new in packets
    assert old not in packets


def test_message_1_is_repeated_as_it_was() -> None:
    """After 0.5, 1 and 2 seconds, byte for byte; then it is a new one."""
    wire, a, b, tap = pair()
    tap.silence(passes=False)
    wire.send(a, b)
    wire.run(5.5)
    first = tap.seen[0][2]
    assert [when for when, _, datagram in tap.seen if datagram == first] == [0, 0.5, 1, 2]


def test_a_switched_off_peer_is_called_ever_more_rarely() -> None:
    """An eager node whose peer never answers: five seconds of trying, then 25, 50 … 600 seconds of rest."""
    wire, a, b, tap = pair()
    tap.silence(passes=False)
    restart(wire, a, b, eager=True)
    wire.run(3 * HOUR)
    starts = tap.calls(a)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    expected = [30.0, 55, 105, 205, 405, *[605] * 15]
    for pause, wanted in zip(pauses, expected, strict=False):
        assert wanted - 1 <= pause <= wanted + 1
    assert len(pauses) >= 18
    tap.silence(passes=True)
    wire.run(610)
    assert count(a, Connected) == 1


def test_staged_packets_are_the_last_128_and_leave_in_order() -> None:
    wire, a, b, tap = pair()
    tap.silence(passes=False)
    packets = [wire.send(a, b, b"%d " % number) for number in range(200)]
    wire.run(3)
    assert len(a.core.peers[b.id]._staged) == 128
    tap.silence(passes=True)
    wire.run(10)
    assert [packet for _, packet in b.packets] == packets[-128:]


# ---------------------------------------------------------------------------------- restarts


def restart(wire: Wire, node: Node, other: Node, eager: bool, remembers: bool = True) -> None:
    """kill -9; the store kept the clock of the last confirmed message 1 (or was lost with it)."""
    clock_us = node.core.peers[other.id].config.last_clock_us
    wire.restart(node)
    config = other.peer_config(eager=eager, last_clock_us=clock_us if remembers else 0)
    node.core.add_peer(config, [], wire.now_us)


@pytest.mark.parametrize("remembers", [True, False], ids=["clock kept", "clock lost"])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_killed_node_that_is_eager_is_back_at_once(who: str, remembers: bool) -> None:
    wire, a, b, _ = connected()
    every(wire, [(a, b), (b, a)], 20, step=0.1)
    restart(wire, a if who == "a" else b, b if who == "a" else a, eager=True, remembers=remembers)
    a.packets.clear()
    b.packets.clear()
    killed_us = wire.now_us
    every(wire, [(a, b), (b, a)], 5, step=0.1)
    for node in (a, b):
        assert node.packets[0][0] - killed_us < SECOND
        assert len(node.packets) >= 48


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_killed_node_that_waits_is_found_by_the_other_s_traffic(who: str) -> None:
    """Only the survivor has something to say: 15 s without a reply, and a handshake."""
    wire, a, b, _ = connected()
    killed, alive = (a, b) if who == "a" else (b, a)
    every(wire, [(alive, killed)], 20, step=0.1)
    restart(wire, killed, alive, eager=False)
    killed.packets.clear()
    killed_us = wire.now_us
    every(wire, [(alive, killed)], 20, step=0.1)
    assert killed.packets[0][0] - killed_us <= 15.3 * SECOND


def test_both_killed_at_once() -> None:
    wire, a, b, _ = connected()
    restart(wire, a, b, eager=True)
    restart(wire, b, a, eager=True)
    wire.run(2)
    b.packets.clear()
    packet = wire.send(a, b)
    wire.run(0.1)
    assert [p for _, p in b.packets] == [packet]


def test_killed_again_and_again() -> None:
    """Twenty times at odd moments, either of the two, with traffic both ways: always back within seconds."""
    wire, a, b, _ = connected()
    for number in range(20):
        node, other = ((a, b), (b, a))[number % 2]
        every(wire, [(a, b), (b, a)], 1 + number * 1.3, step=0.1)
        restart(wire, node, other, eager=True)
        a.packets.clear()
        b.packets.clear()
        every(wire, [(a, b), (b, a)], 2, step=0.1)
        assert len(a.packets) >= 15
        assert len(b.packets) >= 15


# ---------------------------------------------------------------------------------- down and up


def test_down_says_goodbye_and_both_forget() -> None:
    wire, a, b, tap = connected()
    b.core.remove_peer(a.id, wire.now_us, wire.unix_us(b))
    wire.run(0.1)
    assert [event for event in a.events if isinstance(event, Disconnected)] == [Disconnected(b.id, True)]
    assert not has_keys(a, b)
    assert not [slot for slot in b.core.indexes._by_slot.values() if slot]
    tap.seen.clear()
    wire.run(HOUR)
    assert tap.seen == []


def test_who_is_down_does_not_answer_and_up_brings_it_back() -> None:
    wire, a, b, tap = connected()
    b.core.remove_peer(a.id, wire.now_us, wire.unix_us(b))
    wire.run(0.1)
    tap.seen.clear()
    every(wire, [(a, b)], 20)
    assert not [datagram for _, source, datagram in tap.seen if source == b.address]
    assert b.core.counters["message 1 of a stranger"] > 0
    b.core.add_peer(a.peer_config(eager=True), [], wire.now_us)
    wire.run(0.5)
    assert len(b.packets) >= 20, "what a had staged"
    packet = wire.send(b, a)
    wire.run(0.1)
    assert [p for _, p in a.packets][-1] == packet


def test_down_without_a_session_says_nothing() -> None:
    wire, a, b, tap = connected()
    wire.run(REJECT + 1)
    tap.seen.clear()
    b.core.remove_peer(a.id, wire.now_us, wire.unix_us(b))
    wire.run(100)
    assert tap.seen == []


def test_close_ends_every_session() -> None:
    wire, a, b, tap = connected()
    c = wire.node("c", "203.0.113.1")
    wire.introduce(a, c)
    wire.send(a, c)
    wire.run(1)
    a.core.close(wire.now_us, wire.unix_us(a))
    wire.run(1)
    for node in (b, c):
        assert count(node, Disconnected) == 1
        assert not has_keys(node, a)
    assert not a.core.peers
    tap.seen.clear()
    wire.run(HOUR)
    assert tap.seen == []
    assert a.core.deadline_us() > wire.now_us + HOUR * SECOND


@pytest.mark.parametrize("waits", [398, 500], ids=["in mid-attempt", "at rest"])
def test_a_new_network_wakes_who_was_never_reached(waits: int) -> None:
    """Without a network nobody answers; when there is one, an eager node calls at once."""
    wire, a, b, tap = pair()
    tap.silence(passes=False)
    restart(wire, a, b, eager=True)
    wire.run(waits)
    tap.silence(passes=True)
    a.address = at("203.0.113.9")
    a.core.network_changed(["203.0.113.9"], wire.now_us, wire.unix_us(a))
    wire.run(0.2)
    assert count(a, Connected) == 1


def test_a_new_network_lets_what_waits_go_at_once() -> None:
    wire, a, b, tap = pair()
    tap.silence(passes=False)
    packet = wire.send(a, b)
    wire.run(3)
    tap.silence(passes=True)
    a.address = at("203.0.113.9")
    a.core.network_changed(["203.0.113.9"], wire.now_us, wire.unix_us(a))
    wire.run(0.1)
    assert [p for _, p in b.packets] == [packet]
