"""A machine's keys, the names that follow from them, and signatures that say what they sign.

    key bundle (public, 1,248 bytes)               secret seeds (128 bytes, never printed)
    0        32       64                 1248      0        32       64             128
    ├ Ed25519 ┼ X25519 ┼ ML-KEM-768 ──────┤        ├ Ed25519 ┼ X25519 ┼ ML-KEM d‖z ──┤

    machine_id  = SHA-256("zeqnode machine v1" ‖ bundle)             32 bytes: one hash pins every key
    fingerprint = base32 of machine_id, 13 groups of four            what people compare
    slug        = "ZEQ07" ‖ first 64 bits of machine_id mod 10⁹      a name, not a proof
    ULA         = fd5a:6571::/32 ‖ first 96 bits of machine_id       its IPv6 address inside the mesh

Signed is always  len(label) (1 byte) ‖ label ‖ payload ; the label names type and version of the payload.
Sources: RFC 8032 (Ed25519), RFC 7748 (X25519), FIPS 203 (ML-KEM), RFC 4648 (base32), RFC 4193 (ULA).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv6Address
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from crypto.kem import PARSED_KEYS, kem_public_key, x25519_public_key

MACHINE_ID_BYTES: Final = 32
BUNDLE_BYTES: Final = 1248
SEEDS_BYTES: Final = 128
SIGNATURE_BYTES: Final = 64
ULA_PREFIX: Final = bytes.fromhex("fd5a6571")

_ED25519: Final = slice(0, 32)
_X25519: Final = slice(32, 64)
_ML_KEM: Final = slice(64, None)
_MACHINE_LABEL: Final = b"zeqnode machine v1"
_SLUG_PREFIX: Final = "ZEQ07"
_FINGERPRINT_CHARS: Final = 52


class IdentityError(Exception):
    """Keys, names or signatures that are not what they should be."""


class BadKeys(IdentityError):
    """Bytes that are not a machine's keys, public or secret."""


class BadSignature(IdentityError):
    """A signature that does not fit its key, its label and its payload."""


class BadFingerprint(IdentityError):
    """Text that is not a whole fingerprint."""


@dataclass(frozen=True)
class KeyBundle:
    """A machine's three public keys; build it with `from_bytes`, which checks them.

    The key objects and machine_id are worked out once and kept.
    """

    raw: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyBundle:
        """Read 1,248 bytes; raises BadKeys on a wrong length or a key that is no key of its kind."""
        if len(data) != BUNDLE_BYTES:
            raise BadKeys(f"a key bundle has {BUNDLE_BYTES} bytes, this one {len(data)}")
        try:
            return _checked(bytes(data))
        except ValueError as error:
            raise BadKeys("the key bundle holds a key that is not valid") from error

    def to_bytes(self) -> bytes:
        return self.raw

    @property
    def ed25519(self) -> bytes:
        """32 bytes."""
        return self.raw[_ED25519]

    @property
    def x25519(self) -> bytes:
        """32 bytes."""
        return self.raw[_X25519]

    @property
    def ml_kem(self) -> bytes:
        """1,184 bytes."""
        return self.raw[_ML_KEM]

    @cached_property
    def ed25519_key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.ed25519)

    @cached_property
    def x25519_key(self) -> X25519PublicKey:
        return x25519_public_key(self.x25519)

    @cached_property
    def ml_kem_key(self) -> MLKEM768PublicKey:
        return kem_public_key(self.ml_kem)

    @cached_property
    def machine_id(self) -> bytes:
        """32 bytes."""
        return hashlib.sha256(_MACHINE_LABEL + self.raw).digest()

    def __repr__(self) -> str:
        return f"KeyBundle({slug(self.machine_id)} {fingerprint(self.machine_id)})"


@lru_cache(maxsize=PARSED_KEYS)
def _checked(raw: bytes) -> KeyBundle:
    """Kept, since a peer shows the same bundle in every handshake. Raises ValueError for a bad key."""
    bundle = KeyBundle(raw)
    _ = (bundle.ed25519_key, bundle.x25519_key, bundle.ml_kem_key)
    return bundle


@dataclass(frozen=True, eq=False)
class MachineKeys:
    """A machine's three secret keys, kept as 128 bytes of seeds; neither repr nor str shows a secret.

    Build it with `generate` or `from_bytes`.
    """

    seeds: bytes

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> MachineKeys:
        """New keys from `entropy(n) -> n bytes`, called once with 128."""
        return cls.from_bytes(entropy(SEEDS_BYTES))

    @classmethod
    def from_bytes(cls, data: bytes) -> MachineKeys:
        """Read 128 bytes of seeds; raises BadKeys on any other length."""
        if len(data) != SEEDS_BYTES:
            raise BadKeys(f"a machine's secret keys take {SEEDS_BYTES} bytes, not {len(data)}")
        return cls(bytes(data))

    def to_bytes(self) -> bytes:
        """The 128 secret bytes: for a vault, never for a file as they stand."""
        return self.seeds

    @cached_property
    def ed25519_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seeds[_ED25519])

    @cached_property
    def x25519_key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.seeds[_X25519])

    @cached_property
    def ml_kem_key(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self.seeds[_ML_KEM])

    @cached_property
    def bundle(self) -> KeyBundle:
        """The public half."""
        publics = (
            self.ed25519_key.public_key().public_bytes_raw(),
            self.x25519_key.public_key().public_bytes_raw(),
            self.ml_kem_key.public_key().public_bytes_raw(),
        )
        return KeyBundle(b"".join(publics))

    @property
    def machine_id(self) -> bytes:
        """32 bytes."""
        return self.bundle.machine_id

    def __repr__(self) -> str:
        return f"MachineKeys({slug(self.machine_id)}, secrets hidden)"


def slug(machine_id: bytes) -> str:
    """`ZEQ07` and nine digits: short, and shared by others sooner or later (DESIGN.md section 4)."""
    return f"{_SLUG_PREFIX}{int.from_bytes(machine_id[:8], 'big') % 10**9:09d}"


def fingerprint(machine_id: bytes) -> str:
    """machine_id in lower-case base32, in groups of four joined by "-"; 64 characters."""
    text = base64.b32encode(machine_id).decode("ascii").rstrip("=").lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def parse_fingerprint(text: str) -> bytes:
    """machine_id (32 bytes) of a whole fingerprint; letter case, hyphens and blanks do not matter.

    Raises BadFingerprint.
    """
    compact = "".join(text.split()).replace("-", "").upper()
    if len(compact) != _FINGERPRINT_CHARS:
        raise BadFingerprint(
            f"a fingerprint has {_FINGERPRINT_CHARS} letters and digits, not {len(compact)}; copy all of it"
        )
    try:
        machine_id = base64.b32decode(compact + "====")
    except ValueError as error:
        raise BadFingerprint(
            "a fingerprint has only the letters a to z and the digits 2 to 7; copy it again"
        ) from error
    if fingerprint(machine_id).replace("-", "").upper() != compact:
        raise BadFingerprint("the end of the fingerprint is not right; copy it again")
    return machine_id


def ula(machine_id: bytes) -> IPv6Address:
    """The machine's address inside the mesh: our literal /32, then 96 bits of machine_id."""
    return IPv6Address(ULA_PREFIX + machine_id[:12])


def sign(keys: MachineKeys, label: bytes, payload: bytes) -> bytes:
    """64 bytes of Ed25519 over `label` (1 to 255 bytes, like b"zeqnode invitation v1") and `payload`."""
    return sign_as(keys.ed25519_key, label, payload)


def sign_as(key: Ed25519PrivateKey, label: bytes, payload: bytes) -> bytes:
    """64 bytes, as `sign` has them, by another key than a machine's."""
    return key.sign(_signed(label, payload))


def verify(ed25519_public: bytes, label: bytes, payload: bytes, signature: bytes) -> None:
    """Return if `signature` is by the holder of the 32-byte key for just this label; else BadSignature."""
    try:
        key = Ed25519PublicKey.from_public_bytes(ed25519_public)
        key.verify(signature, _signed(label, payload))
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the signature on {label.decode('ascii', 'replace')} does not hold") from error


def _signed(label: bytes, payload: bytes) -> bytes:
    """The bytes that a signature covers; the length keeps label and payload apart."""
    return bytes([len(label)]) + label + payload
