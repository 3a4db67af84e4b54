"""A machine's identity on disk, made whole or not at all.

    <state>/vault.key        32 random bytes, 0600; only where neither a field key nor a passphrase is given
    <state>/identity.pub     the public key bundle, 1,248 bytes, 0644
    <state>/identity.vault   the vault, 0600; crypto/vault_keys.py says what its key protects against

They are written in this order, and the identity exists from the moment that identity.vault does. A crash
before that leaves a key file, which the next try uses, and a bundle, which it writes over. While the key file
is replaced there are two, `vault.key.next` is the new one, and one of them opens the vault at any moment.
Whoever calls `create`, `load`, `open_vault` or a function that writes holds the state directory's lock.

The key is ZEQ_FIELD_KEY (64 hex digits), else ZEQ_PASSPHRASE, else the key file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crypto.identity import IdentityError, KeyBundle, MachineKeys
from crypto.vault import Vault, key_kind
from crypto.vault_keys import (
    KEY_BYTES,
    BadVaultKey,
    FieldKey,
    KeyFile,
    KeyKind,
    KeySource,
    Passphrase,
    VaultDamaged,
    VaultError,
    WrongVaultKey,
)
from node.errors import AlreadyExists, StateDamaged, Usage, UserError
from node.files import (
    clean_leftovers,
    create_exclusive,
    make_private_directory,
    read_private,
    remove,
    replace,
    sentences,
    write_atomic,
)

FIELD_KEY_VARIABLE: Final = "ZEQ_FIELD_KEY"
PASSPHRASE_VARIABLE: Final = "ZEQ_PASSPHRASE"  # noqa: S105  the variable's name, no secret

_VAULT: Final = "identity.vault"
_PUBLIC: Final = "identity.pub"
_KEY_FILE: Final = "vault.key"
_NEXT_KEY_FILE: Final = "vault.key.next"
_KEYS_NAME: Final = "machine.keys"


class VaultClosed(UserError):
    """The vault does not open with the key that was given, or none was."""


def exists(state: Path) -> bool:
    """Whether a whole identity is in this directory."""
    return _exists(state / _VAULT)


def source_from(env: Mapping[str, str]) -> KeySource | None:
    """The key that the environment gives for a new vault; None means a key file."""
    with _as_user_errors():
        if FIELD_KEY_VARIABLE in env:
            return FieldKey(env[FIELD_KEY_VARIABLE].strip())
        if PASSPHRASE_VARIABLE in env:
            return Passphrase(env[PASSPHRASE_VARIABLE])
    return None


def create(
    state: Path, source: KeySource | None, entropy: Callable[[int], bytes] = os.urandom
) -> MachineKeys:
    """Make the directory (0700) and a new identity in it; raises AlreadyExists, another StorageFailed."""
    make_private_directory(state)
    clean_leftovers(state)
    if exists(state):
        raise AlreadyExists(f"{state} holds an identity already; choose another directory for a new one")
    with _as_user_errors():
        vault = Vault.create(source or _own_key_file(state / _KEY_FILE, entropy), entropy)
        keys = MachineKeys.generate(entropy)
        vault.put(_KEYS_NAME, keys.to_bytes())
    write_atomic(state / _PUBLIC, keys.bundle.to_bytes(), 0o644)
    create_exclusive(state / _VAULT, vault.to_bytes())
    return keys


def load(state: Path, env: Mapping[str, str]) -> MachineKeys:
    """The identity in this directory; raises VaultClosed, StateDamaged or another StorageFailed.

    Removes what interrupted writes left, and writes the public file anew where it is missing or wrong.
    """
    clean_leftovers(state)
    vault = open_vault(state, env)
    with _as_user_errors(state):
        keys = keys_in(vault)
    public, content = state / _PUBLIC, keys.bundle.to_bytes()
    with sentences(public):
        mended = not public.exists() or public.read_bytes() != content
    if mended:
        write_atomic(public, content, 0o644)
    return keys


def load_public(state: Path) -> KeyBundle:
    """The public half, for which no key is needed; raises as `load`."""
    path = state / _PUBLIC
    try:
        with sentences(path):
            return KeyBundle.from_bytes(path.read_bytes())
    except IdentityError as error:
        raise StateDamaged(f"{path} is damaged; the next start of the node writes it anew") from error


def open_vault(state: Path, env: Mapping[str, str]) -> Vault:
    """The vault, with all its secrets; raises as `load`. Ends a change of the key file that was cut short."""
    data = read_private(state / _VAULT)
    with _as_user_errors(state):
        source = _source_for(key_kind(data), state, env)
        if key_kind(data) is not KeyKind.KEY_FILE or not _exists(state / _NEXT_KEY_FILE):
            return Vault.open(data, source)
        try:
            vault = Vault.open(data, source)
        except WrongVaultKey:
            vault = Vault.open(data, _read_key_file(state / _NEXT_KEY_FILE))
            replace(state / _NEXT_KEY_FILE, state / _KEY_FILE)
        else:
            remove(state / _NEXT_KEY_FILE)
        return vault


def save_vault(state: Path, vault: Vault) -> None:
    """Put a changed vault in the old one's place; raises StorageFailed, and then the old one stands."""
    write_atomic(state / _VAULT, vault.to_bytes())


def next_key_file(state: Path, entropy: Callable[[int], bytes] = os.urandom) -> KeyFile:
    """A new key file beside the one that stands, for a vault that `replace_vault` then puts there."""
    return _own_key_file(state / _NEXT_KEY_FILE, entropy)


def replace_vault(state: Path, vault: Vault) -> None:
    """Put a vault in place that another key opens, then drop the key file of the old one, if it had one."""
    save_vault(state, vault)
    if vault.kind is KeyKind.KEY_FILE:
        replace(state / _NEXT_KEY_FILE, state / _KEY_FILE)
    else:
        remove(state / _KEY_FILE)


def opens(vault: Vault, source: KeySource) -> bool:
    """Whether this key is the one that the vault has now; takes half a second for a passphrase."""
    try:
        Vault.open(vault.to_bytes(), source)
    except WrongVaultKey:
        return False
    return True


def keys_in(vault: Vault) -> MachineKeys:
    """The machine's keys in an open vault; raises VaultError or IdentityError if `create` did not make it."""
    return MachineKeys.from_bytes(vault.get(_KEYS_NAME))


def _own_key_file(path: Path, entropy: Callable[[int], bytes]) -> KeyFile:
    """A key file's key; one that a crash left without a vault is used, never written over."""
    if not _exists(path):
        create_exclusive(path, entropy(KEY_BYTES))
    return _read_key_file(path)


def _exists(path: Path) -> bool:
    with sentences(path):
        return path.exists()


def _read_key_file(path: Path) -> KeyFile:
    content = read_private(path)
    try:
        return KeyFile(content)
    except BadVaultKey as error:
        raise StateDamaged(f"{path} is damaged; put back a backup of it") from error


def _source_for(kind: KeyKind, state: Path, env: Mapping[str, str]) -> KeySource:
    match kind:
        case KeyKind.KEY_FILE:
            return _read_key_file(state / _KEY_FILE)
        case KeyKind.FIELD_KEY:
            return FieldKey(_required(env, FIELD_KEY_VARIABLE, state).strip())
        case KeyKind.PASSPHRASE:
            return Passphrase(_required(env, PASSPHRASE_VARIABLE, state))


def _required(env: Mapping[str, str], variable: str, state: Path) -> str:
    if variable not in env:
        raise VaultClosed(f"the identity in {state} is sealed; set {variable} to what it was created with")
    return env[variable]


@contextmanager
def _as_user_errors(state: Path | None = None) -> Iterator[None]:
    """Give the errors of the pure modules, which are sentences already, an exit code and the file's name."""
    where = f" ({state / _VAULT})" if state else ""
    try:
        yield
    except BadVaultKey as error:
        raise Usage(str(error)) from error
    except (VaultDamaged, IdentityError) as error:
        raise StateDamaged(f"{error}{where}") from error
    except VaultError as error:
        raise VaultClosed(f"{error}{where}") from error
