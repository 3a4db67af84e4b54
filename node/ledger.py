"""The ledger: vouchers that were taken or given, and chains of half-blocks, in one SQLite file.

What a method has returned is on the disk (node/ledger_reading.py draws the tables). Our own chain grows by
signing, and a number that was signed for is used up whatever its partner does. A ledger that was put back
from a backup does not know what it signed since, and would sign a number twice, which proves to everybody
that it lies. So nothing is signed with a partner before it was heard what of our chain it holds (`heard`),
and where one holds more than we do we are behind, and sign nothing until all partners have been asked:

    opened ── partner shows what it holds ──┬─ no more than we do ──▶ sign with this partner
                                            └─ more ──▶ behind: ask the others
                                                          all heard, or given up ──▶ sign

What lies between is missing, which `verify` says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from crypto.errors import LocalFault
from dht.signatures import Signatures
from node.database import Database
from node.ledger_checking import Verifying
from node.ledger_reading import MIGRATIONS, Account, Carried, Entry, Reading, Summary
from node.settlement import blocks, heads, vouchers
from node.settlement.audit import Verified
from node.settlement.blocks import BadBlock, Block, Partner, Party

__all__ = ["Account", "Carried", "ChainBehind", "Entry", "Ledger", "Summary", "Verified", "Verifying"]

STRANGERS_OF_ONE: Final = 64  # blocks of one chain that are in no pair with us
STRANGERS: Final = 16_384  # such blocks in all: 16 MB with their indexes
LIARS: Final = 16_384  # proofs: 14 MB; anybody can make keys that lie, so there must be an end
WITNESSED_SECONDS: Final = 7 * 86_400  # then witnesses are told again: some forget, and others are closest
WITNESSED_AGAIN: Final = 4096  # of the newest blocks
NEVER: Final = 2**62  # s
_BEHIND: Final = "behind"
_KEEP: Final = (
    "INSERT INTO vouchers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tunnel_id, given) DO UPDATE SET "
    "sequence = excluded.sequence, amount = excluded.amount, carried = excluded.carried, raw = excluded.raw "
    "WHERE excluded.sequence > sequence AND excluded.payer = payer AND excluded.payee = payee"
)
_WITNESSED: Final = (
    "UPDATE blocks SET due = iif(rowid > (SELECT max(rowid) FROM blocks) - ?, ?, ?) WHERE hash = ?"
)
_COUNT: Final = "UPDATE partners SET earned = ?, spent = ?, pairs = pairs + 1 WHERE key = ?"
_MEET: Final = (
    "INSERT INTO partners VALUES (?, ?, '0', '0', 1, 0) ON CONFLICT (key) DO UPDATE SET blocks = blocks + 1"
)


class ChainBehind(LocalFault):
    """Signing now might use a number twice: ask what partners hold of our chain first."""


class Ledger(Reading):
    """`party`: us. Not for two threads at once; every method may raise StorageFailed."""

    def __init__(self, database: Database, party: Party, signatures: Signatures) -> None:
        super().__init__(database, party, signatures)
        self._heard: set[bytes] = set()

    @classmethod
    def open(cls, path: Path, party: Party, signatures: Signatures) -> Ledger:
        """Open or create (0600), check, and bring to this program's version."""
        return cls(Database.open(path, MIGRATIONS), party, signatures)

    @classmethod
    def over(cls, connection: sqlite3.Connection, party: Party, signatures: Signatures) -> Ledger:
        """In an open SQLite connection with isolation_level None: a simulation's disk is memory."""
        return cls(Database.over(connection, Path("memory"), MIGRATIONS), party, signatures)

    def close(self) -> None:
        self._db.close()

    def keep(self, raws: Iterable[bytes]) -> None:
        """Vouchers that were taken or given, of any tunnels, with one write to the disk. Older ones than what
        is kept change nothing. They were checked."""
        us = self._party.machine_id
        with self._db.transaction():
            for raw in raws:
                voucher = vouchers.read(raw)
                sums = (voucher.sequence, voucher.amount, voucher.up + voucher.down)
                given = voucher.payer == us
                self._db.execute(_KEEP, voucher.tunnel_id, given, *sums, voucher.payer, voucher.payee, raw)

    # ------------------------------------------------------------------ our chain

    def spend(self, voucher: bytes, payee_key: bytes, zeqond: int) -> Block:
        """Our half for the last voucher (its bytes) of a tunnel that we paid; the same one for the same.
        Vouchers are sums since the tunnel began, so it is settled once: raises LocalFault for another one,
        and ChainBehind."""
        read = vouchers.read(voucher)
        digest = blocks.voucher_hash(voucher)
        with self._db.transaction():
            known = self.half_of(read.tunnel_id)
            if known is not None and known.said.voucher != digest:
                raise LocalFault("this tunnel is settled already, by another voucher")
            if known is not None:
                return known
            self._may_sign(payee_key)
            to = Partner(machine_id=read.payee, key=payee_key)
            made = blocks.propose(self._party, self.head(), to, read.tunnel_id, digest, read.amount, zeqond)
            self._insert(made)
        return made

    def earn(self, proposal: Block, voucher: bytes, payer_key: bytes, zeqond: int) -> Block:
        """Our half of a pair, for a voucher that we kept; the same one for the same proposal. Raises BadBlock
        where the proposal does not hold, does not say what the voucher says, or forks, or its author is known
        to have forked; and ChainBehind."""
        blocks.check(proposal, self.signatures)
        said, read = proposal.said, vouchers.read(voucher)
        if (said.tunnel_id, said.voucher) != (read.tunnel_id, blocks.voucher_hash(voucher)):
            raise BadBlock("not of this voucher")
        if (said.delta, said.author, said.key) != (-read.amount, read.payer, payer_key):
            raise BadBlock("not what the voucher says")
        if self.learn(proposal) is not None:
            raise BadBlock("its author has signed what contradicts it")
        with self._db.transaction():
            known = self.half_of(said.tunnel_id)
            if known is not None and known.said.answers != proposal.hash:
                raise BadBlock("this tunnel is settled already")
            if known is not None:
                return known
            if self.lies(payer_key):
                raise BadBlock("its author is proven to lie")
            self._may_sign(payer_key)
            made = blocks.accept(self._party, self.head(), proposal, zeqond)
            self._insert(made)
        return made

    def heard(self, key: bytes) -> None:
        """The partner with this key has shown what it holds of our chain, or that it holds nothing; `learn`
        had it first."""
        self._heard.add(key)
        if self.behind and not self.to_ask():
            self.ask_no_more()

    @property
    def behind(self) -> bool:
        """Whether a partner held more of our chain than we do, and the others were not asked yet."""
        return bool(self._db.rows("SELECT 1 FROM state WHERE name = ?", _BEHIND))

    def to_ask(self) -> list[Partner]:
        """Partners that were not heard since this was opened; while `behind`, they are to be asked."""
        return [partner for partner in self.partners() if partner.key not in self._heard]

    def behind_since(self, unix: int) -> int | None:
        """When this was asked for the first time (Unix s) since we are behind; None: we are not."""
        if not self.behind:
            return None
        with self._db.transaction():
            self._db.execute("UPDATE state SET since = ? WHERE name = ? AND NOT since", unix, _BEHIND)
        rows = self._db.rows("SELECT since FROM state WHERE name = ?", _BEHIND)
        return int(rows[0]["since"])

    def ask_no_more(self) -> None:
        """Sign again although some do not answer: what they alone hold would be signed twice."""
        with self._db.transaction():
            self._db.execute("DELETE FROM state WHERE name = ?", _BEHIND)

    def half_of(self, tunnel_id: bytes) -> Block | None:
        """Our block about a tunnel."""
        return self._block("SELECT raw FROM blocks WHERE key = ? AND tunnel_id = ?", self.us, tunnel_id)

    def answer_to(self, proposal: Block) -> Block | None:
        """Our half of a pair, where it was earned."""
        ours = [other for other in self._halves(proposal) if other.said.key == self.us]
        return next((other for other in ours if other.answers(proposal)), None)

    # ------------------------------------------------------------------ what others show

    def learn(self, block: Block) -> bytes | None:
        """Somebody's block, or one of ours that a partner kept. The proof where it contradicts one that is
        here: the proof is kept, not the block, and `untold` until it is passed on. Raises BadBlock where it
        does not hold."""
        blocks.check(block, self.signatures)
        with self._db.transaction():
            near = self._near(block)
            other = next((each for each in near if blocks.contradict(each, block)), None)
            if other is not None:
                proof = blocks.fork(other, block)
                self._blame(block.said.key, proof, told=False)
                return proof
            if any(each.place == block.place for each in near):
                return None
            if block.said.key == self.us:
                newest = self.head()
                if newest is None or newest.said.number < block.said.number:
                    self._db.execute("INSERT OR IGNORE INTO state VALUES (?, 0)", _BEHIND)
            self._insert(block)
        return None

    def compare(self, block: Block) -> bytes | None:
        """As `learn`, but a block that contradicts none is not kept."""
        if any(blocks.contradict(each, block) for each in self._near(block)):
            return self.learn(block)
        return None

    def learn_pair(self, proposal: Block, answer: Block) -> None:
        """A pair that the payee showed, for its tier. Kept where its payer carried for us: others' word
        counts for nothing. Raises BadBlock."""
        if not answer.answers(proposal):
            raise BadBlock("not a pair")
        query = "SELECT 1 FROM partners WHERE key = ? AND spent != '0'"
        if self._db.rows(query, proposal.said.key):
            self.learn(proposal)
            self.learn(answer)

    def learn_fork(self, proof: bytes, *, told: bool = True) -> bool:
        """Whether it is news. `told`: the mesh knows it already. Raises BadBlock for what proves nothing."""
        one, _ = blocks.read_fork(proof, self.signatures)
        with self._db.transaction():
            return self._blame(one.said.key, proof, told=told)

    def untold(self) -> list[bytes]:
        """Proofs that are to be passed on; who lies itself leaves that to others."""
        query = "SELECT proof FROM forks WHERE NOT told AND key != ?"
        return [row["proof"] for row in self._db.rows(query, self.us)]

    def witnessed(self, told: Iterable[Block], others: Iterable[Block], unix: int, again: int) -> None:
        """Of `told` witnesses know; the others are due `again` (Unix s)."""
        week = unix + WITNESSED_SECONDS
        with self._db.transaction():
            for block in told:
                self._db.execute(_WITNESSED, WITNESSED_AGAIN, week, NEVER, block.hash)
            for block in others:
                self._db.execute("UPDATE blocks SET due = ? WHERE hash = ?", again, block.hash)

    def told(self, proof: bytes) -> None:
        """It was passed on."""
        with self._db.transaction():
            self._db.execute("UPDATE forks SET told = 1 WHERE proof = ?", proof)

    # ------------------------------------------------------------------ checking

    def verify(self) -> Verified:
        """Every block of our chain: its signature, its place, its partner's half; and the sums. Raises
        StateDamaged. In one go; `Verifying` does it in steps."""
        verifying = Verifying(self.us, self.signatures)
        while verifying.step(self):
            pass
        return verifying.found

    # ------------------------------------------------------------------ inside

    def _may_sign(self, key: bytes) -> None:
        if self.behind:
            raise ChainBehind("partners hold blocks of this chain that are not here; ask all of them first")
        if key not in self._heard:
            raise ChainBehind("this partner has not said yet what it holds of our chain")

    def _insert(self, block: Block) -> None:
        (key, number), said = block.place, block.said
        ours = key == self.us
        names = (block.hash, said.answers, said.tunnel_id, heads.place(key, number))
        values = (*names, not ours, block.raw, NEVER if ours else 0)
        self._db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", key, number, *values)
        if ours:
            self._db.execute(_MEET, said.partner_key, said.partner)
            for other in self._halves(block):
                self._pair(block, other)
        elif said.partner_key == self.us:
            for own in self._halves(block):
                self._pair(own, block)
        if not ours:
            self._forget(block)

    def _halves(self, block: Block) -> list[Block]:
        """The blocks that answer it, or the one that it answers, which make a pair with it."""
        if block.said.answers == blocks.NOTHING:
            found = self._blocks("SELECT raw FROM blocks WHERE answers = ? ORDER BY number", block.hash)
            return [other for other in found if other.answers(block)]
        found = self._blocks("SELECT raw FROM blocks WHERE hash = ?", block.said.answers)
        return [other for other in found if block.answers(other)]

    def _pair(self, ours: Block, other: Block) -> None:
        """Count it, unless one of the two is in another pair."""
        said = ours.said
        values = (said.number, other.hash, said.tunnel_id, said.partner_key, said.delta)
        if not self._db.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?, ?, ?)", *values):
            return
        self._db.execute("UPDATE blocks SET heard = 0 WHERE hash = ?", other.hash)
        row = self._db.rows("SELECT earned, spent FROM partners WHERE key = ?", said.partner_key)[0]
        earned, spent = int(row["earned"]) + max(0, said.delta), int(row["spent"]) + max(0, -said.delta)
        self._db.execute(_COUNT, str(earned), str(spent), said.partner_key)

    def _forget(self, newest: Block) -> None:
        """Of strangers' words, the lowest of one chain and the oldest of all make room for this one."""
        self._db.execute(
            "DELETE FROM blocks WHERE rowid IN (SELECT rowid FROM blocks WHERE heard AND key = ? "
            "AND hash != ? ORDER BY number DESC LIMIT -1 OFFSET ?)",
            *(newest.said.key, newest.hash, STRANGERS_OF_ONE - 1),
        )
        if self._db.rows("SELECT count(*) FROM blocks WHERE heard")[0][0] > STRANGERS:
            self._db.execute("DELETE FROM blocks WHERE rowid = (SELECT min(rowid) FROM blocks WHERE heard)")

    def _near(self, block: Block) -> list[Block]:
        """What is here at its place in its chain, before and after it."""
        (key, number), query = block.place, "SELECT raw FROM blocks WHERE key = ? AND number BETWEEN ? AND ?"
        return self._blocks(query, key, number - 1, number + 1)

    def _blame(self, key: bytes, proof: bytes, *, told: bool) -> bool:
        """Beyond the bound, the oldest proof about somebody with whom we have no block makes room."""
        if not self._db.execute("INSERT OR IGNORE INTO forks VALUES (?, ?, ?)", key, proof, told):
            return False
        if self._db.rows("SELECT count(*) FROM forks")[0][0] > LIARS:
            self._db.execute(
                "DELETE FROM forks WHERE rowid = (SELECT min(rowid) FROM forks "
                "WHERE NOT EXISTS (SELECT 1 FROM partners WHERE partners.key = forks.key))"
            )
        return True
