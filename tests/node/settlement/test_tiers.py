"""Trust tiers: a slow model of what counts, and that nobody gains by signing for itself."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.settlement import tiers
from node.settlement.terms import MAX_AMOUNT, MILLIONTHS
from node.settlement.tiers import Receipt, Witness, reckon

READER = b"r" * 32
SUBJECT = b"s" * 32
HONEST = [bytes([number]) * 32 for number in (1, 2, 3)]
CLIQUE = [bytes([number]) * 32 for number in (11, 12, 13, 14)]

amounts = st.integers(0, MAX_AMOUNT)


def receipts_between(payers: list[bytes], payees: list[bytes]) -> st.SearchStrategy[list[Receipt]]:
    """Of machines that pay others than themselves."""
    pairs = [(payer, payee) for payer, payee in product(payers, payees) if payer != payee]
    return st.lists(
        st.builds(lambda pair, amount: Receipt(pair[0], pair[1], amount), st.sampled_from(pairs), amounts)
    )


def test_what_was_carried_for_the_reader_counts_in_full() -> None:
    found = reckon(READER, SUBJECT, [Receipt(READER, SUBJECT, 7), Receipt(READER, SUBJECT, 5)], ())
    assert (found.score, found.direct, found.witnesses, found.tier, found.name) == (12, 12, (), 1, "seen")


def test_a_witness_counts_up_to_what_it_carried_for_the_reader() -> None:
    one, two = HONEST[:2]
    found = reckon(
        READER,
        SUBJECT,
        [Receipt(READER, one, 10), Receipt(one, SUBJECT, 1_000), Receipt(two, SUBJECT, 1_000)],
        (),
    )
    assert found.witnesses == (Witness(one, 10, 1_000, 10),)
    assert (found.score, found.direct) == (10, 0)


def test_paying_earns_no_trust() -> None:
    """Whoever pays has promised, and promises are free."""
    one = HONEST[0]
    found = reckon(READER, SUBJECT, [Receipt(SUBJECT, READER, 1_000), Receipt(one, SUBJECT, 1_000)], ())
    assert found.score == 0
    assert reckon(READER, SUBJECT, [Receipt(one, READER, 9), Receipt(one, SUBJECT, 9)], ()).score == 0


def test_liars_have_no_tier_and_are_no_witness() -> None:
    one = HONEST[0]
    receipts = [Receipt(READER, SUBJECT, 7), Receipt(READER, one, 10), Receipt(one, SUBJECT, 10)]
    assert reckon(READER, SUBJECT, receipts, ()).score == 17
    assert reckon(READER, SUBJECT, receipts, {one}).score == 7
    liar = reckon(READER, SUBJECT, receipts, {SUBJECT})
    assert (liar.tier, liar.score, liar.lies, liar.witnesses) == (0, 0, True, ())


@pytest.mark.parametrize(
    ("score", "tier"),
    [
        (0, 0),
        (1, 1),
        (100 * MILLIONTHS - 1, 1),
        (100 * MILLIONTHS, 2),
        (1_000 * MILLIONTHS, 3),
        (10_000 * MILLIONTHS, 4),
        (2**70, 4),
    ],
)
def test_tiers_begin_where_they_say(score: int, tier: int) -> None:
    assert reckon(READER, SUBJECT, [Receipt(READER, SUBJECT, score)], ()).tier == tier
    assert len(tiers.NAMES) == len(tiers.STEPS) + 1


def test_of_itself_a_machine_knows_all() -> None:
    found = reckon(READER, READER, [Receipt(HONEST[0], READER, 5), Receipt(HONEST[1], READER, 6)], ())
    assert found.score == 11
    assert reckon(READER, READER, [Receipt(HONEST[0], READER, 5)], {HONEST[0]}).score == 0


@given(receipts_between([READER, *HONEST], [SUBJECT, READER, *HONEST]), st.sets(st.sampled_from(HONEST)))
def test_the_score_is_that_of_the_definition(receipts: list[Receipt], liars: set[bytes]) -> None:
    def carried(payee: bytes, payer: bytes) -> int:
        return sum(each.amount for each in receipts if (each.payer, each.payee) == (payer, payee))

    model = carried(SUBJECT, READER) + sum(
        min(carried(SUBJECT, one), carried(one, READER)) for one in HONEST if one not in liars
    )
    assert reckon(READER, SUBJECT, receipts, liars).score == model


@given(
    receipts_between([READER, *HONEST], [SUBJECT, *HONEST]),
    receipts_between([READER, *HONEST], [SUBJECT, *HONEST]),
)
def test_more_receipts_never_lower_it(some: list[Receipt], more: list[Receipt]) -> None:
    before, after = reckon(READER, SUBJECT, some, ()), reckon(READER, SUBJECT, some + more, ())
    assert (after.score, after.tier) >= (before.score, before.tier)


@given(receipts_between([READER, *HONEST], CLIQUE), receipts_between(CLIQUE, [*CLIQUE, READER, *HONEST]))
def test_a_clique_has_no_more_than_it_carried_for_others(
    carried: list[Receipt], written: list[Receipt]
) -> None:
    """Whatever its identities write about each other, and about the honest."""
    honest = [Receipt(READER, one, MAX_AMOUNT) for one in HONEST]
    most = sum(each.amount for each in carried)
    for identity in CLIQUE:
        assert reckon(READER, identity, [*honest, *carried, *written], ()).score <= most
        if not carried:
            assert reckon(READER, identity, [*honest, *written], ()).tier == 0
