"""Who may put, have and remove which secret, and until when; everything that was asked is in the audit.

Who puts a secret may always have it and alone may replace or remove it; its permissions name others who may
have it. An answer is given when what it gives is in the audit and on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto.vault_box import BOX_BYTES
from node.vault import entries
from node.vault.entries import About, Entry, Outcome, What
from node.vault.errors import Expired, NoSuchSecret, NotPermitted, VaultFull
from node.vault.tables import Content, Note, Tables

SECRETS_MAX: Final = 4096
SECRET_BYTES_MAX: Final = 4096
EXPIRES_MAX: Final = 300_000_000_000
"""The last zeqond at which a secret may expire: in the year 9356, which calendars still know."""


@dataclass(frozen=True)
class SecretInfo:
    """Everything but the secret itself; `size` in bytes, times in zeqonds, principals as in entries.py."""

    purpose: str
    by: str
    permissions: tuple[str, ...]
    made_zeqond: int
    expires_zeqond: int | None
    size: int


@dataclass(frozen=True)
class Verified:
    """So many `secrets` open, and so many `entries` of the audit hold, from the number `first`."""

    secrets: int
    entries: int
    first: int


class Book:
    """The open vault; not for two threads at once. `by` is who asks and `now` a zeqond. Every method may
    raise StorageFailed; those with a `purpose` BadPurpose, and ValueError for a `by` that is nobody."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: Content | None = None

    @classmethod
    def open(cls, path: Path, master: Callable[[int], bytes], newest: int, now: int, by: str) -> Book:
        """Open and check, or create (0600); a new file is sealed with the master key `newest`."""
        tables = Tables.open(path, master)
        try:
            if tables.is_new():
                tables.begin(newest, now, Note(What.CREATE, Outcome.DONE, "", by))
            book = cls(tables)
            book._erase_what_is_over(now)
        except BaseException:
            tables.close()
            raise
        return book

    def close(self) -> None:
        self._tables.close()

    @property
    def generation(self) -> int:
        """Of the master key that seals what is on the disk."""
        return self._content.head.generation

    def put(
        self, purpose: str, secret: bytes, permissions: Iterable[str], expires: int | None, by: str, now: int
    ) -> None:
        """What is over is erased. Raises NotPermitted where somebody else has put it, and VaultFull."""
        named = tuple(dict.fromkeys(permissions))
        _check(purpose, by, *named)
        if len(secret) > SECRET_BYTES_MAX or len(named) > entries.PERMISSIONS_MAX:
            raise ValueError("a secret has at most 4,096 bytes, and 16 who may have it")
        if expires is not None and not 0 <= expires <= EXPIRES_MAX:
            raise ValueError("no zeqond at which a secret can expire")
        self._erase_what_is_over(now)
        before = self._about(purpose)
        if before is not None and before.by != by:
            self._write(now, [Note(What.PUT, Outcome.DENIED, purpose, by)])
            raise _not_permitted(purpose)
        if before is None and len(self._content.rows) >= SECRETS_MAX:
            raise VaultFull(f"the vault holds {SECRETS_MAX} secrets; end some tunnels, then try again")
        about = About(purpose=purpose, by=by, permissions=named, made=now, expires=expires)
        self._write(now, [Note(What.PUT, Outcome.DONE, purpose, by)], (about, secret))

    def get(self, purpose: str, by: str, now: int) -> bytes:
        """Raises NoSuchSecret, NotPermitted, Expired."""
        _check(purpose, by)
        about = self._about(purpose)
        if about is None:
            self._write(now, [Note(What.GET, Outcome.MISSING, purpose, by)])
            raise NoSuchSecret(f"the vault holds no secret named {purpose}; see: zeqnode vault list")
        if not about.admits(by):
            self._write(now, [Note(What.GET, Outcome.DENIED, purpose, by)])
            raise _not_permitted(purpose)
        if about.is_over(now):
            self._write(now, [Note(What.EXPIRE, Outcome.DONE, purpose, by)], gone=[purpose])
            raise Expired(f"the time of the secret {purpose} is over, and it is erased; have it made anew")
        secret = self._tables.secret(self._content, purpose)
        self._write(now, [Note(What.GET, Outcome.DONE, purpose, by)])
        return secret

    def remove(self, purpose: str, by: str, now: int) -> None:
        """Done also where there is none. Raises NotPermitted where somebody else has put it."""
        _check(purpose, by)
        about = self._about(purpose)
        if about is None:
            self._write(now, [Note(What.REMOVE, Outcome.MISSING, purpose, by)])
        elif about.by != by:
            self._write(now, [Note(What.REMOVE, Outcome.DENIED, purpose, by)])
            raise _not_permitted(purpose)
        else:
            self._write(now, [Note(What.REMOVE, Outcome.DONE, purpose, by)], gone=[purpose])

    def has(self, purpose: str) -> bool:
        """Whether there is one, over or not; nobody is given anything, so the audit does not say so."""
        return self._about(purpose) is not None

    def infos(self) -> list[SecretInfo]:
        """Of all secrets, by purpose."""
        return [
            SecretInfo(
                purpose,
                row.about.by,
                row.about.permissions,
                row.about.made,
                row.about.expires,
                row.box_bytes - BOX_BYTES,
            )
            for purpose, row in sorted(self._content.rows.items())
        ]

    def audit(self, last: int) -> list[Entry]:
        """The newest entries, at most `last`, in their order."""
        after = self._content.head.number - last
        return [entry for entry, _ in self._tables.chain(self._content) if entry.number > after]

    def verify(self) -> Verified:
        """Read everything anew: head, every link of the audit, every secret. Raises StateDamaged."""
        content = self._known = self._tables.load()
        checked = sum(1 for _ in self._tables.chain(content))
        for purpose in content.rows:
            self._tables.secret(content, purpose)
        return Verified(len(content.rows), checked, content.head.floor + 1)

    def rekey(self, generation: int, by: str, now: int) -> None:
        """Seal everything with another master key."""
        content, self._known = self._content, None
        self._known = self._tables.rekey(content, generation, now, Note(What.ROTATE, Outcome.DONE, "", by))

    # ------------------------------------------------------------------ inside

    @property
    def _content(self) -> Content:
        if self._known is None:
            self._known = self._tables.load()
        return self._known

    def _about(self, purpose: str) -> About | None:
        row = self._content.rows.get(purpose)
        return row.about if row is not None else None

    def _erase_what_is_over(self, now: int) -> None:
        over = {name: row.about.by for name, row in self._content.rows.items() if row.about.is_over(now)}
        if over:
            notes = [Note(What.EXPIRE, Outcome.DONE, name, by) for name, by in over.items()]
            self._write(now, notes, gone=over)

    def _write(
        self,
        now: int,
        notes: Sequence[Note],
        put: tuple[About, bytes] | None = None,
        gone: Iterable[str] = (),
    ) -> None:
        # After a failure nobody knows what the disk has taken: it is read again before the next use.
        content, self._known = self._content, None
        self._known = self._tables.write(content, now, notes, put, gone)


def _check(purpose: str, *principals: str) -> None:
    entries.check_purpose(purpose)
    for principal in principals:
        entries.check_principal(principal)


def _not_permitted(purpose: str) -> NotPermitted:
    return NotPermitted(f"the secret {purpose} is not for you; who put it there says for whom it is")
