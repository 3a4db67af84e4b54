"""Local IPv4 names: every node numbers its peers for itself, and rewrites packets at its own TUN only.

IPv4 has too few bits to give every machine in the world an address that never clashes. So each node has a
private pool; its first host address is the node itself, the next ones are its peers. Between two nodes the
fixed pair of RFC 6333 and RFC 7335 stands for "the sender" and "the receiver":

    at A           198.18.0.1 ──▶ 198.18.0.5        A's own address, A's name for B
    on the wire     192.0.0.1 ──▶ 192.0.0.2
    at B           198.18.0.9 ──▶ 198.18.0.1        B's name for A, B's own address

Source and destination are rewritten each for itself, so a real address on one side (a home LAN behind B)
passes as it is. No pool address crosses the wire in a header, in either direction: it would mean another
machine over there. Checksums are updated incrementally (RFC 1624, equation 3), never computed anew: a
complete one, or (`partial`) the pseudo-header's sum that stands in its place where virtio says NEEDS_CSUM.

The fast path asks `plan_out` or `plan_in` once for a pair of addresses, remembers the answer until the pool
changes, and calls `readdress` for each packet. ICMP errors quote addresses: they go through the Translator.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final, TypeAlias

from tun.errors import NamesError
from tun.packet import IPV4_HEADER, packet_length

DEFAULT_POOL: Final = IPv4Network("198.18.0.0/16")
WIRE_SOURCE: Final = bytes((192, 0, 0, 1))
WIRE_DESTINATION: Final = bytes((192, 0, 0, 2))

_WIRE_PAIR: Final = (WIRE_SOURCE, WIRE_DESTINATION)
_ICMP: Final = 1
_UDP: Final = 17
# Where the checksum over the pseudo-header stands: TCP, UDP, DCCP, UDP-Lite. ICMP and SCTP have none.
_CHECKSUM_AT: Final = {6: 16, _UDP: 6, 33: 6, 136: 6}
# RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem quote a packet at byte 8.
_ICMP_ERRORS: Final = frozenset({3, 4, 5, 11, 12})

_Rule: TypeAlias = tuple[bytes, bytes]  # from, to
_NO_RULE: Final[_Rule] = (b"", b"")


class Pool:
    """A node's own numbers for its peers. Names stay with a machine until released; the lowest free is next.

    Raises NamesError when the network has no room for at least one peer.
    """

    def __init__(self, network: IPv4Network = DEFAULT_POOL) -> None:
        if network.prefixlen > 30:
            raise NamesError(
                f"The pool {network} for local IPv4 names is too small: give one of /30 or larger."
            )
        self.network = network
        self.own = network[1]
        self._first = int(network[2])
        self._last = int(network.broadcast_address) - 1
        self._low = self._first  # everything below is taken
        self._shift = 32 - network.prefixlen
        self._prefix = int(network.network_address) >> self._shift
        self._names: dict[bytes, IPv4Address] = {}
        self._machines: dict[bytes, bytes] = {}

    def __contains__(self, address: bytes) -> bool:
        """Whether the 4-byte address lies in the pool, given out or not."""
        return int.from_bytes(address, "big") >> self._shift == self._prefix

    def assign(self, machine_id: bytes) -> IPv4Address:
        """The machine's name, a new one if it has none. Raises NamesError when the pool is full."""
        name = self._names.get(machine_id)
        if name is None:
            while self._low <= self._last and self._low.to_bytes(4, "big") in self._machines:
                self._low += 1
            if self._low > self._last:
                raise NamesError(
                    f"The pool {self.network} for local IPv4 names is full ({len(self._names)} peers):"
                    " remove peers or configure a larger pool."
                )
            name = IPv4Address(self._low)
            self._take(machine_id, name)
        return name

    def release(self, machine_id: bytes) -> None:
        """Frees the machine's name; none is no error."""
        name = self._names.pop(machine_id, None)
        if name is not None:
            del self._machines[name.packed]
            self._low = min(self._low, int(name))

    def load(self, mapping: Mapping[bytes, IPv4Address]) -> list[bytes]:
        """Takes over remembered names; returns the machines whose name does not fit (any more).

        A name does not fit when the pool has moved, or when it is the node's own or another machine's.
        """
        unfit = []
        for machine_id, name in mapping.items():
            usable = self._first <= int(name) <= self._last and name.packed not in self._machines
            if usable and machine_id not in self._names:
                self._take(machine_id, name)
            elif self._names.get(machine_id) != name:
                unfit.append(machine_id)
        return unfit

    def assignments(self) -> dict[bytes, IPv4Address]:
        """All names by machine_id, as `load` takes them."""
        return dict(self._names)

    def machine_of(self, address: bytes) -> bytes | None:
        """The machine_id that the 4-byte address names here."""
        return self._machines.get(address)

    def _take(self, machine_id: bytes, name: IPv4Address) -> None:
        self._names[machine_id] = name
        self._machines[name.packed] = machine_id


class Translator:
    """Rewrites packets in place between local names and the wire.

    Both directions return whether the packet may travel on, rewritten or not; False (packet untouched) means
    drop it: malformed, or it would carry a pool address over the wire, or the wire's pair into a host.
    IPv6 packets are none of its business and pass. `partial`: the transport checksum is left to an offload.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._own = pool.own.packed

    def to_wire(self, packet: bytearray, partial: bool = False) -> bool:
        """Own address → 192.0.0.1 as source, a peer's name → 192.0.0.2 as destination."""
        peer = bytes(packet[16:20])
        known = self._pool.machine_of(peer) is not None
        # An ICMP error quotes a packet that came the other way.
        inner = (peer, WIRE_SOURCE) if known else _NO_RULE, (self._own, WIRE_DESTINATION)
        return self._translate(packet, self._rules_out(peer), inner, True, partial)

    def from_wire(self, packet: bytearray, peer_name: bytes, partial: bool = False) -> bool:
        """192.0.0.1 → the sender's 4-byte name here as source, 192.0.0.2 → own address as destination."""
        inner = (WIRE_SOURCE, self._own), (WIRE_DESTINATION, peer_name)
        return self._translate(packet, self._rules_in(peer_name), inner, False, partial)

    def outward(self, packet: bytes) -> bytes | None:
        """`to_wire` for a packet with complete checksums; None: drop it."""
        if not packet or packet[0] >> 4 != 4:
            return packet
        rewritten = bytearray(packet)
        return bytes(rewritten) if self.to_wire(rewritten) else None

    def inward(self, packet: bytes, peer_name: bytes) -> bytes | None:
        """`from_wire` for a packet with complete checksums; None: drop it."""
        if not packet or packet[0] >> 4 != 4:
            return packet
        rewritten = bytearray(packet)
        return bytes(rewritten) if self.from_wire(rewritten, peer_name) else None

    def plan_out(self, source_and_destination: bytes) -> bytes | None:
        """The 8 bytes of addresses that replace these 8 on the way to the wire; None: drop the packet."""
        return self._plan(source_and_destination, self._rules_out(source_and_destination[4:]), leaving=True)

    def plan_in(self, source_and_destination: bytes, peer_name: bytes) -> bytes | None:
        """The 8 bytes that replace these 8 in a packet from the peer of that 4-byte name; None: drop it."""
        return self._plan(source_and_destination, self._rules_in(peer_name), leaving=False)

    def _rules_out(self, peer: bytes) -> tuple[_Rule, _Rule]:
        known = self._pool.machine_of(peer) is not None
        return (self._own, WIRE_SOURCE), (peer, WIRE_DESTINATION) if known else _NO_RULE

    def _rules_in(self, peer_name: bytes) -> tuple[_Rule, _Rule]:
        return (WIRE_SOURCE, peer_name), (WIRE_DESTINATION, self._own)

    def _translate(
        self,
        packet: bytearray,
        outer: tuple[_Rule, _Rule],
        inner: tuple[_Rule, _Rule],
        leaving: bool,
        partial: bool,
    ) -> bool:
        end = packet_length(packet)
        if not end or packet[0] >> 4 == 6:
            return bool(end)
        planned = self._plan(bytes(packet[12:20]), outer, leaving)
        quoted = _quoted_at(packet, end)
        inside = bytes(packet[quoted + 12 : quoted + 20])
        planned_quoted = self._plan(inside, inner, leaving) if quoted else b""
        if planned is None or planned_quoted is None:
            return False
        if quoted:
            # The quote's even part: all that changes lies in it, and it keeps 16-bit words in step.
            stop = quoted + ((end - quoted) & ~1)
            before = int.from_bytes(packet[quoted:stop], "big")
            readdress(packet, quoted, end, planned_quoted)
            after = int.from_bytes(packet[quoted:stop], "big")
            _adjust(packet, ((packet[0] & 15) << 2) + 2, after - before)
        readdress(packet, 0, end, planned, partial)
        return True

    def _plan(self, addresses: bytes, rules: tuple[_Rule, _Rule], leaving: bool) -> bytes | None:
        """Source and destination (8 bytes) that a header with these is to get; None when forbidden."""
        source, destination = addresses[:4], addresses[4:]
        new_source = rules[0][1] if source == rules[0][0] else source
        new_destination = rules[1][1] if destination == rules[1][0] else destination
        old, new = (source, destination), (new_source, new_destination)
        local, wire = (old, new) if leaving else (new, old)
        if local[0] in _WIRE_PAIR or local[1] in _WIRE_PAIR:
            return None
        if wire[0] in self._pool or wire[1] in self._pool:
            return None
        return new_source + new_destination


def _quoted_at(packet: bytearray, end: int) -> int:
    """Where the IPv4 packet that an ICMP error quotes starts; 0 when there is none."""
    icmp = (packet[0] & 15) << 2
    at = icmp + 8
    if packet[9] != _ICMP or _is_later_fragment(packet, 0) or end < at + IPV4_HEADER:
        return 0
    header = (packet[at] & 15) << 2
    sound = packet[at] >> 4 == 4 and header >= IPV4_HEADER and at + header <= end
    return at if sound and packet[icmp] in _ICMP_ERRORS else 0


def _is_later_fragment(packet: bytearray, at: int) -> bool:
    return bool((packet[at + 6] << 8 | packet[at + 7]) & 0x1FFF)


def readdress(buffer: bytearray, at: int, end: int, addresses: bytes, partial: bool = False) -> None:
    """Gives the IPv4 packet buffer[at:end] its two addresses (8 bytes) and mends IP and transport checksum.

    What follows a later fragment's header, or lies past `end` in a truncated quote, has no checksum to mend.
    """
    difference = int.from_bytes(addresses, "big") - int.from_bytes(buffer[at + 12 : at + 20], "big")
    if not difference:
        return
    buffer[at + 12 : at + 20] = addresses
    _adjust(buffer, at + 10, difference)
    offset = _CHECKSUM_AT.get(buffer[at + 9])
    if offset is None or _is_later_fragment(buffer, at):
        return
    field = at + ((buffer[at] & 15) << 2) + offset
    if field + 2 > end:
        return
    if partial:
        # Not complemented, so it is added to; and never 0, which in UDP would mean "none".
        total = ((buffer[field] << 8 | buffer[field + 1]) + difference) % 0xFFFF or 0xFFFF
        buffer[field : field + 2] = total.to_bytes(2, "big")
    elif buffer[at + 9] != _UDP:
        _adjust(buffer, field, difference)
    elif buffer[field] or buffer[field + 1]:  # in UDP 0 means "none", and a sum of 0 is sent as 65535
        _adjust(buffer, field, difference)
        if not (buffer[field] or buffer[field + 1]):
            buffer[field : field + 2] = b"\xff\xff"


def _adjust(packet: bytearray, field: int, difference: int) -> None:
    """RFC 1624 for a change of any number of words: modulo 65535 a big integer is the sum of its words."""
    total = ((packet[field] << 8 | packet[field + 1]) ^ 0xFFFF) + difference % 0xFFFF
    total = (total & 0xFFFF) + (total >> 16)
    packet[field : field + 2] = (total ^ 0xFFFF).to_bytes(2, "big")
