"""A sealed box: bytes that one machine can open, and a receipt that proves that it did.

    0                32              1120
    ├ X25519 e  32 ──┼ ML-KEM  1,088 ┼ AES-256-GCM of the plaintext ‖ tag 16 ┤   1,136 bytes more than inside

    prk     = HMAC-SHA256(SHA-256("zeqnode sealed box v1" ‖ machine_id ‖ e ‖ ML-KEM ciphertext), es ‖ shared)
    key     = HKDF-Expand(prk, "zeqnode sealed key v1", context)           used once, so its nonce is zero
    receipt = HKDF-Expand(prk, "zeqnode sealed receipt v1", context)[:8]

es = X25519(e, recipient), shared = what ML-KEM encapsulates: who wants in has to break both. machine_id pins
all keys of the recipient, so a box is for no other machine that publishes some of them. The context is what
a sender has to know besides: without it, nobody learns from the recipient that this is its box.

Nothing in a box proves who made it. Sources: RFC 5869 (HKDF), FIPS 203 (ML-KEM), RFC 7748 (X25519).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import PeerFault
from crypto.identity import KeyBundle
from crypto.kem import (
    KEM_CIPHERTEXT_BYTES,
    X25519_BYTES,
    BadPublicKey,
    Primitives,
    PrivateHybrid,
    expand,
    hmac_sha256,
)

TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = X25519_BYTES + KEM_CIPHERTEXT_BYTES + TAG_BYTES
RECEIPT_BYTES: Final = 8
_LABEL: Final = b"zeqnode sealed box v1"
_KEY_LABEL: Final = b"zeqnode sealed key v1"
_RECEIPT_LABEL: Final = b"zeqnode sealed receipt v1"
_E: Final = slice(0, X25519_BYTES)
_CIPHERTEXT: Final = slice(X25519_BYTES, X25519_BYTES + KEM_CIPHERTEXT_BYTES)
_SEALED: Final = slice(X25519_BYTES + KEM_CIPHERTEXT_BYTES, None)
_NONCE: Final = bytes(12)


class BoxRefused(PeerFault):
    """A box that is not for us, was made without the context, or is damaged."""


def seal(to: KeyBundle, context: bytes, plaintext: bytes, primitives: Primitives) -> tuple[bytes, bytes]:
    """(box, receipt of 8 bytes). Raises BadPublicKey for a bundle whose keys are none."""
    ephemeral = primitives.ephemeral()
    shared, ciphertext = primitives.encapsulate(to.ml_kem)
    e = ephemeral.x25519_public
    prk = _prk(to.machine_id, e, ciphertext, ephemeral.exchange(to.x25519) + shared)
    sealed = AESGCM(expand(prk, _KEY_LABEL, context)).encrypt(_NONCE, plaintext, None)
    return e + ciphertext + sealed, _receipt(prk, context)


def unseal(
    static: PrivateHybrid, machine_id: bytes, contexts: Iterable[bytes], box: bytes
) -> tuple[bytes, bytes]:
    """(plaintext, receipt) of a box made with one of these contexts. Raises BoxRefused."""
    if len(box) < OVERHEAD_BYTES:
        raise BoxRefused(f"a box has at least {OVERHEAD_BYTES} bytes")
    try:
        secrets = static.exchange(box[_E]) + static.decapsulate(box[_CIPHERTEXT])
    except BadPublicKey as error:
        raise BoxRefused("the box holds a key of low order") from error
    prk = _prk(machine_id, box[_E], box[_CIPHERTEXT], secrets)
    for context in contexts:
        try:
            plaintext = AESGCM(expand(prk, _KEY_LABEL, context)).decrypt(_NONCE, box[_SEALED], None)
        except InvalidTag:
            continue
        return plaintext, _receipt(prk, context)
    raise BoxRefused("the box does not open: it is for somebody else, or made without our lookup secret")


def _prk(machine_id: bytes, e: bytes, ciphertext: bytes, secrets: bytes) -> bytes:
    return hmac_sha256(sha256(_LABEL + machine_id + e + ciphertext).digest(), secrets)


def _receipt(prk: bytes, context: bytes) -> bytes:
    return expand(prk, _RECEIPT_LABEL, context)[:RECEIPT_BYTES]
