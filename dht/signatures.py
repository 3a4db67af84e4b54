"""Signatures behind one small face: the product has Ed25519, a simulated world something cheaper.

A label that names type and version goes in front of what is signed, as crypto/identity.py has it.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crypto.identity import BadSignature, MachineKeys, sign, verify


class Signatures(Protocol):
    """Checks signatures of strangers."""

    def holds(self, public: bytes, label: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether the holder of the 32-byte public key signed this (64 bytes)."""


class Signer(Protocol):
    """One who signs."""

    @property
    def public(self) -> bytes:
        """32 bytes."""

    def sign(self, label: bytes, payload: bytes) -> bytes:
        """64 bytes."""


class Ed25519Signatures:
    """RFC 8032."""

    def holds(self, public: bytes, label: bytes, payload: bytes, signature: bytes) -> bool:
        try:
            verify(public, label, payload, signature)
        except BadSignature:
            return False
        return True


class MachineSigner:
    """A machine's own Ed25519 key."""

    def __init__(self, keys: MachineKeys) -> None:
        self._keys = keys
        self.public = keys.bundle.ed25519

    def sign(self, label: bytes, payload: bytes) -> bytes:
        return sign(self._keys, label, payload)


class SeedSigner:
    """An Ed25519 key of its own, from a seed of 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, label: bytes, payload: bytes) -> bytes:
        return self._key.sign(bytes([len(label)]) + label + payload)
