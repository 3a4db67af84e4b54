"""The gate of a peer: while it is closed no packet passes either way, in the core and in the workers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

import pytest

from tests.forgery import connected, payloads
from tests.pair import Node, Wire
from tests.planes import EVERYTHING, MACHINE, NOW, REMOTE, Side, lane_keys
from tests.virtio_packets import Shape
from tun.events import Noted, Ponged
from tun.reference import seal, unseal
from tun.seam import Aim, Carried, PeerIs, Serves, SessionOpened
from tun.table import Table

HELD = "packet held back"
NAME4 = bytes([198, 18, 0, 2])


def two() -> tuple[Wire, Node, Node]:
    wire = Wire(seed=5)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    a.core.briefing.on = True
    wire.introduce(a, b)
    return wire, a, b


def talking() -> tuple[Wire, Node, Node]:
    wire, a, b = two()
    wire.send(a, b, b"first")
    wire.run(2)
    assert connected(a, b)
    assert payloads(b) == [b"first"]
    b.packets.clear()
    return wire, a, b


# ------------------------------------------------------------------ the core's own path


def test_closed_nothing_passes_either_way_and_open_again_it_does() -> None:
    wire, a, b = talking()
    a.core.gate(b.id, False)
    before = replace(a.core.peers[b.id].traffic)
    for _ in range(3):
        wire.send(a, b, b"out")
        wire.send(b, a, b"in")
    wire.run(1)
    assert not payloads(a)
    assert not payloads(b)
    assert a.core.counters[HELD] == 6
    assert a.core.peers[b.id].traffic == before, "what was held back was not carried"
    a.core.gate(b.id, True)
    wire.send(a, b, b"out")
    wire.send(b, a, b"in")
    wire.run(1)
    assert (payloads(a), payloads(b)) == ([b"in"], [b"out"])
    assert a.core.counters[HELD] == 6


def test_packets_that_waited_for_a_session_are_held_back_when_it_comes() -> None:
    wire, a, b = two()
    wire.send(a, b, b"waits")
    a.core.gate(b.id, False)
    wire.run(2)
    assert connected(a, b)
    assert not payloads(b)
    assert a.core.counters[HELD] == 1


def test_packets_that_are_held_back_begin_no_handshake_and_are_not_kept() -> None:
    wire, a, b = two()
    a.core.gate(b.id, False)
    wire.send(a, b, b"held")
    wire.run(3)
    assert wire.log == []
    a.core.gate(b.id, True)
    wire.send(a, b, b"goes")
    wire.run(2)
    assert payloads(b) == [b"goes"]


def test_notes_pings_and_handshakes_go_on() -> None:
    wire, a, b = talking()
    a.core.gate(b.id, False)
    assert a.core.note(b.id, b"please pay", wire.now_us, wire.unix_us(a))
    assert b.core.note(a.id, b"here", wire.now_us, wire.unix_us(b))
    a.core.peers[b.id].conversation.ping(7, wire.now_us, wire.unix_us(a))
    wire.run(1)
    assert Noted(a.id, b"please pay") in b.events
    assert Noted(b.id, b"here") in a.events
    assert [event.id for event in a.events if isinstance(event, Ponged)] == [7]
    before = a.core.peers[b.id].last_handshake_us
    b.core.peers[a.id].handshakes.connect(wire.now_us, wire.unix_us(b))
    wire.run(1)
    assert a.core.peers[b.id].last_handshake_us > before
    wire.send(b, a, b"in the new session")
    wire.run(1)
    assert not payloads(a)


def test_who_sends_and_is_held_back_still_has_its_keepalive_and_calls_nobody_anew() -> None:
    wire, a, b = talking()
    a.core.gate(b.id, False)
    wire.run(30)
    before = b.core.peers[a.id].last_handshake_us
    wire.send(b, a, b"held")
    wire.run(30)
    assert b.core.peers[a.id].last_handshake_us == before
    assert b.core.counters[HELD] == 0, "the other side need not know"


def test_other_peers_are_not_touched() -> None:
    wire, a, b = talking()
    c = wire.node("c", "203.0.113.1")
    wire.introduce(a, c)
    a.core.gate(b.id, False)
    wire.send(a, c, b"out")
    wire.send(c, a, b"in")
    wire.run(2)
    assert (payloads(a), payloads(c)) == ([b"in"], [b"out"])


def test_a_network_of_a_closed_peer_does_not_fall_to_who_has_a_wider_one() -> None:
    wire, a, b = talking()
    c = wire.node("c", "203.0.113.1")
    wire.introduce(a, c)
    a.core.add_peer(c.peer_config(eager=False), [IPv6Network("::/0")], wire.now_us)
    a.core.gate(b.id, False)
    wire.send(a, b, b"not for c")
    wire.run(2)
    assert not payloads(c)
    assert a.core.counters[HELD] == 1


def test_it_holds_before_a_peer_is_added_and_when_it_is_added_again_but_not_once_forgotten() -> None:
    wire = Wire(seed=5)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    a.core.gate(b.id, False)
    wire.introduce(a, b)
    assert a.core.peers[b.id].held
    a.core.add_peer(b.peer_config(eager=False, name="another name"), [], wire.now_us)
    assert a.core.peers[b.id].held
    a.core.remove_peer(b.id, wire.now_us, wire.unix_us(a))
    wire.introduce(a, b)
    assert not a.core.peers[b.id].held
    wire.send(a, b, b"goes")
    wire.run(2)
    assert payloads(b) == [b"goes"]


def test_workers_are_told_once_for_each_change_and_new_ones_too() -> None:
    wire, a, b = talking()
    a.core.briefing.messages()
    name, networks = a.core.pool.assign(b.id), [f"{a.core.pool.assign(b.id)}/32", f"{b.ula}/128"]
    for opened in (False, False, True, True):
        a.core.gate(b.id, opened)
    closed, open_again = a.core.briefing.messages()
    assert closed == PeerIs(b.id, name.packed, networks, held=True)
    assert open_again == PeerIs(b.id, name.packed, networks, held=False)
    a.core.gate(b.id, False)
    assert closed in a.core.briefing.whole(receives=True)
    wire.run(1)


def test_what_a_worker_held_back_is_owed_a_keepalive() -> None:
    wire, a, b = talking()
    a.core.gate(b.id, False)
    wire.run(30)
    now = wire.now_us
    told = Carried(b.id, 0, 0, 0, 0, 0, 0, now, 0, 0, span=False, loss=-1.0)
    a.core.carried(told, now, wire.unix_us(a))
    wire.log.clear()
    wire.run(15)
    sent = [datagram for source, _, datagram in wire.log if source == a.address]
    assert [len(datagram) for datagram in sent] == [32]


# ------------------------------------------------------------------ the workers' path


def packet(number: int, version: int = 4) -> bytes:
    return Shape(version, payload=b"packet %d" % number).build()


def big(version: int = 4) -> bytes:
    return Shape(version, payload=bytes(20_000), gso=1200).build()


def ready() -> Side:
    """A worker's plane that has sent and received with a peer."""
    side = Side("segments")
    side.session(True, REMOTE)
    assert side.seal([packet(0)], 0, 1452)
    return side


def told(side: Side, held: bool) -> None:
    side.table.apply(PeerIs(MACHINE, NAME4, EVERYTHING, held))


def sent(side: Side, reads: list[bytes]) -> list[bytes]:
    side.tun.waiting.extend(reads)
    side.udp.sent = []
    side.plane.transmit(NOW)
    return side.udp.sent


def test_a_worker_sends_nothing_to_a_closed_peer_and_goes_on_in_the_same_lane() -> None:
    side = ready()
    told(side, held=True)
    assert sent(side, [packet(1), big(), packet(2, version=6), big(version=6)]) == []
    assert side.plane.counters == {HELD: 4}
    assert not side.plane.unsent, "the node need not see them"
    told(side, held=False)
    assert sent(side, [packet(3)]) == seal([packet(3)], lane_keys(REMOTE), 1, 1452, False)
    assert side.plane.counters == {HELD: 4}


def test_a_new_session_opens_no_gate() -> None:
    side = ready()
    told(side, held=True)
    side.session(True, REMOTE + 64)
    side.table.apply(Aim(MACHINE, side.index, "fd00::2", 4000, 1452))
    assert sent(side, [packet(1)]) == []
    told(side, held=False)
    assert sent(side, [packet(2)]) == seal([packet(2)], lane_keys(REMOTE + 64), 0, 1452, False)


@pytest.mark.parametrize("version", [4, 6])
def test_a_worker_lets_nothing_of_a_closed_peer_in_though_it_let_the_same_in_before(version: int) -> None:
    side = Side()
    side.session(False, 0x7777_0000)
    keys = lane_keys(side.index)
    trains = [seal([packet(n, version)], keys, n, 1452, False) for n in range(3)]
    assert side.unseal(trains[:1]) == unseal(trains[:1], keys)
    told(side, held=True)
    assert side.unseal(trains[1:2]) == []
    assert side.plane.counters == {HELD: 1}
    [flow] = side.plane.active
    assert (flow.received_packets, flow.last_heard_us) == (1, NOW)
    told(side, held=False)
    assert side.unseal(trains[2:]) == unseal(trains[2:], keys)


@pytest.mark.parametrize("span", [False, True], ids=["segments", "span"])
@pytest.mark.parametrize("version", [4, 6])
def test_bundles_and_supers_of_a_closed_peer_stay_out_and_were_not_carried(version: int, span: bool) -> None:
    side = Side()
    side.session(False, 0x7777_0000)
    keys = lane_keys(side.index)
    told(side, held=True)
    bundle = seal([packet(1, version), packet(2, version)], keys, 0, 1452, False)
    trains = [bundle, seal([big(version)], keys, 1, 1452, span)]
    assert side.unseal(trains) == []
    assert set(side.plane.counters) == {HELD}
    assert side.plane.counters[HELD] >= 3
    [flow] = side.plane.active
    assert flow.received_packets == flow.received_bytes == 0


@pytest.mark.parametrize("networks", [["0.0.0.0/0"], ["::/0"]], ids=["IPv4", "IPv6"])
def test_admission_says_why(networks: list[str]) -> None:
    table = Table(1)
    table.apply(Serves(EVERYTHING))
    table.apply(PeerIs(MACHINE, NAME4, networks, held=True))
    table.apply(SessionOpened(MACHINE, 64, 128, True, bytes(32), 0, 7, NOW, True))
    flow = table.flows[MACHINE]
    if networks == ["::/0"]:
        assert table.admit6(flow, bytes(31) + b"\x01" + bytes(31) + b"\x02") == HELD
    else:
        assert table.admit4(flow, bytes([192, 0, 2, 1, 192, 0, 2, 2])) == HELD
    assert not flow.accepted6
    assert not flow.accepted4
