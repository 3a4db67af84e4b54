"""Noise's symmetric state (Noise Protocol Framework, revision 34, section 5.2), every field length-prefixed.

ck   chaining key, 32 bytes: all secrets so far
h    transcript hash, 32 bytes: all public bytes so far, each field as u32 length ‖ bytes
k,n  AES-256-GCM key and message counter of the current handshake key; most keys of a handshake are mixed
     over before anything is sealed under them, so the cipher is made when it is first asked for
"""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import HandshakeRefused
from crypto.kem import hmac_sha256

TAG_BYTES = 16


class SymmetricState:
    """Begins with `chaining_key` and `hash`: the protocol's, or those of a state to go on from."""

    __slots__ = ("_cipher", "_counter", "_output", "_previous", "_prk", "chaining_key", "hash")

    def __init__(self, chaining_key: bytes, transcript: bytes) -> None:
        self.chaining_key = chaining_key
        self.hash = transcript
        # HKDF of the last secret: its PRK, and which output is the key; an output needs the one before it
        self._prk = self._previous = b""
        self._output = 0
        self._cipher: AESGCM | None = None
        self._counter = 0

    def mix_hash(self, field: bytes) -> None:
        self.hash = sha256(self.hash + len(field).to_bytes(4, "big") + field).digest()

    def mix_key(self, secret: bytes) -> None:
        self._prk = hmac_sha256(self.chaining_key, secret)
        self.chaining_key = self._previous = hmac_sha256(self._prk, b"\x01")
        self._output, self._cipher = 2, None

    def mix_key_and_hash(self, secret: bytes) -> None:
        self.mix_key(secret)
        self._previous = hmac_sha256(self._prk, self._previous + b"\x02")
        self.mix_hash(self._previous)
        self._output = 3

    def seal(self, plaintext: bytes) -> bytes:
        """Noise's EncryptAndHash: plaintext + 16 bytes."""
        cipher, nonce = self._next()
        ciphertext = cipher.encrypt(nonce, plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def open(self, ciphertext: bytes) -> bytes:
        """Noise's DecryptAndHash. Raises HandshakeRefused."""
        cipher, nonce = self._next()
        try:
            plaintext = cipher.decrypt(nonce, ciphertext, self.hash)
        except InvalidTag as error:
            raise HandshakeRefused("a field of the handshake does not authenticate") from error
        self.mix_hash(ciphertext)
        return plaintext

    def _next(self) -> tuple[AESGCM, bytes]:
        """The current key's cipher and its next nonce."""
        if self._cipher is None:
            assert self._output, "no key mixed yet"
            key = hmac_sha256(self._prk, self._previous + bytes([self._output]))
            self._cipher, self._counter = AESGCM(key), 0
        nonce = self._counter.to_bytes(12, "big")
        self._counter += 1
        return self._cipher, nonce
