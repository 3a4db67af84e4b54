"""What a node keeps: its peers, the invitations that it gave, the joins that it has not finished, settings.

A method that has returned is on the disk, one that raised (StorageFailed, a sentence) has changed nothing.
`Store` is synchronous; `AsyncStore` runs it in one thread at a time.

    peers          machine_id │ bundle name lookup_secret endpoints allowed_ips ipv4 enabled last_clock …
    invitations    token_hash │ name created expires used_by used_at revoked
    pending_joins  invitation │ added_at error
    settings       key        │ value
    seeds          endpoint   │ added_at         nodes of discovery to begin with: of invitations, of the LAN

Times are unix seconds, given by the caller.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import trio

from node.database import Database

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MIGRATIONS: Final = (
    (
        """CREATE TABLE peers (
            machine_id BLOB PRIMARY KEY, bundle BLOB NOT NULL, name TEXT NOT NULL, lookup_secret BLOB,
            endpoints TEXT NOT NULL, allowed_ips TEXT NOT NULL, ipv4 TEXT, enabled INTEGER NOT NULL,
            last_clock INTEGER NOT NULL, added_at INTEGER NOT NULL, last_endpoint TEXT) STRICT""",
        """CREATE TABLE invitations (
            token_hash BLOB PRIMARY KEY, name TEXT NOT NULL, created INTEGER NOT NULL,
            expires INTEGER NOT NULL, used_by BLOB, used_at INTEGER, revoked INTEGER NOT NULL) STRICT""",
        """CREATE TABLE pending_joins (
            invitation TEXT PRIMARY KEY, added_at INTEGER NOT NULL, error TEXT) STRICT""",
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",
    ),
    ("CREATE TABLE seeds (endpoint TEXT PRIMARY KEY, added_at INTEGER NOT NULL) STRICT",),
)
SEEDS_MAX: Final = 64
_INTEGER_MAX: Final = 2**63 - 1


@dataclass(frozen=True)
class PeerRow:
    """A machine that this one lets in.

    machine_id 32 bytes, bundle 1,248, lookup_secret 16 or None while unknown; endpoints "host:port",
    allowed_ips "prefix/length", ipv4 its local name here; last_clock as the handshake has it, 0 at first.
    """

    machine_id: bytes
    bundle: bytes
    name: str
    lookup_secret: bytes | None
    endpoints: tuple[str, ...]
    allowed_ips: tuple[str, ...]
    ipv4: str | None
    enabled: bool
    last_clock: int
    added_at: int
    last_endpoint: str | None = None


@dataclass(frozen=True)
class InvitationRow:
    """An invitation given out; the token itself is not kept, only its SHA-256."""

    token_hash: bytes
    name: str
    created: int
    expires: int
    used_by: bytes | None = None
    used_at: int | None = None
    revoked: bool = False


@dataclass(frozen=True)
class PendingRow:
    """An invitation that this machine accepted and has not yet redeemed, and why not, if it was tried."""

    invitation: str
    added_at: int
    error: str | None = None


class Redeemed(Enum):
    """What came of a token; DONE and AGAIN let the machine in."""

    DONE = "redeemed now"
    AGAIN = "redeemed before by the same machine"
    USED = "redeemed before by another machine"
    EXPIRED = "expired"
    REVOKED = "revoked"
    UNKNOWN = "not one of ours"


@dataclass(frozen=True)
class RedeemResult:
    """The outcome, and the invitation as it stood before, if the token is one of ours."""

    outcome: Redeemed
    invitation: InvitationRow | None

    @property
    def admits(self) -> bool:
        return self.outcome in (Redeemed.DONE, Redeemed.AGAIN)


class Store:
    """The open store; not for two threads at once. Use `open`, and `close` at the end."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or create (0600), check, and bring to this program's version."""
        return cls(Database.open(path, _MIGRATIONS))

    def close(self) -> None:
        self._db.close()

    def put_peer(self, peer: PeerRow) -> None:
        """Add a peer, or replace the whole row of one that is there."""
        self._put("peers", peer)

    def peers(self) -> list[PeerRow]:
        """All, oldest first."""
        return [_peer(row) for row in self._db.rows("SELECT * FROM peers ORDER BY added_at, machine_id")]

    def peer(self, machine_id: bytes) -> PeerRow | None:
        rows = self._db.rows("SELECT * FROM peers WHERE machine_id = ?", machine_id)
        return _peer(rows[0]) if rows else None

    def remove_peer(self, machine_id: bytes) -> bool:
        """False if there was none. Invitations that it used are revoked, or they would let it in again."""
        with self._db.transaction():
            self._db.execute("UPDATE invitations SET revoked = 1 WHERE used_by = ?", machine_id)
            return self._db.execute("DELETE FROM peers WHERE machine_id = ?", machine_id) > 0

    def set_clock(self, machine_id: bytes, clock: int) -> None:
        """Keep the clock of the peer's last confirmed handshake, also one below the last."""
        self._write(
            "UPDATE peers SET last_clock = ? WHERE machine_id = ?", min(clock, _INTEGER_MAX), machine_id
        )

    def set_enabled(self, machine_id: bytes, enabled: bool) -> None:
        """Remember `up` or `down`."""
        self._write("UPDATE peers SET enabled = ? WHERE machine_id = ?", enabled, machine_id)

    def set_last_endpoint(self, machine_id: bytes, endpoint: str) -> None:
        self._write("UPDATE peers SET last_endpoint = ? WHERE machine_id = ?", endpoint, machine_id)

    def add_invitation(self, invitation: InvitationRow) -> None:
        """Keep an invitation; it must be here before anybody sees its text."""
        self._put("invitations", invitation)

    def list_invitations(self) -> list[InvitationRow]:
        """All, oldest first."""
        rows = self._db.rows("SELECT * FROM invitations ORDER BY created, token_hash")
        return [_invitation(row) for row in rows]

    def revoke(self, token_hash: bytes) -> bool:
        """False if there is none or it was revoked before. A machine that used it stays a peer."""
        return self._write(
            "UPDATE invitations SET revoked = 1 WHERE token_hash = ? AND NOT revoked", token_hash
        )

    def redeem(self, token_hash: bytes, machine_id: bytes, now: int) -> RedeemResult:
        """Use a token up for `machine_id`; the same machine may come again, as its first try may be lost.

        `token_hash` is SHA-256 of the token: looking up a hash tells a guesser nothing by its timing.
        """
        with self._db.transaction():
            found = self._db.rows("SELECT * FROM invitations WHERE token_hash = ?", token_hash)
            invitation = _invitation(found[0]) if found else None
            outcome = _outcome(invitation, machine_id, now)
            if outcome is Redeemed.DONE:
                self._db.execute(
                    "UPDATE invitations SET used_by = ?, used_at = ? WHERE token_hash = ?",
                    machine_id,
                    now,
                    token_hash,
                )
            return RedeemResult(outcome, invitation)

    def add_pending(self, invitation: str, added_at: int) -> None:
        """Begin a join; the same text again keeps its first time and forgets its error."""
        self._write(
            "INSERT INTO pending_joins (invitation, added_at) VALUES (?, ?) "
            "ON CONFLICT (invitation) DO UPDATE SET error = NULL",
            invitation,
            added_at,
        )

    def pending(self) -> list[PendingRow]:
        """All, oldest first."""
        rows = self._db.rows("SELECT * FROM pending_joins ORDER BY added_at, invitation")
        return [PendingRow(**dict(row)) for row in rows]

    def set_pending_error(self, invitation: str, error: str) -> None:
        self._write("UPDATE pending_joins SET error = ? WHERE invitation = ?", error, invitation)

    def remove_pending(self, invitation: str) -> bool:
        """False if there was none."""
        return self._write("DELETE FROM pending_joins WHERE invitation = ?", invitation)

    def setting(self, key: str) -> bytes | None:
        rows = self._db.rows("SELECT value FROM settings WHERE key = ?", key)
        return bytes(rows[0]["value"]) if rows else None

    def set_setting(self, key: str, value: bytes) -> None:
        self._write("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", key, value)

    def remove_setting(self, key: str) -> None:
        self._write("DELETE FROM settings WHERE key = ?", key)

    def remember_seeds(self, endpoints: Iterable[str], now: int) -> None:
        """Keep "host:port" to begin with after a start; the newest 64 stay."""
        with self._db.transaction():
            for endpoint in endpoints:
                self._db.execute("INSERT OR REPLACE INTO seeds VALUES (?, ?)", endpoint, now)
            self._db.execute(
                "DELETE FROM seeds WHERE endpoint NOT IN "
                "(SELECT endpoint FROM seeds ORDER BY added_at DESC, endpoint LIMIT ?)",
                SEEDS_MAX,
            )

    def seeds(self) -> list[str]:
        """All, newest first."""
        rows = self._db.rows("SELECT endpoint FROM seeds ORDER BY added_at DESC, endpoint")
        return [row["endpoint"] for row in rows]

    def _write(self, statement: str, *values: object) -> bool:
        with self._db.transaction():
            return self._db.execute(statement, *values) > 0

    def _put(self, table: str, row: PeerRow | InvitationRow) -> None:
        names = [field.name for field in fields(row)]
        marks = ", ".join("?" * len(names))
        self._write(
            f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})",  # noqa: S608
            *(_column(getattr(row, name)) for name in names),
        )


class AsyncStore:
    """A Store for trio: `await store.call(Store.put_peer, row)` runs it in a thread, one call at a time.

    A cancelled caller still waits for its call to end, so whatever was begun is acknowledged or failed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._one = trio.CapacityLimiter(1)

    async def call(
        self, method: Callable[Concatenate[Store, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        return await trio.to_thread.run_sync(partial(method, self._store, *args, **kwargs), limiter=self._one)


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[AsyncStore]:
    """The store at `path`, closed at the end also when the block is cancelled."""
    store = AsyncStore(await trio.to_thread.run_sync(Store.open, path))
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store.call(Store.close)


def _outcome(invitation: InvitationRow | None, machine_id: bytes, now: int) -> Redeemed:
    if invitation is None:
        return Redeemed.UNKNOWN
    if invitation.revoked:
        return Redeemed.REVOKED
    if invitation.used_by is not None:
        return Redeemed.AGAIN if invitation.used_by == machine_id else Redeemed.USED
    return Redeemed.EXPIRED if now >= invitation.expires else Redeemed.DONE


def _column(value: object) -> object:
    """A field as SQLite takes it: lists as JSON, integers (a peer may claim any clock) within 64 bits."""
    if isinstance(value, tuple):
        return json.dumps(value)
    return min(value, _INTEGER_MAX) if isinstance(value, int) else value


def _peer(row: sqlite3.Row) -> PeerRow:
    values = dict(row)
    for name in ("endpoints", "allowed_ips"):
        values[name] = tuple(json.loads(values[name]))
    values["enabled"] = bool(values["enabled"])
    return PeerRow(**values)


def _invitation(row: sqlite3.Row) -> InvitationRow:
    values = dict(row)
    values["revoked"] = bool(values["revoked"])
    return InvitationRow(**values)
