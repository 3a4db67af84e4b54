"""What one 32-byte vault key seals and vouches for: the same in a vault's bytes and in rows of a database.

    key of a purpose   HKDF-Expand(vault key, purpose)                                      RFC 5869
    key of a name      HKDF-Expand(vault key, "entry " ‖ name, UTF-8)
    box                nonce (12) ‖ AES-256-GCM(key of the name, nonce, secret, associated data) and tag (16)

Names have keys of their own, so that a box cannot be read under another name, and so that one random nonce
of 96 bits has only the few writes of one name to be unlike.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from crypto.vault_keys import KEY_BYTES, VaultDamaged

NONCE_BYTES: Final = 12
BOX_BYTES: Final = NONCE_BYTES + 16
"""What a box has beyond its secret."""


class Boxes:
    """Seals and opens under one key, which its repr does not show."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def derived(self, purpose: bytes) -> bytes:
        """32 bytes, for nothing but this purpose."""
        return HKDFExpand(SHA256(), KEY_BYTES, purpose).derive(self._key)

    def mac(self, purpose: bytes, signed: bytes) -> bytes:
        """32 bytes: HMAC-SHA256 under the purpose's key."""
        return hmac.digest(self.derived(purpose), signed, "sha256")

    def seal(self, name: str, associated: bytes, secret: bytes, nonce: bytes) -> bytes:
        """The box; `nonce` has 12 random bytes, new ones for each call."""
        return nonce + self._cipher(name).encrypt(nonce, secret, associated)

    def open(self, name: str, associated: bytes, box: bytes) -> bytes:
        """The secret in it; raises VaultDamaged."""
        nonce, sealed = box[:NONCE_BYTES], box[NONCE_BYTES:]
        try:
            return self._cipher(name).decrypt(nonce, sealed, associated)
        except (InvalidTag, ValueError) as error:
            raise damaged() from error

    def _cipher(self, name: str) -> AESGCM:
        return AESGCM(self.derived(b"entry " + name.encode()))


def damaged() -> VaultDamaged:
    return VaultDamaged("this vault is damaged; put back a backup of it")
