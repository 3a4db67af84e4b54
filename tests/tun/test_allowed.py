"""Who may send from, and who gets, which inner address: whole cores, from one TUN to another."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pair import Node, Wire, ipv6
from tun.doorkeeper import Invited
from tun.frames import OVERHEAD_BYTES
from tun.names4 import WIRE_DESTINATION, WIRE_SOURCE
from tun.peer import Peer

HOME_LAN = IPv4Network("192.168.7.0/24")
NAS = ip_address("192.168.7.7").packed
FOREIGN = "packet with a source that is not the peer's"
UNSERVED = "packet for a destination that is not served"
NOBODY = "packet for nobody"
LOCAL_NAME = "packet with a local name where none may be"


def three() -> tuple[Wire, Node, Node, Node]:
    """a, b and c know each other; at b the others' IPv4 names are other ones than at a."""
    wire = Wire(seed=3)
    a, b, c = (
        wire.node(name, host)
        for name, host in (("a", "192.0.2.1"), ("b", "198.51.100.1"), ("c", "203.0.113.1"))
    )
    for number in range(5):
        b.core.pool.assign(b"machine %d" % number)
    wire.introduce(a, b)
    wire.introduce(b, c)
    wire.introduce(a, c)
    return wire, a, b, c


def put(wire: Wire, node: Node, packet: bytes) -> None:
    """Into the node's TUN, and all that follows."""
    node.core.send(packet, wire.now_us, wire.unix_us(node))
    wire.run(0.5)


def arrived(node: Node) -> list[bytes]:
    return [packet for _, packet in node.packets]


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) % 2 else 0
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16) ^ 0xFFFF


def udp4(source: bytes, target: bytes, body: bytes = b"hello world") -> bytes:
    """An IPv4 packet with a UDP datagram; both checksums are right."""
    length = 8 + len(body)
    datagram = struct.pack("!HHHH", 4000, 5000, length, 0) + body
    pseudo = source + target + struct.pack("!BBH", 0, 17, length)
    datagram = datagram[:6] + checksum(pseudo + datagram).to_bytes(2, "big") + datagram[8:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 7, 0, 64, 17, 0) + source + target
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + datagram


def name(at: Node, of: Node) -> bytes:
    return at.core.pool.assign(of.id).packed


def own(node: Node) -> bytes:
    return node.core.pool.own.packed


# ---------------------------------------------------------------------------------- IPv6


def test_a_peer_reaches_the_node_and_nothing_else() -> None:
    wire, a, b, _ = three()
    good = ipv6(a.ula, b.ula, b"to b itself")
    put(wire, a, good)
    assert arrived(b) == [good]
    assert not b.core.counters.keys() & {FOREIGN, UNSERVED}


@pytest.mark.parametrize("source", ["c", "b", "fd00::1", "::", "::1", "2001:db8::1", "ff02::1"])
def test_a_spoofed_source_inside_is_refused(source: str) -> None:
    wire, a, b, c = three()
    put(wire, a, ipv6(a.ula, b.ula, b""))
    b.packets.clear()
    spoofed = {"c": c.ula, "b": b.ula}.get(source) or ip_address(source)
    assert spoofed.version == 6
    put(wire, a, ipv6(spoofed, b.ula, b"not from a"))
    assert arrived(b) == []
    assert b.core.counters[FOREIGN] == 1


@pytest.mark.parametrize("target", ["c", "2001:db8::1", "fd00::1", "::1", "ff02::1"])
def test_a_destination_that_is_not_served_is_refused(target: str) -> None:
    """a routes the world to b, which does not play router: least of all onward to c."""
    wire, a, b, c = three()
    a.core.add_peer(b.peer_config(), [IPv6Network("::/0")], wire.now_us)
    if target == "c":
        a.core.remove_peer(c.id, wire.now_us, wire.unix_us(a))
    destination = c.ula if target == "c" else ip_address(target)
    assert destination.version == 6
    put(wire, a, ipv6(a.ula, destination, b"onward"))
    assert arrived(b) == arrived(c) == []
    assert b.core.counters[UNSERVED] == 1
    assert not [None for _, address, _ in wire.log if address == c.address]


@pytest.mark.parametrize("target", ["2001:db8::1", "ff02::1", "ff02::fb", "fd00::1"])
def test_a_destination_of_nobody_is_counted_and_leaves_nothing(target: str) -> None:
    wire, a, _, _ = three()
    destination = ip_address(target)
    assert destination.version == 6
    put(wire, a, ipv6(a.ula, destination, b""))
    assert a.core.counters[NOBODY] == 1
    assert wire.log == []


def test_the_longest_prefix_decides_and_a_removed_peer_has_none() -> None:
    wire, a, b, c = three()
    a.core.add_peer(b.peer_config(), [IPv6Network("2001:db8::/32")], wire.now_us)
    a.core.add_peer(c.peer_config(), [IPv6Network("2001:db8:5::/48")], wire.now_us)
    for node in (b, c):
        node.core.serve(IPv6Network("2001:db8::/32"))
    near, far = ip_address("2001:db8:5::1"), ip_address("2001:db8:6::1")
    assert near.version == far.version == 6
    to_c, to_b = ipv6(a.ula, near, b"near"), ipv6(a.ula, far, b"far")
    put(wire, a, to_c)
    put(wire, a, to_b)
    assert (arrived(b), arrived(c)) == ([to_b], [to_c])
    a.core.remove_peer(c.id, wire.now_us, wire.unix_us(a))
    put(wire, a, to_c)
    assert (arrived(b), arrived(c)) == ([to_b, to_c], [to_c])
    a.core.remove_peer(b.id, wire.now_us, wire.unix_us(a))
    put(wire, a, to_c)
    assert a.core.counters[NOBODY] == 1


def test_a_network_behind_a_peer_is_its_own_source_too() -> None:
    """What a accepts from b's network, it accepts from b alone."""
    wire, a, b, c = three()
    lan = IPv6Network("2001:db8:7::/64")
    a.core.add_peer(b.peer_config(), [lan], wire.now_us)
    printer = ip_address("2001:db8:7::9")
    assert printer.version == 6
    packet = ipv6(printer, a.ula, b"page printed")
    put(wire, b, packet)
    assert arrived(a) == [packet]
    put(wire, c, packet)
    assert arrived(a) == [packet]
    assert a.core.counters[FOREIGN] == 1


# ---------------------------------------------------------------------------------- IPv4


def test_local_names_are_translated_both_ways() -> None:
    """Each side sees its own address and its own name for the other, and every checksum is right."""
    wire, a, b, c = three()
    assert name(a, b) != name(b, a)
    put(wire, a, udp4(own(a), name(a, b)))
    assert arrived(b) == [udp4(name(b, a), own(b))]
    put(wire, b, udp4(own(b), name(b, a), b"and back"))
    assert arrived(a) == [udp4(name(a, b), own(a), b"and back")]
    put(wire, c, udp4(own(c), name(c, b)))
    assert arrived(b)[1:] == [udp4(name(b, c), own(b))]


def test_no_local_name_is_seen_on_the_wire() -> None:
    wire, a, b, _ = three()
    seen: list[bytes] = []
    deliver = b.core.deliver

    def note(peer: Peer, packet: bytes) -> None:
        seen.append(packet)
        deliver(peer, packet)

    b.core.deliver = note  # type: ignore[method-assign]
    put(wire, a, udp4(own(a), name(a, b)))
    assert seen == [udp4(WIRE_SOURCE, WIRE_DESTINATION)]
    assert arrived(b) == [udp4(name(b, a), own(b))]


def test_a_home_network_keeps_its_addresses() -> None:
    wire, a, b, _ = three()
    a.core.add_peer(b.peer_config(), [HOME_LAN], wire.now_us)
    put(wire, a, udp4(own(a), NAS))
    assert arrived(b) == []
    assert b.core.counters[UNSERVED] == 1
    b.core.serve(HOME_LAN)
    put(wire, a, udp4(own(a), NAS))
    assert arrived(b) == [udp4(name(b, a), NAS)]
    put(wire, b, udp4(NAS, name(b, a), b"file"))
    assert arrived(a) == [udp4(NAS, own(a), b"file")]


@pytest.mark.parametrize("source", ["192.168.7.7", "10.0.0.1", "127.0.0.1", "0.0.0.0", "255.255.255.255"])
def test_a_spoofed_ipv4_source_is_refused(source: str) -> None:
    wire, a, b, _ = three()
    put(wire, a, udp4(ip_address(source).packed, name(a, b)))
    assert arrived(b) == []
    assert b.core.counters[FOREIGN] == 1


def test_a_name_of_somebody_else_cannot_be_spoken_for() -> None:
    """c's name at b, written by a as its source: on the wire no such name may stand."""
    wire, a, b, c = three()
    peer = a.core.peers[b.id]
    peer.send_packet(udp4(name(b, c), WIRE_DESTINATION), wire.now_us, wire.unix_us(a))
    peer.send_packet(udp4(WIRE_SOURCE, own(b)), wire.now_us, wire.unix_us(a))
    wire.run(1)
    assert arrived(b) == []
    assert b.core.counters[LOCAL_NAME] == 2


def test_an_ipv4_destination_of_nobody_is_counted() -> None:
    wire, a, _, _ = three()
    for target in ("198.18.99.99", "8.8.8.8", "224.0.0.251", "255.255.255.255"):
        put(wire, a, udp4(own(a), ip_address(target).packed))
    assert a.core.counters[NOBODY] == 4
    assert wire.log == []


# ---------------------------------------------------------------------------------- nonsense


def joined() -> tuple[Wire, Node, Node]:
    wire, a, b, _ = three()
    put(wire, a, ipv6(a.ula, b.ula, b""))
    b.packets.clear()
    return wire, a, b


SHARED = joined()  # by all examples: what one leaves behind, the next must not mind


@given(
    st.lists(st.one_of(st.binary(max_size=80), st.binary(min_size=1, max_size=60).map(lambda b: b"\x45" + b)))
)
def test_nonsense_from_a_tun_is_counted(packets: list[bytes]) -> None:
    wire, a, _ = SHARED
    before = sum(a.core.counters.values())
    for packet in packets:
        a.core.send(packet, wire.now_us, wire.unix_us(a))
    assert sum(a.core.counters.values()) == before + len(packets)
    assert not a.core.outgoing


@given(st.binary(max_size=1404))
def test_nonsense_from_an_authentic_peer_goes_nowhere(packet: bytes) -> None:
    """A peer of ours gone mad: its records authenticate, what is in them is no packet that it may send."""
    wire, a, b = SHARED
    before = sum(b.core.counters.values())
    a.core.peers[b.id].send_packet(packet, wire.now_us, wire.unix_us(a))
    wire.run(0.03)
    assert arrived(b) == []
    assert sum(b.core.counters.values()) == before + 1


@given(st.integers(0, 255), st.binary(max_size=100))
def test_nonsense_of_every_kind_from_an_authentic_peer_is_survived(kind: int, body: bytes) -> None:
    wire, a, b = SHARED
    peer = a.core.peers[b.id]
    keypair = peer.keypairs.current
    if kind in (1, 4) or keypair is None:
        return
    peer._seal(keypair, bytes([kind]) + body, b.address, wire.now_us)
    wire.collect(a)
    wire.run(0.03)
    assert arrived(b) == []
    assert b.core.peers[a.id].keypairs.current is not None
    assert b.core.peers[a.id].paths.payload <= b.core.full_payload == 1404 + OVERHEAD_BYTES


# ---------------------------------------------------------------------------------- guests


def test_a_guest_s_packets_go_nowhere_until_it_is_a_peer() -> None:
    wire = Wire(seed=4)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    b.core.door.invited = lambda token_id, unix_us: Invited.GOOD
    a.core.add_peer(b.peer_config(token=bytes(16), token_id=b"t" * 16), [], wire.now_us)
    put(wire, a, ipv6(a.ula, b.ula, b"too early"))
    assert arrived(b) == []
    assert b.core.counters["packet before the invitation was redeemed"] == 1
    assert list(b.core.guests) == [a.id]
    b.core.add_peer(a.peer_config(eager=False), [], wire.now_us)
    packet = ipv6(a.ula, b.ula, b"now")
    put(wire, a, packet)
    assert arrived(b) == [packet]
