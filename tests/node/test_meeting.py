"""Ledgers that meet: what they show each other, and that whoever forks is found out, through crashes and
backups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import combinations, count, product
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node import meeting
from node.ledger import ChainBehind, Ledger
from node.settlement import blocks, heads, vouchers
from node.settlement.blocks import BadBlock, Block, Partner, Party
from node.settlement.heads import BadNote, Heads, Held, Reference
from node.settlement.terms import GB, MILLIONTHS, Unit, agree
from node.settlement.tiers import Receipt
from node.settlement.vouchers import Tunnel
from tests.dht.record_kit import ToySignatures, ToySigner

TERMS = agree(Unit.GB, 50, 1000)
SIGNATURES = ToySignatures()
NUMBERS = (1, 2, 3, 4)


def party(number: int) -> Party:
    return Party(machine_id=bytes([number]) * 32, signer=ToySigner(bytes([0x80 + number]) * 32))


def partner(number: int) -> Partner:
    return Partner(machine_id=party(number).machine_id, key=party(number).signer.public)


def a_voucher(payer: int, payee: int, carried: int, number: int) -> bytes:
    tunnel = Tunnel(
        session=bytes(32),
        tunnel_id=number.to_bytes(16, "big"),
        payer=party(payer).machine_id,
        payee=party(payee).machine_id,
        payer_key=party(payer).signer.public,
        terms=TERMS,
    )
    return vouchers.write(tunnel, 1, carried, 0, 1, party(payer).signer)


def open_ledger(path: Path, number: int) -> Ledger:
    return Ledger.open(path, party(number), SIGNATURES)


@contextmanager
def two_of(folder: Path, one: int = 1, two: int = 2) -> Iterator[tuple[Ledger, Ledger]]:
    ledgers = open_ledger(folder / str(one), one), open_ledger(folder / str(two), two)
    try:
        yield ledgers
    finally:
        for ledger in ledgers:
            ledger.close()


def meet(one: Ledger, two: Ledger, first: int, second: int) -> None:
    """Until neither has anything left to say."""
    to_two = meeting.opening(one, partner(second), bytes)
    to_one = meeting.opening(two, partner(first), bytes)
    while to_one or to_two:
        from_one = [note for each in to_one for note in meeting.received(one, partner(second), each)]
        from_two = [note for each in to_two for note in meeting.received(two, partner(first), each)]
        to_one, to_two = from_two, from_one


def settle(payer: Ledger, payee: Ledger, raw: bytes, one: int, two: int) -> Block:
    payer.keep([raw])
    payee.keep([raw])
    spent = payer.spend(raw, partner(two).key, 7)
    payer.learn(payee.earn(spent, raw, partner(one).key, 8))
    return spent


# ------------------------------------------------------------------ notes


def test_after_meeting_both_may_sign_and_know_the_others_head(tmp_path: Path) -> None:
    with two_of(tmp_path) as (one, two):
        with pytest.raises(ChainBehind):
            one.spend(a_voucher(1, 2, GB, 1), partner(2).key, 7)
        meet(one, two, 1, 2)
        settle(one, two, a_voucher(1, 2, GB, 1), 1, 2)
        meet(one, two, 1, 2)
        assert two.head(partner(1).key) == one.head()
        assert one.head(partner(2).key) == two.head()


def test_a_third_partys_fork_is_found_when_those_who_were_shown_it_meet(tmp_path: Path) -> None:
    shown = {}
    for number, copy in ((2, "copy"), (3, "other")):
        with two_of(tmp_path, 1, number) as (one, payee):
            meet(one, payee, 1, number)
            shown[number] = settle(one, payee, a_voucher(1, number, GB, number), 1, number)
        (tmp_path / "1").rename(tmp_path / copy)
    assert shown[2].place == shown[3].place
    with two_of(tmp_path, 2, 3) as (two, three):
        assert not two.untold()
        meet(two, three, 2, 3)
        assert two.untold() == three.untold() == [blocks.fork(shown[2], shown[3])]


def test_blocks_that_were_made_to_look_alike_are_told_apart(tmp_path: Path) -> None:
    """Hashes with the same first 4 bytes are found in seconds by who makes both blocks."""
    seen: dict[bytes, Block] = {}
    for number in count():
        to = partner(3 + number % 2)
        made = blocks.propose(party(4), None, to, bytes(16), bytes(32), 1, number)
        other = seen.setdefault(made.hash[:3], made)  # 3 of the 4: so that the test is quick
        if other.said.partner != made.said.partner:
            break
    sketches = [heads.entries(heads.sketch([each], b"saltsalt")) for each in (made, other)]
    assert made.hash[:3] == other.hash[:3]
    assert [each[:3] for each in sketches[0].values()] != [each[:3] for each in sketches[1].values()]


def test_notes_hold_what_fits_and_nothing_about_oneself(tmp_path: Path) -> None:
    with two_of(tmp_path) as (one, two):
        block: Block | None = None
        for count in range(100):
            block = blocks.propose(party(3), block, partner(4), count.to_bytes(16, "big"), bytes(32), 1, 7)
            two.learn(block)
        meet(one, two, 1, 2)
        settle(one, two, a_voucher(1, 2, GB, 1), 1, 2)
        notes = meeting.opening(two, partner(1), lambda size: b"\x05" * size)
        assert [len(note) <= heads.NOTE_BYTES for note in notes] == [True, True]
        sketch = heads.decode(notes[1])
        assert isinstance(sketch, heads.Sketch)
        assert len(heads.entries(sketch)) > meeting.NEWEST


def test_blocks_of_others_than_the_partner_are_refused(tmp_path: Path) -> None:
    theirs = blocks.propose(party(3), None, partner(4), bytes(16), bytes(32), 1, 7)
    answer = blocks.accept(party(4), None, theirs, 8)
    forged = blocks.propose(
        Party(machine_id=party(2).machine_id, signer=ToySigner(b"thief" + bytes(27))),
        *(None, partner(4), bytes(16), bytes(32), 1, 7),
    )
    with two_of(tmp_path) as (one, _):
        for note, why in (
            (Heads(theirs.raw, b""), "not of the partner's chain"),
            (Heads(forged.raw, b""), "not of the partner's chain"),
            (Heads(b"", theirs.raw), "not of our chain"),
            (Heads(b"x", b""), "wrong size"),
            (Held(theirs.raw[:-1]), "block"),
            (Reference(theirs.raw, answer.raw), "not of the partner's chain"),
        ):
            with pytest.raises(BadBlock, match=why):
                meeting.received(one, partner(2), heads.encode(note))
        with pytest.raises(BadNote, match="nothing"):
            meeting.received(one, partner(2), heads.encode(heads.sketch([], bytes(8))))
        assert meeting.received(one, partner(2), heads.encode(Held(theirs.raw))) == []
        assert one.sample(10, 10, 0) == [], "what contradicts nothing is not kept"


@settings(max_examples=50, deadline=None)
@given(notes=st.lists(st.binary(max_size=900), max_size=3))
def test_any_note_is_read_or_refused(notes: list[bytes]) -> None:
    with TemporaryDirectory() as folder, two_of(Path(folder)) as (one, _):
        for note in notes:
            with suppress(BadNote, BadBlock):
                meeting.received(one, partner(2), note)
        assert one.head() is None


def test_a_relay_shows_who_paid_it_to_one_who_knows_the_payer(tmp_path: Path) -> None:
    """1 was carried by 2, and 2 by 3: so 3 has a tier for 1, up to what 2 carried."""
    for payer, payee, carried in ((1, 2, GB), (2, 3, 4 * GB), (4, 3, GB)):
        with two_of(tmp_path, payer, payee) as (one, two):
            meet(one, two, payer, payee)
            settle(one, two, a_voucher(payer, payee, carried, payer), payer, payee)
    with two_of(tmp_path, 1, 3) as (one, three):
        notes = meeting.references(three)
        assert [len(note) <= heads.NOTE_BYTES for note in notes] == [True, True]
        for note in notes:
            assert meeting.received(one, partner(3), note) == []
        assert one.receipts(partner(3).key) == [
            Receipt(partner(1).key, partner(2).key, 50 * MILLIONTHS),
            Receipt(partner(2).key, partner(3).key, 200 * MILLIONTHS),
        ]
        assert meeting.references(one) == []


# ------------------------------------------------------------------ everything that happens to disks


class World(RuleBasedStateMachine):
    """Four machines with their disks. Machine 4 may cheat: it keeps two chains, and shows either. The others
    crash and put back backups, but ask everybody before they sign on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.copies = 0
        self.paths = {number: self.fresh() for number in NUMBERS}
        self.tunnels = 0
        self.ledgers = {number: open_ledger(self.paths[number], number) for number in NUMBERS}

    def fresh(self) -> Path:
        self.copies += 1
        return Path(self.folder.name) / str(self.copies)

    def teardown(self) -> None:
        for ledger in self.ledgers.values():
            ledger.close()
        self.folder.cleanup()

    def copied(self, number: int) -> Path:
        """What the disk holds at this moment, as after `kill -9`: the file and its log."""
        source, target = self.paths[number], self.fresh()
        for suffix in ("", "-wal"):
            part = source.with_name(source.name + suffix)
            if part.exists():
                shutil.copy(part, target.with_name(target.name + suffix))
        return target

    def run_from(self, number: int, path: Path) -> None:
        self.ledgers[number].close()
        self.paths[number] = path
        self.ledgers[number] = open_ledger(path, number)

    def held(self, ledger: Ledger) -> dict[tuple[bytes, int], Block]:
        own = [entry.block for entry in ledger.page(0, 1_000)]
        return {block.place: block for block in [*own, *ledger.sample(1_000, 0, 0)]}

    def meeting_of(self, one: int, two: int) -> None:
        ledgers = self.ledgers[one], self.ledgers[two]
        before = [self.held(ledger) for ledger in ledgers]
        meet(*ledgers, one, two)
        for one_of, other in product(before[0].values(), before[1].values()):
            if one_of.place == other.place and one_of.raw != other.raw:
                author = one_of.said.key
                assert all(each.us == author or each.lies(author) for each in ledgers), "two forks met"

    @rule(pair=st.sampled_from(list(combinations(NUMBERS, 2))))
    def meets(self, pair: tuple[int, int]) -> None:
        self.meeting_of(*pair)

    @rule(
        pair=st.sampled_from(list(combinations(NUMBERS, 2))),
        turned=st.booleans(),
        carried=st.integers(0, 3 * GB),
        comes=st.integers(0, 2),
    )
    def pays(self, pair: tuple[int, int], turned: bool, carried: int, comes: int) -> None:
        payer, payee = pair[::-1] if turned else pair
        self.pay(payer, payee, carried, comes)

    def pay(self, payer: int, payee: int, carried: int, comes: int) -> None:
        """`comes`: how far it gets before the line is cut."""
        self.meeting_of(payer, payee)
        self.tunnels += 1
        raw = a_voucher(payer, payee, carried, self.tunnels)
        paying, paid = self.ledgers[payer], self.ledgers[payee]
        paying.keep([raw])
        paid.keep([raw])
        with suppress(ChainBehind, BadBlock):  # BadBlock: of who forked
            spent = paying.spend(raw, partner(payee).key, 7)
            if comes > 0:
                answer = paid.earn(spent, raw, partner(payer).key, 8)
                if comes > 1:
                    paying.learn(answer)

    @rule(number=st.sampled_from(NUMBERS))
    def crashes(self, number: int) -> None:
        self.run_from(number, self.copied(number))

    @rule(number=st.sampled_from(NUMBERS), payee=st.sampled_from(NUMBERS), after=st.integers(1, 3))
    def loses_what_it_did(self, number: int, payee: int, after: int) -> None:
        """A backup is put back that lacks some payments. Machine 4 just goes on; the others ask all."""
        if number == payee:
            return
        backup = self.copied(number)
        for _ in range(after):
            self.pay(number, payee, GB, comes=2)
        self.run_from(number, backup)
        for other in NUMBERS:
            if number not in (4, other):
                self.meeting_of(number, other)

    @invariant()
    def sums_are_those_of_the_pairs(self) -> None:
        for ledger in self.ledgers.values():
            pairs = [entry for entry in ledger.page(0, 1_000) if entry.other is not None]
            accounts = ledger.accounts()
            total = sum(each.earned - each.spent for each in accounts)
            assert total == sum(own.said.delta for own, _ in pairs)
            assert all(own.said.delta + other.said.delta == 0 for own, other in pairs if other is not None)
            assert ledger.verify().pairs == len(pairs)

    @invariant()
    def all_pairs_together_are_nothing(self) -> None:
        halves = {
            block.hash: block for ledger in self.ledgers.values() for block in self.held(ledger).values()
        }
        pairs = {
            (other.hash, block.hash)
            for block in halves.values()
            if (other := halves.get(block.said.answers)) is not None and block.answers(other)
        }
        assert sum(halves[one].said.delta + halves[two].said.delta for one, two in pairs) == 0

    @invariant()
    def nobody_honest_is_called_a_liar(self) -> None:
        for ledger in self.ledgers.values():
            assert not [number for number in (1, 2, 3) if ledger.lies(partner(number).key)]


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=10,
    stateful_step_count=20,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),  # shrinking would take minutes, of a disk's time
)
