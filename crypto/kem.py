"""ML-KEM-768 (FIPS 203) and X25519 (RFC 7748) behind one small face, and the HKDF schedule (RFC 5869).

Key generation and encapsulation draw randomness that no caller can seed, so they sit behind `Primitives`:
the node uses `RealPrimitives`, a test replays recorded values and a simulated world uses toy ones.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

X25519_BYTES = 32
KEM_PUBLIC_BYTES = 1184
KEM_CIPHERTEXT_BYTES = 1088
KEM_SEED_BYTES = 64
SHARED_BYTES = 32
HASH_BYTES = 32
PARSED_KEYS = 64  # of each kind; an ML-KEM key takes 6.6 kB, an X25519 key 0.4 kB

# HMAC's pads fill a block of SHA-256, 64 bytes: half is XORed with the key, half stands as it is
_INNER_REST, _OUTER_REST = b"\x36" * 32, b"\x5c" * 32
_INNER, _OUTER = int.from_bytes(_INNER_REST, "little"), int.from_bytes(_OUTER_REST, "little")


class BadPublicKey(ValueError):
    """The peer's X25519 or ML-KEM value is malformed or of low order."""


class PrivateHybrid(Protocol):
    """The secret half of a machine's static keys or of a handshake's ephemeral ones."""

    @property
    def x25519_public(self) -> bytes:
        """32 bytes."""

    @property
    def kem_public(self) -> bytes:
        """1,184 bytes."""

    def exchange(self, x25519_public: bytes) -> bytes:
        """X25519 with the peer's 32-byte public value: 32 bytes. Raises BadPublicKey."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The 32 bytes inside a ciphertext of 1,088. Raises BadPublicKey when it has another length.

        A forged ciphertext of the right length yields an unrelated secret (implicit rejection)."""


class Primitives(Protocol):
    """Where a handshake's fresh randomness comes from."""

    def ephemeral(self) -> PrivateHybrid:
        """A fresh X25519 and ML-KEM-768 pair."""

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        """(shared secret 32, ciphertext 1,088) for a public key of 1,184 bytes. Raises BadPublicKey."""


class HybridKey:
    """An X25519 and an ML-KEM-768 private key, from their seeds (32 and 64 bytes)."""

    __slots__ = ("_kem", "_x25519", "kem_public", "x25519_public")

    def __init__(self, x25519: X25519PrivateKey, kem: MLKEM768PrivateKey) -> None:
        self._x25519 = x25519
        self._kem = kem
        self.x25519_public = x25519.public_key().public_bytes_raw()
        self.kem_public = kem.public_key().public_bytes_raw()

    @classmethod
    def from_seeds(cls, x25519_seed: bytes, kem_seed: bytes) -> HybridKey:
        return cls(
            X25519PrivateKey.from_private_bytes(x25519_seed), MLKEM768PrivateKey.from_seed_bytes(kem_seed)
        )

    def exchange(self, x25519_public: bytes) -> bytes:
        return _exchange(self._x25519, x25519_public)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        try:
            return self._kem.decapsulate(ciphertext)
        except ValueError as error:
            raise BadPublicKey("ML-KEM-768 ciphertext of wrong length") from error


@lru_cache(maxsize=PARSED_KEYS)
def x25519_public_key(public: bytes) -> X25519PublicKey:
    """The 32 bytes as a key, kept since a handshake uses each twice. Raises ValueError."""
    return X25519PublicKey.from_public_bytes(public)


@lru_cache(maxsize=PARSED_KEYS)
def kem_public_key(public: bytes) -> MLKEM768PublicKey:
    """The 1,184 bytes as a key: parsing them costs as much as the encapsulation to it. Raises ValueError."""
    return MLKEM768PublicKey.from_public_bytes(public)


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(x25519_public_key(public))
    except (ValueError, InvalidKey) as error:
        raise BadPublicKey("X25519 public value of low order or wrong length") from error


class _Ephemeral:
    """A fresh pair whose ML-KEM half is made when it is first asked for: a responder never does."""

    def __init__(self) -> None:
        self._x25519 = X25519PrivateKey.generate()
        self.x25519_public = self._x25519.public_key().public_bytes_raw()

    @cached_property
    def _hybrid(self) -> HybridKey:
        return HybridKey(self._x25519, MLKEM768PrivateKey.generate())

    @property
    def kem_public(self) -> bytes:
        return self._hybrid.kem_public

    def exchange(self, x25519_public: bytes) -> bytes:
        return _exchange(self._x25519, x25519_public)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._hybrid.decapsulate(ciphertext)


class RealPrimitives:
    """The operating system's randomness, through the `cryptography` wheel's OpenSSL."""

    def ephemeral(self) -> PrivateHybrid:
        return _Ephemeral()

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        try:
            return kem_public_key(kem_public).encapsulate()
        except ValueError as error:
            raise BadPublicKey("ML-KEM-768 public key fails the FIPS 203 input check") from error


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """RFC 2104 for a key of 32 bytes.

    A handshake takes some thirty of them, and hmac.digest looks its algorithm up anew in every call. An
    integer's XOR, unlike bytes.translate, looks nothing up by a secret."""
    assert len(key) == HASH_BYTES
    number = int.from_bytes(key, "little")
    inside = sha256((number ^ _INNER).to_bytes(HASH_BYTES, "little") + _INNER_REST + data).digest()
    return sha256((number ^ _OUTER).to_bytes(HASH_BYTES, "little") + _OUTER_REST + inside).digest()


def expand(secret: bytes, label: bytes, context: bytes = b"") -> bytes:
    """32 bytes for one purpose: HKDF-Expand(secret, len(label) ‖ label ‖ context), one block."""
    return hmac_sha256(secret, bytes([len(label)]) + label + context + b"\x01")
