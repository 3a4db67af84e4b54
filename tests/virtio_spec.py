"""What a device may be told in a virtio_net_hdr, by the virtio specification and by what Linux reads of it.

Written from the texts, apart from tun/virtio.py, as its judge: Virtual I/O Device (VIRTIO) 1.3, 5.1.6.2
"Packet Transmission" with its driver and device requirements, and Linux 6.18's tun_get_user,
virtio_net_hdr_to_skb, skb_partial_csum_set, inet_gso_segment, ipv6_gso_segment, tcp_gso_segment and
__udp_gso_segment. It follows them access by access: a read behind the packet's end is an objection by itself.
"""

from __future__ import annotations


class Objection(Exception):
    """Why the header must not be handed to a kernel."""


class _Frame:
    """Bytes that object to being read outside."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def pull(self, upto: int, what: str) -> None:
        """pskb_may_pull."""
        if upto > len(self.data):
            raise Objection(f"{what}: reads up to {upto} of {len(self.data)} bytes")

    def number(self, offset: int, width: int, what: str) -> int:
        self.pull(offset + width, what)
        return int.from_bytes(self.data[offset : offset + width], "big")


def demand(held: bool, rule: str) -> None:
    if not held:
        raise Objection(rule)


def examine(data: bytes) -> None:
    """Raises Objection for data = virtio_net_hdr (10 bytes) ‖ IP packet; returns for what is sound."""
    demand(len(data) > 10, "there is a packet behind the header")
    flags, gso_type = data[0], data[1]
    hdr_len, gso_size, csum_start, csum_offset = (
        int.from_bytes(data[at : at + 2], "little") for at in (2, 4, 6, 8)
    )
    packet = _Frame(data[10:])
    # 5.1.6.2.1: "The driver MUST NOT set the VIRTIO_NET_HDR_F_DATA_VALID and VIRTIO_NET_HDR_F_RSC_INFO bits"
    demand(flags in (0, 1), "flags: nothing but VIRTIO_NET_HDR_F_NEEDS_CSUM")
    needs_csum = flags == 1
    # tun_get_user: "if (hdr_len > len) return -EINVAL", after making it cover the checksum field.
    packet.pull(max(hdr_len, csum_start + csum_offset + 2 if needs_csum else 0), "hdr_len or checksum field")
    protocol, transport, version = _network_layer(packet, followed=needs_csum)
    if gso_type == 0:
        # 5.1.6.2.1: gso_size is the MSS of a packet that is to be cut: without that it says nothing.
        demand(gso_size == 0, "gso_size without GSO")
        demand(hdr_len == 0, "hdr_len without GSO")
    if needs_csum:
        _checksum_offload(packet, protocol, transport, csum_start, csum_offset)
    else:
        demand(csum_start == csum_offset == 0, "a place for a checksum that nobody is to compute")
    if gso_type:
        # 5.1.6.2.1: "If gso_type differs from VIRTIO_NET_HDR_GSO_NONE, then the driver MUST also set
        # the VIRTIO_NET_HDR_F_NEEDS_CSUM bit in flags and MUST set gso_size to indicate the desired MSS."
        demand(needs_csum, "GSO without NEEDS_CSUM")
        _segmentation(packet, protocol, transport, version, gso_type, gso_size, hdr_len)


def _network_layer(packet: _Frame, followed: bool) -> tuple[int, int, int]:
    """(transport protocol, where it begins, IP version); only `followed` headers are walked to it."""
    version = packet.number(0, 1, "IP version") >> 4
    demand(version in (4, 6), "tun_get_user: EINVAL for any other version")
    if version == 4:
        begin = (packet.number(0, 1, "IHL") & 0x0F) * 4
        demand(begin >= 20, "inet_gso_segment: ihl < sizeof(*iph)")
        packet.pull(begin, "IPv4 header")
        demand(packet.number(2, 2, "total length") == len(packet.data), "IPv4's total length is the packet's")
        fragment = packet.number(6, 2, "fragment")
        if followed:
            demand(not fragment & 0x2000, "an offload on a fragment: more follow")
            demand(not fragment & 0x1FFF, "an offload on a fragment: it has an offset")
        return packet.number(9, 1, "protocol"), begin, 4
    packet.pull(40, "IPv6 header")
    demand(packet.number(4, 2, "payload length") + 40 == len(packet.data), "IPv6's length is the packet's")
    protocol, begin = packet.number(6, 1, "next header"), 40
    while followed and protocol in (0, 43, 60):
        protocol, begin = (
            packet.number(begin, 1, "next header"),
            begin + 8 + 8 * packet.number(begin + 1, 1, "extension header's length"),
        )
    return protocol, begin, 6


def _checksum_offload(packet: _Frame, protocol: int, transport: int, start: int, offset: int) -> None:
    # 5.1.6.2.1: the sum from csum_start to the end, stored at csum_offset, "will result in a fully
    # checksummed packet": so it is the transport header that starts there, and the field is its checksum's.
    demand(start == transport, "csum_start is where the transport header begins")
    demand(protocol in (6, 17), "only TCP and UDP have such a checksum")
    if protocol == 6:
        demand(offset == 16, "TCP's checksum is at 16")
        words = packet.number(start + 12, 1, "data offset") >> 4
        demand(words >= 5, "TCP's header is 20 bytes at least")
        packet.pull(start + 20, "TCP header")
        packet.pull(start + words * 4, "TCP options")
    else:
        demand(offset == 6, "UDP's checksum is at 6")
        packet.pull(start + 8, "UDP header")
        length = packet.number(start + 4, 2, "UDP length")
        demand(length == len(packet.data) - start, "UDP's length is what follows IP")
    packet.pull(start + offset + 2, "checksum field")


def _segmentation(
    packet: _Frame, protocol: int, transport: int, version: int, gso_type: int, gso_size: int, hdr_len: int
) -> None:
    ecn, kind = gso_type & 0x80, gso_type & 0x7F
    # 5.1.6: GSO_TCPV4 1, GSO_TCPV6 4, GSO_UDP_L4 5; GSO_UDP 3 is UFO, which Linux gave up in 4.14
    demand(kind in (1, 4, 5), "an unknown or outdated gso_type")
    demand((kind, version) not in ((1, 6), (4, 4)), "a gso_type for the other IP version")
    demand(protocol == (17 if kind == 5 else 6), "a gso_type for another protocol")
    demand(not (ecn and kind == 5), "virtio_net_hdr_to_skb: UDP_L4 has no ECN")
    demand(transport == (packet.number(0, 1, "IHL") & 15) * 4 if version == 4 else transport == 40, "options")
    thlen = (packet.number(transport + 12, 1, "data offset") >> 4) * 4 if protocol == 6 else 8
    headers = transport + thlen
    packet.pull(headers, "all headers")
    # 5.1.6.2.1: hdr_len is "the length of the headers, including the transport header"
    demand(hdr_len == headers, "hdr_len is that of the headers")
    payload = len(packet.data) - headers
    demand(gso_size > 0, "virtio_net_hdr_to_skb: gso_size == 0")
    demand(gso_size != 0xFFFF, "virtio_net_hdr_to_skb: GSO_BY_FRAGS")
    demand(payload > gso_size, "__udp_gso_segment, tcp_gso_segment: less than two segments")
    demand(payload <= 64 * gso_size, "more than UDP_MAX_SEGMENTS (64 before Linux 6.9)")
    if protocol == 6:
        control = packet.number(transport + 13, 1, "TCP flags")
        demand(not control & 0b0010_0110, "SYN, RST or URG would be in every segment")
