"""The keys that open a vault (crypto/vault.py says how it looks), and how each becomes the vault key.

    vault key = HKDF-SHA256(secret, salt, "zeqnode vault v1" ‖ kind ‖ cost)         RFC 5869

    kind 1  field key    secret = 32 bytes from ZEQ_FIELD_KEY
    kind 2  passphrase   secret = scrypt(text, salt, N = 2^cost, r = 8, p = 1)      RFC 7914
    kind 3  key file     secret = the file's 32 bytes

What each kind protects against, plainly:

- A field key is outside the machine's disk (in a service manager's credentials, say). Whoever has only the
  disk or a backup reads nothing. Who can read the process's environment, or is root, has it.
- A passphrase is in somebody's head. Whoever has the disk must guess it, at 128 MiB of memory and about half
  a second a try; a weak one is found nevertheless. Somebody must give it at every start.
- A key file beside the vault protects a vault that is copied *without* it: a backup that leaves it out, one
  file handed on by mistake. It does not protect against a thief of the disk, nor against root.

None protects a machine that is running from whoever controls it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
SCRYPT_COST: Final = 17
"""log2 of scrypt's N for a new passphrase vault: 128 MiB."""

SCRYPT_COSTS: Final = range(10, 20)
"""What an opened vault may ask for: at most 512 MiB, so that a forged header cannot exhaust the machine."""


class VaultError(Exception):
    """A vault that cannot be opened or used; the text says what to do."""


class WrongVaultKey(VaultError):
    """The vault is whole; this key is not its key."""


class VaultDamaged(VaultError):
    """Bytes are missing or changed."""


class VaultTooNew(VaultError):
    """Of a version that this program does not know."""


class BadVaultKey(VaultError):
    """Something that cannot be a key at all."""


class NoSuchSecret(VaultError):
    """No secret has this name."""


class KeyKind(IntEnum):
    FIELD_KEY = 1
    PASSPHRASE = 2
    KEY_FILE = 3


KIND_NAMES: Final = {
    KeyKind.FIELD_KEY: "the field key (ZEQ_FIELD_KEY)",
    KeyKind.PASSPHRASE: "the passphrase",
    KeyKind.KEY_FILE: "the key file",
}


@dataclass(frozen=True)
class FieldKey:
    """64 hex digits, as ZEQ_FIELD_KEY has them; raises BadVaultKey on anything else."""

    hex64: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.hex64) != 2 * KEY_BYTES or not set(self.hex64.lower()) <= set("0123456789abcdef"):
            raise BadVaultKey("ZEQ_FIELD_KEY must be 64 hex digits; make one with: openssl rand -hex 32")


@dataclass(frozen=True)
class Passphrase:
    """Any text but the empty one; `cost` (log2 N) is for creating a vault, opening takes the vault's own."""

    text: str = field(repr=False)
    cost: int = SCRYPT_COST

    def __post_init__(self) -> None:
        if not self.text:
            raise BadVaultKey("the passphrase is empty; choose one of several words")
        if self.cost not in SCRYPT_COSTS:
            raise ValueError("scrypt's cost is out of range")


@dataclass(frozen=True)
class KeyFile:
    """The 32 bytes of a key file; raises BadVaultKey on any other number."""

    content: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.content) != KEY_BYTES:
            raise BadVaultKey(
                f"a key file has {KEY_BYTES} bytes, this one {len(self.content)}; put back a backup of it"
            )


KeySource = FieldKey | Passphrase | KeyFile


@dataclass(frozen=True)
class KeyHeader:
    """What a vault's header says about its key: `cost` is 0 but for a passphrase, `salt` has 16 bytes."""

    kind: KeyKind
    cost: int
    salt: bytes


def new_header(source: KeySource, salt: bytes) -> KeyHeader:
    return KeyHeader(kind_of(source), source.cost if isinstance(source, Passphrase) else 0, salt)


def kind_of(source: KeySource) -> KeyKind:
    match source:
        case FieldKey():
            return KeyKind.FIELD_KEY
        case Passphrase():
            return KeyKind.PASSPHRASE
        case KeyFile():
            return KeyKind.KEY_FILE


def vault_key(source: KeySource, header: KeyHeader) -> bytes:
    """32 bytes; `source` must be of the header's kind. Takes half a second and 128 MiB for a passphrase."""
    label = b"zeqnode vault v1" + bytes([header.kind, header.cost])
    return HKDF(SHA256(), KEY_BYTES, header.salt, label).derive(_secret(source, header))


def _secret(source: KeySource, header: KeyHeader) -> bytes:
    match source:
        case FieldKey(hex64):
            return bytes.fromhex(hex64)
        case KeyFile(content):
            return content
        case Passphrase(text):
            # Keyboards differ in how they compose a letter; NFKC makes the same text the same bytes.
            encoded = unicodedata.normalize("NFKC", text).encode(errors="surrogateescape")
            try:
                return Scrypt(header.salt, KEY_BYTES, 2**header.cost, 8, 1).derive(encoded)
            except MemoryError as error:
                needed = 2**header.cost // 1024
                raise VaultError(f"a passphrase takes {needed} MiB of memory to check; free some") from error
