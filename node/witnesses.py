"""Witnesses: payees that never meet find out together that they were shown two branches of one chain.

    block of another's chain ─▶ its witnesses, by "ledger.witness" ─┬─ nothing      ─▶ told
    (node/settlement/witnessing.py)                                 └─ who says otherwise
                        proof ◀─ "ledger.held", with our block, to that one ◀──────────┘

Both have the proof then, and node/forks.py passes it on. What is to be told stands in the ledger, so it is
told after a restart too, and after half an hour where witnesses or suspects were away. A stranger learns
nothing by "ledger.held": it answers to signed blocks that contradict ours, which their author alone can make.
Whoever knows a machine's key can learn from a witness that somebody, and who, holds one of its blocks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

import trio

from crypto.errors import PeerFault
from crypto.identity import KeyBundle, slug
from node.answering import Answering, Declined
from node.books import Books
from node.contacts import Contacts
from node.errors import StorageFailed, UserError
from node.ledger import Ledger
from node.logs import Log
from node.settlement import blocks, witnessing
from node.settlement.blocks import BadBlock, Block
from node.settlement.telling import ROUND, Patience, Round, Suspect
from node.settlement.witnessing import Relay, Witness

WITNESS: Final = "ledger.witness"
HELD: Final = "ledger.held"
GATHER_SECONDS: Final = 5.0  # so that what comes together is told together
PAUSE_SECONDS: Final = 10.0  # between two rounds
LOOK_SECONDS: Final = 300.0  # for what is due by the clock
LATER_SECONDS: Final = 1800  # for what could not be told: more than a machine counts as away

log = Log("witnesses")


class Witnesses:
    """`us`: machine_id. `found()` is called when the ledger has a new proof. `unix()`: seconds."""

    def __init__(
        self,
        us: bytes,
        books: Books,
        contacts: Contacts,
        answering: Answering,
        found: Callable[[], None],
        unix: Callable[[], int],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._us = us
        self._books = books
        self._contacts = contacts
        self._found = found
        self._unix = unix
        self._witness = Witness()
        self._patience = Patience()
        self._wake = trio.Event()
        answering.handle(WITNESS, self._on_witness)
        answering.handle(HELD, self._on_held)

    def shown(self) -> None:
        """The ledger may have blocks of others that witnesses do not know."""
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Begins with what the last run did not tell."""
        task_status.started()
        while True:
            self._wake = trio.Event()
            try:
                more = await self._round()
            except StorageFailed as error:
                log.warning("witnesses are told later: the ledger does not answer", error=error)
                more = False
            if more:
                await trio.sleep(PAUSE_SECONDS)
                continue
            with trio.move_on_after(LOOK_SECONDS):
                await self._wake.wait()
            await trio.sleep(GATHER_SECONDS)

    # ------------------------------------------------------------------ as who was shown something

    async def _round(self) -> bool:
        """Whether there may be more to tell now."""
        unix = self._unix()
        found = await self._books.call(Ledger.unwitnessed, unix, ROUND)
        if not found:
            return False
        relays = await self._contacts.refreshed()
        if all(each.machine_id == self._us for each in relays):
            return False
        this, suspects = Round(self._us, found, relays, self._is_away), defaultdict[bytes, set[Suspect]](set)
        while questions := this.questions():
            async with trio.open_nursery() as nursery:
                for relay, entries in questions.items():
                    nursery.start_soon(self._tell, this, relay, entries, suspects)
        async with trio.open_nursery() as nursery:
            for each in suspects.values():
                nursery.start_soon(self._pursue, this, each)
        told, others = this.result()
        await self._books.call(Ledger.witnessed, told, others, unix, unix + LATER_SECONDS)
        self.counters["blocks told"] += len(told)
        return len(found) == ROUND

    async def _tell(
        self,
        this: Round,
        relay: Relay,
        entries: dict[bytes, bytes],
        suspects: dict[bytes, set[Suspect]],
    ) -> None:
        report = witnessing.encode_report(entries)
        try:
            answer = await self._contacts.ask(relay.machine_id, relay.key, WITNESS, report)
            claims = witnessing.decode_claims(answer)
        except (UserError, PeerFault):
            self.counters["witness away"] += 1
            return
        for suspect in this.answered(relay, entries, claims):
            suspects[suspect.machine_id].add(suspect)

    async def _pursue(self, this: Round, suspects: set[Suspect]) -> None:
        """All of one machine, one after the other."""
        for suspect in suspects:
            if self._contacts.is_away(suspect.machine_id):
                this.unfinished(suspect.block)
            elif not self._patience.follow(suspect, trio.current_time()):
                self.counters["suspect passed over"] += 1
            elif await self._is_proven(this, suspect):
                self._patience.proved(suspect)
                self.counters["forks found"] += 1
                log.info("a chain has two branches", machine=slug(suspect.block.said.author))
                self._found()

    async def _is_proven(self, this: Round, suspect: Suspect) -> bool:
        try:
            answer = await self._contacts.ask(suspect.machine_id, None, HELD, suspect.block.raw)
            if answer:
                await self._books.call(_prove, suspect.block, answer)
                return True
            self.counters["suspect holds nothing"] += 1
        except PeerFault:
            self.counters["suspect proves nothing"] += 1
        except UserError as error:
            self.counters["suspect away"] += 1
            this.unfinished(suspect.block)
            if isinstance(error, StorageFailed):
                log.warning("a proof could not be kept", error=error)
        return False

    def _is_away(self, relay: Relay) -> bool:
        return self._contacts.is_away(relay.machine_id, relay.key)

    # ------------------------------------------------------------------ as a witness, and as who is asked

    async def _on_witness(self, author: KeyBundle, payload: bytes) -> bytes:
        """Kept where others can ask its reporter: it is listed, by its own word."""
        try:
            report = witnessing.decode_report(payload)
        except PeerFault as error:
            raise Declined("BAD_REPORT") from error
        keep = witnessing.relay(author.machine_id, author.ed25519) in self._contacts.relays()
        claims = self._witness.report(author.machine_id, report, keep=keep)
        for place in await self._books.call(_otherwise, report):
            claims[place] = [self._us, *claims.get(place, ())]
        return witnessing.encode_claims(claims)

    async def _on_held(self, _author: KeyBundle, payload: bytes) -> bytes:
        try:
            proof = await self._books.call(_contradicted, payload)
        except PeerFault as error:
            raise Declined("BAD_BLOCK") from error
        if proof is None:
            return b""
        self._found()
        return proof


def _otherwise(ledger: Ledger, report: dict[bytes, bytes]) -> list[bytes]:
    """The places where this ledger has another block than the report says."""
    held = [witnessing.entries(block) for block in ledger.at_places(list(report))]
    return [place for place in report for each in held if each.get(place, report[place]) != report[place]]


def _contradicted(ledger: Ledger, raw: bytes) -> bytes | None:
    """The proof, where a block here contradicts this one. Raises BadBlock."""
    block = blocks.read(raw)
    blocks.check(block, ledger.signatures)
    return ledger.compare(block)


def _prove(ledger: Ledger, block: Block, proof: bytes) -> None:
    """Keep a proof that the block's author forks; it is `untold`. Raises BadBlock."""
    one, _ = blocks.read_fork(proof, ledger.signatures)
    if one.said.key != block.said.key:
        raise BadBlock("a proof about somebody else")
    ledger.learn_fork(proof, told=False)
