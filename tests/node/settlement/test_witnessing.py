"""Witnesses: the wire, who they are, what they keep, and how far a lie of one leads."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from hashlib import sha256

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import asks
from node.settlement import blocks, heads, witnessing
from node.settlement.blocks import Block, Partner, Party
from node.settlement.telling import (
    CANDIDATES,
    DAY_SECONDS,
    FOLLOWED_MAX,
    VAIN_MAX,
    Patience,
    Round,
    Suspect,
)
from node.settlement.witnessing import ENTRIES, NAMES, PLACE_MAX, BadReport, Relay, Witness
from tests.dht.record_kit import ToySigner

PAYER = Party(machine_id=b"m" * 32, signer=ToySigner(b"k" * 32))


def chain(length: int, salt: int = 0) -> list[Block]:
    found: list[Block] = []
    for count in range(length):
        to = Partner(machine_id=b"p" * 32, key=b"q" * 32)
        before = found[-1] if found else None
        found.append(blocks.propose(PAYER, before, to, count.to_bytes(16, "big"), bytes(32), 1, salt))
    return found


def relays(count: int) -> list[Relay]:
    names = [sha256(bytes([number])).digest() for number in range(count)]
    return [witnessing.relay(name, name[::-1]) for name in names]


def name(number: int) -> bytes:
    return bytes([number]) * 32


# ------------------------------------------------------------------ the wire


def test_the_bytes_are_fixed() -> None:
    one, two = chain(2)
    report = witnessing.encode_report(witnessing.entries(two))
    place = sha256(b"zeqnode place in a chain v1" + b"k" * 32 + (2).to_bytes(8, "big")).digest()[:8]
    before = sha256(b"zeqnode place in a chain v1" + b"k" * 32 + (1).to_bytes(8, "big")).digest()[:8]
    assert report == place + two.hash[:16] + before + one.hash[:16]
    assert witnessing.entries(one) == {before: one.hash[:16]}
    claims = witnessing.encode_claims({place: [name(1), name(2)]})
    assert claims == msgpack.packb([1, [[place, [name(1), name(2)]]]])
    assert witnessing.decode_claims(claims) == {place: [name(1), name(2)]}
    assert witnessing.decode_report(report) == witnessing.entries(two)


def test_points_are_fixed() -> None:
    made = witnessing.relay(name(1), name(2))
    point = sha256(b"zeqnode witness v1" + name(1) + name(2)).digest()
    assert made == Relay(name(1), name(2), int.from_bytes(point, "big"))
    found = witnessing.closest(b"8 bytes.", relays(9), 3, {relays(9)[0].machine_id})
    target = int.from_bytes(sha256(b"zeqnode witnessed place v1" + b"8 bytes.").digest(), "big")
    assert found == sorted(relays(9)[1:], key=lambda each: each.point ^ target)[:3]


def test_the_longest_fit_into_a_question_and_its_answer() -> None:
    places = [number.to_bytes(8, "big") for number in range(ENTRIES)]
    assert len(witnessing.encode_report(dict.fromkeys(places, bytes(16)))) <= asks.PAYLOAD_BYTES
    for count in (1, 3, 5, 21, 40, ENTRIES):
        claims = {place: [name(number) for number in range(17)] for place in places[:count]}
        packed = witnessing.encode_claims(claims)
        read = witnessing.decode_claims(packed)
        assert len(packed) <= asks.PAYLOAD_BYTES
        assert list(read) == places[:count], "each place keeps some"
        assert sum(map(len, read.values())) <= NAMES


@pytest.mark.parametrize("data", [b"", bytes(23), bytes(25), bytes(24 * ENTRIES + 24)])
def test_other_reports_are_refused(data: bytes) -> None:
    with pytest.raises(BadReport):
        witnessing.decode_report(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        msgpack.packb([2, []]),
        msgpack.packb([1]),
        msgpack.packb([1, {}]),
        msgpack.packb([1, [[bytes(7), [bytes(32)]]]]),
        msgpack.packb([1, [[bytes(8), []]]]),
        msgpack.packb([1, [[bytes(8), [bytes(31)]]]]),
        msgpack.packb([1, [[bytes(8), [bytes(32)] * (PLACE_MAX + 1)]]]),
        msgpack.packb([1, [[bytes([each]) * 8, [bytes(32)] * PLACE_MAX] for each in range(5)]]),
        msgpack.packb([1, []]) + b"x",
        b"\x91" * 5000,
    ],
)
def test_other_claims_are_refused(data: bytes) -> None:
    with pytest.raises(BadReport):
        witnessing.decode_claims(data)


@given(data=st.binary(max_size=400), at=st.integers(0, 200), by=st.integers(1, 255))
def test_any_bytes_are_read_or_refused(data: bytes, at: int, by: int) -> None:
    changed = bytearray(witnessing.encode_claims({bytes(8): [name(1), name(2)]}))
    changed[at % len(changed)] ^= by
    for each in (data, bytes(changed)):
        with suppress(BadReport):
            for names in witnessing.decode_claims(each).values():
                assert all(len(each) == 32 for each in names)
        with suppress(BadReport):
            report = witnessing.decode_report(each)
            assert all((len(place), len(short)) == (8, 16) for place, short in report.items())


# ------------------------------------------------------------------ a witness

_REPORTS = st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 3))


@given(reports=st.lists(_REPORTS, max_size=60))
def test_a_witness_names_all_who_said_otherwise(reports: list[tuple[int, int, int]]) -> None:
    """Against all that was ever said, where there is room for it."""
    witness, model = Witness(), defaultdict[int, list[tuple[int, int]]](list)
    for reporter, place, short in reports:
        claims = witness.report(name(reporter), {bytes([place]) * 8: bytes([short]) * 16}, keep=True)
        said = model[place]
        others = [who for who, what in reversed(said) if what != short and who != reporter]
        assert claims.get(bytes([place]) * 8, []) == [name(each) for each in dict.fromkeys(others)]
        if (reporter, short) in said:
            said.remove((reporter, short))
        said.append((reporter, short))
        del said[:-PLACE_MAX]


@given(reports=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=120))
def test_nobody_who_tells_much_pushes_out_others(reports: list[tuple[int, int]]) -> None:
    witness = Witness(reporter_max=6, in_all=12)
    for reporter, place in reports:
        witness.report(name(reporter), {bytes([place]) * 8: bytes([reporter]) * 16}, keep=True)
        assert len(witness) <= 12
    of_three: list[int] = []  # its newest entries, as they came
    for reporter, place in reports:
        if reporter == 3:
            of_three = [*(each for each in of_three if each != place), place]
    for place in of_three[-3:]:  # its share: a fourth of all
        claims = witness.report(name(9), {bytes([place]) * 8: bytes([9]) * 16}, keep=False)
        assert name(3) in claims[bytes([place]) * 8]


def test_who_cannot_be_asked_is_answered_and_not_kept() -> None:
    witness = Witness()
    witness.report(name(1), {bytes(8): bytes(16)}, keep=True)
    assert witness.report(name(2), {bytes(8): b"x" * 16}, keep=False) == {bytes(8): [name(1)]}
    assert witness.report(name(3), {bytes(8): bytes(16)}, keep=True) == {}


# ------------------------------------------------------------------ telling


def run(this: Round, witnesses: dict[Relay, Witness], reporter: bytes) -> list[Suspect]:
    """Relays that are not among the witnesses are away."""
    suspects = []
    while questions := this.questions():
        for relay, told in questions.items():
            if relay in witnesses:
                claims = witnesses[relay].report(reporter, told, keep=True)
                suspects += this.answered(relay, told, claims)
    return suspects


@settings(max_examples=60, deadline=None)
@given(count=st.integers(3, 12), away=st.sets(st.integers(0, 11), max_size=3), gap=st.integers(0, 1))
def test_two_payees_that_were_shown_two_branches_are_found(count: int, away: set[int], gap: int) -> None:
    """The other branch's block has the same number, or is the next one. Three of all may be away."""
    listed = relays(count)
    witnesses = {each: Witness() for number, each in enumerate(listed) if number not in away}
    one, other = chain(1, salt=1), chain(1 + gap, salt=2)
    payees = [b"a" * 32, b"b" * 32]
    everybody = [*listed, *(witnessing.relay(each, each) for each in payees)]
    there = {each: Witness() for each in everybody[-2:]} | witnesses
    first = Round(payees[0], one[-1:], everybody, lambda _relay: False)
    assert run(first, there, payees[0]) == []
    second = Round(payees[1], other[-1:], everybody, lambda _relay: False)
    suspects = run(second, there, payees[1])
    if first.result()[0] and second.result()[0]:
        assert suspects
    assert {(each.machine_id, each.block) for each in suspects} <= {(payees[0], other[-1])}


def test_when_two_of_three_know_it_is_told() -> None:
    block, listed = chain(1)[0], relays(8)
    order = witnessing.closest(next(iter(witnessing.entries(block))), listed, 8, ())
    for there, told in ((1, False), (2, True), (3, True)):
        this = Round(b"u" * 32, [block], listed, lambda _relay: False)
        run(this, {each: Witness() for each in order[:there]}, b"u" * 32)
        assert this.result() == (([block], []) if told else ([], [block]))
    this = Round(b"u" * 32, [block], listed, lambda _relay: False)
    run(this, {each: Witness() for each in order[CANDIDATES - 2 : CANDIDATES]}, b"u" * 32)
    assert this.result() == ([block], []), "the next closest were asked"
    this = Round(b"u" * 32, [block], listed, order[:CANDIDATES].__contains__)
    run(this, {each: Witness() for each in order[CANDIDATES:]}, b"u" * 32)
    assert this.result() == ([block], []), "who is known to be away is not counted"


def test_neither_us_nor_the_author_is_a_witness_or_a_suspect() -> None:
    block = chain(1)[0]
    us, author, other = (witnessing.relay(each, each) for each in (b"u" * 32, b"m" * 32, b"o" * 32))
    alone = Round(us.machine_id, [block], [us, author], lambda _relay: False)
    assert alone.questions() == {}
    assert alone.result() == ([], [block])
    this = Round(us.machine_id, [block], [us, author, other], lambda _relay: False)
    told = this.questions()[other]
    place = next(iter(told))
    claims = {place: [us.machine_id, author.machine_id, b"x" * 32, other.machine_id]}
    assert this.answered(other, told, claims) == [Suspect(other.machine_id, other.machine_id, block)]
    assert this.questions() == {}
    assert this.result() == ([block], []), "one of one is enough"
    this.unfinished(block)
    assert this.result() == ([], [block])


def test_a_liar_is_followed_only_so_far() -> None:
    patience, block = Patience(), chain(1)[0]
    suspect = Suspect(name(1), name(9), block)
    assert [patience.follow(suspect, 0.0) for _ in range(VAIN_MAX + 2)] == [True] * VAIN_MAX + [False] * 2
    others = [Suspect(name(2 + number), name(9), block) for number in range(FOLLOWED_MAX)]
    assert sum(patience.follow(each, 1.0) for each in others) == FOLLOWED_MAX - VAIN_MAX
    assert patience.follow(Suspect(name(1), name(8), block), 2.0), "another witness's word is its own"
    assert patience.follow(suspect, DAY_SECONDS)
    for _ in range(FOLLOWED_MAX * 2):
        assert patience.follow(suspect, DAY_SECONDS)
        patience.proved(suspect)


def test_a_place_is_that_of_sketches() -> None:
    block = chain(1)[0]
    assert list(witnessing.entries(block)) == [heads.place(*block.place)]
