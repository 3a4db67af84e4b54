"""What a payee extends to whom, and what is left of it."""

from __future__ import annotations

from node.settlement.credit import Credit, Extended, by_default
from node.settlement.terms import MILLIONTHS, Unit

FRIEND, STRANGER, GRANTED = b"f" * 32, b"s" * 32, b"g" * 32
ZEQ = MILLIONTHS


def a_credit(extended: Extended | None = None, today: int = 0, day: int = 0) -> Credit:
    return Credit(extended or by_default(50, 1), {}, today, day, lambda machine: machine == FRIEND)


def test_a_newcomer_has_a_gigabyte_or_a_thousand_zeqonds() -> None:
    credit = a_credit()
    assert credit.left(STRANGER, 1, Unit.GB) == 50 * ZEQ
    assert credit.left(STRANGER, 1, Unit.ZEQOND) == 1_000 * ZEQ
    credit.used(STRANGER, 50 * ZEQ, 1)
    assert credit.left(STRANGER, 1, Unit.GB) == 0
    assert credit.left(STRANGER, 1, Unit.ZEQOND) == 950 * ZEQ, "what it owes is one sum"
    assert a_credit(by_default(50, 0)).left(STRANGER, 1, Unit.ZEQOND) == 0
