"""The ledger: vouchers that were taken or given, and chains of half-blocks, in one SQLite file.

    vouchers   tunnel_id, given │ sequence amount payer payee raw     the newest of each tunnel, each way
    blocks     key, number      │ hash answers tunnel_id raw          our chain, and what we know of others'
    forks      key              │ proof                               who gave one number to two blocks

What a method has returned is on the disk. Our own chain grows by signing, and a number that was signed for
is used up whatever its partner does. A ledger that was put back from a backup does not know what it signed
since, and would sign a number twice, which proves to everybody that it lies: so partners are asked for our
highest block first (`learn` takes it), and what lies between is missing, which `verify` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto.errors import LocalFault
from dht.signatures import Signatures
from node.database import Database
from node.errors import StateDamaged
from node.settlement import blocks, vouchers
from node.settlement.blocks import BadBlock, Block, Partner, Party
from node.settlement.vouchers import Voucher

_MIGRATIONS: Final = (
    (
        """CREATE TABLE vouchers (
            tunnel_id BLOB NOT NULL, given INTEGER NOT NULL, sequence INTEGER NOT NULL,
            amount INTEGER NOT NULL, payer BLOB NOT NULL, payee BLOB NOT NULL, raw BLOB NOT NULL,
            PRIMARY KEY (tunnel_id, given)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE blocks (
            key BLOB NOT NULL, number INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, answers BLOB NOT NULL,
            tunnel_id BLOB NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (key, number)) STRICT, WITHOUT ROWID""",
        "CREATE INDEX by_answer ON blocks (answers)",
        "CREATE INDEX by_tunnel ON blocks (tunnel_id)",
        "CREATE TABLE forks (key BLOB PRIMARY KEY, proof BLOB NOT NULL) STRICT, WITHOUT ROWID",
    ),
)
_KEEP: Final = (
    "INSERT INTO vouchers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tunnel_id, given) DO UPDATE SET "
    "sequence = excluded.sequence, amount = excluded.amount, raw = excluded.raw "
    "WHERE excluded.sequence > sequence"
)


@dataclass(frozen=True)
class Verified:
    """What `Ledger.verify` found. `missing`: numbers of our chain that are not here. `pairs`: our blocks to
    which the partner's half is here; `open`: those of which it is not."""

    blocks: int
    missing: int
    pairs: int
    open: int


@dataclass(frozen=True)
class Account:
    """With one partner (machine_id, 32 bytes), in millionths of a ZEQ: what both have signed for."""

    partner: bytes
    earned: int
    spent: int


class Ledger:
    """`party`: us. Not for two threads at once; every method may raise StorageFailed."""

    def __init__(self, database: Database, party: Party, signatures: Signatures) -> None:
        self._db = database
        self._party = party
        self._signatures = signatures

    @classmethod
    def open(cls, path: Path, party: Party, signatures: Signatures) -> Ledger:
        """Open or create (0600), check, and bring to this program's version."""
        return cls(Database.open(path, _MIGRATIONS), party, signatures)

    def close(self) -> None:
        self._db.close()

    # ------------------------------------------------------------------ vouchers

    def keep(self, raws: Iterable[bytes]) -> None:
        """Vouchers that were taken or given, of any tunnels, with one write to the disk. Older ones than what
        is kept change nothing. They were checked."""
        us = self._party.machine_id
        with self._db.transaction():
            for raw in raws:
                voucher = vouchers.read(raw)
                values = (voucher.sequence, voucher.amount, voucher.payer, voucher.payee, raw)
                self._db.execute(_KEEP, voucher.tunnel_id, voucher.payer == us, *values)

    def voucher(self, tunnel_id: bytes, *, given: bool) -> Voucher | None:
        """The newest of a tunnel that we gave, or took."""
        raw = self.raw_voucher(tunnel_id, given=given)
        return vouchers.read(raw) if raw else None

    def raw_voucher(self, tunnel_id: bytes, *, given: bool) -> bytes:
        """The same with its signature; empty: there is none."""
        query = "SELECT raw FROM vouchers WHERE tunnel_id = ? AND given = ?"
        rows = self._db.rows(query, tunnel_id, given)
        return bytes(rows[0]["raw"]) if rows else b""

    # ------------------------------------------------------------------ our chain

    def spend(self, voucher: bytes, payee_key: bytes, zeqond: int) -> Block:
        """Our half for the last voucher (its bytes) of a tunnel that we paid; the same one for the same.
        Vouchers are sums since the tunnel began, so it is settled once: raises LocalFault for another one."""
        read = vouchers.read(voucher)
        digest = blocks.voucher_hash(voucher)
        with self._db.transaction():
            known = self.half_of(read.tunnel_id)
            if known is not None and known.said.voucher != digest:
                raise LocalFault("this tunnel is settled already, by another voucher")
            if known is not None:
                return known
            to = Partner(machine_id=read.payee, key=payee_key)
            made = blocks.propose(self._party, self.head(), to, read.tunnel_id, digest, read.amount, zeqond)
            self._insert(made)
        return made

    def earn(self, proposal: Block, voucher: bytes, payer_key: bytes, zeqond: int) -> Block:
        """Our half of a pair, for a voucher that we kept; the same one for the same proposal. Raises BadBlock
        where the proposal does not hold, or does not say what the voucher says."""
        blocks.check(proposal, self._signatures)
        said, read = proposal.said, vouchers.read(voucher)
        if (said.tunnel_id, said.voucher) != (read.tunnel_id, blocks.voucher_hash(voucher)):
            raise BadBlock("not of this voucher")
        if (said.delta, said.author, said.key) != (-read.amount, read.payer, payer_key):
            raise BadBlock("not what the voucher says")
        self.learn(proposal)
        with self._db.transaction():
            known = self.half_of(said.tunnel_id)
            if known is not None and known.said.answers != proposal.hash:
                raise BadBlock("this tunnel is settled already")
            if known is not None:
                return known
            made = blocks.accept(self._party, self.head(), proposal, zeqond)
            self._insert(made)
        return made

    def half_of(self, tunnel_id: bytes) -> Block | None:
        """Our block about a tunnel."""
        query = "SELECT raw FROM blocks WHERE key = ? AND tunnel_id = ?"
        rows = self._db.rows(query, self._party.signer.public, tunnel_id)
        return blocks.read(rows[0]["raw"]) if rows else None

    def answer_to(self, proposal: Block) -> Block | None:
        """Our half of a pair, where it was earned."""
        ours = [other for other in self._answers(proposal) if other.said.key == self._party.signer.public]
        return next((other for other in ours if other.answers(proposal)), None)

    def head(self, key: bytes | None = None) -> Block | None:
        """The block with the highest number of a chain, ours unless a key (32 bytes) is given."""
        query = "SELECT raw FROM blocks WHERE key = ? ORDER BY number DESC LIMIT 1"
        rows = self._db.rows(query, self._party.signer.public if key is None else key)
        return blocks.read(rows[0]["raw"]) if rows else None

    # ------------------------------------------------------------------ what others show

    def learn(self, block: Block) -> bytes | None:
        """Somebody's block, or one of ours that a partner kept. The proof where its author gave the number
        to another one, too: it is kept and to be passed on. Raises BadBlock where it does not hold."""
        blocks.check(block, self._signatures)
        key, number = block.place
        with self._db.transaction():
            rows = self._db.rows("SELECT raw FROM blocks WHERE key = ? AND number = ?", key, number)
            if not rows:
                self._insert(block)
                return None
            known = blocks.read(rows[0]["raw"])
            if known.raw == block.raw:
                return None
            proof = blocks.fork(known, block)
            self._db.execute("INSERT OR IGNORE INTO forks VALUES (?, ?)", key, proof)
        return proof

    def learn_fork(self, proof: bytes) -> bool:
        """Whether it is news, so that it is passed on. Raises BadBlock for what proves nothing."""
        one, _ = blocks.read_fork(proof, self._signatures)
        with self._db.transaction():
            return self._db.execute("INSERT OR IGNORE INTO forks VALUES (?, ?)", one.said.key, proof) > 0

    def lies(self, key: bytes) -> bool:
        """Whether it is proven of the holder of this key."""
        return bool(self._db.rows("SELECT 1 FROM forks WHERE key = ?", key))

    # ------------------------------------------------------------------ what it comes to

    def accounts(self) -> list[Account]:
        """With each partner with whom there is a pair, by machine_id."""
        earned: dict[bytes, int] = {}
        spent: dict[bytes, int] = {}
        for ours, _ in self._pairs():
            side = earned if ours.said.delta > 0 else spent
            side[ours.said.partner] = side.get(ours.said.partner, 0) + abs(ours.said.delta)
        partners = sorted({*earned, *spent})
        return [Account(partner, earned.get(partner, 0), spent.get(partner, 0)) for partner in partners]

    def verify(self) -> Verified:
        """Every block of our chain: its signature, its place, and what it answers. Raises StateDamaged."""
        before: Block | None = None
        count = missing = 0
        for block in self._chain(self._party.signer.public):
            number = block.said.number
            try:
                blocks.check(block, self._signatures)
            except BadBlock as bad:
                raise StateDamaged(_broken(number, str(bad))) from bad
            last = before.said.number if before else 0
            if number == last + 1 and not block.follows(before):
                raise StateDamaged(_broken(number, "it does not follow the one before it"))
            missing += number - last - 1
            count += 1
            before = block
        pairs = sum(1 for _ in self._pairs())
        return Verified(count, missing, pairs, count - pairs)

    # ------------------------------------------------------------------ inside

    def _pairs(self) -> Iterator[tuple[Block, Block]]:
        """Our half and the partner's, each block in one pair at most."""
        for block in self._chain(self._party.signer.public):
            if block.said.answers == blocks.NOTHING:
                others = [other for other in self._answers(block) if other.answers(block)]
            else:
                rows = self._db.rows("SELECT raw FROM blocks WHERE hash = ?", block.said.answers)
                others = [other for row in rows if block.answers(other := blocks.read(row["raw"]))]
            if others:
                yield block, others[0]

    def _chain(self, key: bytes) -> Iterator[Block]:
        rows = self._db.rows("SELECT raw FROM blocks WHERE key = ? ORDER BY number", key)
        return (blocks.read(row["raw"]) for row in rows)

    def _answers(self, block: Block) -> list[Block]:
        rows = self._db.rows("SELECT raw FROM blocks WHERE answers = ? ORDER BY number", block.hash)
        return [blocks.read(row["raw"]) for row in rows]

    def _insert(self, block: Block) -> None:
        key, number = block.place
        values = (key, number, block.hash, block.said.answers, block.said.tunnel_id, block.raw)
        self._db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", *values)


def _broken(number: int, why: str) -> str:
    return (
        f"block {number} of the ledger is not as it was written: {why}; put back a backup of the file, and "
        f"connect to your partners, who still have your newest block"
    )
