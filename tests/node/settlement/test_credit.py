"""What a payee extends to whom, and what is left of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from node.settlement.credit import Credit, Extended, by_default, required_zeq
from node.settlement.life import Code
from node.settlement.policy import Accept, Decision, Policy, decide
from node.settlement.terms import MAX_AMOUNT, MILLIONTHS, Unit
from node.settlement.wire import Request

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


def test_who_is_extended_what() -> None:
    extended = Extended(stranger=3, stranger_by_time=4, daily=100, friend=50, granted={GRANTED: 7, FRIEND: 0})
    credit = Credit(extended, {}, 0, 0, {FRIEND, b"F" * 32}.__contains__)
    for unit, stranger in ((Unit.GB, 3), (Unit.ZEQOND, 4)):
        limits = [credit.limit(each, unit) for each in (STRANGER, GRANTED, FRIEND, b"F" * 32)]
        assert limits == [stranger, 7, 0, 50], "the owner's word for one machine stands above all"


def test_strangers_together_have_no_more_than_the_day() -> None:
    credit = a_credit(Extended(stranger=10, stranger_by_time=10, daily=25, granted={GRANTED: 10}))
    for number in range(5):
        stranger = bytes([number]) * 32
        credit.used(stranger, max(0, min(10, credit.left(stranger, 3, Unit.GB))), 3)
    assert credit.today(3) == 25
    assert [credit.exposure(bytes([number]) * 32) for number in range(5)] == [10, 10, 5, 0, 0]
    assert credit.left(b"n" * 32, 3, Unit.GB) == 0
    assert credit.left(GRANTED, 3, Unit.GB) == 10, "who is no stranger has no part in it"
    assert credit.left(FRIEND, 3, Unit.GB) == MAX_AMOUNT
    assert credit.left(b"n" * 32, 4, Unit.GB) == 10
    assert credit.left(b"\0" * 32, 4, Unit.GB) == 0, "what is owed is owed tomorrow, too"


def test_what_we_owe_is_left_on_top_and_frees_nothing_of_the_day() -> None:
    credit = a_credit(Extended(stranger=10, stranger_by_time=10, daily=25))
    credit.used(STRANGER, 10, 3)
    credit.used(STRANGER, -30, 3)
    assert (credit.exposure(STRANGER), credit.today(3)) == (-20, 10)
    assert credit.left(STRANGER, 3, Unit.GB) == 15


def test_a_start_knows_what_was_used_today_and_forgets_it_tomorrow() -> None:
    extended = Extended(stranger=10, stranger_by_time=10, daily=25)
    credit = a_credit(extended, today=24, day=3)
    assert credit.left(STRANGER, 3, Unit.GB) == 1
    credit.used(STRANGER, 1, 3)
    assert credit.left(b"n" * 32, 3, Unit.GB) == 0
    credit.used(STRANGER, 2, 4)
    assert (credit.today(3), credit.today(4)) == (0, 2)


@given(st.integers(-(2**80), 2**80), st.integers(0, 10**9), st.sampled_from(Unit))
def test_the_seeds_figures_can_always_be_written_down(used: int, rate: int, unit: Unit) -> None:
    credit = a_credit()
    credit.used(STRANGER, used, 1)
    left = credit.left(STRANGER, 1, unit)
    assert abs(left) <= MAX_AMOUNT
    balance = credit.balance_zeq(STRANGER, rate, 1, unit)
    assert (balance >= required_zeq(rate)) is (left >= 0)
    assert required_zeq(rate) == 100 * rate


# ------------------------------------------------------------------ policy


def a_policy(**fields: object) -> Policy:
    return Policy(**{"per_gb_zeq": 50, "per_zeqond_zeq": 1, "max_tunnels": 2} | fields)  # type: ignore[arg-type]


def asks(unit: Unit = Unit.GB, price: int = 50, lifespan: int = 1000) -> Request:
    return Request(
        tunnel_id=b"i" * 16,
        pricing_unit=unit,
        price_zeq=price,
        lifespan_zeqonds=lifespan,
        reply_secret=b"r" * 16,
    )


@pytest.mark.parametrize(
    ("policy", "request_", "fields", "code"),
    [
        (a_policy(), asks(), {}, Code.NONE),
        (a_policy(), asks(price=51), {}, Code.NONE),
        (a_policy(), asks(price=49), {}, Code.PRICE),
        (a_policy(), asks(Unit.ZEQOND, 1), {}, Code.NONE),
        (a_policy(), asks(Unit.ZEQOND, 0), {}, Code.PRICE),
        (a_policy(per_zeqond_zeq=0), asks(Unit.ZEQOND, 9), {}, Code.UNIT),
        (a_policy(per_gb_zeq=0), asks(price=0), {"used": 2**62}, Code.NONE),
        (a_policy(per_zeqond_zeq=10**9), asks(Unit.ZEQOND, 10**9, 4_611), {}, Code.NONE),
        (a_policy(per_zeqond_zeq=10**9), asks(Unit.ZEQOND, 10**9, 4_612), {}, Code.TOO_LONG),
        (None, asks(), {"lies": True}, Code.NOT_RELAY),
        (a_policy(allow=frozenset()), asks(), {"lies": True}, Code.LIAR),
        (a_policy(allow=frozenset([FRIEND])), asks(price=1), {}, Code.NOT_ALLOWED),
        (a_policy(allow=frozenset([STRANGER])), asks(), {}, Code.NONE),
        (a_policy(), asks(), {"active": 1}, Code.NONE),
        (a_policy(), asks(), {"active": 2, "used": 2**62}, Code.FULL),
        (a_policy(max_tunnels=0), asks(), {}, Code.FULL),
        (a_policy(), asks(), {"used": 50 * ZEQ - 1}, Code.NONE),
        (a_policy(), asks(), {"used": 50 * ZEQ}, Code.BALANCE),
        (a_policy(), asks(Unit.ZEQOND, 1), {"used": 50 * ZEQ}, Code.NONE),
        (a_policy(charges=False), asks(price=0), {"used": 2**62}, Code.NONE),
        (a_policy(charges=False), asks(Unit.ZEQOND, 0), {}, Code.NONE),
    ],
)
def test_why_a_request_is_refused(
    policy: Policy | None, request_: Request, fields: dict[str, int], code: Code
) -> None:
    credit = a_credit(by_default(policy.per_gb_zeq, policy.per_zeqond_zeq) if policy else None)
    credit.used(STRANGER, fields.get("used", 0), 1)
    for way, waits in ((Accept.AUTO, False), (Accept.HAND, code is Code.NONE)):
        asked = structs.replace(policy, accept=way) if policy else None
        decision = decide(
            asked, request_, STRANGER, bool(fields.get("lies")), fields.get("active", 0), credit, 1
        )
        assert decision == Decision(code, waits)
