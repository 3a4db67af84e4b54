"""What two machines show each other of their ledgers when a tunnel opens, so that whoever forks is found out.

    heads       msgpack [1, head, yours]        the newest block of one's own chain, and the newest of the
                                                reader's that one holds; empty where there is none
    sketch      msgpack [2, salt 8, entries 12 × n]     which blocks of third parties one holds; n ≤ 69
    held        msgpack [3, block]              the one that one holds where the other showed another
    reference   msgpack [4, proposal, answer]   a pair that one earned, for the reader's trust tier

    entry       ├ place 8 ┼ hash 4 ┤    place = SHA-256(label ‖ key 32 ‖ number 8), first 8 bytes
                                        hash: the first 4 bytes of SHA-256(salt ‖ the block's)

None is longer than 850 bytes. A sketch tells nothing of machines that its reader has never met: only who
holds the same places can tell what they are. Where the hashes differ the reader shows its block, and whoever
then has two for one place has the proof of a fork. The salt is random: who forks makes both blocks, and would
else make two that look alike in 4 bytes, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from crypto.errors import PeerFault
from node.settlement.blocks import BLOCK_BYTES, Block

NOTE_BYTES: Final = 850
PLACE_BYTES: Final = 8
SHORT_BYTES: Final = 4
SALT_BYTES: Final = 8
ENTRIES: Final = 69
_ENTRY_BYTES: Final = PLACE_BYTES + SHORT_BYTES
_LABEL: Final = b"zeqnode place in a chain v1"

_Raw = Annotated[bytes, Meta(max_length=BLOCK_BYTES)]


class BadNote(PeerFault):
    """Bytes that are none of these notes."""


class Heads(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Whole blocks as they were signed, or b""."""

    head: _Raw
    yours: _Raw


class Sketch(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """As `sketch` makes it and `entries` reads it."""

    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    packed: Annotated[bytes, Meta(max_length=ENTRIES * _ENTRY_BYTES)]


class Held(msgspec.Struct, array_like=True, frozen=True, tag=3):
    block: _Raw


class Reference(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The payer's half, and the sender's own, which answers it."""

    proposal: _Raw
    answer: _Raw


Note: TypeAlias = Heads | Sketch | Held | Reference

encode: Final = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Note] = msgspec.msgpack.Decoder(Heads | Sketch | Held | Reference)


def decode(data: bytes) -> Note:
    """Raises BadNote. The blocks in it are not looked at."""
    if len(data) > NOTE_BYTES:
        raise BadNote("too long")
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise BadNote("not a note about a ledger") from error


def place(key: bytes, number: int) -> bytes:
    """8 bytes that name a place in a chain to whoever knows it."""
    return sha256(_LABEL + key + number.to_bytes(8, "big")).digest()[:PLACE_BYTES]


def short(block: Block, salt: bytes) -> bytes:
    """4 bytes of its hash, as a sketch with this salt (8 bytes) has them."""
    return sha256(salt + block.hash).digest()[:SHORT_BYTES]


def sketch(blocks: Iterable[Block], salt: bytes) -> Sketch:
    """Of at most 69 blocks."""
    return Sketch(salt, b"".join(place(*block.place) + short(block, salt) for block in blocks))


def entries(note: Sketch) -> dict[bytes, bytes]:
    """4 bytes of the hash at each place. Raises BadNote where it is cut short."""
    packed = note.packed
    if len(packed) % _ENTRY_BYTES:
        raise BadNote("a sketch that is cut short")
    starts = range(0, len(packed), _ENTRY_BYTES)
    return {packed[at : at + PLACE_BYTES]: packed[at + PLACE_BYTES : at + _ENTRY_BYTES] for at in starts}
