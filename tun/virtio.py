"""The virtio_net_hdr before each packet of a TUN with IFF_VNET_HDR, and the offloads that it stands for.

    0        1           2          4           6             8              10
    ├ flags  ┼ gso_type  ┼ hdr_len  ┼ gso_size  ┼ csum_start  ┼ csum_offset  ┼ IP packet …

Little-endian (a big-endian host asks its TUN for that with TUNSETVNETLE); csum_start counts from the packet.

    NEEDS_CSUM   the field at csum_start + csum_offset holds the pseudo-header's folded sum, not complemented:
                 whoever sends the packet on adds up csum_start … end. Locally the packet counts as verified
    gso_type     one header, the payload of many segments of gso_size bytes (the last may be shorter); lengths
                 and pseudo-header sum are those of the whole

`check` stands between a peer and our kernel. What the kernel itself does with bad headers (tun_get_user,
virtio_net_hdr_to_skb, *_gso_segment) was mended many times: a type on a packet of another protocol, offsets
past the headers, lengths that disagree, segments so small that a count overflowed (CVE-2019-11477). So only
what a sound kernel makes passes here: TCP or UDP directly in IP, every length told twice the same, at most 64
segments. hdr_len is a hint for the kernel's allocator, gso_size without GSO is nothing: `check` sets both.

All functions take buffer[start:end] = header ‖ packet, and read nothing behind `end`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from tun.frames import MAX_SEGMENTS, VIRTIO_BYTES

# linux/virtio_net.h
NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

VIRTIO: Final = Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
NO_OFFLOAD: Final = bytes(VIRTIO_BYTES)

_TCP: Final = 6
_UDP: Final = 17
_FRAGMENT: Final = 0x3FFF  # more fragments, or an offset
_ALONE: Final = 0x26  # SYN, RST, URG: what has one of them no kernel cuts or joins
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
_OPTIONS: Final = frozenset({0, 43, 60})  # IPv6: hop by hop, routing, destination

# flags and gso_type, hdr_len and gso_size, csum_start, csum_offset; version, IPv4's and IPv6's length
_FIRST: Final = Struct("<HIHHBxHH")
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_IPV4: Final = Struct(">HHHxB")  # from byte 2: total length, id, fragment, protocol


def check(buffer: bytearray, start: int, end: int) -> bool:
    """Whether our kernel may be handed buffer[start:end], which a peer sent. Normalises it in place:

    without offloads all ten bytes are zero (with DATA_VALID, which nobody here can verify, too); NEEDS_CSUM
    alone has hdr_len = gso_size = 0; with GSO hdr_len is that of all headers. False may stop half-way."""
    size = end - start - VIRTIO_BYTES
    if size < 20:
        return False
    offload, sizes, transport, field, first, length4, length6 = _FIRST.unpack_from(buffer, start)
    if first >> 4 == 4:
        header = (first & 15) << 2
        if length4 != (size & 255) << 8 | size >> 8 or not 20 <= header <= size:
            return False
    elif first >> 4 == 6:
        header = 40
        if length6 != (size - 40 & 255) << 8 | size - 40 >> 8:
            return False
    else:
        return False
    if not offload & ~DATA_VALID:
        if offload or sizes or transport or field:
            buffer[start : start + VIRTIO_BYTES] = NO_OFFLOAD
        return True
    if offload == NEEDS_CSUM:
        if sizes:
            buffer[start + 2 : start + 6] = b"\0\0\0\0"
        at = start + VIRTIO_BYTES
        if first >> 4 == 4 and (buffer[at + 6] << 8 | buffer[at + 7]) & _FRAGMENT:
            return False
        protocol = buffer[at + 9] if first >> 4 == 4 else buffer[at + 6]
        if transport != header:
            protocol = _after_options(buffer, at, size, transport)
        at += transport
        rest: int = size - transport
        if protocol == _UDP:
            return field == 6 and rest >= 8 and (buffer[at + 4] << 8 | buffer[at + 5]) == rest
        return protocol == _TCP and field == 16 and rest >= 20 and 20 <= buffer[at + 12] >> 4 << 2 <= rest
    headers = headers_end(buffer, start, end)
    buffer[start + 2] = headers
    buffer[start + 3] = 0
    # One segment is no super-packet.
    return headers != 0 and size - headers > sizes >> 16


def headers_end(buffer: bytearray, start: int, end: int) -> int:
    """H: how many bytes IP and TCP or UDP headers take in a GSO packet; 0 when it cannot travel as SUPER.

    That is: it contradicts itself, has more than 64 segments or something between IP and TCP or UDP (then
    `complete` cuts it). One segment is not refused here."""
    size = end - start - VIRTIO_BYTES
    if size < 28:
        return 0
    flags, kind, _, gso_size, transport, field = VIRTIO.unpack_from(buffer, start)
    at = start + VIRTIO_BYTES
    first = buffer[at]
    if first >> 4 == 4:
        length, _, fragment, protocol = _IPV4.unpack_from(buffer, at + 2)
        header = (first & 15) << 2
        tcp = GSO_TCPV4
        if fragment & _FRAGMENT or header < 20:
            return 0
    elif first >> 4 == 6:
        length = (buffer[at + 4] << 8 | buffer[at + 5]) + 40
        protocol = buffer[at + 6]
        header = 40
        tcp = GSO_TCPV6
    else:
        return 0
    if flags != NEEDS_CSUM or length != size or transport != header or transport + field + 2 > size:
        return 0
    if protocol == _TCP and field == 16 and kind & ~GSO_ECN == tcp:
        headers: int = header + (buffer[at + header + 12] >> 4 << 2)
        if headers < header + 20 or buffer[at + header + 13] & _ALONE:
            return 0
    elif protocol == _UDP and field == 6 and kind == GSO_UDP_L4:
        headers = header + 8
        if buffer[at + header + 4] << 8 | buffer[at + header + 5] != size - header:
            return 0
    else:
        return 0
    return headers if 0 < size - headers <= MAX_SEGMENTS * gso_size else 0


def complete(buffer: bytearray, start: int, end: int) -> list[bytes]:
    """The bare IP packets, checksums and all, that a kernel without offloads would make of buffer[start:end].

    None where the header contradicts the packet. IPv6 options before TCP or UDP are no obstacle here."""
    if end - start < VIRTIO_BYTES + 20:
        return []
    flags, kind, _, gso_size, transport, field = VIRTIO.unpack_from(buffer, start)
    packet = buffer[start + VIRTIO_BYTES : end]
    if not flags & NEEDS_CSUM:
        return [] if kind else [bytes(packet)]
    if transport < (20 if packet[0] >> 4 == 4 else 40) or transport + field + 2 > len(packet):
        return []
    if kind == GSO_NONE:
        _sum(packet, transport, field)
        return [bytes(packet)]
    udp = kind == GSO_UDP_L4
    if not (udp or kind & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6)) or field != (6 if udp else 16):
        return []
    thlen = 8 if udp else packet[transport + 12] >> 4 << 2
    headers = transport + thlen
    if thlen < (8 if udp else 20) or headers >= len(packet) or not gso_size:
        return []
    segments = []
    for index, at in enumerate(range(headers, len(packet), gso_size)):
        segment = packet[:headers] + packet[at : at + gso_size]
        _resize(segment, 0, len(segment), transport, field, len(packet) - transport)
        _renumber(segment, 0, transport, udp, index, at + gso_size >= len(packet), gso_size)
        _sum(segment, transport, field)
        segments.append(bytes(segment))
    return segments


def mend(buffer: bytearray, start: int, first: int, count: int, total: int, end: int) -> bool:
    """Makes a super-packet's header that of its segments first … first + count − 1, all that came of `total`.

    buffer[start:end] = virtio_net_hdr ‖ headers of the whole ‖ payload of those. One segment becomes a packet
    without GSO. False, and nothing changed, where the header contradicts the numbers or itself."""
    size = end - start - VIRTIO_BYTES
    if size < 29 or first < 0 or count < 1 or first + count > total:
        return False
    flags, kind, _, gso_size, transport, field = VIRTIO.unpack_from(buffer, start)
    if transport + field + 2 > size:
        return False
    at = start + VIRTIO_BYTES
    v4 = buffer[at] >> 4 == 4
    whole = _U16.unpack_from(buffer, at + 2)[0] if v4 else _U16.unpack_from(buffer, at + 4)[0] + 40
    if not (headers := headers_end(buffer, start, at + whole)):
        return False
    payload, last = whole - headers, first + count == total
    came = payload - first * gso_size if last else count * gso_size
    if -(-payload // gso_size) != total or size - headers != came:
        return False
    _resize(buffer, at, size, transport, field, whole - transport)
    _renumber(buffer, at, transport, kind == GSO_UDP_L4, first, last, gso_size)
    if count == 1:
        kind = headers = gso_size = 0
    elif first:
        kind &= ~GSO_ECN  # CWR was the first segment's
    VIRTIO.pack_into(buffer, start, flags, kind, headers, gso_size, transport, field)
    return True


def _after_options(buffer: bytearray, at: int, size: int, transport: int) -> int:
    """The protocol at byte `transport` of an IPv6 packet, if nothing but options lead there; else 0."""
    if buffer[at] >> 4 != 6:
        return 0
    here, protocol = 40, buffer[at + 6]
    while protocol in _OPTIONS and here < transport and here + 8 <= size:
        protocol, here = buffer[at + here], here + (buffer[at + here + 1] + 1) * 8
    return protocol if here == transport else 0


def _resize(buffer: bytearray, at: int, size: int, transport: int, field: int, before: int) -> None:
    """Lengths and pseudo-header sum of the packet at `at`, now `size` bytes; TCP or UDP took `before`."""
    if buffer[at] >> 4 == 4:
        _U16.pack_into(buffer, at + 2, size)
    else:
        _U16.pack_into(buffer, at + 4, size - 40)
    if field == 6:
        _U16.pack_into(buffer, at + transport + 4, size - transport)
    field += at + transport
    partial = (buffer[field] << 8 | buffer[field + 1]) + size - transport - before
    # Never 0: for UDP that would mean "no checksum".
    _U16.pack_into(buffer, field, partial % 0xFFFF or 0xFFFF)


def _renumber(
    buffer: bytearray, at: int, transport: int, udp: bool, index: int, last: bool, gso: int
) -> None:
    """What depends on being number `index` of a super-packet: IPv4 id and sum, TCP sequence and flags."""
    if buffer[at] >> 4 == 4:
        number = (buffer[at + 4] << 8 | buffer[at + 5]) + index
        _U16.pack_into(buffer, at + 4, number & 0xFFFF)
        buffer[at + 10 : at + 12] = b"\0\0"
        header = (buffer[at] & 15) << 2
        _U16.pack_into(buffer, at + 10, 0xFFFF - int.from_bytes(buffer[at : at + header], "big") % 0xFFFF)
    if udp:
        return
    tcp = at + transport
    sequence = int.from_bytes(buffer[tcp + 4 : tcp + 8], "big") + index * gso
    _U32.pack_into(buffer, tcp + 4, sequence & 0xFFFFFFFF)
    if not last:
        buffer[tcp + 13] &= ~_FIN_PSH
    if index:
        buffer[tcp + 13] &= ~_CWR


def _sum(packet: bytearray, transport: int, field: int) -> None:
    """The checksum over packet[transport:], whose field holds the pseudo-header's sum.

    2^16 = 1 modulo 65535: a big integer is the sum of its words. 0 is written as 65535, as by the kernel."""
    number = int.from_bytes(packet[transport:], "big") << (8 * ((len(packet) - transport) & 1))
    _U16.pack_into(packet, transport + field, 0xFFFF - number % 0xFFFF)
