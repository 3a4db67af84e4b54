"""What the mesh carries: a bulletin, signed by its author, dated, and paid for with a little work.

    bulletin = signed part ‖ signature 64              at most 1,100 bytes, in one datagram (messages.Push)
    signed part = msgpack [version 1, topic, author 32, zeqond, sequence, stamp, body]
    signature: Ed25519 by `author` under the label "zeqnode gossip v1"
    stamp: any number that gives SHA-256(signed part) `difficulty` leading zero bits; looked at before the
           signature, so that whoever floods the mesh pays more than those who throw the flood away
    id = SHA-256(bulletin), first 12 bytes

It is read when at most two hours old and at most ten minutes ahead (as DESIGN.md has for clocks that err).
Later versions append to the array; a version that is not known here is passed over, not punished.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.identity import SIGNATURE_BYTES
from crypto.pulse import ZEQOND_MS
from dht.signatures import Signatures, Signer

VERSION: Final = 1
ID_BYTES: Final = 12
TOPIC_CHARS: Final = 64
BODY_BYTES: Final = 900
BULLETIN_BYTES: Final = 1100
DIFFICULTY: Final = 12  # leading zero bits: some 4,096 hashes, ten milliseconds of one core
LIFE_ZEQONDS: Final = 7_200_000 // ZEQOND_MS + 1
AHEAD_ZEQONDS: Final = 600_000 // ZEQOND_MS + 1
LABEL: Final = b"zeqnode gossip v1"
_PARSED: Final = 4096  # bulletins remembered by their bytes: 5 MB at most

_Public = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Signed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: Annotated[int, Meta(ge=1)]
    topic: Annotated[str, Meta(max_length=TOPIC_CHARS, pattern=r"^[ -~]*\Z")]
    author: _Public
    zeqond: _Number
    sequence: _Number
    stamp: _Number
    body: Annotated[bytes, Meta(max_length=BODY_BYTES)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Signed).decode


@dataclass(frozen=True, slots=True, eq=False)
class Bulletin:
    """One message of the mesh; the same object wherever the same bytes are parsed. Nothing is proven yet:
    `genuine` and `timely` say whether it holds."""

    topic: str
    author: bytes  # Ed25519, 32 bytes
    zeqond: int
    sequence: int
    body: bytes
    id: bytes  # 12 bytes
    wire: bytes
    known: bool  # whether its version is one that this program reads


def compose(
    topic: str, body: bytes, signer: Signer, zeqond: int, sequence: int, difficulty: int = DIFFICULTY
) -> Bulletin:
    """A new bulletin. Raises ValueError when topic (64 printable ASCII characters), body (900 bytes) or a
    number (63 bits) is too long."""
    for stamp in count():
        signed = _encode(_Signed(VERSION, topic, signer.public, zeqond, sequence, stamp, body))
        if _zero_bits(signed, difficulty):
            break
    bulletin = parse(signed + signer.sign(LABEL, signed))
    if bulletin is None:
        raise ValueError("a bulletin has at most 64 ASCII characters of topic and 900 bytes of body")
    return bulletin


@lru_cache(maxsize=_PARSED)
def parse(wire: bytes) -> Bulletin | None:
    """Of a whole bulletin's bytes; None for what is none."""
    if not SIGNATURE_BYTES < len(wire) <= BULLETIN_BYTES:
        return None
    try:
        part = _decode(wire[:-SIGNATURE_BYTES])
    except (ValueError, RecursionError):  # not UTF-8, too deep: no errors of msgspec's own
        return None
    name = hashlib.sha256(wire).digest()[:ID_BYTES]
    known = part.version == VERSION
    return Bulletin(part.topic, part.author, part.zeqond, part.sequence, part.body, name, wire, known)


def genuine(bulletin: Bulletin, signatures: Signatures, difficulty: int) -> bool:
    """Whether its author wrote it and paid for it; worked out once."""
    return _genuine(bulletin, signatures, difficulty)  # type: ignore[arg-type]  # mypy: protocols do not hash


@lru_cache(maxsize=_PARSED)
def _genuine(bulletin: Bulletin, signatures: Signatures, difficulty: int) -> bool:
    signed, signature = bulletin.wire[:-SIGNATURE_BYTES], bulletin.wire[-SIGNATURE_BYTES:]
    return _zero_bits(signed, difficulty) and signatures.holds(bulletin.author, LABEL, signed, signature)


def timely(zeqond: int, now_zeqond: int) -> bool:
    """Whether a bulletin of that zeqond is to be read now."""
    return now_zeqond - LIFE_ZEQONDS <= zeqond <= now_zeqond + AHEAD_ZEQONDS


def _zero_bits(signed: bytes, difficulty: int) -> bool:
    head = int.from_bytes(hashlib.sha256(signed).digest()[:8], "big")
    return head >> (64 - difficulty) == 0
