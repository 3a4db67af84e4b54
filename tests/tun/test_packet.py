from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tun import packet as module
from tun.errors import MalformedPacketError
from tun.packet import AllowedIPs, IPNetwork, destination, packet_length, source


def ipv4(src: str, dst: str, payload: bytes = b"", words: int = 5) -> bytes:
    total = words * 4 + len(payload)
    head = bytes([0x40 | words, 0]) + total.to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 17, 0, 0])
    return head + ip_address(src).packed + ip_address(dst).packed + bytes(words * 4 - 20) + payload


def ipv6(src: str, dst: str, payload: bytes = b"") -> bytes:
    head = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([17, 64])
    return head + ip_address(src).packed + ip_address(dst).packed + payload


V4 = ipv4("10.0.0.1", "10.0.0.2", b"abcd")
V6 = ipv6("fd00::1", "fd00::2", b"abcd")


@pytest.mark.parametrize(
    ("packet", "length"),
    [
        pytest.param(V4, 24, id="ipv4"),
        pytest.param(V4 + bytes(8), 24, id="ipv4 padded"),
        pytest.param(V4[:-1], 0, id="ipv4 cut short"),
        pytest.param(V4[:19], 0, id="ipv4 header cut short"),
        pytest.param(ipv4("1.2.3.4", "5.6.7.8"), 20, id="ipv4 header only"),
        pytest.param(ipv4("1.2.3.4", "5.6.7.8", words=15), 60, id="ipv4 all options"),
        pytest.param(b"\x44" + V4[1:], 0, id="ipv4 header under 20 bytes"),
        pytest.param(b"\x4f" + V4[1:], 0, id="ipv4 header longer than the packet"),
        pytest.param(V4[:2] + b"\x00\x13" + V4[4:], 0, id="ipv4 total under its header"),
        pytest.param(V4[:2] + b"\x00\x00" + V4[4:], 0, id="ipv4 total 0"),
        pytest.param(V6, 44, id="ipv6"),
        pytest.param(V6 + bytes(3), 44, id="ipv6 padded"),
        pytest.param(V6[:-1], 0, id="ipv6 cut short"),
        pytest.param(V6[:39], 0, id="ipv6 header cut short"),
        pytest.param(ipv6("fd00::1", "fd00::2"), 40, id="ipv6 header only"),
        pytest.param(b"\x50" + V6[1:], 0, id="version 5"),
        pytest.param(bytes(60), 0, id="zeros"),
        pytest.param(b"", 0, id="empty"),
        pytest.param(ipv4("1.2.3.4", "5.6.7.8", bytes(65515)), 65535, id="largest ipv4"),
    ],
)
def test_packet_length(packet: bytes, length: int) -> None:
    for form in (packet, bytearray(packet), memoryview(packet)):
        assert packet_length(form) == length


def test_addresses_are_raw_bytes() -> None:
    assert (source(V4), destination(V4)) == (b"\x0a\0\0\1", b"\x0a\0\0\2")
    assert source(memoryview(V6)) == ip_address("fd00::1").packed
    assert destination(bytearray(V6)) == ip_address("fd00::2").packed


def test_addresses_of_a_malformed_packet_are_refused() -> None:
    for read in (source, destination):
        with pytest.raises(MalformedPacketError):
            read(V4[:-1])


def test_longest_prefix_wins() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    # Most specific in the middle: the order of insertion must not matter.
    for network, owner in [("10.0.0.0/8", "wide"), ("10.1.2.3/32", "host"), ("10.1.0.0/16", "middle")]:
        table.insert(IPv4Network(network), owner)
    for network, owner in [("::/0", "default"), ("fd00::/32", "mesh"), ("fd00::7/128", "host6")]:
        table.insert(IPv6Network(network), owner)
    found = {
        text: table.lookup(ip_address(text).packed)
        for text in ("10.1.2.3", "10.1.2.4", "10.2.0.0", "10.255.255.255", "11.0.0.0", "9.255.255.255")
    }
    assert list(found.values()) == ["host", "middle", "wide", "wide", None, None]
    assert table.lookup(ip_address("fd00::7").packed) == "host6"
    assert table.lookup(ip_address("fd00::8").packed) == "mesh"
    assert table.lookup(ip_address("2001:db8::1").packed) == "default"


def test_families_do_not_mix() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.insert(IPv4Network("0.0.0.0/0"), "four")
    assert table.lookup(ip_address("::1").packed) is None
    assert table.lookup(ip_address("::ffff:10.0.0.1").packed) is None
    assert table.lookup(bytes(4)) == "four"
    for wrong in (b"", bytes(3), bytes(5), bytes(17)):
        assert table.lookup(wrong) is None


def test_a_prefix_moves_to_its_latest_owner() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    network = IPv4Network("192.168.1.0/24")
    address = ip_address("192.168.1.9").packed
    table.insert(network, "a")
    assert table.lookup(address) == "a"
    table.insert(network, "b")
    assert table.lookup(address) == "b"
    assert table.networks_of("a") == []
    assert table.networks_of("b") == [network]


def test_removal_uncovers_the_shorter_prefix() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.insert(IPv4Network("10.0.0.0/8"), "wide")
    table.insert(IPv4Network("10.1.0.0/16"), "narrow")
    address = ip_address("10.1.1.1").packed
    assert table.lookup(address) == "narrow"
    table.remove_value("narrow")
    assert table.lookup(address) == "wide"
    table.remove_value("wide")
    table.remove_value("never there")
    assert table.lookup(address) is None


def test_networks_are_listed_in_order() -> None:
    table: AllowedIPs[int] = AllowedIPs()
    names = ["10.0.0.0/8", "10.0.0.0/24", "192.168.0.0/16", "::/0", "fd00::/32"]
    for name in reversed(names):
        table.insert(ip_network(name), 1)
    assert [str(network) for network in table.networks_of(1)] == names


def test_the_cache_is_bounded() -> None:
    table: AllowedIPs[int] = AllowedIPs()
    table.insert(IPv4Network("10.0.0.0/8"), 1)
    for number in range(3 * module.CACHE_ENTRIES):
        table.lookup((0x0A000000 + number).to_bytes(4, "big"))
        assert len(table._cache) <= module.CACHE_ENTRIES


def test_packets_find_their_peers() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    for text, owner in [
        ("10.0.0.1/32", "a"),
        ("10.0.0.2/32", "b"),
        ("fd00::1/128", "a"),
        ("fd00::2/128", "b"),
    ]:
        table.insert(ip_network(text), owner)
    for packet in (V4, V6):
        for form in (packet, bytearray(packet), memoryview(packet)):
            assert (table.lookup_source(form), table.lookup_destination(form)) == ("a", "b")
        assert table.lookup_source(packet[:-1]) is None
        assert table.lookup_destination(packet[:-1]) is None


class SlowTable:
    """The obvious model: look at every network."""

    def __init__(self) -> None:
        self.owners: dict[IPNetwork, int] = {}

    def lookup(self, address: bytes) -> int | None:
        ip = ip_address(address)
        fitting = [network for network in self.owners if network.version == ip.version and ip in network]
        return self.owners[max(fitting, key=lambda network: network.prefixlen)] if fitting else None


# Addresses with few free bits, so that prefixes overlap often.
SPARSE4 = st.builds(lambda high, low: high << 28 | low, st.integers(0, 3), st.integers(0, 7))
SPARSE6 = st.builds(lambda high, low: high << 124 | low, st.integers(0, 3), st.integers(0, 7))
V4_NETWORKS = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    SPARSE4 | st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 3, 4, 8, 24, 29, 30, 31, 32]) | st.integers(0, 32),
)
V6_NETWORKS = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    SPARSE6 | st.integers(0, 2**128 - 1),
    st.sampled_from([0, 1, 2, 3, 4, 64, 125, 126, 127, 128]) | st.integers(0, 128),
)
ADDRESSES = st.one_of(
    (SPARSE4 | st.integers(0, 2**32 - 1)).map(lambda number: number.to_bytes(4, "big")),
    (SPARSE6 | st.integers(0, 2**128 - 1)).map(lambda number: number.to_bytes(16, "big")),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(V4_NETWORKS | V6_NETWORKS, st.integers(0, 4)),
        st.integers(0, 4),
        st.lists(ADDRESSES, max_size=8),
    ),
    max_size=40,
)


@given(steps=STEPS, last=st.lists(ADDRESSES, min_size=1, max_size=20))
def test_against_the_slow_table(
    steps: list[tuple[IPNetwork, int] | int | list[bytes]], last: list[bytes]
) -> None:
    table: AllowedIPs[int] = AllowedIPs()
    slow = SlowTable()
    for step in [*steps, last]:
        if isinstance(step, tuple):
            table.insert(*step)
            slow.owners[step[0]] = step[1]
        elif isinstance(step, int):
            table.remove_value(step)
            slow.owners = {network: owner for network, owner in slow.owners.items() if owner != step}
        else:
            ends = [edge for network in slow.owners for edge in (network[0].packed, network[-1].packed)]
            for address in [*step, *ends]:
                assert table.lookup(address) == slow.lookup(address)
    for owner in range(5):
        mine = [network for network, value in slow.owners.items() if value == owner]
        listed = table.networks_of(owner)
        assert len(listed) == len(mine)
        assert set(listed) == set(mine)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=64).map(lambda tail: V4[:4] + tail)))
def test_garbage_never_raises(packet: bytes) -> None:
    table: AllowedIPs[int] = AllowedIPs()
    table.insert(IPv4Network("0.0.0.0/0"), 4)
    table.insert(IPv6Network("::/0"), 6)
    length = packet_length(packet)
    expected = None if not length else packet[0] >> 4
    assert 0 <= length <= len(packet)
    assert table.lookup_source(memoryview(packet)) == expected
    assert table.lookup_destination(bytearray(packet)) == expected


@given(st.sampled_from([V4, V6]), st.data())
def test_flipped_bits_and_cuts_never_raise(packet: bytes, data: st.DataObject) -> None:
    table: AllowedIPs[int] = AllowedIPs()
    table.insert(IPv4Network("10.0.0.0/8"), 1)
    mutated = bytearray(packet)
    mutated[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = mutated[: data.draw(st.integers(0, len(packet)))]
    assert table.lookup_source(cut) in (None, 1)
    assert table.lookup_destination(cut) in (None, 1)
    if not packet_length(cut):
        with pytest.raises(MalformedPacketError):
            source(cut)
