"""Payers that cheat: an honest desk whose words are spoilt on their way out, and a gate that is never shut.

stops         some vouchers, then none             lower      for half of what was carried
late          each voucher long after it is due    two        to all payees the vouchers of the first
replays       the first voucher again and again    forks      one number for the halves of many tunnels
clique        pairs of millions among themselves, to be trusted more
crowd         a thousand fresh identities of one: half pay nothing, half sign for all and never serve
"""

from __future__ import annotations

from typing import Final

from node import meeting
from node.settlement import actions, blocks, heads, vouchers, wire
from node.settlement.blocks import Block, Partner
from node.settlement.policy import Policy
from node.settlement.terms import MILLIONTHS, Unit, agree
from node.settlement.vouchers import Tunnel
from node.settlement.wire import Paid
from simulations.dice import Dice
from simulations.market.machine import Machine
from simulations.market.town import SECOND_US, Town
from simulations.market.watch import Watch

PAID: Final = 4  # the tag of the note, in its second byte
CLIQUE_ZEQ: Final = 1_000_000


class Cheat(Machine):
    """`spoil` is given each voucher that goes out, and says what goes out in its place."""

    sound = False

    def __init__(self, town: Town, watch: Watch, name: str, policy: Policy | None = None) -> None:
        self.dice = Dice(town.seed, f"whims of {name}")
        super().__init__(town, watch, name, policy)

    def lets(self, machine_id: bytes) -> bool:
        return self.alive and machine_id in self.peers

    def send(self, action: actions.Send) -> None:
        if action.body[1] != PAID:
            super().send(action)
            return
        note = wire.decode_note(action.body)
        assert isinstance(note, Paid)
        spoilt = self.spoil(action.machine_id, note.voucher)
        if spoilt is not None:
            self.say(action.machine_id, Paid(spoilt))

    def spoil(self, payee: bytes, raw: bytes) -> bytes | None:  # noqa: ARG002
        """None: nothing goes out."""
        return raw


class Stops(Cheat):
    way = "stops paying"
    most = 6

    def spoil(self, payee: bytes, raw: bytes) -> bytes | None:  # noqa: ARG002
        read = vouchers.read(raw)
        return raw if read.sequence <= read.tunnel_id[0] % self.most else None


class TakesWindow(Stops):
    """Not one voucher."""

    way = "crowd"
    most = 1


class Signs(Cheat):
    """Pays as agreed, as somebody whom nobody will ever see again."""

    way = "crowd"


class Late(Cheat):
    way = "pays late"

    def spoil(self, payee: bytes, raw: bytes) -> bytes | None:
        wait_us = SECOND_US * self.dice.between(20, 100)
        self.town.call_in(wait_us, self.say, payee, Paid(raw))
        return None


class Replays(Cheat):
    way = "replays"

    def __init__(self, town: Town, watch: Watch, name: str, policy: Policy | None = None) -> None:
        self._first: dict[bytes, bytes] = {}  # by tunnel_id
        super().__init__(town, watch, name, policy)

    def spoil(self, payee: bytes, raw: bytes) -> bytes | None:  # noqa: ARG002
        return self._first.setdefault(vouchers.read(raw).tunnel_id, raw)


class Lower(Cheat):
    """Every other tunnel: for less than the voucher before."""

    way = "signs lower"

    def spoil(self, payee: bytes, raw: bytes) -> bytes | None:
        read = vouchers.read(raw)
        row = self.disk.rows[read.tunnel_id]
        tunnel = Tunnel(
            session=read.session,
            tunnel_id=read.tunnel_id,
            payer=self.machine_id,
            payee=payee,
            payer_key=self.signer.public,
            terms=row.agreed,
        )
        share = read.sequence if read.tunnel_id[0] % 2 and read.sequence > 1 else 2
        figures = read.up // share, read.down // share, read.zeqonds // share
        return vouchers.write(tunnel, read.sequence, *figures, self.signer)


class Two(Cheat):
    """Its first payee is paid; all others are shown that one's voucher."""

    way = "one for two"
    _paid = b""
    _last = b""

    def spoil(self, payee: bytes, raw: bytes) -> bytes | None:
        if not self._paid or payee == self._paid:
            self._paid, self._last = payee, raw
            return raw
        return self._last


class Forks(Cheat):
    """It pays, and gives the halves of all tunnels but the first the same number; each payee is shown the
    branch in which it stands itself, and no other."""

    way = "forks"

    def __init__(self, town: Town, watch: Watch, name: str, policy: Policy | None = None) -> None:
        self._base: Block | None = None
        self._branch: dict[bytes, Block] = {}  # by the payee's key
        self._of_tunnel: dict[bytes, Block] = {}
        super().__init__(town, watch, name, policy)

    def spend(self, action: actions.Spend) -> None:
        row, read = action.row, vouchers.read(action.voucher)
        block = self._of_tunnel.get(row.tunnel_id)
        if block is None:
            partner = Partner(machine_id=row.partner, key=row.partner_key)
            before = self._branch.get(row.partner_key, self._base)
            digest = blocks.voucher_hash(action.voucher)
            terms = (row.tunnel_id, digest, read.amount, self.zeqond())
            block = blocks.propose(self.party, before, partner, *terms)
            self._of_tunnel[row.tunnel_id] = block
            if self._base is None:
                self._base = block
            else:
                self._branch[row.partner_key] = block
            self.watch.signed(block)
        self.desk.halved(row.tunnel_id, block.raw, self.town.now_us)

    def greet(self, action: actions.Greet) -> None:
        own = self._branch.get(action.row.partner_key, self._base)
        body = heads.encode(heads.Heads(own.raw if own else b"", b""))
        self.say(action.row.partner, wire.Shown(action.row.tunnel_id, True, body))

    def read(self, action: actions.Read) -> None:
        """It tells nobody what it knows of anybody."""


class Clique(Cheat):
    """It shows everybody who paid it."""

    way = "clique"

    def greet(self, action: actions.Greet) -> None:
        super().greet(action)
        self.show(action.row, meeting.references(self.disk.ledger), opening=False)


def conspire(members: list[Machine]) -> None:
    """Each has carried for the three before it, it says, and they say so too."""
    terms = agree(Unit.GB, MILLIONTHS, 1000)
    for number, payee in enumerate(members):
        for back in (1, 2, 3):
            payer = members[(number - back) % len(members)]
            if payer is payee:
                continue
            tunnel = Tunnel(
                session=bytes(32),
                tunnel_id=payer.town.entropy(16),
                payer=payer.machine_id,
                payee=payee.machine_id,
                payer_key=payer.signer.public,
                terms=terms,
            )
            raw = vouchers.write(tunnel, 1, 0, CLIQUE_ZEQ * 1000, 0, payer.signer)
            payer.disk.ledger.heard(payee.signer.public)
            payee.disk.ledger.heard(payer.signer.public)
            proposal = payer.disk.ledger.spend(raw, payee.signer.public, payer.zeqond())
            answer = payee.disk.ledger.earn(proposal, raw, payer.signer.public, payee.zeqond())
            payer.disk.ledger.learn(answer)
            for block in (proposal, answer):
                payer.watch.signed(block)
