"""ZeqKeyEx as the seeds' HTTP endpoints have it: a published ML-KEM-768 key, and whoever encapsulates to it.

    responder   publishes public key 1,184, fingerprint, signature of the machine
    initiator   ─ ciphertext 1,088 ─▶   shared 32 = ML-KEM
    responder   ◀─ confirmation 48 ─    AES-256-GCM(record key, nonce 0, SHA-256 of the transcript ‖ tag)

    prk         HMAC-SHA256(SHA-256("zeqnode keyex v1" ‖ machine_id ‖ public key ‖ ciphertext), shared)
    record key  HKDF-Expand(prk, "zeqnode keyex record v1")
    seed        HKDF-Expand(prk, "zeqnode keyex mode b v1", initiator ‖ responder)         crypto/mode_b.py
    commitment  SHA-256("zeqnode seed commitment v1" ‖ seed)

It is a decapsulation service for anybody, so the key is no other's: no tunnel rests on it, and the handshake
between machines (crypto/handshake.py) never uses it. A bare KEM proves nobody: the machine's signature ties
the key to a machine_id, and who calls a machine that it has not met compares the fingerprint by another way.
Nothing proves the initiator; what is said under the record key is said by whoever encapsulated.

Sources: the seeds (names, sizes, the pin), FIPS 203, RFC 5869.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import HandshakeRefused, PeerFault
from crypto.identity import BadSignature, KeyBundle, MachineKeys, sign, verify
from crypto.kem import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    KEM_SEED_BYTES,
    BadPublicKey,
    Primitives,
    expand,
    hmac_sha256,
)

ALG: Final = "ML-KEM-768"
CONFIRMATION_BYTES: Final = 48
_KEY_LABEL: Final = b"zeqnode keyex key v1"
_LABEL: Final = b"zeqnode keyex v1"
_RECORD_LABEL: Final = b"zeqnode keyex record v1"
_SEED_LABEL: Final = b"zeqnode keyex mode b v1"
_COMMITMENT_LABEL: Final = b"zeqnode seed commitment v1"
_CONFIRMATION_LABEL: Final = b"zeqnode keyex confirmation v1"
_NONCE: Final = bytes(12)


class FingerprintMismatch(PeerFault):
    """The published key is not the one that was pinned: do not go on. `fingerprint`: of the key that came."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"the key has the fingerprint {fingerprint}, which is not the pinned one")
        self.fingerprint = fingerprint


@dataclass(frozen=True)
class Published:
    """What anybody may fetch: the key (1,184 bytes), whose it is, and that machine's signature (64 bytes)."""

    machine_id: bytes
    public: bytes
    signature: bytes

    @property
    def fingerprint(self) -> str:
        """64 hex digits: SHA-256 of the public key."""
        return sha256(self.public).hexdigest()

    def check(self, bundle: KeyBundle | None, pinned: str | None) -> None:
        """`bundle`: the machine's keys where we have them; `pinned`: the fingerprint that is expected, in hex
        of either case. Raises FingerprintMismatch, and HandshakeRefused where the signature does not hold."""
        if pinned is not None and not hmac.compare_digest(pinned.strip().lower(), self.fingerprint):
            raise FingerprintMismatch(self.fingerprint)
        if bundle is None:
            return
        if bundle.machine_id != self.machine_id:
            raise HandshakeRefused("the key is another machine's")
        try:
            verify(bundle.ed25519, _KEY_LABEL, self.public, self.signature)
        except BadSignature as error:
            raise HandshakeRefused("the key is not signed by the machine") from error


@dataclass(frozen=True)
class Agreed:
    """What both sides have: never shown, but for `confirmation`, which the responder sends."""

    prk: bytes
    transcript: bytes

    @property
    def record_key(self) -> bytes:
        """32 bytes."""
        return expand(self.prk, _RECORD_LABEL)

    @property
    def confirmation(self) -> bytes:
        """48 bytes that only who has the record key can make."""
        return AESGCM(self.record_key).encrypt(_NONCE, self.transcript, _CONFIRMATION_LABEL)

    def confirm(self, confirmation: bytes) -> None:
        """Raises HandshakeRefused: the other side has another key, or none."""
        try:
            shown = AESGCM(self.record_key).decrypt(_NONCE, confirmation, _CONFIRMATION_LABEL)
        except (InvalidTag, ValueError) as error:
            raise HandshakeRefused("the key confirmation does not open") from error
        if shown != self.transcript:
            raise HandshakeRefused("the key confirmation is of another exchange")

    def mode_b_seed(self, initiator: bytes, responder: bytes) -> bytes:
        """32 bytes for crypto/mode_b.py; the two machine_ids, 32 bytes each, are part of it."""
        return expand(self.prk, _SEED_LABEL, initiator + responder)


class Responder:
    """The machine's key for this alone, from 64 secret bytes that are kept in the vault."""

    def __init__(self, keys: MachineKeys, seed: bytes) -> None:
        assert len(seed) == KEM_SEED_BYTES
        self._kem = MLKEM768PrivateKey.from_seed_bytes(seed)
        public = self._kem.public_key().public_bytes_raw()
        self.published = Published(keys.machine_id, public, sign(keys, _KEY_LABEL, public))

    def respond(self, ciphertext: bytes) -> Agreed:
        """Raises HandshakeRefused for a ciphertext that is none. A forged one gives keys that nobody has."""
        if len(ciphertext) != KEM_CIPHERTEXT_BYTES:
            raise HandshakeRefused(f"a ciphertext has {KEM_CIPHERTEXT_BYTES} bytes, not {len(ciphertext)}")
        return _agreed(self.published, ciphertext, self._kem.decapsulate(ciphertext))


def initiate(published: Published, primitives: Primitives) -> tuple[Agreed, bytes]:
    """What both will have, and the ciphertext (1,088 bytes) to send. `Published.check` comes before. Raises
    HandshakeRefused for a key that is none."""
    if len(published.public) != KEM_PUBLIC_BYTES:
        raise HandshakeRefused(f"a public key has {KEM_PUBLIC_BYTES} bytes, not {len(published.public)}")
    try:
        shared, ciphertext = primitives.encapsulate(published.public)
    except BadPublicKey as error:
        raise HandshakeRefused(str(error)) from error
    return _agreed(published, ciphertext, shared), ciphertext


def commitment(seed: bytes) -> str:
    """64 hex digits, equal on both sides when the seed is, which tell nothing of it."""
    return sha256(_COMMITMENT_LABEL + seed).hexdigest()


def _agreed(published: Published, ciphertext: bytes, shared: bytes) -> Agreed:
    transcript = sha256(_LABEL + published.machine_id + published.public + ciphertext).digest()
    return Agreed(hmac_sha256(transcript, shared), transcript)
