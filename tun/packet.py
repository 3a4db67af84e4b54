"""IP headers as far as a router reads them, and the allowed-IPs table: who may send from, and gets, what.

    IPv4   0 version:4 header words:4 | 2 total length   | 12 source | 16 destination | 20 options
    IPv6   0 version:4                | 4 payload length |  8 source | 24 destination | 40 payload

RFC 791, RFC 8200. Jumbograms (RFC 2675) do not fit through the tunnel and count as empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Generic, TypeAlias, TypeVar

from tun.errors import MalformedPacketError

Packet: TypeAlias = bytes | bytearray | memoryview
IPNetwork: TypeAlias = IPv4Network | IPv6Network
V = TypeVar("V")

IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40
CACHE_ENTRIES: Final = 4096


def packet_length(packet: Packet) -> int:
    """The IP packet's own length in bytes by its header, without padding behind it; 0 when malformed.

    Malformed is: no version 4 or 6, an IPv4 header under 20 bytes or longer than the packet, or a packet
    longer than the buffer. Never raises.
    """
    size = len(packet)
    if size < IPV4_HEADER:
        return 0
    first = packet[0]
    if first >> 4 == 4:
        length = packet[2] << 8 | packet[3]
        return length if IPV4_HEADER <= (first & 15) << 2 <= length <= size else 0
    if first >> 4 == 6 and size >= IPV6_HEADER:
        length = IPV6_HEADER + (packet[4] << 8 | packet[5])
        return length if length <= size else 0
    return 0


def source(packet: Packet) -> bytes:
    """The source address, 4 or 16 bytes. Raises MalformedPacketError."""
    if not packet_length(packet):
        raise MalformedPacketError("not an IPv4 or IPv6 packet")
    return bytes(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24])


def destination(packet: Packet) -> bytes:
    """The destination address, 4 or 16 bytes. Raises MalformedPacketError."""
    if not packet_length(packet):
        raise MalformedPacketError("not an IPv4 or IPv6 packet")
    return bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


class _Family(Generic[V]):
    """Longest-prefix match for one address width: a dict per prefix length in use, longest first."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._by_length: dict[int, dict[int, V]] = {}
        self._steps: list[tuple[int, dict[int, V]]] = []

    def insert(self, network: IPNetwork, value: V) -> None:
        shift = self.width - network.prefixlen
        self._by_length.setdefault(network.prefixlen, {})[int(network.network_address) >> shift] = value
        self._order()

    def remove_value(self, value: V) -> None:
        for prefixes in self._by_length.values():
            for prefix in [prefix for prefix, owner in prefixes.items() if owner == value]:
                del prefixes[prefix]
        self._order()

    def lookup(self, address: int) -> V | None:
        for shift, prefixes in self._steps:
            value = prefixes.get(address >> shift)
            if value is not None:
                return value
        return None

    def entries(self) -> Iterator[tuple[int, int, V]]:
        """(address, prefix length, value), in no promised order."""
        for length, prefixes in self._by_length.items():
            for prefix, value in prefixes.items():
                yield prefix << (self.width - length), length, value

    def _order(self) -> None:
        self._by_length = {length: prefixes for length, prefixes in self._by_length.items() if prefixes}
        self._steps = [
            (self.width - length, prefixes)
            for length, prefixes in sorted(self._by_length.items(), reverse=True)
        ]


class AllowedIPs(Generic[V]):
    """Which peer an address belongs to: the longest prefix wins, and a prefix has one owner, the latest.

    The same table routes what leaves (by destination) and refuses what a peer may not send (by source), as
    WireGuard's cryptokey routing does. Values are compared with `==` and are never None.
    """

    def __init__(self) -> None:
        self._v4: _Family[V] = _Family(32)
        self._v6: _Family[V] = _Family(128)
        self._cache: dict[bytes, V | None] = {}

    def insert(self, network: IPNetwork, value: V) -> None:
        """Gives the network to `value`, taking exactly this prefix from whoever had it."""
        (self._v4 if network.version == 4 else self._v6).insert(network, value)
        self._cache.clear()

    def remove_value(self, value: V) -> None:
        """Takes all its networks from `value`; none is no error."""
        self._v4.remove_value(value)
        self._v6.remove_value(value)
        self._cache.clear()

    def networks_of(self, value: V) -> list[IPNetwork]:
        """The networks of `value`, IPv4 first, each family by address and then by prefix length."""
        v4 = sorted((address, length) for address, length, owner in self._v4.entries() if owner == value)
        v6 = sorted((address, length) for address, length, owner in self._v6.entries() if owner == value)
        return [*map(IPv4Network, v4), *map(IPv6Network, v6)]

    def lookup(self, address: bytes) -> V | None:
        """The owner of a raw address; None when nobody has it or it is not 4 or 16 bytes."""
        try:
            return self._cache[address]
        except KeyError:
            pass
        if len(address) == 4:
            value = self._v4.lookup(int.from_bytes(address, "big"))
        elif len(address) == 16:
            value = self._v6.lookup(int.from_bytes(address, "big"))
        else:
            return None
        # Strangers choose addresses, so the cache is bounded; starting over costs less than keeping an order.
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[address] = value
        return value

    def lookup_source(self, packet: Packet) -> V | None:
        """The owner of the packet's source; None also for a malformed packet. Never raises."""
        if not packet_length(packet):
            return None
        return self.lookup(bytes(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]))

    def lookup_destination(self, packet: Packet) -> V | None:
        """The owner of the packet's destination; None also for a malformed packet. Never raises."""
        if not packet_length(packet):
            return None
        return self.lookup(bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]))
