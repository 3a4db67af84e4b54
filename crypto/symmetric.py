"""Noise's symmetric state (Noise Protocol Framework, revision 34, section 5.2), every field length-prefixed.

ck   chaining key, 32 bytes: all secrets so far
h    transcript hash, 32 bytes: all public bytes so far, each field as u32 length ‖ bytes
k,n  AES-256-GCM key and message counter of the current handshake key
"""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import HandshakeRefused
from crypto.kem import hkdf_pair, hkdf_triple

TAG_BYTES = 16
HASH_BYTES = 32


class SymmetricState:
    __slots__ = ("_counter", "_key", "chaining_key", "hash")

    def __init__(self, protocol_name: bytes) -> None:
        self.hash = sha256(protocol_name).digest()
        self.chaining_key = self.hash
        self._key: AESGCM | None = None
        self._counter = 0

    def mix_hash(self, field: bytes) -> None:
        self.hash = sha256(self.hash + len(field).to_bytes(4, "big") + field).digest()

    def mix_key(self, secret: bytes) -> None:
        self.chaining_key, key = hkdf_pair(self.chaining_key, secret)
        self._set_key(key)

    def mix_key_and_hash(self, secret: bytes) -> None:
        self.chaining_key, mixed, key = hkdf_triple(self.chaining_key, secret)
        self.mix_hash(mixed)
        self._set_key(key)

    def seal(self, plaintext: bytes) -> bytes:
        """Noise's EncryptAndHash: plaintext + 16 bytes."""
        assert self._key is not None, "no key mixed yet"
        ciphertext = self._key.encrypt(self._nonce(), plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def open(self, ciphertext: bytes) -> bytes:
        """Noise's DecryptAndHash. Raises HandshakeRefused."""
        assert self._key is not None, "no key mixed yet"
        try:
            plaintext = self._key.decrypt(self._nonce(), ciphertext, self.hash)
        except InvalidTag as error:
            raise HandshakeRefused("a field of the handshake does not authenticate") from error
        self.mix_hash(ciphertext)
        return plaintext

    def _set_key(self, key: bytes) -> None:
        self._key, self._counter = AESGCM(key), 0

    def _nonce(self) -> bytes:
        nonce = self._counter.to_bytes(12, "big")
        self._counter += 1
        return nonce
