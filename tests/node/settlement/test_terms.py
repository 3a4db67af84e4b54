"""Sums against fractions that are exact, the seeds' own example, and what are no terms."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from hashlib import sha256

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.settlement import terms
from node.settlement.terms import (
    GB,
    LEAST_LIFESPAN,
    MAX_AMOUNT,
    MAX_BYTES,
    MAX_LIFESPAN,
    MAX_PRICE_ZEQ,
    MILLIONTHS,
    BadTerms,
    Unit,
    agree,
)

units = st.sampled_from(Unit)
prices = st.integers(0, MAX_PRICE_ZEQ)
lifespans = st.integers(LEAST_LIFESPAN, MAX_LIFESPAN)
counts = st.one_of(st.integers(0, 3 * GB), st.integers(0, MAX_BYTES))


def exact(unit: Unit, price: int, carried: int, zeqonds: int) -> Fraction:
    """In ZEQ: what the seeds' words mean, without any rounding."""
    return Fraction(price) * (Fraction(carried, GB) if unit is Unit.GB else zeqonds)


@given(units, prices, counts, lifespans)
def test_a_sum_is_the_exact_one_rounded_up_to_a_millionth(
    unit: Unit, price: int, carried: int, zeqonds: int
) -> None:
    made = (
        agree(Unit.GB, price, MAX_LIFESPAN) if unit is Unit.GB else agree(unit, price % 40_000, MAX_LIFESPAN)
    )
    carried = min(carried, made.most_bytes)
    owed, true = made.amount(carried, zeqonds), exact(unit, made.price_zeq, carried, zeqonds) * MILLIONTHS
    assert true <= owed < true + 1
    assert owed <= MAX_AMOUNT


@given(units, st.integers(0, 40_000), counts, st.integers(0, MAX_LIFESPAN))
def test_the_sum_of_who_ends_together_is_the_seeds_and_never_less(
    unit: Unit, price: int, carried: int, zeqonds: int
) -> None:
    made = agree(unit, price, MAX_LIFESPAN)
    carried = min(carried, made.most_bytes)
    gigabytes = Fraction(carried, GB)
    whole = -(-gigabytes.numerator // gigabytes.denominator)
    seeds = whole * price if unit is Unit.GB else zeqonds * price
    assert made.final(carried, zeqonds) == seeds * MILLIONTHS
    assert made.amount(carried, zeqonds) <= made.final(carried, zeqonds) <= MAX_AMOUNT


@given(units, st.integers(0, 40_000), counts, counts, st.integers(0, 9), st.integers(0, 9))
def test_carrying_more_never_costs_less(
    unit: Unit, price: int, carried: int, more: int, zeqonds: int, later: int
) -> None:
    made = agree(unit, price, MAX_LIFESPAN)
    least, most = sorted((min(carried, made.most_bytes), min(more, made.most_bytes)))
    assert made.amount(least, zeqonds) <= made.amount(most, zeqonds + later)
    assert made.final(least, zeqonds) <= made.final(most, zeqonds + later)


@given(prices, st.integers(0, MAX_AMOUNT))
def test_what_an_amount_buys_is_the_most_that_costs_no_more(price: int, amount: int) -> None:
    made = agree(Unit.GB, price, 10)
    bought = made.bytes_for(amount)
    assert made.amount(bought, 0) <= amount
    assert bought == made.most_bytes or made.amount(bought + 1, 0) > amount


def test_the_seeds_example() -> None:
    made = agree(Unit.GB, 50, 1000)
    assert made.final(734_003_200, 472) == 50 * MILLIONTHS
    assert made.amount(734_003_200, 472) == 36_700_160
    assert agree(Unit.ZEQOND, 1, 1000).final(734_003_200, 472) == 472 * MILLIONTHS


@pytest.mark.parametrize("price", [0, 1, 50, 10**6, MAX_PRICE_ZEQ])
def test_no_tunnel_carries_what_could_not_be_written_down(price: int) -> None:
    made = agree(Unit.GB, price, 10)
    assert made.final(made.most_bytes, 10) <= MAX_AMOUNT < 2**63
    assert made.most_bytes == MAX_BYTES or made.final(made.most_bytes + 1, 10) > MAX_AMOUNT


def test_terms_are_laid_out_as_drawn_and_their_hash_is_of_that() -> None:
    made = agree(Unit.GB, 50, 1000)
    assert made.encoded == msgpack.packb([1, "gb", 50, 1000])
    assert made.hash == sha256(b"zeqnode terms v1" + made.encoded).digest()
    assert made.hash.hex() == "e4f2cc3d7ef2e24c224d07039d49964c672952bcd12d06037396dc43e44edaff"
    assert terms.parse(made.encoded) == made


@pytest.mark.parametrize(
    "fields",
    [
        [2, "gb", 50, 1000],
        [1, "mb", 50, 1000],
        [1, "gb", -1, 1000],
        [1, "gb", MAX_PRICE_ZEQ + 1, 1000],
        [1, "gb", 2**63, 1000],
        [1, "gb", 50.0, 1000],
        [1, "gb", True, 1000],
        [1, "gb", "50", 1000],
        [1, "gb", 50, LEAST_LIFESPAN - 1],
        [1, "gb", 50, MAX_LIFESPAN + 1],
        [1, "gb", 50],
        [1, "gb", 50, 1000, 1],
        [1, "zeqond", MAX_PRICE_ZEQ, MAX_LIFESPAN],
        {"pricing_unit": "gb"},
        None,
    ],
)
def test_what_are_no_terms(fields: object) -> None:
    with pytest.raises(BadTerms):
        terms.parse(msgpack.packb(fields))


@given(st.binary(max_size=40))
def test_any_bytes_are_terms_or_refused(data: bytes) -> None:
    with suppress(BadTerms):
        assert terms.parse(data).encoded == data
