"""The vault as one thing: its keys, its book and its owner; and how its key is changed.

    ZEQ_FIELD_KEY, passphrase or key file  ─opens▶  identity.vault
    identity.vault                         ─holds▶  vault.master.<generation>, 32 bytes
    vault.master.<generation>              ─opens▶  vault.db, if it is of that generation

So one key opens all, and changing it is three steps, each of them whole on the disk before the next:

    1   identity.vault, old key    the next generation's master key beside the one in use
    2   vault.db                   sealed with that one, in one transaction
    3   identity.vault, new key    only that master key in it

Killed at any point, the old key opens everything before step 3 and the new one after it; an unused master key
that stays behind is replaced by the next change. The master key changes as well, or who has an old copy of
identity.vault, and the old key, could go on reading vault.db.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crypto.vault import Vault
from crypto.vault_keys import KEY_BYTES, KIND_NAMES, KeyKind, KeySource
from node import identity_store
from node.errors import StateDamaged, Usage
from node.files import sentences
from node.vault import entries, owner
from node.vault.book import Book

FILE_NAME: Final = "vault.db"
_MASTER: Final = "vault.master."


class Keeper:
    """The open vault of a state directory, whose lock the caller holds; not for two threads at once. `now` is
    a zeqond. Every method may raise StorageFailed."""

    def __init__(self, state: Path, env: Mapping[str, str], now: int) -> None:
        """Open, or create beside the identity, which is there; raises as `identity_store.load`."""
        self._state = state
        self._vault = identity_store.open_vault(state, env)
        self._keys = identity_store.keys_in(self._vault)
        self.machine = entries.machine(self._keys.machine_id)
        self.book = Book.open(state / FILE_NAME, self._master, self._first(), now, self.machine)
        try:
            self._owner = owner.load(self.book, self.machine, now)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.book.close()

    @property
    def owner(self) -> str:
        """The owner's ZID."""
        return self._owner.zid

    @property
    def kind(self) -> KeyKind:
        """Of the key that opens the vault."""
        return self._vault.kind

    def claim(self, now: int) -> bytes:
        """That this machine is its owner's, signed by both; made anew when less than a third of its year is
        left."""
        return owner.claim(self.book, self._owner, self._keys, self.machine, now)

    def rotate(self, source: KeySource | None, now: int) -> None:
        """Change the key, to a new key file if none is given. Raises Usage for the key that it has, and where
        a key file would protect less than what it has."""
        if source is None and self.kind is not KeyKind.KEY_FILE:
            raise Usage(
                f"this vault opens with {KIND_NAMES[self.kind]}; give the new key in ZEQ_NEW_FIELD_KEY (make "
                f"one with: openssl rand -hex 32) or in ZEQ_NEW_PASSPHRASE"
            )
        if source is not None and identity_store.opens(self._vault, source):
            raise Usage("this is the key that the vault has now; give another one")
        self.book.verify()
        self._add_master(self.book.generation + 1)
        self.book.rekey(self.book.generation + 1, self.machine, now)
        vault = self._vault.resealed(source or identity_store.next_key_file(self._state))
        for generation in _generations(vault):
            if generation != self.book.generation:
                vault.remove(f"{_MASTER}{generation}")
        identity_store.replace_vault(self._state, vault)
        self._vault = vault

    # ------------------------------------------------------------------ master keys

    def _first(self) -> int:
        """The generation with which a new book begins; its master key is made with the first book of all."""
        generations = _generations(self._vault)
        if not generations:
            with sentences(self._state / FILE_NAME):
                if (self._state / FILE_NAME).exists():
                    raise self._apart()
            self._add_master(1)
        return max(generations, default=1)

    def _add_master(self, generation: int) -> None:
        self._vault.put(f"{_MASTER}{generation}", os.urandom(KEY_BYTES))
        identity_store.save_vault(self._state, self._vault)

    def _master(self, generation: int) -> bytes:
        if generation not in _generations(self._vault):
            raise self._apart()
        return self._vault.get(f"{_MASTER}{generation}")

    def _apart(self) -> StateDamaged:
        return StateDamaged(
            f"{FILE_NAME} and identity.vault in {self._state} are not of one time; put back a backup of "
            f"both, or move {FILE_NAME} away and begin with an empty one"
        )


def _generations(vault: Vault) -> list[int]:
    return [int(name.removeprefix(_MASTER)) for name in vault.names() if name.startswith(_MASTER)]
