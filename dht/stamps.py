"""Work stamps: what a signer pays for a place in a set that many want to be in.

    stamp  ├ bits 1 ┼ nonce 8 ┤   SHA-256(label ‖ signer 32 ‖ key 32 ‖ day 4 ‖ nonce) begins with `bits` zeros

A stamp is good for one signer, key and day, so records of that day share it, and none is made long ahead.
`bits` is claimed and checked, not measured: a record ranks no higher for luck, so that the record of another
day, whose luck is another, takes its place.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Final

STAMP_BYTES: Final = 9
STAMP_BITS: Final = 14  # 16,000 hashes: some 15 ms
MAX_BITS: Final = 32  # an hour or more of work
_DAY_MS: Final = 86_400_000
_LABEL: Final = b"zeqnode stamp v1"


@lru_cache(maxsize=64)
def _find(head: bytes, bits: int) -> bytes:
    started, limit, nonce = sha256(head), 1 << (256 - bits), 0
    while True:
        attempt = started.copy()
        attempt.update(nonce.to_bytes(8, "big"))
        if int.from_bytes(attempt.digest(), "big") < limit:
            return nonce.to_bytes(8, "big")
        nonce += 1


def make(signer: bytes, key: bytes, sequence: int, bits: int = STAMP_BITS) -> bytes:
    """9 bytes for records of the day that `sequence` (Unix ms) lies in; takes 2^bits hashes once a day."""
    assert bits <= MAX_BITS
    return bytes([bits]) + _find(_head(signer, key, sequence), bits)


def holds(stamp: bytes, signer: bytes, key: bytes, sequence: int) -> bool:
    """Whether the work that the stamp claims was done for that signer, key and day."""
    found = sha256(_head(signer, key, sequence) + stamp[1:]).digest()
    return int.from_bytes(found, "big") >> (256 - stamp[0]) == 0


def _head(signer: bytes, key: bytes, sequence: int) -> bytes:
    return _LABEL + signer + key + (sequence // _DAY_MS).to_bytes(8, "big")
