"""A tunnel's life: its states, the one table of what may follow what, and all that is kept of a tunnel.

    request ─▶ pending ─┬─ accept ────▶ active ─┬─ terminate ─▶ terminated
                        ├─ refuse ────▶ refused └─ expire ────▶ expired
                        ├─ terminate ─▶ terminated
                        └─ expire ────▶ expired

Names of the states: the seeds. What has ended stays as it ended; to end it again is no error and changes
nothing.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Annotated, Final

import msgspec
from msgspec import Meta, structs

from crypto.errors import LocalFault
from crypto.identity import BUNDLE_BYTES, KeyBundle
from node.settlement import terms as terms_of
from node.settlement.terms import BadTerms, Terms
from node.settlement.vouchers import TUNNEL_ID_BYTES

VERSION: Final = 1


class State(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    TERMINATED = "terminated"
    EXPIRED = "expired"
    REFUSED = "refused"


class Happening(StrEnum):
    ACCEPT = "accept"
    REFUSE = "refuse"
    TERMINATE = "terminate"
    EXPIRE = "expire"


class Role(StrEnum):
    """What we are in a tunnel: who asked for it pays, who accepted it is paid."""

    PAYER = "payer"
    PAYEE = "payee"


TRANSITIONS: Final = {
    (State.PENDING, Happening.ACCEPT): State.ACTIVE,
    (State.PENDING, Happening.REFUSE): State.REFUSED,
    (State.PENDING, Happening.TERMINATE): State.TERMINATED,
    (State.PENDING, Happening.EXPIRE): State.EXPIRED,
    (State.ACTIVE, Happening.TERMINATE): State.TERMINATED,
    (State.ACTIVE, Happening.EXPIRE): State.EXPIRED,
}


class Code(StrEnum):
    """Why a tunnel was refused or has ended; the refusals are the seeds' error codes where they have one."""

    NONE = ""
    NOT_RELAY = "TARGET_NOT_RELAY"
    FULL = "TARGET_FULL"
    BALANCE = "INSUFFICIENT_BALANCE"
    NOT_ALLOWED = "NOT_ALLOWED"
    PRICE = "PRICE_CHANGED"
    UNIT = "INVALID_PRICING_UNIT"
    TOO_LONG = "INVALID_LIFESPAN"
    LIAR = "CHAIN_FORKED"
    UNGUARDED = "UNGUARDED"
    DECLINED = "DECLINED"
    UNANSWERED = "UNANSWERED"
    NEVER_CAME = "NEVER_CAME"
    TERMINATED = "TERMINATED"
    LIFESPAN = "LIFESPAN_OVER"
    CREDIT = "CREDIT_USED_UP"
    UNPAID = "UNPAID"
    BUDGET = "BUDGET_SPENT"
    OVER_METERED = "OVER_METERED"
    NOTHING_CARRIED = "NOTHING_CARRIED"
    REPLACED = "REPLACED"
    GAVE_WAY = "IDLE_GAVE_WAY"
    OTHER = "OTHER"

    @classmethod
    def of(cls, text: str) -> Code:
        """What a partner says; a word that we do not know is OTHER."""
        try:
            return cls(text)
        except ValueError:
            return cls.OTHER


class InvalidState(LocalFault):
    """What was asked for cannot follow the state that the tunnel is in."""

    def __init__(self, state: State, happening: Happening) -> None:
        super().__init__(f"the tunnel is {state}, so it cannot be {_DONE[happening]} any more")
        self.state = state


_DONE: Final = {
    Happening.ACCEPT: "accepted",
    Happening.REFUSE: "refused",
    Happening.TERMINATE: "terminated",
    Happening.EXPIRE: "expired",
}


class Row(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All that is kept of a tunnel. `bundle`: the partner's keys; `terms`: as encoded; times are zeqonds.

    asked_at    the request was made, or came          started_at  it was accepted
    began_at    both had the session, so it is metered from here; 0: not yet
    session     the hash of the handshake that the vouchers name, 32 bytes; empty: none yet
    code        why it ended, or was refused           carried     bytes, both ways, at the end
    amount      millionths of a ZEQ that were signed for at the end
    value       millionths: what was carried is worth pro rata, which is what a payee has risked
    day         unix day of the last voucher, with `before_today` the value of all before that day
    left        what the payee last said it still extends to us, millionths; None: it said nothing
    budget      what we mean to spend on it at most, millionths; None: no bound
    answer_to   the request, as it was made or came: it says how to answer
    place       where the partner was last, "192.0.2.1:51777"; empty: there was no session yet
    spent       of a payer: its half is written, or about to be: no voucher comes after the one that it names
    by_partner  the partner ended it, and not we
    settled     both halves stand in the ledger, or there is nothing to settle
    """

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    tunnel_id: Annotated[bytes, Meta(min_length=TUNNEL_ID_BYTES, max_length=TUNNEL_ID_BYTES)]
    role: Role
    state: State = State.PENDING
    bundle: Annotated[bytes, Meta(min_length=BUNDLE_BYTES, max_length=BUNDLE_BYTES)]
    terms: bytes
    asked_at: int
    started_at: int = 0
    began_at: int = 0
    ended_at: int = 0
    session: bytes = b""
    code: Code = Code.NONE
    carried: int = 0
    zeqonds: int = 0
    amount: int = 0
    value: int = 0
    day: int = 0
    before_today: int = 0
    left: int | None = None
    budget: int | None = None
    answer_to: bytes = b""
    place: str = ""
    spent: bool = False
    by_partner: bool = False
    settled: bool = False

    @cached_property
    def partner(self) -> bytes:
        """machine_id, 32 bytes."""
        return KeyBundle(self.bundle).machine_id

    @property
    def partner_key(self) -> bytes:
        """Ed25519, 32 bytes."""
        return self.bundle[:32]

    @cached_property
    def agreed(self) -> Terms:
        return terms_of.parse(self.terms)

    @property
    def ended(self) -> bool:
        return self.state not in (State.PENDING, State.ACTIVE)

    @property
    def free(self) -> bool:
        """Nothing is signed or settled for it."""
        return self.agreed.price_zeq == 0

    def after(self, happening: Happening, zeqond: int, code: Code = Code.NONE) -> Row:
        """The tunnel after this. Raises InvalidState where the table has no such transition."""
        state = TRANSITIONS.get((self.state, happening))
        if state is None:
            raise InvalidState(self.state, happening)
        if state is State.ACTIVE:
            return structs.replace(self, state=state, started_at=zeqond)
        unpaid = self.free or not self.began_at
        return structs.replace(self, state=state, ended_at=zeqond, code=code, settled=unpaid)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


def to_bytes(row: Row) -> bytes:
    return _encode(row)


def from_bytes(data: bytes) -> Row:
    """Raises ValueError for what `to_bytes` did not give."""
    try:
        row = _decode(data)
        terms_of.parse(row.terms)
    except (BadTerms, RecursionError) as error:
        raise ValueError("not a tunnel") from error
    return row
