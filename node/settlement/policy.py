"""Whether a request for a tunnel is accepted, waits for the owner, or is refused, and with which code.

no offer ─ a liar ─ not on the list ─ a stranger, and nothing keeps it from our services ─
another price or unit ─ too long for any sum ─ all places taken ─ nothing left ─▶ refused
else: by hand ─▶ pending        automatically ─▶ accepted
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from node.settlement.credit import Credit
from node.settlement.life import Code
from node.settlement.terms import BadTerms, Unit, agree
from node.settlement.wire import Request


class Accept(StrEnum):
    """How the owner wants requests to be answered that nothing speaks against."""

    AUTO = "auto"
    HAND = "hand"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine offers: prices in whole ZEQ. `allow`: machine_ids that may ask; None: anybody.
    `charges`: whether there is a ledger; without one tunnels are free. `guarded`: whether strangers can be
    kept to what the owner opened to them."""

    per_gb_zeq: int
    per_zeqond_zeq: int
    max_tunnels: int
    accept: Accept = Accept.AUTO
    allow: frozenset[bytes] | None = None
    charges: bool = True
    guarded: bool = True

    def price(self, unit: Unit) -> int | None:
        """For a unit; None where it is not offered by this unit."""
        if not self.charges:
            return 0
        if unit is Unit.GB:
            return self.per_gb_zeq
        return self.per_zeqond_zeq or None


class Decision(msgspec.Struct, frozen=True):
    """`code`: why not; empty: accepted, or, if it `waits`, to be decided by the owner."""

    code: Code = Code.NONE
    waits: bool = False


def decide(
    policy: Policy | None, request: Request, payer: bytes, lies: bool, active: int, credit: Credit, day: int
) -> Decision:
    """`payer`: machine_id. `lies`: a fork of its chain is proven. `active`: so many places are taken."""
    code = _refusal(policy, request, payer, lies, active, credit, day)
    if code is not Code.NONE or policy is None:
        return Decision(code)
    return Decision(waits=policy.accept is Accept.HAND)


def _refusal(
    policy: Policy | None, request: Request, payer: bytes, lies: bool, active: int, credit: Credit, day: int
) -> Code:
    if policy is None:
        return Code.NOT_RELAY
    if lies:
        return Code.LIAR
    if policy.allow is not None and payer not in policy.allow:
        return Code.NOT_ALLOWED
    if not policy.guarded and not credit.is_friend(payer):
        return Code.UNGUARDED
    price = policy.price(request.pricing_unit)
    if price is None:
        return Code.UNIT
    if request.price_zeq < price:
        return Code.PRICE
    try:
        agree(request.pricing_unit, price, request.lifespan_zeqonds)
    except BadTerms:
        return Code.TOO_LONG
    if active >= policy.max_tunnels:
        return Code.FULL
    if price and credit.left(payer, day, request.pricing_unit) <= 0:
        return Code.BALANCE
    return Code.NONE
