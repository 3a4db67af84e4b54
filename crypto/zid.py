"""An owner's identity, the ZID, and the claim in which owner and machine say that they belong together.

    ZID     "zid:" ‖ base32 of  Ed25519 public key (32) ‖ check (3)         60 characters, lower case
    check   the first 3 bytes of SHA-256("zeqnode zid v1" ‖ public key)     a slip of the pen, not an attack

    claim   version 1 (1) ‖ owner's key (32) ‖ machine_id (32) ‖ made (8) ‖ expires (8)
            ‖ owner's signature (64) ‖ machine's signature (64)     209 bytes; big-endian, times in zeqonds

Both sign the first 81 bytes, each under a label of its own: an owner cannot take a machine that does not
agree, nor a machine an owner. It ends by its expiry and cannot be taken back before.
Sources: RFC 8032 (Ed25519), RFC 4648 (base32); the text form is ours, as nobody has published one.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crypto.identity import (
    SIGNATURE_BYTES,
    BadSignature,
    IdentityError,
    KeyBundle,
    MachineKeys,
    sign,
    sign_as,
    verify,
)

SEED_BYTES: Final = 32
CLAIM_BYTES: Final = 209
CLAIM_ZEQONDS_MAX: Final = 82_000_000
"""The longest that a claim may be good for: two years, in zeqonds."""

_PREFIX: Final = "zid:"
_TEXT_CHARS: Final = 56
_CHECK_BYTES: Final = 3
_VERSION: Final = 1
_CLAIM: Final = struct.Struct(">B32s32sQQ")
_ZID_LABEL: Final = b"zeqnode zid v1"
_OWNER_LABEL: Final = b"zeqnode owner claim v1"
_MACHINE_LABEL: Final = b"zeqnode machine claim v1"


class BadZid(IdentityError):
    """Text that is not a whole ZID."""


class BadClaim(IdentityError):
    """A claim that cannot be read, is not of this machine, is not signed by both, or is over."""


@dataclass(frozen=True, eq=False)
class Owner:
    """An owner's secret key, kept as its seed of 32 bytes; neither repr nor str shows it."""

    seed: bytes

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> Owner:
        """A new one from `entropy(n) -> n bytes`, called once with 32."""
        return cls(entropy(SEED_BYTES))

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public(self) -> bytes:
        """32 bytes."""
        return self.key.public_key().public_bytes_raw()

    @cached_property
    def zid(self) -> str:
        return zid(self.public)

    def __repr__(self) -> str:
        return f"Owner({self.zid}, secret hidden)"


@dataclass(frozen=True)
class Claim:
    """What both said, "this machine is mine": the owner's key and machine_id, 32 bytes each; zeqonds."""

    owner: bytes
    machine_id: bytes
    made: int
    expires: int


def zid(public: bytes) -> str:
    """The text form of an owner's 32-byte public key."""
    return _PREFIX + base64.b32encode(public + _check(public)).decode("ascii").lower()


def parse_zid(text: str) -> bytes:
    """The owner's public key (32 bytes) of a whole ZID; letter case does not matter. Raises BadZid."""
    prefix, encoded = text[: len(_PREFIX)].lower(), text[len(_PREFIX) :].upper()
    if prefix != _PREFIX or len(encoded) != _TEXT_CHARS:
        raise BadZid(f"a ZID is {_PREFIX} and {_TEXT_CHARS} letters and digits; copy all of it")
    try:
        data = base64.b32decode(encoded)
    except ValueError as error:
        raise BadZid("a ZID has only the letters a to z and the digits 2 to 7; copy it again") from error
    public, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if check != _check(public):
        raise BadZid("a character of the ZID is not right; copy it again")
    return public


def claim(owner: Owner, keys: MachineKeys, made: int, expires: int) -> bytes:
    """209 bytes, good from the zeqond `made` to before the zeqond `expires`."""
    said = _CLAIM.pack(_VERSION, owner.public, keys.machine_id, made, expires)
    return said + sign_as(owner.key, _OWNER_LABEL, said) + sign(keys, _MACHINE_LABEL, said)


def read_claim(data: bytes, bundle: KeyBundle, zeqond: int) -> Claim:
    """What stands in a claim about the machine with this key bundle; raises BadClaim where it does not hold
    at `zeqond`."""
    if len(data) != CLAIM_BYTES or data[0] != _VERSION:
        raise BadClaim("not a claim of this version")
    said, signatures = data[: _CLAIM.size], data[_CLAIM.size :]
    _, owner, machine_id, made, expires = _CLAIM.unpack(said)
    if machine_id != bundle.machine_id:
        raise BadClaim("a claim about another machine")
    if not made < expires <= made + CLAIM_ZEQONDS_MAX or zeqond >= expires:
        raise BadClaim("a claim that is over, or good for too long")
    try:
        verify(owner, _OWNER_LABEL, said, signatures[:SIGNATURE_BYTES])
        verify(bundle.ed25519, _MACHINE_LABEL, said, signatures[SIGNATURE_BYTES:])
    except BadSignature as error:
        raise BadClaim("a claim that one of the two has not signed") from error
    return Claim(owner, machine_id, made, expires)


def _check(public: bytes) -> bytes:
    return sha256(_ZID_LABEL + public).digest()[:_CHECK_BYTES]
