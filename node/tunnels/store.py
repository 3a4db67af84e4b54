"""What is kept of tunnels, in one SQLite file: one row each, with what sums are made of beside it.

    tunnels   tunnel_id │ partner role state asked_at settled day before_today value row
    grants    machine_id │ amount                 what the owner extends to one machine, millionths of a ZEQ
    pins      slug │ machine_id                   which machine is meant by a slug that several may claim

What a method has returned is on the disk. Vouchers and half-blocks are in the ledger (node/ledger.py), which
need not be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from node.database import Database
from node.errors import StateDamaged
from node.settlement import life
from node.settlement.life import Role, Row, State

_MIGRATIONS: Final = (
    (
        """CREATE TABLE tunnels (
            tunnel_id BLOB PRIMARY KEY, partner BLOB NOT NULL, role TEXT NOT NULL, state TEXT NOT NULL,
            asked_at INTEGER NOT NULL, settled INTEGER NOT NULL, day INTEGER NOT NULL,
            before_today INTEGER NOT NULL, value INTEGER NOT NULL, row BLOB NOT NULL) STRICT""",
        "CREATE INDEX by_age ON tunnels (asked_at)",
        "CREATE INDEX by_partner ON tunnels (partner)",
        "CREATE INDEX open_ones ON tunnels (settled, state)",
        "CREATE TABLE grants (machine_id BLOB PRIMARY KEY, amount INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE pins (slug TEXT PRIMARY KEY, machine_id BLOB NOT NULL) STRICT, WITHOUT ROWID",
    ),
)
_SAVE: Final = (  # keeps its rowid, by which tunnels of one zeqond are in order
    "INSERT INTO tunnels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tunnel_id) DO UPDATE SET "
    "state = excluded.state, settled = excluded.settled, day = excluded.day, "
    "before_today = excluded.before_today, value = excluded.value, row = excluded.row"
)
_ENDED: Final = (State.TERMINATED, State.EXPIRED, State.REFUSED)


class TunnelStore:
    """Not for two threads at once; every method may raise StorageFailed."""

    def __init__(self, database: Database, path: Path) -> None:
        self._db = database
        self._path = path

    @classmethod
    def open(cls, path: Path) -> TunnelStore:
        """Open or create (0600), check, and bring to this program's version."""
        return cls(Database.open(path, _MIGRATIONS), path)

    def close(self) -> None:
        self._db.close()

    def save(self, rows: Iterable[Row]) -> None:
        """The newest word on each, with one write to the disk."""
        with self._db.transaction():
            for row in rows:
                figures = (row.asked_at, row.settled, row.day, row.before_today, row.value)
                names = (row.tunnel_id, row.partner, str(row.role), str(row.state))
                self._db.execute(_SAVE, *names, *figures, life.to_bytes(row))

    def find(self, tunnel_id: bytes) -> Row | None:
        return next(iter(self._read("SELECT row FROM tunnels WHERE tunnel_id = ?", tunnel_id)), None)

    def unfinished(self) -> list[Row]:
        """Those that have not ended, or are not settled."""
        return self._read(
            "SELECT row FROM tunnels WHERE settled = 0 AND (state NOT IN (?, ?, ?) OR value > 0) "
            "UNION SELECT row FROM tunnels WHERE state IN (?, ?)",
            *_ENDED,
            State.PENDING,
            State.ACTIVE,
        )

    def recent(self, count: int) -> list[Row]:
        """The newest first."""
        return self._read("SELECT row FROM tunnels ORDER BY asked_at DESC, rowid DESC LIMIT ?", count)

    def exposures(self) -> dict[bytes, int]:
        """By partner, millionths pro rata, of tunnels that have ended: above 0, it owes us for them."""
        rows = self._db.rows(
            "SELECT partner, SUM(CASE role WHEN ? THEN value ELSE -value END) AS value FROM tunnels "
            "WHERE state IN (?, ?, ?) GROUP BY partner",
            str(Role.PAYEE),
            *_ENDED,
        )
        return {row["partner"]: row["value"] for row in rows if row["value"]}

    def used_on(self, day: int) -> list[Row]:
        """Tunnels that we were paid for on that unix day."""
        return self._read("SELECT row FROM tunnels WHERE day = ? AND role = ?", day, str(Role.PAYEE))

    def paid_to(self, partner: bytes) -> list[Row]:
        """Tunnels that we asked this machine for, the newest first, at most a hundred."""
        return self._read(
            "SELECT row FROM tunnels WHERE partner = ? AND role = ? "
            "ORDER BY asked_at DESC, rowid DESC LIMIT 100",
            partner,
            str(Role.PAYER),
        )

    def grants(self) -> dict[bytes, int]:
        rows = self._db.rows("SELECT machine_id, amount FROM grants")
        return {row["machine_id"]: row["amount"] for row in rows}

    def grant(self, machine_id: bytes, amount: int | None) -> None:
        """None: as any other machine again."""
        with self._db.transaction():
            if amount is None:
                self._db.execute("DELETE FROM grants WHERE machine_id = ?", machine_id)
            else:
                self._db.execute("INSERT OR REPLACE INTO grants VALUES (?, ?)", machine_id, amount)

    def pins(self) -> dict[str, bytes]:
        """machine_ids by slug."""
        rows = self._db.rows("SELECT slug, machine_id FROM pins")
        return {row["slug"]: row["machine_id"] for row in rows}

    def pin(self, slug: str, machine_id: bytes) -> None:
        """From now on; in place of another one."""
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO pins VALUES (?, ?)", slug, machine_id)

    def _read(self, query: str, *values: object) -> list[Row]:
        rows = self._db.rows(query, *[str(each) if isinstance(each, State) else each for each in values])
        try:
            return [life.from_bytes(row["row"]) for row in rows]
        except ValueError as error:
            raise StateDamaged(
                f"{self._path} has a tunnel that cannot be read; put back a backup of the file"
            ) from error
