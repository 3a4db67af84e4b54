"""The wire: what the first byte says, the head of a record, and what stands inside one (DESIGN section 6).

A datagram of a record. The last twelve bytes of the head are the AEAD's nonce as they stand:

    0        1        2        3        4
    ├  type  ┼   i    ┼   n    ┼ place  ┤   hints, not authenticated: a wrong one costs speed or a drop
    ├────────  receiver index  ─────────┤   ╮ base index of the receiver + lane of the sender
    ├────────  session zeqond  ─────────┤   │ says the epoch and so the key
    ├────────  sequence  ───────────────┤   ╯ from 0 in every lane, direction and epoch
    ├  ciphertext … tag (16)            ┤

    type 0xC0 RECORD    the whole record; i n place = 0 1 0
         0xC1 SEGMENT   the whole record, one of a train that is one super-packet; i n = 0 1, place 0, 1, 2 …
         0xC2 SPAN      part i of the n datagrams over which one record's ciphertext is cut; place = 0;
                        all parts but the last fill the path

Lanes: 0 is the core's (control, and packets that waited for a session), 1 + q that of the worker of TUN queue
q. Everything that is not a record of a lane from 1 on goes to the core.

Plaintext: nothing at all (a keepalive), or a prefix of 16 bytes and a body. Numbers in it are little-endian,
as virtio has them. The authenticated kind decides what it is, never the type byte:

    0       1          2   4      5   6                16
    ├ kind  ┼ segs − 1 ┼ H ┼ base ┼ 0 ┼ virtio_net_hdr ┼ body

    PACKET   one IP packet, with the header that its sender's kernel gave it; segs − 1, H and base are zero
    SUPER    a super-packet of `segs` TCP or UDP segments, whose headers (IP and above) take H bytes:
               in a span     body = headers ‖ payload of all segments
               in segments   body = headers ‖ payload of the one segment number (sequence − base) mod 256;
                             prefix and headers are the same in each. Its place must be authenticated: the
                             receiver joins segments and computes no checksum that would notice a swap
    BUNDLE   small packets of one wake-up: H = length of the first virtio_net_hdr ‖ packet, which begins at
             byte 6; then, until the end, ├ length 2 ┼ virtio_net_hdr ‖ packet ┤ each
    LOSS     body: lane u8, epoch u32, next sequence u32, records received u32, of what the other side sends
    others   the core's: body by kind, the rest of the prefix is zero
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

RECORD = 0xC0
SEGMENT = 0xC1
SPAN = 0xC2
LAST_RECORD_TYPE = 0xC7
MESSAGE1 = 0xC8
MESSAGE2 = 0xC9
COOKIE = 0xCC
REFUSAL = 0xCD
KEY_REQUEST = 0xCE
KEYS = 0xCF
FIRST_OURS = 0xC0
LAST_TUNNEL_TYPE = 0xCF

HEAD_BYTES = 16
TAG_BYTES = 16
PREFIX_BYTES = 16
VIRTIO_BYTES = 10
HINT_BYTES = PREFIX_BYTES - VIRTIO_BYTES  # of the prefix, before the virtio_net_hdr
SEALED_BYTES = HEAD_BYTES + TAG_BYTES
OVERHEAD_BYTES = SEALED_BYTES + PREFIX_BYTES  # 48: inner MTU 1,404 in 1,452 bytes of UDP payload
MAX_SPAN_PARTS = 64
MAX_SEGMENTS = 64  # of one super-packet: UDP_MAX_SEGMENTS was 64 before Linux 6.9
MAX_TRAIN_BYTES = 65507  # of one send: UDP's largest payload over IPv4
SMALL_BYTES = 600  # an IP packet of at most so many may share a record

HEAD = Struct(">BBBBIII")  # type, i, n, place, receiver index, session zeqond, sequence
HINT = Struct("<BBHBB")  # kind, segs - 1, H, base, 0
LOSS_REPORT = Struct("<BIII")  # lane, epoch, next sequence, records received

RECORD_HEAD = bytes([RECORD, 0, 1, 0])


class Kind(IntEnum):
    """The first byte inside a record."""

    PACKET = 1
    SUPER = 2
    BUNDLE = 3
    CONTROL = 4
    LOSS = 5
    COVER = 6  # padding of a traffic schedule: counted, then dropped
    PATH_CHALLENGE = 9
    PATH_RESPONSE = 10
    MTU_PROBE = 11
    MTU_REPLY = 12


PACKET_PREFIX = bytes([Kind.PACKET]) + bytes(PREFIX_BYTES - 1)
_PREFIXES = {kind: bytes([kind]) + bytes(PREFIX_BYTES - 1) for kind in Kind}


def inner(kind: Kind, body: bytes) -> bytes:
    """Plaintext of a record: 16 + len(body) bytes."""
    return _PREFIXES[kind] + body


def outer(iv: bytes, ciphertext: bytes, room: int) -> list[bytes]:
    """One sealed record as datagrams of at most `room` bytes of UDP payload: one, or a span.

    Raises ValueError where it would take more than 64."""
    if len(ciphertext) + HEAD_BYTES <= room:
        return [RECORD_HEAD + iv + ciphertext]
    size = room - HEAD_BYTES
    parts = -(-len(ciphertext) // size)
    if parts > MAX_SPAN_PARTS:
        raise ValueError("the record is too large for the path")
    return [bytes([SPAN, i, parts, 0]) + iv + ciphertext[i * size : (i + 1) * size] for i in range(parts)]


class SpanBuffer:
    """Spans of one lane that are not whole yet: at most 32 and 512 KiB, the oldest makes room.

    Nothing in them is authentic before the last part has come: whoever saw an index can send parts."""

    MAX_PARTIAL = 32
    MAX_BYTES = 2**19

    def __init__(self) -> None:
        self._partial: dict[bytes, list[bytes | None]] = {}
        self._bytes = 0

    def __contains__(self, iv: bytes) -> bool:
        """Has a part of that span come, and is it not whole?"""
        return iv in self._partial

    def add(self, datagram: bytes | bytearray | memoryview) -> bytes | None:
        """The whole ciphertext once its last part has come; the IV stands in every part."""
        index, parts, iv = datagram[1], datagram[2], bytes(datagram[4:HEAD_BYTES])
        if not 1 < parts <= MAX_SPAN_PARTS or index >= parts or len(datagram) <= HEAD_BYTES:
            return None
        pieces = self._partial.get(iv)
        if pieces is None or len(pieces) != parts:
            self._drop(iv)
            pieces = self._partial[iv] = [None] * parts
        self._bytes += len(datagram) - HEAD_BYTES - len(pieces[index] or b"")
        pieces[index] = bytes(datagram[HEAD_BYTES:])
        if None not in pieces:
            self._drop(iv)
            return b"".join(piece for piece in pieces if piece is not None)
        while len(self._partial) > self.MAX_PARTIAL or self._bytes > self.MAX_BYTES:
            self._drop(next(iter(self._partial)))
        return None

    def _drop(self, iv: bytes) -> None:
        self._bytes -= sum(len(piece) for piece in self._partial.pop(iv, ()) if piece is not None)
