"""Where tunnels begin: requests, ours and others', and the answers to them.

    owner ─▶ request, accept, refuse, terminate        event ─▶ on_request, on_answer
    the rest of their life: node/settlement/tunnels.py

No clock, socket, disk or task: the same code runs in the node and in a simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import structs

from crypto.errors import LocalFault, PeerFault
from crypto.identity import BadKeys, KeyBundle
from dht.signatures import Signatures, Signer
from node.settlement import terms as terms_of
from node.settlement import wire
from node.settlement.actions import Changed, Tell
from node.settlement.credit import Credit, required_zeq
from node.settlement.life import Code, Happening, Role, Row, State
from node.settlement.payee import PayeeSide
from node.settlement.policy import Policy, decide
from node.settlement.tunnels import NoSuchTunnel, Tunnels
from node.settlement.wire import Answer, Request

IDLE_ZEQONDS: Final = 386
"""Five minutes: a tunnel that carried nothing for so long gives way while all places are taken."""
MAX_WAITING: Final = 64

__all__ = ["Desk", "NoSuchTunnel", "ToOurselves"]


class ToOurselves(LocalFault):
    """A tunnel to this very machine would lead nowhere."""


class Desk(Tunnels):
    """`lies(ed25519)`: whether a fork of that key's chain is proven. `policy`: None while nothing is
    offered. The other arguments as Tunnels has them."""

    def __init__(
        self,
        machine_id: bytes,
        signer: Signer,
        signatures: Signatures,
        credit: Credit,
        transcripts: Callable[[bytes], tuple[bytes, ...]],
        past: Callable[[bytes], Row | None],
        lies: Callable[[bytes], bool],
        unix_offset_us: int,
    ) -> None:
        super().__init__(machine_id, signer, signatures, credit, transcripts, past, unix_offset_us)
        self.policy: Policy | None = None
        self._lies = lies

    # ------------------------------------------------------------------ the owner

    def request(self, bundle: bytes, draft: Request, now_us: int, budget: int | None = None) -> Row:
        """Ask the machine of this key bundle (1,248 bytes) for a tunnel; `draft.tunnel_id` is its name from
        now on. Raises ToOurselves; BadTerms for a price under which no sum can be written down."""
        if KeyBundle(bundle).machine_id == self.machine_id:
            raise ToOurselves("this is the machine itself: name another one")
        terms = terms_of.agree(draft.pricing_unit, draft.price_zeq, draft.lifespan_zeqonds)
        row = Row(
            tunnel_id=draft.tunnel_id,
            role=Role.PAYER,
            bundle=bundle,
            terms=terms.encoded,
            asked_at=self.zeqond(now_us),
            budget=budget,
            answer_to=wire.encode(draft),
        )
        self._wait(row, now_us)
        self.act(Tell(bundle, wire.REQUEST_TAG, wire.encode(draft), None))
        return row

    def accept(self, tunnel_id: bytes, now_us: int) -> Row:
        """By hand. Raises NoSuchTunnel, InvalidState."""
        row = self._waiting(tunnel_id, now_us)
        if row is None or row.role is not Role.PAYEE:
            raise self._not_pending(tunnel_id, Happening.ACCEPT)
        return self._accept(row, now_us)

    def refuse(self, tunnel_id: bytes, now_us: int) -> Row:
        """By hand. Raises NoSuchTunnel, InvalidState."""
        row = self._waiting(tunnel_id, now_us)
        if row is None or row.role is not Role.PAYEE:
            raise self._not_pending(tunnel_id, Happening.REFUSE)
        row = self._drop(row, Happening.REFUSE, Code.DECLINED, now_us)
        self._answer(row, now_us)
        return row

    def undelivered(self, tunnel_id: bytes, now_us: int) -> None:
        """The request could not be brought to the other machine."""
        row = self._waiting(tunnel_id, now_us)
        if row is not None and row.role is Role.PAYER:
            self._drop(row, Happening.EXPIRE, Code.UNANSWERED, now_us)

    def not_admitted(self, tunnel_id: bytes, now_us: int) -> None:
        """Its partner cannot be let in here, so it is over; who waits for an answer gets that one."""
        side = self._sides.get(tunnel_id)
        if side is None or side.row.ended:
            return
        side.end(Happening.TERMINATE, Code.UNGUARDED, now_us)
        if not side.row.began_at:
            side.done_us = now_us  # no note gets to it
            if side.row.role is Role.PAYEE:
                self._answer(side.row, now_us)
        self._flush(now_us)

    # ------------------------------------------------------------------ events of other machines

    def on_request(self, bundle: bytes, body: bytes, now_us: int) -> None:
        """From the machine of this key bundle, which sealed and signed it."""
        try:
            request = wire.decode_request(body)
            payer = KeyBundle.from_bytes(bundle).machine_id
        except (PeerFault, BadKeys):
            self.counters["request for a tunnel that cannot be read"] += 1
            return
        known = self.row(request.tunnel_id)
        if known is not None:  # it did not hear our answer; or it asks for one that is over
            if known.role is Role.PAYEE and known.partner == payer:
                self._answer(known, now_us)
            return
        if payer == self.machine_id:
            self.counters["request for a tunnel to ourselves"] += 1
            return
        self._decide(bundle, request, body, payer, now_us)

    def _decide(self, bundle: bytes, request: Request, body: bytes, payer: bytes, now_us: int) -> None:
        lies, day = self._lies(bundle[:32]), self.day(now_us)
        policy = self.policy
        if policy is not None and self._active(payer) >= policy.max_tunnels:
            self._make_room(now_us)
        decision = decide(policy, request, payer, lies, self._active(payer), self.credit, day)
        named = policy is not None and decision.code is not Code.TOO_LONG  # there is a price to be named
        price = policy.price(request.pricing_unit) if policy is not None and named else None
        terms = terms_of.agree(request.pricing_unit, price or 0, request.lifespan_zeqonds)
        row = Row(
            tunnel_id=request.tunnel_id,
            role=Role.PAYEE,
            bundle=bundle,
            terms=terms.encoded,
            asked_at=self.zeqond(now_us),
            answer_to=body,
        )
        if decision.code is not Code.NONE:
            self._answer(row.after(Happening.REFUSE, row.asked_at, decision.code), now_us)
        elif not decision.waits:
            self._accept(row, now_us)
        elif sum(each.role is Role.PAYEE for each in self._pending.values()) >= MAX_WAITING:
            self._answer(row.after(Happening.REFUSE, row.asked_at, Code.FULL), now_us)
        else:
            self._wait(row, now_us)
            self._answer(row, now_us)

    def on_answer(self, tag: str, author: bytes, body: bytes, now_us: int) -> Answer | None:
        """Under one of ANSWER_TAGS, from the machine of this machine_id. None for what answers nothing that
        we asked it."""
        try:
            answer = wire.decode_answer(body)
        except PeerFault:
            self.counters["answer to a request that cannot be read"] += 1
            return None
        row = self._waiting(answer.tunnel_id, now_us)
        if row is None or row.role is not Role.PAYER or row.partner != author:
            self.counters["answer to no request of ours"] += 1
            return None
        row = self._pending[row.tunnel_id] = structs.replace(row, left=answer.left)
        if tag == wire.PENDING_TAG:
            self.act(Changed(row))
        elif tag == wire.REFUSED_TAG:
            self._drop(row, Happening.REFUSE, Code.of(answer.code), now_us)
        elif self._may_agree(row, answer.terms):
            self._accept(structs.replace(row, terms=answer.terms), now_us)
        else:
            self._drop(row, Happening.REFUSE, Code.PRICE, now_us)
        return answer

    def _may_agree(self, row: Row, encoded: bytes) -> bool:
        """What we asked for, at that price or a lower one."""
        try:
            terms = terms_of.parse(encoded)
        except PeerFault:
            return False
        asked = row.agreed
        same = (terms.pricing_unit, terms.lifespan_zeqonds) == (asked.pricing_unit, asked.lifespan_zeqonds)
        return same and terms.price_zeq <= asked.price_zeq

    # ------------------------------------------------------------------ inside

    def _accept(self, row: Row, now_us: int) -> Row:
        """Kept before it is said; the peer is let in before it is told to come. A second tunnel takes the
        place of the first: a peer has one meter, and what it counts is paid once."""
        for side in self._with(row.partner):
            if side.row.role is row.role and not side.row.ended:
                side.end(Happening.TERMINATE, Code.REPLACED, now_us)
        row = self._start(row, now_us)
        self._sides[row.tunnel_id].admit(now_us)
        if row.role is Role.PAYEE:
            self._answer(row, now_us)
        self._flush(now_us)
        return row

    def _answer(self, row: Row, now_us: int) -> None:
        request, day = wire.decode_request(row.answer_to), self.day(now_us)
        rate, unit = row.agreed.price_zeq, row.agreed.pricing_unit
        answer = Answer(
            tunnel_id=row.tunnel_id,
            code=str(row.code) if row.ended else "",
            terms=row.terms,
            balance_zeq=self.credit.balance_zeq(row.partner, rate, day, unit),
            min_required_zeq=required_zeq(rate),
            left=self.credit.left(row.partner, day, unit),
        )
        tag = {State.PENDING: wire.PENDING_TAG, State.ACTIVE: wire.ACCEPTED_TAG}.get(
            row.state, wire.REFUSED_TAG
        )
        self.act(Tell(row.bundle, tag, wire.encode(answer), request))

    def _active(self, payer: bytes) -> int:
        """Tunnels that take a place here, but for this payer's, which it would give up."""
        sides = [side for side in self._sides.values() if isinstance(side, PayeeSide)]
        return sum(not side.row.ended and side.row.partner != payer for side in sides)

    def _make_room(self, now_us: int) -> None:
        """Whoever carried nothing for the longest time goes, if that was long."""
        sides = [each for each in self._sides.values() if isinstance(each, PayeeSide) and each.row.began_at]
        idle = min(
            (each for each in sides if not each.row.ended), key=lambda each: each.idle_since, default=None
        )
        if idle is not None and self.zeqond(now_us) - idle.idle_since > IDLE_ZEQONDS:
            idle.end(Happening.TERMINATE, Code.GAVE_WAY, now_us)
            self._flush(now_us)
