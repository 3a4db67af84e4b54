"""What stands in a ledger, read only: chains, pairs, sums, and what strangers showed.

    blocks     key, number  │ hash answers tunnel_id place heard raw due   our chain, and others' blocks
    pairs      number       │ other tunnel_id partner delta            of our chain: which half answers which
    partners   key          │ machine_id earned spent blocks pairs     sums over the pairs, kept with each one
    vouchers   tunnel_id, given │ sequence amount carried payer payee raw
    forks      key          │ proof told                               who gave one number to two blocks
    state      name         │ since                                    "behind": see node/ledger.py

`place` is 8 bytes of the key and the number, as sketches have it (node/settlement/heads.py). `heard` are
blocks that are in no pair with us: strangers' words, of which only so many are kept. `due` is when witnesses
are to be told of a block (Unix s; 0: not told yet). Sums are decimal text: they may pass 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dht.signatures import Signatures
from node.database import Database
from node.settlement import blocks, vouchers
from node.settlement.blocks import Block, Partner, Party
from node.settlement.tiers import Receipt
from node.settlement.vouchers import Voucher

_LOW: Final = 20  # bits: SQLite adds the halves of a byte count apart, so that no sum passes 64 bits

MIGRATIONS: Final = (
    (
        """CREATE TABLE vouchers (
            tunnel_id BLOB NOT NULL, given INTEGER NOT NULL, sequence INTEGER NOT NULL,
            amount INTEGER NOT NULL, carried INTEGER NOT NULL, payer BLOB NOT NULL, payee BLOB NOT NULL,
            raw BLOB NOT NULL, PRIMARY KEY (tunnel_id, given)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE blocks (
            key BLOB NOT NULL, number INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, answers BLOB NOT NULL,
            tunnel_id BLOB NOT NULL, place BLOB NOT NULL, heard INTEGER NOT NULL, raw BLOB NOT NULL,
            PRIMARY KEY (key, number)) STRICT""",
        "CREATE INDEX by_answer ON blocks (answers)",
        "CREATE INDEX by_tunnel ON blocks (tunnel_id)",
        "CREATE INDEX by_place ON blocks (place)",
        "CREATE INDEX by_hearing ON blocks (key, number) WHERE heard",
        """CREATE TABLE pairs (
            number INTEGER PRIMARY KEY, other BLOB NOT NULL UNIQUE, tunnel_id BLOB NOT NULL,
            partner BLOB NOT NULL, delta INTEGER NOT NULL) STRICT""",
        "CREATE INDEX pair_of_tunnel ON pairs (tunnel_id)",
        "CREATE INDEX pair_of_partner ON pairs (partner, delta)",
        "CREATE INDEX best_pair ON pairs (delta)",
        """CREATE TABLE partners (
            key BLOB PRIMARY KEY, machine_id BLOB NOT NULL, earned TEXT NOT NULL, spent TEXT NOT NULL,
            blocks INTEGER NOT NULL, pairs INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE TABLE forks (key BLOB PRIMARY KEY, proof BLOB NOT NULL, told INTEGER NOT NULL) STRICT",
        "CREATE TABLE state (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    ),
    (
        "ALTER TABLE blocks ADD COLUMN due INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX by_due ON blocks (due)",
        "ALTER TABLE state ADD COLUMN since INTEGER NOT NULL DEFAULT 0",
    ),
)


@dataclass(frozen=True)
class Account:
    """With one partner (machine_id, 32 bytes), in millionths of a ZEQ: what both have signed for."""

    partner: bytes
    earned: int
    spent: int


class Carried(NamedTuple):
    """Bytes of inner packets, by the newest voucher of each tunnel."""

    for_us: int
    by_us: int


class Entry(NamedTuple):
    """A block of our chain, and the partner's half if it is here."""

    block: Block
    other: Block | None


class Summary(NamedTuple):
    """Of our chain: how many blocks, how many of them in pairs, and the newest."""

    blocks: int
    pairs: int
    head: Block | None


class Reading:
    """`party`: us. Not for two threads at once; every method may raise StorageFailed."""

    def __init__(self, database: Database, party: Party, signatures: Signatures) -> None:
        self.us: Final = party.signer.public
        self.signatures: Final = signatures
        self._db = database
        self._party = party

    # ------------------------------------------------------------------ chains

    def head(self, key: bytes | None = None) -> Block | None:
        """The block with the highest number of a chain, ours unless a key (32 bytes) is given."""
        query = "SELECT raw FROM blocks WHERE key = ? ORDER BY number DESC LIMIT 1"
        return self._block(query, self.us if key is None else key)

    def at(self, key: bytes, number: int) -> Block | None:
        """What is known to stand there."""
        return self._block("SELECT raw FROM blocks WHERE key = ? AND number = ?", key, number)

    def page(self, after: int, count: int) -> list[Entry]:
        """Of our chain, the next ones after a number."""
        query = f"{_ENTRIES} WHERE ours.key = ? AND ours.number > ? ORDER BY ours.number LIMIT ?"
        return self._entries(query, after, count)

    def newest(self, count: int) -> list[Entry]:
        """Of our chain, the newest first."""
        query = f"{_ENTRIES} WHERE ours.key = ? ORDER BY ours.number DESC LIMIT ?"
        return self._entries(query, count)

    def summary(self) -> Summary:
        row = self._db.rows("SELECT sum(blocks) AS blocks, sum(pairs) AS pairs FROM partners")[0]
        return Summary(row["blocks"] or 0, row["pairs"] or 0, self.head())

    def partners(self) -> list[Partner]:
        """All for whom there is a block of ours."""
        rows = self._db.rows("SELECT machine_id, key FROM partners ORDER BY machine_id")
        return [Partner(machine_id=row["machine_id"], key=row["key"]) for row in rows]

    # ------------------------------------------------------------------ what it comes to

    def accounts(self) -> list[Account]:
        """With each partner with whom there is a pair, by machine_id."""
        rows = self._db.rows("SELECT * FROM partners WHERE pairs ORDER BY machine_id")
        return [Account(row["machine_id"], int(row["earned"]), int(row["spent"])) for row in rows]

    def voucher(self, tunnel_id: bytes, *, given: bool) -> Voucher | None:
        """The newest of a tunnel that we gave, or took."""
        raw = self.raw_voucher(tunnel_id, given=given)
        return vouchers.read(raw) if raw else None

    def raw_voucher(self, tunnel_id: bytes, *, given: bool) -> bytes:
        """The same with its signature; empty: there is none."""
        query = "SELECT raw FROM vouchers WHERE tunnel_id = ? AND given = ?"
        rows = self._db.rows(query, tunnel_id, given)
        return bytes(rows[0]["raw"]) if rows else b""

    def unsettled(self) -> list[Account]:
        """What newest vouchers promise for tunnels of which there is no pair yet, by machine_id."""
        query = (
            "SELECT given, amount, payer, payee FROM vouchers WHERE NOT EXISTS "
            "(SELECT 1 FROM pairs WHERE pairs.tunnel_id = vouchers.tunnel_id)"
        )
        sums: dict[bytes, list[int]] = {}
        for given, amount, payer, payee in self._db.rows(query):
            sums.setdefault(payee if given else payer, [0, 0])[given] += amount
        return [Account(partner, *both) for partner, both in sorted(sums.items())]

    def carried(self) -> dict[bytes, Carried]:
        """By partner (machine_id)."""
        query = (
            "SELECT given, CASE given WHEN 1 THEN payee ELSE payer END AS partner, "  # noqa: S608  numbers
            f"sum(carried >> {_LOW}) AS high, sum(carried & {(1 << _LOW) - 1}) AS low "
            "FROM vouchers GROUP BY given, partner"
        )
        sums: dict[bytes, list[int]] = {}
        for given, partner, high, low in self._db.rows(query):
            sums.setdefault(partner, [0, 0])[1 - given] += (high << _LOW) + low
        return {partner: Carried(*both) for partner, both in sums.items()}

    # ------------------------------------------------------------------ of others

    def lies(self, key: bytes) -> bool:
        """Whether it is proven of the holder of this key."""
        return bool(self._db.rows("SELECT 1 FROM forks WHERE key = ?", key))

    def sample(self, newest: int, older: int, start: int) -> list[Block]:
        """Blocks of others: the newest that came, and some from a `start` on, any number."""
        query = "SELECT rowid, raw FROM blocks WHERE key != ? ORDER BY rowid DESC LIMIT ?"
        rows = self._db.rows(query, self.us, newest)
        last = rows[-1]["rowid"] if rows else 0
        if last:
            query = (
                "SELECT rowid, raw FROM blocks WHERE key != ? AND rowid BETWEEN ? AND ? "
                "ORDER BY rowid LIMIT ?"
            )
            rows += self._db.rows(query, self.us, start % last, last - 1, older)
        return [blocks.read(row["raw"]) for row in rows]

    def unwitnessed(self, unix: int, count: int) -> list[Block]:
        """Blocks of others that witnesses are to be told of now, the newest first; none of who is proven to
        lie."""
        query = (
            "SELECT raw FROM blocks WHERE due <= ? AND key != ? AND NOT EXISTS "
            "(SELECT 1 FROM forks WHERE forks.key = blocks.key) ORDER BY due, rowid DESC LIMIT ?"
        )
        return self._blocks(query, unix, self.us, count)

    def at_places(self, places: Sequence[bytes]) -> list[Block]:
        """Those that are known of the places (8 bytes each) of a sketch."""
        marks = ", ".join("?" * len(places))
        rows = self._db.rows(f"SELECT raw FROM blocks WHERE place IN ({marks})", *places)  # noqa: S608
        return [blocks.read(row["raw"]) for row in rows]

    def references(self, count: int) -> list[Entry]:
        """The pairs in which we earned most."""
        join = "JOIN pairs AS best ON best.number = ours.number"
        query = f"{_ENTRIES} {join} WHERE ours.key = ? AND best.delta > 0 ORDER BY best.delta DESC LIMIT ?"
        return self._entries(query, count)

    def receipts(self, subject: bytes) -> list[Receipt]:
        """For the tier of the subject (its key): ours, and those in which it was paid."""
        found = [
            Receipt(self.us, row["key"], int(row["spent"]))
            for row in self._db.rows("SELECT key, spent FROM partners WHERE pairs")
        ]
        if subject == self.us:
            rows = self._db.rows("SELECT key, earned FROM partners WHERE pairs")
            return [Receipt(row["key"], self.us, int(row["earned"])) for row in rows]
        query = (
            "SELECT answer.raw, proposal.raw FROM blocks AS answer JOIN blocks AS proposal "
            "ON proposal.hash = answer.answers WHERE answer.key = ? AND proposal.key != ?"
        )
        counted: set[bytes] = set()  # a proposal that was answered twice is one receipt
        for one, two in self._db.rows(query, subject, self.us):
            answer, proposal = blocks.read(one), blocks.read(two)
            if answer.answers(proposal) and proposal.hash not in counted:
                counted.add(proposal.hash)
                found.append(Receipt(proposal.said.key, subject, answer.said.delta))
        return found

    # ------------------------------------------------------------------ inside

    def _block(self, query: str, *values: object) -> Block | None:
        rows = self._db.rows(query, *values)
        return blocks.read(rows[0]["raw"]) if rows else None

    def _blocks(self, query: str, *values: object) -> list[Block]:
        return [blocks.read(row["raw"]) for row in self._db.rows(query, *values)]

    def _entries(self, query: str, *values: object) -> list[Entry]:
        rows = self._db.rows(query, self.us, *values)
        return [
            Entry(blocks.read(one), blocks.read(other) if other is not None else None) for one, other in rows
        ]


_ENTRIES: Final = (
    "SELECT ours.raw, other.raw FROM blocks AS ours "
    "LEFT JOIN pairs ON pairs.number = ours.number LEFT JOIN blocks AS other ON other.hash = pairs.other"
)
