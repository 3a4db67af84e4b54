"""Signatures and keys for a simulated world: as long as Ed25519's, far faster, worth nothing elsewhere.

    public    = BLAKE2b(seed), 32 bytes        signature = BLAKE2b(label ‖ payload, key = public), 64 bytes

Anybody could make one, and nobody in the world does: an attacker there sends wrong ones.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import Final

from crypto.identity import KeyBundle
from crypto.kem import KEM_SEED_BYTES, X25519_BYTES, HybridKey, RealPrimitives
from dht.inbox import Machine

_PRIMITIVES: Final = RealPrimitives()


def _signature(public: bytes, label: bytes, payload: bytes) -> bytes:
    return blake2b(bytes([len(label)]) + label + payload, key=public).digest()


class ToySignatures:
    """A dht.signatures.Signatures."""

    def holds(self, public: bytes, label: bytes, payload: bytes, signature: bytes) -> bool:
        return len(public) == 32 and _signature(public, label, payload) == signature


class ToySigner:
    """A dht.signatures.Signer, from a seed of 32 bytes."""

    __slots__ = ("public",)

    def __init__(self, seed: bytes) -> None:
        self.public = blake2b(seed, digest_size=32).digest()

    def sign(self, label: bytes, payload: bytes) -> bytes:
        return _signature(self.public, label, payload)


class _ToyBundle(KeyBundle):
    """Put together when it is asked for: of its 1,248 bytes all but the signer's 32 are everybody's."""

    __slots__ = ("_public",)
    _public: bytes

    def __init__(self, public: bytes) -> None:
        object.__setattr__(self, "_public", public)

    @property
    def raw(self) -> bytes:
        static = _static()
        return self._public + static.x25519_public + static.kem_public


def toy_machine(signer: ToySigner) -> Machine:
    """A machine whose signing key alone is its own: in the world nobody seals anything to anybody."""
    return Machine(_ToyBundle(signer.public), _static(), signer, _PRIMITIVES)


@cache
def _static() -> HybridKey:
    return HybridKey.from_seeds(bytes(X25519_BYTES), bytes(KEM_SEED_BYTES))
