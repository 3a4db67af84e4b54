"""ZSC: named secrets sealed at rest, as one string of bytes that may lie in any file.

    header   magic "ZSCV" ‖ version (1) ‖ key kind (1) ‖ cost (1) ‖ salt (16) ‖ entries (2) ‖ key check (16)
    entry    name length (1) ‖ name, UTF-8 ‖ length of the rest (4) ‖ nonce (12) ‖ AES-256-GCM(secret) and tag
    trailer  HMAC-SHA256 of all before (32) ‖ SHA-256 of all before (32)               integers big-endian

    vault key: crypto/vault_keys.py, where it also stands what each kind of key protects against
    key check, MAC key, boxes: crypto/vault_box.py; associated data: version ‖ name

The SHA-256 tells damage from a wrong key without any key; the key check tells a wrong key from a forgery.

Not defended: being put back. An old copy of the whole vault opens as if it were the newest, because a vault
cannot know of a newer one. One entry alone cannot be put back or left out, the MAC covers all.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from typing import Final

from crypto.vault_box import NONCE_BYTES, Boxes, damaged
from crypto.vault_keys import (
    KIND_NAMES,
    SALT_BYTES,
    SCRYPT_COSTS,
    KeyHeader,
    KeyKind,
    KeySource,
    NoSuchSecret,
    VaultTooNew,
    WrongVaultKey,
    kind_of,
    new_header,
    vault_key,
)

VERSION: Final = 1

_MAGIC: Final = b"ZSCV"
_HEADER: Final = struct.Struct(">4sBBB16sH16s")
_LENGTH: Final = struct.Struct(">I")
_CHECK_BYTES: Final = 16
_HASH_BYTES: Final = 32


class Vault:
    """An open vault; its secrets stay sealed until `get` asks for one. Use `create` or `open`."""

    def __init__(self, header: KeyHeader, key: bytes, entropy: Callable[[int], bytes]) -> None:
        self._header = header
        self._boxes = Boxes(key)
        self._entropy = entropy
        self._sealed: dict[str, bytes] = {}

    @classmethod
    def create(cls, source: KeySource, entropy: Callable[[int], bytes] = os.urandom) -> Vault:
        """A new, empty vault; `entropy(n) -> n bytes` gives its salt and every nonce."""
        header = new_header(source, entropy(SALT_BYTES))
        return cls(header, vault_key(source, header), entropy)

    @classmethod
    def open(cls, data: bytes, source: KeySource, entropy: Callable[[int], bytes] = os.urandom) -> Vault:
        """Open what `to_bytes` gave; raises VaultDamaged, VaultTooNew or WrongVaultKey."""
        header, check, count = _read_header(data)
        if kind_of(source) is not header.kind:
            raise WrongVaultKey(f"this vault opens with {KIND_NAMES[header.kind]} only; give that")
        vault = cls(header, vault_key(source, header), entropy)
        if not hmac.compare_digest(check, vault._boxes.derived(b"check")[:_CHECK_BYTES]):
            raise WrongVaultKey(f"{KIND_NAMES[header.kind]} is not the one of this vault; give the right one")
        signed, mac = data[: -2 * _HASH_BYTES], data[-2 * _HASH_BYTES : -_HASH_BYTES]
        if not hmac.compare_digest(mac, vault._boxes.mac(b"mac", signed)):
            raise damaged()
        vault._read_entries(signed[_HEADER.size :], count)
        return vault

    @property
    def kind(self) -> KeyKind:
        """Of the key that opens it."""
        return self._header.kind

    def names(self) -> list[str]:
        """In alphabetical order."""
        return sorted(self._sealed)

    def put(self, name: str, secret: bytes) -> None:
        """Seal `secret` under `name` (1 to 255 bytes of UTF-8), over what was there."""
        if not 1 <= len(name.encode()) <= 255:
            raise ValueError("a secret's name has 1 to 255 bytes")
        self._sealed[name] = self._boxes.seal(name, _associated(name), secret, self._entropy(NONCE_BYTES))

    def get(self, name: str) -> bytes:
        """Raises NoSuchSecret, or VaultDamaged."""
        return self._boxes.open(name, _associated(name), self._entry(name))

    def remove(self, name: str) -> None:
        """Raises NoSuchSecret."""
        self._entry(name)
        del self._sealed[name]

    def resealed(self, source: KeySource) -> Vault:
        """The same secrets under another key, with a new salt and new nonces; raises VaultDamaged."""
        vault = Vault.create(source, self._entropy)
        for name in self.names():
            vault.put(name, self.get(name))
        return vault

    def to_bytes(self) -> bytes:
        """The whole vault, as drawn above; equal contents give equal bytes."""
        check = self._boxes.derived(b"check")[:_CHECK_BYTES]
        parts = [
            _HEADER.pack(
                _MAGIC,
                VERSION,
                self._header.kind,
                self._header.cost,
                self._header.salt,
                len(self._sealed),
                check,
            )
        ]
        for name in self.names():
            encoded, sealed = name.encode(), self._sealed[name]
            parts += [bytes([len(encoded)]), encoded, _LENGTH.pack(len(sealed)), sealed]
        signed = b"".join(parts)
        signed += self._boxes.mac(b"mac", signed)
        return signed + hashlib.sha256(signed).digest()

    def __repr__(self) -> str:
        return f"Vault({self._header.kind.name}, {len(self._sealed)} secrets)"

    def _entry(self, name: str) -> bytes:
        try:
            return self._sealed[name]
        except KeyError:
            raise NoSuchSecret(f"the vault holds no secret named {name}") from None

    def _read_entries(self, data: bytes, count: int) -> None:
        at = 0
        try:
            for _ in range(count):
                name_end = at + 1 + data[at]
                (size,) = _LENGTH.unpack_from(data, name_end)
                at_sealed = name_end + _LENGTH.size
                self._sealed[data[at + 1 : name_end].decode()] = data[at_sealed : at_sealed + size]
                at = at_sealed + size
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise damaged() from error
        if at != len(data) or len(self._sealed) != count:
            raise damaged()


def key_kind(data: bytes) -> KeyKind:
    """Which kind of key opens these bytes; raises VaultDamaged or VaultTooNew."""
    return _read_header(data)[0].kind


def _read_header(data: bytes) -> tuple[KeyHeader, bytes, int]:
    """Header, key check and number of entries of bytes that are whole."""
    if len(data) < _HEADER.size + 2 * _HASH_BYTES or not data.startswith(_MAGIC):
        raise damaged()
    if hashlib.sha256(data[:-_HASH_BYTES]).digest() != data[-_HASH_BYTES:]:
        raise damaged()
    _, version, kind, cost, salt, count, check = _HEADER.unpack_from(data)
    if version > VERSION:
        raise VaultTooNew("this vault was written by a newer zeqnode; update this one")
    try:
        header = KeyHeader(KeyKind(kind), cost, salt)
    except ValueError as error:
        raise damaged() from error
    if header.kind is KeyKind.PASSPHRASE and cost not in SCRYPT_COSTS:
        raise damaged()
    return header, check, count


def _associated(name: str) -> bytes:
    return bytes([VERSION]) + name.encode()
