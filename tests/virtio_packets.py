"""Packets as a kernel gives them to a TUN with IFF_VNET_HDR, built by hand, without tun/virtio.py."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
V4_PAIR = bytes([10, 1, 0, 9, 10, 2, 0, 9])
V6_PAIR = bytes.fromhex("fd01" + "00" * 13 + "09" + "fd02" + "00" * 13 + "09")


def folded(data: bytes) -> int:
    """RFC 1071: the ones' complement sum of the 16-bit words, not complemented."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Shape:
    """A TCP or UDP packet; with `gso` a super-packet whose segments carry so many bytes."""

    version: int = 4
    protocol: int = TCP
    payload: bytes = field(default=b"", repr=False)
    gso: int = 0
    options: bytes = b""  # TCP's, a multiple of 4
    ip_options: bytes = b""  # IPv4's, a multiple of 4; in IPv6 whole extension headers, the first hop by hop
    flags: int = ACK
    sequence: int = 1
    ident: int = 1
    fragment: int = 0x4000

    @property
    def transport(self) -> int:
        """Bytes before TCP or UDP."""
        return (20 if self.version == 4 else 40) + len(self.ip_options)

    @property
    def headers(self) -> int:
        return self.transport + (20 + len(self.options) if self.protocol == TCP else 8)

    @property
    def segments(self) -> int:
        return -(-len(self.payload) // self.gso) if self.gso else 1

    def ip(self, size: int) -> bytes:
        """The IP header for `size` bytes behind it."""
        if self.version == 6:
            first = 0 if self.ip_options else self.protocol
            head = struct.pack("!IHBB", 0x6_00_12345, len(self.ip_options) + size, first, 64)
            return head + V6_PAIR + self.ip_options
        words = 5 + len(self.ip_options) // 4
        head = struct.pack(
            "!BBHHHBBH", 0x40 | words, 0, words * 4 + size, self.ident, self.fragment, 64, self.protocol, 0
        )
        head += V4_PAIR + self.ip_options
        return head[:10] + struct.pack("!H", folded(head) ^ 0xFFFF) + head[12:]

    def build(self, partial: bool = True) -> bytes:
        """virtio_net_hdr ‖ packet. Not `partial`: its checksum is complete and the virtio_net_hdr zero."""
        if self.protocol == TCP:
            words = 5 + len(self.options) // 4
            head = struct.pack("!HHIIBBHHH", 5000, 6000, self.sequence, 7, words << 4, self.flags, 512, 0, 0)
            place, kind = 16, {4: 1, 6: 4}[self.version] | (0x80 if self.flags & CWR else 0)
        else:
            head = struct.pack("!HHHH", 5000, 6000, 8 + len(self.payload), 0)
            place, kind = 6, 5
        body = head + (self.options if self.protocol == TCP else b"") + self.payload
        pair = V4_PAIR if self.version == 4 else V6_PAIR
        pseudo = pair + struct.pack("!II", len(body), self.protocol)
        sum_ = folded(pseudo) if partial else (folded(pseudo + body) ^ 0xFFFF) or 0xFFFF
        body = body[:place] + struct.pack("!H", sum_) + body[place + 2 :]
        header = bytes(10)
        if partial:
            gso = (kind, self.headers, self.gso) if self.gso else (0, 0, 0)
            header = struct.pack("<BBHHHH", 1, *gso, self.transport, place)
        return header + self.ip(len(body)) + body

    def cut(self) -> list[bytes]:
        """The segments as bare packets with every checksum: what any kernel must make of it."""
        pieces = []
        for index in range(self.segments):
            last = index == self.segments - 1
            flags = self.flags & ~(0 if last else FIN | PSH) & ~(CWR if index else 0)
            size = self.gso or len(self.payload)
            piece = replace(
                self,
                payload=self.payload[index * size : (index + 1) * size],
                gso=0,
                flags=flags,
                sequence=(self.sequence + index * size) & 0xFFFFFFFF,
                ident=(self.ident + index) & 0xFFFF,
            )
            pieces.append(piece.build(partial=False)[10:])
        return pieces


@st.composite
def shapes(draw: st.DrawFn, most: int = 70, ip_options: bool = False, plain: bool = True) -> Shape:
    """Super-packets (one segment, up to `most`) and, if `plain`, ordinary packets, of all four kinds."""
    version = draw(st.sampled_from([4, 6]))
    gso = draw(st.one_of(st.integers(0 if plain else 1, 40), st.sampled_from([1, 8, 536, 1404])))
    segments = draw(st.integers(1, most if gso <= 40 else min(most, 5))) if gso else 1
    size = gso * (segments - 1) + draw(st.integers(1, gso)) if gso else draw(st.integers(0, 300))
    seed = draw(st.binary(min_size=1, max_size=16))
    words = st.integers(0, 10).map(lambda number: b"\1\1\1\1" * number)
    return Shape(
        version=version,
        protocol=draw(st.sampled_from([TCP, UDP])),
        payload=(seed * (size // len(seed) + 1))[:size],
        gso=gso,
        options=draw(words),
        ip_options=draw(words) if version == 4 and ip_options else b"",
        flags=ACK | draw(st.sampled_from([0, FIN, PSH, CWR, ECE, FIN | PSH | CWR | ECE])),
        sequence=draw(st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 2000, 2**32 - 1))),
        ident=draw(st.one_of(st.integers(0, 0xFFFF), st.integers(0xFFF0, 0xFFFF))),
    )
