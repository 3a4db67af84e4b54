"""The wire: what the first byte says, the head of a record, and what stands inside one (DESIGN section 6).

A record in one datagram (RECORD), or cut over n datagrams that repeat the head (SPAN):

    0        1        2        3        4
    ├  type  ┼   i    ┼   n    ┼   0    ┤   hints: part i of n; unauthenticated, wrong ones only cost a drop
    ├────────  receiver index  ─────────┤   ╮
    ├────────  session zeqond  ─────────┤   │ the IV, as it stands
    ├────────  sequence  ───────────────┤   ╯
    ├  ciphertext … tag (16)            ┤

Plaintext: nothing at all (a keepalive), or a prefix of 16 bytes and a body. The authenticated kind decides
what it is, never the type byte:

    0       1          2   4      5   6                16
    ├ kind  ┼ segs − 1 ┼ H ┼ base ┼ 0 ┼ virtio_net_hdr ┼ body      all zero but kind, until segments are built
"""

from __future__ import annotations

from enum import IntEnum

RECORD = 0xC0
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
OVERHEAD_BYTES = HEAD_BYTES + TAG_BYTES + PREFIX_BYTES  # 48: inner MTU 1,404 in 1,452 bytes of UDP payload
MAX_SPAN_PARTS = 64

RECORD_HEAD = bytes([RECORD, 0, 1, 0])


class Kind(IntEnum):
    """The first byte inside a record."""

    PACKET = 1
    CONTROL = 4
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
    """One sealed record as datagrams of at most `room` bytes of UDP payload: one, or a span of equal parts.

    Raises ValueError where it would take more than 64."""
    if len(ciphertext) + HEAD_BYTES <= room:
        return [RECORD_HEAD + iv + ciphertext]
    parts = -(-len(ciphertext) // (room - HEAD_BYTES))
    if parts > MAX_SPAN_PARTS:
        raise ValueError("the record is too large for the path")
    size = -(-len(ciphertext) // parts)
    return [bytes([SPAN, i, parts, 0]) + iv + ciphertext[i * size : (i + 1) * size] for i in range(parts)]


class SpanBuffer:
    """Spans of one session that are not whole yet: at most 32 and 512 KiB, the oldest makes room.

    Nothing in them is authentic before the last part has come: whoever saw an index can send parts."""

    MAX_PARTIAL = 32
    MAX_BYTES = 2**19

    def __init__(self) -> None:
        self._partial: dict[bytes, list[bytes | None]] = {}
        self._bytes = 0

    def add(self, datagram: bytes) -> bytes | None:
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
