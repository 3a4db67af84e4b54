from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tun.errors import NamesError
from tun.names4 import DEFAULT_POOL, WIRE_DESTINATION, WIRE_SOURCE, Pool, Translator, readdress

TCP, UDP, ICMP, UDP_LITE, DCCP, SCTP = 6, 17, 1, 136, 33, 132
FIELD = {TCP: 16, UDP: 6, UDP_LITE: 6, DCCP: 6}
LAN = ip_address("192.168.7.7").packed


def checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(
    src: bytes, dst: bytes, protocol: int, payload: bytes, options: bytes = b"", fragment: int = 0
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 0x1234, fragment, 63, protocol, 0
    )
    head = head + src + dst + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def transport(src: bytes, dst: bytes, protocol: int, body: bytes) -> bytes:
    """A segment with its checksum over the pseudo-header, from scratch."""
    field = FIELD[protocol]
    body = body.ljust(field + 2, b"\x2a")
    body = body[:field] + b"\0\0" + body[field + 2 :]
    pseudo = src + dst + struct.pack("!BBH", 0, protocol, len(body))
    value = checksum(pseudo + body)
    if protocol == UDP and value == 0:
        value = 0xFFFF
    return body[:field] + value.to_bytes(2, "big") + body[field + 2 :]


def icmp(kind: int, body: bytes, code: int = 1) -> bytes:
    head = struct.pack("!BBHI", kind, code, 0, 0x0000_0578)
    return head[:2] + checksum(head + body).to_bytes(2, "big") + head[4:] + body


def nodes() -> tuple[Translator, Translator, bytes, bytes, bytes]:
    """A and B in equal pools: (A, B, own address at both, A's name for B, B's name for A)."""
    pool_a, pool_b = Pool(), Pool()
    for number in range(3):
        pool_a.assign(b"other %d" % number)
    name_of_b = pool_a.assign(b"b").packed
    name_of_a = pool_b.assign(b"a").packed
    return Translator(pool_a), Translator(pool_b), pool_a.own.packed, name_of_b, name_of_a


A, B, OWN, NAME_OF_B, NAME_OF_A = nodes()
FREE = ip_address("198.18.200.1").packed
BROADCAST = DEFAULT_POOL.broadcast_address.packed


def through(packet: bytes) -> tuple[bytes, bytes]:
    """What A sends on the wire for a packet of its host, and what B's host gets."""
    buffer = bytearray(packet)
    assert A.to_wire(buffer)
    wire = bytes(buffer)
    assert B.from_wire(buffer, NAME_OF_A)
    return wire, bytes(buffer)


@given(
    protocol=st.sampled_from(sorted(FIELD)),
    body=st.binary(min_size=18, max_size=64),
    options=st.sampled_from([b"", bytes(4), b"\x94\x04\x00\x00" * 10]),
)
def test_as_if_computed_from_scratch(protocol: int, body: bytes, options: bytes) -> None:
    def built(src: bytes, dst: bytes) -> bytes:
        return ipv4(src, dst, protocol, transport(src, dst, protocol, body), options)

    wire, arrived = through(built(OWN, NAME_OF_B))
    assert wire == built(WIRE_SOURCE, WIRE_DESTINATION)
    assert arrived == built(NAME_OF_A, OWN)


def left_to_an_offload(src: bytes, dst: bytes, protocol: int, body: bytes) -> bytes:
    """A segment whose checksum field holds the pseudo-header's sum: never 0, as it has a protocol in it."""
    field = FIELD[protocol]
    body = body.ljust(field + 2, b"\x2a")
    pseudo = src + dst + struct.pack("!BBH", 0, protocol, len(body))
    return body[:field] + (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + body[field + 2 :]


@given(
    protocol=st.sampled_from([TCP, UDP]),
    size=st.one_of(st.integers(18, 64), st.integers(0, 65535 - 60)),
    options=st.sampled_from([b"", bytes(4), b"\x94\x04\x00\x00" * 10]),
)
def test_a_checksum_left_to_an_offload(protocol: int, size: int, options: bytes) -> None:
    def built(src: bytes, dst: bytes) -> bytes:
        return ipv4(src, dst, protocol, left_to_an_offload(src, dst, protocol, bytes(size)), options)

    buffer = bytearray(built(OWN, NAME_OF_B))
    assert A.to_wire(buffer, partial=True)
    assert buffer == built(WIRE_SOURCE, WIRE_DESTINATION)
    assert B.from_wire(buffer, NAME_OF_A, partial=True)
    assert buffer == built(NAME_OF_A, OWN)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_every_partial_sum(protocol: int) -> None:
    """Whatever stands there moves by the difference of the addresses, and is never 0."""
    body = bytearray(left_to_an_offload(OWN, NAME_OF_B, protocol, bytes(20)))
    apart = int.from_bytes(WIRE_SOURCE + WIRE_DESTINATION, "big") - int.from_bytes(OWN + NAME_OF_B, "big")
    for word in range(0x10000):
        body[FIELD[protocol] : FIELD[protocol] + 2] = word.to_bytes(2, "big")
        packet = bytearray(ipv4(OWN, NAME_OF_B, protocol, bytes(body)))
        assert A.to_wire(packet, partial=True)
        at = 20 + FIELD[protocol]
        after = int.from_bytes(packet[at : at + 2], "big")
        assert after
        assert (after - word - apart) % 0xFFFF == 0


@given(
    pair=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    body=st.binary(min_size=20, max_size=30),
    partial=st.booleans(),
    protocol=st.sampled_from([TCP, UDP, SCTP]),
    fragment=st.sampled_from([0, 0x4000, 0x2000, 7]),
)
def test_the_fast_way_is_the_same(
    pair: tuple[int, int], body: bytes, partial: bool, protocol: int, fragment: int
) -> None:
    """A plan for the addresses, then `readdress` in the middle of a buffer: as to_wire and from_wire do."""
    known = [
        OWN,
        NAME_OF_B,
        NAME_OF_A,
        LAN,
        FREE,
        BROADCAST,
        WIRE_SOURCE,
        WIRE_DESTINATION,
        bytes(4),
        b"\xff" * 4,
    ]
    src, dst = known[pair[0]], known[pair[1]]
    packet = ipv4(src, dst, protocol, body, fragment=fragment)
    for leaving, planned in ((True, A.plan_out(src + dst)), (False, A.plan_in(src + dst, NAME_OF_B))):
        whole = bytearray(packet)
        passes = A.to_wire(whole, partial) if leaving else A.from_wire(whole, NAME_OF_B, partial)
        assert passes == (planned is not None)
        if planned is not None:
            buffer = bytearray(b"\xee" * 3 + packet + b"\xee" * 3)
            readdress(buffer, 3, 3 + len(packet), planned, partial)
            assert buffer == b"\xee" * 3 + whole + b"\xee" * 3
        else:
            assert whole == packet


@given(body=st.binary(max_size=40))
def test_udp_without_checksum_stays_without(body: bytes) -> None:
    def built(src: bytes, dst: bytes) -> bytes:
        return ipv4(src, dst, UDP, struct.pack("!HHHH", 53, 5353, 8 + len(body), 0) + body)

    wire, arrived = through(built(OWN, NAME_OF_B))
    assert wire == built(WIRE_SOURCE, WIRE_DESTINATION)
    assert arrived == built(NAME_OF_A, OWN)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_every_checksum_value(protocol: int) -> None:
    """All 65,536 sums, so also those next to 0 and 65535; a UDP sum of 0 must go out as 65535."""
    special = 0
    for word in range(0x10000):
        body = b"\x2a" * 18 + word.to_bytes(2, "big")
        before = transport(OWN, NAME_OF_B, protocol, body)
        after = transport(WIRE_SOURCE, WIRE_DESTINATION, protocol, body)
        packet = bytearray(ipv4(OWN, NAME_OF_B, protocol, before))
        assert A.to_wire(packet)
        assert packet[20:] == after
        special += after[FIELD[protocol] :][:2] in (b"\0\0", b"\xff\xff")
    assert special


@given(body=st.binary(max_size=40), protocol=st.sampled_from([ICMP, SCTP, 47, 50]))
def test_other_protocols_change_in_the_header_only(body: bytes, protocol: int) -> None:
    payload = icmp(8, body) if protocol == ICMP else body
    wire, arrived = through(ipv4(OWN, NAME_OF_B, protocol, payload))
    assert wire == ipv4(WIRE_SOURCE, WIRE_DESTINATION, protocol, payload)
    assert arrived == ipv4(NAME_OF_A, OWN, protocol, payload)


@given(
    body=st.binary(min_size=20, max_size=40),
    offset=st.integers(1, 0x1FFF),
    more=st.booleans(),
    protocol=st.sampled_from([TCP, UDP, ICMP]),
)
def test_later_fragments_change_in_the_header_only(
    body: bytes, offset: int, more: bool, protocol: int
) -> None:
    fragment = offset | more << 13
    wire, arrived = through(ipv4(OWN, NAME_OF_B, protocol, body, fragment=fragment))
    assert wire == ipv4(WIRE_SOURCE, WIRE_DESTINATION, protocol, body, fragment=fragment)
    assert arrived == ipv4(NAME_OF_A, OWN, protocol, body, fragment=fragment)


def test_fragments_join_to_a_sound_datagram() -> None:
    body = struct.pack("!HHHH", 1, 2, 8 + 40, 0) + bytes(range(40))
    whole = transport(OWN, NAME_OF_B, UDP, body)
    joined = b""
    for start, more in ((0, 1), (24, 0)):
        piece = whole[start : start + 24]
        joined += through(ipv4(OWN, NAME_OF_B, UDP, piece, fragment=start // 8 | more << 13))[1][20:]
    assert joined == transport(NAME_OF_A, OWN, UDP, body)


@given(
    kind=st.sampled_from([3, 4, 5, 11, 12]),
    protocol=st.sampled_from([*sorted(FIELD), ICMP]),
    body=st.binary(min_size=20, max_size=50),
    quoted_bytes=st.integers(0, 50),
    options=st.sampled_from([b"", b"\x94\x04\x00\x00"]),
)
def test_icmp_errors_quote_the_translated_packet(
    kind: int, protocol: int, body: bytes, quoted_bytes: int, options: bytes
) -> None:
    """A's host complains about a packet that B sent; the quote ends anywhere, also inside a checksum."""

    def complaint(src: bytes, dst: bytes, quoted_src: bytes, quoted_dst: bytes) -> bytes:
        payload = body if protocol == ICMP else transport(quoted_src, quoted_dst, protocol, body)
        quoted = ipv4(quoted_src, quoted_dst, protocol, payload, options)
        return ipv4(src, dst, ICMP, icmp(kind, quoted[: 20 + len(options) + quoted_bytes]))

    wire, arrived = through(complaint(OWN, NAME_OF_B, NAME_OF_B, OWN))
    assert not checksum(wire[20:]) | checksum(arrived[20:])
    if quoted_bytes == FIELD.get(protocol, -2) + 1:
        return  # half a checksum cannot be mended, and nobody can check it
    assert wire == complaint(WIRE_SOURCE, WIRE_DESTINATION, WIRE_SOURCE, WIRE_DESTINATION)
    assert arrived == complaint(NAME_OF_A, OWN, OWN, NAME_OF_A)


def test_a_router_behind_a_peer_complains() -> None:
    """B sent to a LAN behind A; a router there answers A's peer, and only B's side of the quote is a name."""
    router = ip_address("192.168.7.1").packed

    def complaint(dst: bytes, quoted_src: bytes) -> bytes:
        quoted = ipv4(quoted_src, LAN, UDP, transport(quoted_src, LAN, UDP, bytes(30)))
        return ipv4(router, dst, ICMP, icmp(11, quoted))

    wire, arrived = through(complaint(NAME_OF_B, NAME_OF_B))
    assert wire == complaint(WIRE_DESTINATION, WIRE_SOURCE)
    assert arrived == complaint(OWN, OWN)


@pytest.mark.parametrize(
    "quoted",
    [b"", bytes(19), bytes(20), b"\x60" + bytes(60), b"\x44" + bytes(40), b"\x4f" + bytes(30)],
    ids=["nothing", "too short", "no version", "IPv6", "short header", "header past the end"],
)
def test_an_unsound_quote_is_left_alone(quoted: bytes) -> None:
    wire, _ = through(ipv4(OWN, NAME_OF_B, ICMP, icmp(3, quoted)))
    assert wire[20:] == icmp(3, quoted)


def test_real_sides_stay_real() -> None:
    """Subnet routes: each side of a packet is rewritten for itself."""
    body = bytes(20)
    out, there = through(ipv4(OWN, LAN, TCP, transport(OWN, LAN, TCP, body)))
    assert out == ipv4(WIRE_SOURCE, LAN, TCP, transport(WIRE_SOURCE, LAN, TCP, body))
    assert there == ipv4(NAME_OF_A, LAN, TCP, transport(NAME_OF_A, LAN, TCP, body))
    untouched = ipv4(LAN, bytes([10, 0, 0, 1]), TCP, transport(LAN, bytes([10, 0, 0, 1]), TCP, body))
    assert through(untouched) == (untouched, untouched)


def test_ipv6_passes() -> None:
    packet = bytearray(b"\x60" + bytes(39))
    assert A.to_wire(packet)
    assert A.from_wire(packet, NAME_OF_B)
    assert packet == b"\x60" + bytes(39)


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (OWN, FREE),  # nobody's name
        (OWN, BROADCAST),
        (OWN, OWN),
        (NAME_OF_B, NAME_OF_B),  # not ours to send from
        (FREE, LAN),
        (WIRE_SOURCE, NAME_OF_B),  # would become somebody else's address over there
        (OWN, WIRE_DESTINATION),
        (LAN, WIRE_SOURCE),
    ],
)
def test_refused_to_the_wire(src: bytes, dst: bytes) -> None:
    packet = bytearray(ipv4(src, dst, UDP, transport(src, dst, UDP, b"")))
    before = bytes(packet)
    assert not A.to_wire(packet)
    assert packet == before


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (NAME_OF_A, WIRE_DESTINATION),  # a name of B's, chosen by the sender
        (OWN, WIRE_DESTINATION),
        (WIRE_SOURCE, OWN),
        (WIRE_SOURCE, FREE),
        (WIRE_DESTINATION, WIRE_DESTINATION),
        (WIRE_SOURCE, WIRE_SOURCE),
    ],
)
def test_refused_from_the_wire(src: bytes, dst: bytes) -> None:
    packet = bytearray(ipv4(src, dst, UDP, transport(src, dst, UDP, b"")))
    before = bytes(packet)
    assert not B.from_wire(packet, NAME_OF_A)
    assert packet == before


def test_a_peer_cannot_forge_errors_about_another_peers_traffic() -> None:
    quoted = ipv4(OWN, FREE, TCP, transport(OWN, FREE, TCP, bytes(20)))
    packet = bytearray(ipv4(WIRE_SOURCE, WIRE_DESTINATION, ICMP, icmp(3, quoted)))
    before = bytes(packet)
    assert not B.from_wire(packet, NAME_OF_A)
    assert packet == before


@given(st.one_of(st.binary(max_size=120), st.binary(max_size=100).map(lambda tail: b"\x45\0\0\x40" + tail)))
def test_garbage_never_raises_nor_grows(data: bytes) -> None:
    for translate in (A.to_wire, lambda packet: B.from_wire(packet, NAME_OF_A)):
        packet = bytearray(data)
        if not translate(packet):
            assert packet == data
        assert len(packet) == len(data)


@given(st.data())
def test_flipped_bits_and_cuts_never_raise(data: st.DataObject) -> None:
    quoted = ipv4(
        WIRE_SOURCE, WIRE_DESTINATION, TCP, transport(WIRE_SOURCE, WIRE_DESTINATION, TCP, bytes(20))
    )
    packet = bytearray(ipv4(WIRE_SOURCE, WIRE_DESTINATION, ICMP, icmp(3, quoted)))
    for _ in range(data.draw(st.integers(1, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del packet[data.draw(st.integers(0, len(packet))) :]
    before = bytes(packet)
    if not B.from_wire(packet, NAME_OF_A):
        assert packet == before


def test_padding_behind_the_packet_is_not_touched() -> None:
    packet = bytearray(ipv4(OWN, NAME_OF_B, UDP, b"\0\1\0\2"))  # cut before its checksum
    packet += b"\xaa" * 12
    assert A.to_wire(packet)
    assert packet[-12:] == b"\xaa" * 12


def test_rfc_1624_example() -> None:
    """Section 4: a header checksum of 0xDD2F, a word from 0x5555 to 0x3285, gives 0x0000."""
    from tun.names4 import _adjust

    field = bytearray(b"\xdd\x2f")
    _adjust(field, 0, 0x3285 - 0x5555)
    assert field == b"\0\0"


# As Linux 6.18 sent them from 198.18.0.1 to 198.18.0.5; the last complains about a UDP datagram from there.
REAL = {
    "ping": "450000245946400040015568c6120001c61200050800c88b236300010001020304050607",
    "udp": "45000023837b400040112b24c6120001c61200059c400035000f16f77a65716e6f6465",
    "syn": "4500003c90b6400040061ddbc6120001c61200059c4100502ec3245e00000000a002faf00a170000"
    "020405b40402080a4a4c7ccb000000000103030a",
    "unreachable": "45c0003e5a330000400193a1c6120001c6120005030389470000000045000022000700004011ee99"
    "c6120005c612000104d20009000e449f616263646566",
}
# The same as they must look on the wire.
ON_THE_WIRE = {
    "ping": "45000024594640004001618fc0000001c00000020800c88b236300010001020304050607",
    "udp": "45000023837b40004011374bc0000001c00000029c400035000f231e7a65716e6f6465",
    "syn": "4500003c90b6400040062a02c0000001c00000029c4100502ec3245e00000000a002faf0163e0000"
    "020405b40402080a4a4c7ccb000000000103030a",
    "unreachable": "45c0003e5a33000040019fc8c0000001c000000203037d200000000045000022000700004011fac0"
    "c0000001c000000204d20009000e50c6616263646566",
}


def is_sound(packet: bytes) -> bool:
    """Every checksum of the packet, and of what it quotes, computed from scratch."""
    body = packet[20:]
    if packet[9] == ICMP:
        quote = body[8:] if body[0] == 3 else b""
        return not checksum(packet[:20]) and not checksum(body) and (not quote or is_sound(quote))
    pseudo = packet[12:20] + struct.pack("!BBH", 0, packet[9], len(body))
    return not checksum(packet[:20]) and not checksum(pseudo + body)


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_vectors(name: str) -> None:
    packet = bytes.fromhex(REAL[name])
    assert is_sound(packet)
    wire, arrived = through(packet)
    assert wire.hex() == ON_THE_WIRE[name]
    assert is_sound(wire)
    assert wire[12:20] == WIRE_SOURCE + WIRE_DESTINATION
    assert is_sound(arrived)
    assert arrived[12:20] == NAME_OF_A + OWN
    if name == "unreachable":
        assert wire[40:48] == WIRE_SOURCE + WIRE_DESTINATION
        assert arrived[40:48] == OWN + NAME_OF_A


def test_names_are_the_lowest_free() -> None:
    pool = Pool(IPv4Network("10.9.0.0/29"))
    assert str(pool.own) == "10.9.0.1"
    assert [str(pool.assign(machine)) for machine in (b"a", b"b", b"c", b"a")] == [
        "10.9.0.2",
        "10.9.0.3",
        "10.9.0.4",
        "10.9.0.2",
    ]
    pool.release(b"a")
    pool.release(b"b")
    pool.release(b"never there")
    assert pool.machine_of(ip_address("10.9.0.2").packed) is None
    assert str(pool.assign(b"d")) == "10.9.0.2"
    assert str(pool.assign(b"a")) == "10.9.0.3"
    assert pool.machine_of(ip_address("10.9.0.3").packed) == b"a"


def test_a_full_pool_says_so() -> None:
    pool = Pool(IPv4Network("10.9.0.0/29"))
    for number in range(5):
        pool.assign(bytes([number]))
    with pytest.raises(NamesError, match=r"10\.9\.0\.0/29 .* full \(5 peers\)"):
        pool.assign(b"one more")
    pool.release(b"\2")
    assert str(pool.assign(b"one more")) == "10.9.0.4"


@pytest.mark.parametrize("length", [31, 32])
def test_a_pool_without_room_for_a_peer_is_refused(length: int) -> None:
    with pytest.raises(NamesError, match="too small"):
        Pool(IPv4Network(("10.9.0.0", length)))
    assert str(Pool(IPv4Network("10.9.0.0/30")).assign(b"a")) == "10.9.0.2"


def test_remembered_names_come_back() -> None:
    first = Pool()
    for number in range(5):
        first.assign(bytes([number]))
    first.release(b"\1")
    second = Pool()
    assert second.load(first.assignments()) == []
    assert second.load(first.assignments()) == []  # twice is no conflict
    assert second.assignments() == first.assignments()
    assert second.assign(b"new") == first.assign(b"new")


def test_remembered_names_that_do_not_fit_are_reported() -> None:
    pool = Pool(IPv4Network("10.9.0.0/24"))
    stored = {
        b"fits": IPv4Address("10.9.0.2"),
        b"same": IPv4Address("10.9.0.2"),
        b"own": IPv4Address("10.9.0.1"),
        b"network": IPv4Address("10.9.0.0"),
        b"broadcast": IPv4Address("10.9.0.255"),
        b"elsewhere": IPv4Address("198.18.0.2"),
    }
    assert pool.load(stored) == [b"same", b"own", b"network", b"broadcast", b"elsewhere"]
    assert pool.assignments() == {b"fits": IPv4Address("10.9.0.2")}
    assert pool.load({b"fits": IPv4Address("10.9.0.7")}) == [b"fits"]
    assert str(pool.assign(b"elsewhere")) == "10.9.0.3"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_pool_against_a_slow_one(steps: list[tuple[bool, int]]) -> None:
    pool = Pool(IPv4Network("10.9.0.0/28"))
    slow: dict[bytes, IPv4Address] = {}
    hosts = [*IPv4Network("10.9.0.0/28").hosts()][1:]
    for take, number in steps:
        machine = bytes([number])
        if take:
            free = (host for host in hosts if host not in slow.values())
            slow.setdefault(machine, next(free))
            assert pool.assign(machine) == slow[machine]
        else:
            slow.pop(machine, None)
            pool.release(machine)
        assert pool.assignments() == slow
        for host in hosts:
            owner = next((machine for machine, name in slow.items() if name == host), None)
            assert pool.machine_of(host.packed) == owner


def test_membership() -> None:
    pool = Pool(IPv4Network("10.9.0.0/24"))
    assert ip_address("10.9.0.0").packed in pool
    assert ip_address("10.9.0.255").packed in pool
    assert ip_address("10.9.1.0").packed not in pool
    assert ip_address("10.8.255.255").packed not in pool
