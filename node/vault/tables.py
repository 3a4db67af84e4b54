"""Sealed secrets and their audit in one SQLite file, `vault.db`, under a master key (node/vault/keeper.py).

    secrets   purpose │ about box                      node/vault/entries.py, crypto/vault_box.py
    audit     number  │ raw link                       the newest, at most 16,384
    head      one     │ generation number floor floor_link mac

    mac       HMAC(head key, label ‖ generation ‖ number ‖ link of the newest entry ‖ floor ‖ floor_link
                             ‖ how many secrets ‖ SHA-256 of all of them)          integers of 8 bytes

A secret and the entries about it are written in one transaction. The head's MAC covers everything, so a
single row cannot be put back, changed or left out; only the file as a whole can, by who has a copy of it.

The audit is bounded: over 16,384 entries only the newest 14,336 stay, and the head keeps number and link of
the last that was dropped (floor), from which the rest goes on.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from crypto.vault_box import NONCE_BYTES, Boxes
from crypto.vault_keys import VaultDamaged
from node.database import Database
from node.errors import StateDamaged
from node.vault import entries
from node.vault.entries import LINK_BYTES, About, Entry, Outcome, What

AUDIT_MAX: Final = 16_384
AUDIT_DROPPED: Final = 2048

_MIGRATIONS: Final = (
    (
        "CREATE TABLE secrets (purpose TEXT PRIMARY KEY, about BLOB NOT NULL, box BLOB NOT NULL) "
        "STRICT, WITHOUT ROWID",
        "CREATE TABLE audit (number INTEGER PRIMARY KEY, raw BLOB NOT NULL, link BLOB NOT NULL) STRICT",
        """CREATE TABLE head (
            one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, number INTEGER NOT NULL,
            floor INTEGER NOT NULL, floor_link BLOB NOT NULL, mac BLOB NOT NULL) STRICT""",
    ),
)
_EMPTY: Final = "SELECT 1 FROM head UNION ALL SELECT 1 FROM secrets UNION ALL SELECT 1 FROM audit LIMIT 1"
_HEAD: Final = struct.Struct(">qq32sq32sq32s")
_HEAD_LABEL: Final = b"zeqnode vault head v1"
_LENGTH: Final = struct.Struct(">I")
_NO_LINK: Final = bytes(LINK_BYTES)


class Note(NamedTuple):
    """What becomes an entry of the audit."""

    what: What
    outcome: Outcome
    purpose: str
    by: str


@dataclass(frozen=True)
class Row:
    """A secret as it lies there; `digest`: 32 bytes of all of it."""

    about: About
    box_bytes: int
    digest: bytes


@dataclass(frozen=True)
class Head:
    generation: int
    number: int = 0
    link: bytes = _NO_LINK
    floor: int = 0
    floor_link: bytes = _NO_LINK


@dataclass(frozen=True)
class Content:
    """What is on the disk, without the boxes themselves; `boxes` open them."""

    boxes: Boxes
    head: Head
    rows: Mapping[str, Row]

    def mac(self) -> bytes:
        """32 bytes, by which the head is known."""
        head = self.head
        of_all = sha256(b"".join(self.rows[purpose].digest for purpose in sorted(self.rows))).digest()
        numbers = (head.generation, head.number, head.link, head.floor, head.floor_link)
        return self.boxes.mac(b"head", _HEAD_LABEL + _HEAD.pack(*numbers, len(self.rows), of_all))


class Tables:
    """The open file; not for two threads at once. `master(generation)` gives 32 bytes. Every method may raise
    StorageFailed, StateDamaged where what is there was not written so by this vault."""

    def __init__(self, path: Path, database: Database, master: Callable[[int], bytes]) -> None:
        self._path = path
        self._db = database
        self._master = master

    @classmethod
    def open(cls, path: Path, master: Callable[[int], bytes]) -> Tables:
        """Open or create (0600)."""
        database = Database.open(path, _MIGRATIONS)
        database.rows("PRAGMA secure_delete = ON")
        return cls(path, database, master)

    def close(self) -> None:
        self._db.close()

    def is_new(self) -> bool:
        """Whether nothing was ever written there."""
        return not self._db.rows(_EMPTY)

    def begin(self, generation: int, now: int, note: Note) -> None:
        """The first entry of a new file."""
        with self._db.transaction():
            self._db.execute("INSERT INTO head VALUES (1, ?, 0, 0, ?, ?)", generation, _NO_LINK, b"")
            self._write_head(
                self._noted(Content(Boxes(self._master(generation)), Head(generation), {}), now, [note])
            )

    def load(self) -> Content:
        """What is there now, the head's MAC checked."""
        heads = self._db.rows("SELECT * FROM head")
        if not heads:
            raise self._damaged("its head is missing")
        found = heads[0]
        newest = self._db.rows("SELECT number, link FROM audit ORDER BY number DESC LIMIT 1")
        if not newest or newest[0]["number"] != found["number"]:
            raise self._damaged("the end of its audit is missing")
        head = Head(
            found["generation"], found["number"], newest[0]["link"], found["floor"], found["floor_link"]
        )
        rows = {
            row["purpose"]: self._row(row["about"], row["box"])
            for row in self._db.rows("SELECT * FROM secrets")
        }
        content = Content(Boxes(self._master(head.generation)), head, rows)
        if not hmac.compare_digest(content.mac(), found["mac"]):
            raise self._damaged("secrets or audit are not what it wrote")
        return content

    def write(
        self,
        content: Content,
        now: int,
        notes: Sequence[Note],
        put: tuple[About, bytes] | None = None,
        gone: Iterable[str] = (),
    ) -> Content:
        """Erase `gone`, seal what is `put`, note it all; what is there then."""
        rows = dict(content.rows)
        with self._db.transaction():
            for purpose in gone:
                del rows[purpose]
                self._db.execute("DELETE FROM secrets WHERE purpose = ?", purpose)
            if put is not None:
                rows[put[0].purpose] = self._seal(content.boxes, *put)
            changed = self._noted(replace(content, rows=rows), now, notes)
            self._write_head(changed)
        return changed

    def secret(self, content: Content, purpose: str) -> bytes:
        """One of those in `content.rows`."""
        found = self._db.rows("SELECT about, box FROM secrets WHERE purpose = ?", purpose)
        if not found or self._row(found[0]["about"], found[0]["box"]).digest != content.rows[purpose].digest:
            raise self._damaged(f"the secret {purpose} is not what it wrote")
        try:
            return content.boxes.open(purpose, found[0]["about"], found[0]["box"])
        except VaultDamaged as error:
            raise self._damaged(f"the secret {purpose} does not open") from error

    def chain(self, content: Content) -> Iterator[tuple[Entry, bytes]]:
        """Every entry of the audit with its bytes, in order, each link checked."""
        number, before = content.head.floor, content.head.floor_link
        for row in self._db.rows("SELECT * FROM audit ORDER BY number"):
            number += 1
            before = entries.link(content.boxes, before, row["raw"])
            entry = self._entry(row["raw"])
            if (row["number"], entry.number) != (number, number) or not hmac.compare_digest(
                before, row["link"]
            ):
                raise self._damaged(f"entry {row['number']} of its audit is not what it wrote")
            yield entry, row["raw"]
        if (number, before) != (content.head.number, content.head.link):
            raise self._damaged("the end of its audit is missing")

    def rekey(self, content: Content, generation: int, now: int, note: Note) -> Content:
        """Seal everything, and link the audit, with the master key of another generation; all or nothing."""
        boxes = Boxes(self._master(generation))
        rows: dict[str, Row] = {}
        with self._db.transaction():
            for purpose, row in content.rows.items():
                rows[purpose] = self._seal(boxes, row.about, self.secret(content, purpose))
            link = content.head.floor_link
            for entry, raw in self.chain(content):
                link = entries.link(boxes, link, raw)
                self._db.execute("UPDATE audit SET link = ? WHERE number = ?", link, entry.number)
            moved = Content(boxes, replace(content.head, generation=generation, link=link), rows)
            changed = self._noted(moved, now, [note])
            self._write_head(changed)
        # What the old key sealed is to be gone from the write-ahead log, too.
        self._db.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return changed

    # ------------------------------------------------------------------ inside

    def _seal(self, boxes: Boxes, about: About, secret: bytes) -> Row:
        raw = entries.encode(about)
        box = boxes.seal(about.purpose, raw, secret, os.urandom(NONCE_BYTES))
        self._db.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)", about.purpose, raw, box)
        return self._row(raw, box)

    def _noted(self, content: Content, now: int, notes: Sequence[Note]) -> Content:
        head = content.head
        for what, outcome, purpose, by in notes:
            number = head.number + 1
            raw = entries.encode(
                Entry(number=number, zeqond=now, what=what, outcome=outcome, purpose=purpose, by=by)
            )
            head = replace(head, number=number, link=entries.link(content.boxes, head.link, raw))
            self._db.execute("INSERT INTO audit VALUES (?, ?, ?)", number, raw, head.link)
        if head.number - head.floor > AUDIT_MAX:
            floor = head.number - AUDIT_MAX + AUDIT_DROPPED
            link = self._db.rows("SELECT link FROM audit WHERE number = ?", floor)[0]["link"]
            self._db.execute("DELETE FROM audit WHERE number <= ?", floor)
            head = replace(head, floor=floor, floor_link=link)
        return replace(content, head=head)

    def _write_head(self, content: Content) -> None:
        head = content.head
        values = (head.generation, head.number, head.floor, head.floor_link, content.mac())
        statement = "UPDATE head SET generation = ?, number = ?, floor = ?, floor_link = ?, mac = ?"
        self._db.execute(statement, *values)

    def _row(self, about: bytes, box: bytes) -> Row:
        try:
            said = entries.read_about(about)
        except ValueError as error:
            raise self._damaged("what stands beside a secret cannot be read") from error
        return Row(said, len(box), sha256(_LENGTH.pack(len(about)) + about + box).digest())

    def _entry(self, raw: bytes) -> Entry:
        try:
            return entries.read_entry(raw)
        except ValueError as error:
            raise self._damaged("an entry of its audit cannot be read") from error

    def _damaged(self, why: str) -> StateDamaged:
        return StateDamaged(
            f"{self._path} is damaged ({why}); put back a backup of it, or move it away and begin with an "
            f"empty one"
        )
