"""How a machine of the market keeps its books, as the shell of a node does around ledger and desk.

    Spend, Earn ─▶ the ledger, which signs once the partner has shown what it has of our chain
    Greet, Read ─▶ the two ledgers show each other what they hold (node/meeting.py)
    behind      ─▶ all partners are asked for our newest block, then it signs again
    earned, shown ─▶ three relays are told place and hash of the partner's block: its witnesses, whoever asks

So what somebody told two partners meets at its witnesses, and the two compare what they hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from crypto.errors import LocalFault, PeerFault
from node import meeting
from node.ledger import ChainBehind
from node.settlement import actions, blocks, heads, wire
from node.settlement.blocks import BadBlock, Block, Partner
from node.settlement.desk import Desk
from node.settlement.life import Row
from simulations.market.disk import Disk
from simulations.market.town import MINUTE_US, SECOND_US, TELL_US, Town
from simulations.market.watch import Watch
from simulations.toycrypto import ToySignatures, ToySigner

if TYPE_CHECKING:
    from simulations.market.machine import Machine

WITNESSES: Final = 3
REPORTERS: Final = 3  # of one block, that a witness remembers
AGAIN_US: Final = 5 * MINUTE_US  # to a witness that was away
ASKED_US: Final = 10 * SECOND_US  # while behind, until the partners have answered, or will not
_LABEL: Final = b"zeqnode simulated witnesses of a chain"


class Bookkeeper:
    """What a Machine is, as far as its books go. `witnessed`: of others' chains, by place: the first bytes of
    a hash, and who said so: some, as the first may lose what it had."""

    town: Town
    watch: Watch
    disk: Disk
    desk: Desk
    signer: ToySigner
    machine_id: bytes
    alive: bool
    counters: Counter[str]

    def __init__(self) -> None:
        self.signatures = ToySignatures()
        self.witnessed: dict[bytes, dict[bytes, list[bytes]]] = {}
        self._borne: set[bytes] = set()
        self._asking = False

    def settle(self) -> None:
        """Carry out what the desk wants."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what the desk wants

    def spend(self, action: actions.Spend) -> None:
        row, now_us = action.row, self.town.now_us
        try:
            block = self.disk.ledger.spend(action.voucher, row.partner_key, self.zeqond())
        except ChainBehind:
            self.ask_partners()
            self.desk.not_halved(row.tunnel_id, now_us)
        except LocalFault:
            self.counters["halves that cannot be signed"] += 1
        else:
            self.watch.signed(block)
            self.desk.halved(row.tunnel_id, block.raw, now_us)

    def earn(self, action: actions.Earn) -> None:
        row, ledger, now_us = action.row, self.disk.ledger, self.town.now_us
        try:
            if action.proposal:
                proposal = blocks.read(action.proposal)
                self.watch.shown(proposal)
                block = ledger.earn(proposal, action.voucher, row.partner_key, self.zeqond())
                self.watch.signed(block)
                self.bear_witness(proposal)
            else:
                known = ledger.half_of(row.tunnel_id)
                if known is None:
                    return
                block = known
        except ChainBehind:
            self.ask_partners()  # the payer will ask for it again
        except BadBlock as bad:
            self.counters[f"half refused: {bad}"] += 1
            self.tell_forks()
        else:
            self.desk.halved(row.tunnel_id, block.raw, now_us)

    def repeat(self, action: actions.Repeat) -> None:
        try:
            ours = self.disk.ledger.answer_to(blocks.read(action.proposal))
        except BadBlock:
            return
        if ours is not None:
            self.say(action.machine_id, wire.Half(action.tunnel_id, ours.raw))

    def learn(self, action: actions.Learn) -> None:
        try:
            block = blocks.read(action.block)
            self.watch.shown(block)
            self.disk.ledger.learn(block)
            self.bear_witness(block)
        except BadBlock:
            self.counters["block refused"] += 1
        self.tell_forks()

    def greet(self, action: actions.Greet) -> None:
        notes = meeting.opening(self.disk.ledger, _partner(action.row), self.town.entropy)
        self.show(action.row, notes, opening=True)

    def read(self, action: actions.Read) -> None:
        try:
            answers = meeting.received(self.disk.ledger, _partner(action.row), action.body)
            note = heads.decode(action.body)
            if isinstance(note, heads.Heads) and note.head:
                self.watch.shown(blocks.read(note.head))
                self.bear_witness(blocks.read(note.head))
        except PeerFault:
            self.counters["what a ledger showed was refused"] += 1
            answers = []
        self.show(action.row, answers, opening=False)
        self.tell_forks()
        if self.disk.ledger.behind:
            self.ask_partners()

    def show(self, row: Row, notes: list[bytes], *, opening: bool) -> None:
        for number, note in enumerate(notes):
            self.say(row.partner, wire.Shown(row.tunnel_id, opening and not number, note))

    def say(self, machine_id: bytes, note: wire.Note) -> None:
        self.town.post(self.machine_id, machine_id, wire.encode(note))

    def zeqond(self) -> int:
        return self.desk.zeqond(self.town.now_us)

    def tell_forks(self) -> None:
        """By gossip, once."""
        for proof in self.disk.ledger.untold():
            self.watch.fork(self.machine_id, proof)
            self.disk.ledger.told(proof)

    # ------------------------------------------------------------------ behind

    def ask_partners(self) -> None:
        """After a restore: what they have of our chain. Who does not answer is not waited for."""
        if self._asking or not self.disk.ledger.behind:
            return
        self._asking = True
        for partner in self.disk.ledger.to_ask():
            other = self.watch.node(partner.machine_id)
            if other is not None:
                self._later(other, self._answered, other)
        self.town.call_in(ASKED_US, self._asked_all)

    def _answered(self, other: Machine) -> None:
        newest = other.disk.ledger.head(self.signer.public)
        if newest is not None:
            self.disk.ledger.learn(newest)
        self.disk.ledger.heard(other.signer.public)

    def _asked_all(self) -> None:
        self._asking = False
        if self.alive:
            self.disk.ledger.ask_no_more()

    # ------------------------------------------------------------------ witnesses

    def bear_witness(self, block: Block) -> None:
        """Somebody else's: where in its chain it stands, told to those whom everybody would tell."""
        if block.hash in self._borne:
            return
        self._borne.add(block.hash)
        place, short = heads.place(*block.place), block.hash[: heads.SHORT_BYTES]
        digest = sha256(_LABEL + block.said.key).digest()
        relays = [
            relay
            for relay in self.watch.relays
            if relay.machine_id not in (self.machine_id, block.said.author)
        ]
        relays.sort(key=lambda relay: int.from_bytes(digest) ^ int.from_bytes(relay.machine_id))
        for relay in relays[:WITNESSES]:
            self._later(relay, self._witness, relay, place, short)

    def _witness(self, relay: Machine, place: bytes, short: bytes) -> None:
        said = relay.witnessed.setdefault(place, {})
        reporters = said.setdefault(short, [])
        if len(reporters) < REPORTERS:
            reporters.append(self.machine_id)
        against = [each for known, others in said.items() if known != short for each in others]
        for other in filter(None, map(self.watch.node, against)):
            self._later(other, self._compare, other, place)

    def _compare(self, other: Machine, place: bytes) -> None:
        """Two partners of one, with two blocks at one place: both learn the other's."""
        for here, there in ((self, other), (other, self)):
            for block in there.disk.ledger.at_places([place]):
                here.disk.ledger.compare(block)
            here.tell_forks()

    def _later(self, other: Machine, call: Callable[..., None], *arguments: Any) -> None:
        """A question to another machine, and its answer; asked again while one of the two is away."""
        way_us = self.town.line(self.machine_id, other.machine_id).rtt_us + TELL_US
        self.town.call_in(way_us, self._ask, other, call, *arguments)

    def _ask(self, other: Machine, call: Callable[..., None], *arguments: Any) -> None:
        if self.alive and other.alive:
            call(*arguments)
        else:
            self.town.call_in(AGAIN_US, self._ask, other, call, *arguments)


def _partner(row: Row) -> Partner:
    return Partner(machine_id=row.partner, key=row.partner_key)
