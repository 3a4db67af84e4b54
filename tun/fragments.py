"""Handshake messages as datagrams of at most 1,200 bytes, and how they are put together again.

    0       1     2     3   4                 12                20             20+8n
    ├ type  ┼  i  ┼  n  ┼ 0 ┼ id of the whole ┼ what it answers ┼ n digests    ┼ chunk ┼ mac1 16 ┼ mac2 16 ┤

    id        SHA-256(whole message), first 8 bytes
    answers   zeros in message 1; in message 2 the id of message 1; in a key answer the request's nonce
    digests   SHA-256(chunk), first 8 bytes, of every chunk: each fragment names all the others, so one that
              an injector mixes in is refused when it arrives and cannot spoil the rest
    mac1      over all before it; mac2 over all before it, zeros where no cookie is known

A partial message is kept for two seconds; 256 of them in all, 8 per /24 (IPv6 /48) and 2 per source address.
The one of the fullest group that has waited longest for a new chunk makes room: an honest caller's burst
comes together, and survives an injector's forged fragment before each of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest

from crypto.cookies import MAC_BYTES, mac
from tun.addresses import Address, network_of

FRAGMENT_BYTES = 1200
MAX_FRAGMENTS = 5
DIGEST_BYTES = 8
PARTIAL_US = 2_000_000
MAX_PARTIAL = 256
MAX_PER_NETWORK = 8
MAX_PER_SOURCE = 2
NO_ANSWER = bytes(8)
_FIXED = 20
_MACS = 2 * MAC_BYTES


def message_id(message: bytes) -> bytes:
    """8 bytes."""
    return sha256(message).digest()[:8]


def cut(type_byte: int, message: bytes, answers: bytes = NO_ANSWER) -> list[bytes]:
    """Fragments still without their macs, each at most 1,168 bytes."""
    count = -(-len(message) // (FRAGMENT_BYTES - _FIXED - _MACS - DIGEST_BYTES * MAX_FRAGMENTS))
    assert count <= MAX_FRAGMENTS, "handshake messages have a known greatest size"
    size = -(-len(message) // count)
    chunks = [message[at : at + size] for at in range(0, len(message), size)]
    digests = b"".join(_digest(chunk) for chunk in chunks)
    whole = message_id(message)
    return [
        bytes([type_byte, i, len(chunks), 0]) + whole + answers + digests + chunk
        for i, chunk in enumerate(chunks)
    ]


def seal(bare: bytes, key: bytes, cookie: bytes | None = None) -> bytes:
    """A datagram with its mac1 under `key` (32 bytes) and, where a cookie (16 bytes) is known, its mac2."""
    with_mac1 = bare + mac(key, bare)
    return with_mac1 + (mac(cookie, with_mac1) if cookie else bytes(MAC_BYTES))


def mac1_of(datagram: bytes) -> bytes:
    return datagram[-_MACS:-MAC_BYTES]


def mac1_holds(datagram: bytes, key: bytes) -> bool:
    return compare_digest(mac1_of(datagram), mac(key, datagram[:-_MACS]))


def mac2_holds(datagram: bytes, cookie: bytes) -> bool:
    return compare_digest(datagram[-MAC_BYTES:], mac(cookie, datagram[:-MAC_BYTES]))


@dataclass(slots=True)
class _Partial:
    network: bytes
    source: Address
    born_us: int
    chunks: dict[int, bytes] = field(default_factory=dict)


class Reassembly:
    """Partial messages of everybody who passed mac1 (and, under load, mac2)."""

    def __init__(self) -> None:
        self._partial: dict[tuple[Address, bytes], _Partial] = {}

    def __len__(self) -> int:
        return len(self._partial)

    def add(self, datagram: bytes, source: Address, now_us: int) -> bytes | None:
        """The whole message once its last fragment has come; None until then, and for whatever is refused."""
        index, count = datagram[1], datagram[2]
        body = _FIXED + DIGEST_BYTES * count
        if not 1 <= count <= MAX_FRAGMENTS or index >= count or len(datagram) <= body + _MACS:
            return None
        chunk, digests = datagram[body:-_MACS], datagram[_FIXED:body]
        if _digest(chunk) != digests[DIGEST_BYTES * index : DIGEST_BYTES * (index + 1)]:
            return None
        key = (source, datagram[4:_FIXED] + digests)
        partial = self._partial.get(key)
        if partial is None or now_us - partial.born_us >= PARTIAL_US:
            partial = self._admit(key, source, now_us)
        elif index not in partial.chunks:
            self._partial[key] = self._partial.pop(key)  # to the end: the last to make room
        partial.chunks[index] = chunk
        if len(partial.chunks) < count:
            return None
        del self._partial[key]
        message = b"".join(partial.chunks[i] for i in range(count))
        return message if message_id(message) == datagram[4:12] else None

    def _admit(self, key: tuple[Address, bytes], source: Address, now_us: int) -> _Partial:
        self.expire(now_us)
        network = network_of(source)
        same_source = [k for k, p in self._partial.items() if p.source == source]
        same_network = [k for k, p in self._partial.items() if p.network == network]
        if len(same_source) >= MAX_PER_SOURCE:
            del self._partial[same_source[0]]
        elif len(same_network) >= MAX_PER_NETWORK:
            del self._partial[same_network[0]]
        elif len(self._partial) >= MAX_PARTIAL:
            del self._partial[self._stalest_of_the_fullest()]
        partial = self._partial[key] = _Partial(network, source, now_us)
        return partial

    def _stalest_of_the_fullest(self) -> tuple[Address, bytes]:
        sizes: dict[bytes, int] = {}
        for partial in self._partial.values():
            sizes[partial.network] = sizes.get(partial.network, 0) + 1
        fullest = max(sizes.values())
        return next(k for k, p in self._partial.items() if sizes[p.network] == fullest)

    def expire(self, now_us: int) -> None:
        """Forget what is older than two seconds."""
        for key in [k for k, p in self._partial.items() if now_us - p.born_us >= PARTIAL_US]:
            del self._partial[key]


def _digest(chunk: bytes) -> bytes:
    return sha256(chunk).digest()[:DIGEST_BYTES]
