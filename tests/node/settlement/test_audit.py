"""Checking a chain and an exported ledger: what was changed, left out, or moved is found."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.signatures import Ed25519Signatures
from node.settlement import audit, blocks
from node.settlement.audit import BadChain, ChainCheck, FileCheck, Verified
from node.settlement.blocks import Block, Partner, Party
from tests.dht.record_kit import machine, signer

SIGNATURES = Ed25519Signatures()
US, THEM = machine(1), machine(2)


def party(number: int) -> Party:
    return Party(machine_id=machine(number).machine_id, signer=signer(number))


def partner(number: int) -> Partner:
    return Partner(machine_id=machine(number).machine_id, key=machine(number).bundle.ed25519)


def a_chain() -> list[tuple[Block, Block | None]]:
    """We spend 5, with an answer; spend 6, without; earn 7."""
    one = blocks.propose(party(1), None, partner(2), b"1" * 16, bytes(32), 5, 10)
    answer = blocks.accept(party(2), None, one, 11)
    two = blocks.propose(party(1), one, partner(2), b"2" * 16, bytes(32), 6, 12)
    theirs = blocks.propose(party(2), answer, partner(1), b"3" * 16, bytes(32), 7, 13)
    three = blocks.accept(party(1), two, theirs, 14)
    return [(one, answer), (two, None), (three, theirs)]


CHAIN = a_chain()


def lines() -> list[dict[str, Any]]:
    head = CHAIN[-1][0]
    return [
        audit.first_line(US.machine_id, US.bundle.ed25519, US.bundle.raw),
        *(audit.line(*entry) for entry in CHAIN),
        audit.last_line(len(CHAIN), head),
    ]


def checked(values: list[Any]) -> Verified:
    check = FileCheck(SIGNATURES)
    for each in values:
        check.add(each if isinstance(each, bytes) else json.dumps(each).encode())
    return check.end()


def test_what_was_written_holds() -> None:
    assert checked(lines()) == Verified(blocks=3, missing=0, pairs=2, open=1, earned=7, spent=5)


def test_an_empty_ledger_holds() -> None:
    assert checked([lines()[0], audit.last_line(0, None)]) == Verified()


def test_what_is_missing_is_counted() -> None:
    kept = [lines()[0], *(audit.line(*CHAIN[at]) for at in (0, 2)), audit.last_line(2, CHAIN[2][0])]
    assert checked(kept).missing == 1


@pytest.mark.parametrize(
    ("place", "field", "value", "why"),
    [
        (0, "zeqnode_ledger", 2, "no exported ledger that this version knows"),
        (0, "machine_id", THEM.machine_id.hex(), "not this machine's"),
        (0, "key", THEM.bundle.ed25519.hex(), "not this machine's"),
        (0, "bundle", "", "key bundle"),
        (0, "bundle", "?", "base64"),
        (1, "delta_millionths", -4, "block 1: what stands beside it"),
        (2, "block", "AAAA", "no block"),
        (2, "zeqond", 1, "block 2: what stands beside it"),
        (4, "blocks", 2, "left out before the last line"),
        (4, "head", "00", "left out before the last line"),
    ],
)
def test_what_was_changed_is_found(place: int, field: str, value: object, why: str) -> None:
    changed = lines()
    changed[place][field] = value
    with pytest.raises(BadChain, match=why):
        checked(changed)


def test_a_half_that_is_not_shown_is_open() -> None:
    shown = lines()
    shown[1]["partner_block"] = None
    assert checked(shown) == Verified(blocks=3, missing=0, pairs=1, open=2, earned=7, spent=0)


def test_what_was_left_out_moved_or_added_is_found() -> None:
    first, one, two, three, last = lines()
    for wrong, why in (
        ([first, one, three, last], "left out"),
        ([first, one, two, three], "cut short"),
        ([first, two, one, three, last], "block 1: it does not follow"),
        ([first, one, one, two, three, last], "block 1: it does not follow"),
        ([first, one, two, three, last, last], "more after the last line"),
        ([one, two, three, last], "no exported ledger"),
        ([], "cut short"),
    ):
        with pytest.raises(BadChain, match=why):
            checked(wrong)


def test_blocks_that_do_not_hold_are_found() -> None:
    (one, answer), (two, _), (three, theirs) = CHAIN

    def check(*entries: tuple[Block, Block | None]) -> None:
        chain = ChainCheck(US.bundle.ed25519, SIGNATURES)
        for entry in entries:
            chain.add(*entry)

    forged = blocks.read(one.raw[:-1] + bytes([one.raw[-1] ^ 1]))
    bad_answer = blocks.read(answer.raw[:-1] + bytes([answer.raw[-1] ^ 1])) if answer else None
    other = blocks.propose(party(1), None, partner(2), b"9" * 16, bytes(32), 6, 12)
    for entries, why in (
        ([(forged, None)], "block 1: signature"),
        ([(one, bad_answer)], "block 1: signature"),
        ([(one, theirs)], "half is of something else"),
        ([(other, None), (two, None)], "block 2: it does not follow"),
        ([(theirs, None)], "another chain"),
    ):
        with pytest.raises(BadChain, match=why):
            check(*entries)
    again = msgspec.structs.replace(three.said, number=4, previous=three.hash)
    payload = msgspec.msgpack.encode(again)
    twice = blocks.read(payload + signer(1).sign(blocks.LABEL, payload))
    with pytest.raises(BadChain, match="belongs to an earlier one"):
        check((one, answer), (two, None), (three, theirs), (twice, theirs))


@given(
    st.one_of(
        st.binary(max_size=5000),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.integers(0, 3),
)
def test_any_line_is_read_or_refused(line: bytes, place: int) -> None:
    check = FileCheck(SIGNATURES)
    with suppress(BadChain):
        for each in lines()[:place]:
            check.add(json.dumps(each).encode())
        check.add(line)


@given(
    st.sampled_from(["block", "partner_block", "blocks", "bundle"]),
    st.sampled_from([None, 1, True, 1.5, "", "?", "AAAA", [], {}, "A" * 2000]),
)
def test_any_value_is_read_or_refused(field: str, value: object) -> None:
    for place in range(5):
        changed = lines()
        changed[place][field] = value
        with suppress(BadChain):
            checked(changed)
