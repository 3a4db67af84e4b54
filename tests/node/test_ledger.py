"""The ledger: what is kept is the newest, chains hold through restarts and backups, forks are found."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import LocalFault
from node import ledger as ledger_module
from node.database import Database
from node.errors import StateDamaged
from node.ledger import Account, Carried, ChainBehind, Ledger, Verified
from node.ledger_reading import MIGRATIONS
from node.settlement import blocks, vouchers
from node.settlement.blocks import BadBlock, Block, Partner, Party
from node.settlement.terms import GB, MAX_BYTES, MILLIONTHS, Unit, agree
from node.settlement.tiers import Receipt
from node.settlement.vouchers import Tunnel
from tests.dht.record_kit import ToySignatures, ToySigner

TERMS = agree(Unit.GB, 50, 1000)
SIGNATURES = ToySignatures()


def party(number: int) -> Party:
    return Party(machine_id=bytes([number]) * 32, signer=ToySigner(bytes([0x80 + number]) * 32))


def key(number: int) -> bytes:
    return party(number).signer.public


def a_tunnel(payer: int, payee: int, number: int) -> Tunnel:
    return Tunnel(
        session=number.to_bytes(32, "big"),
        tunnel_id=number.to_bytes(16, "big"),
        payer=party(payer).machine_id,
        payee=party(payee).machine_id,
        payer_key=key(payer),
        terms=TERMS,
    )


def a_voucher(carried: int, sequence: int = 1, payer: int = 1, payee: int = 2, number: int = 1) -> bytes:
    tunnel = a_tunnel(payer, payee, number)
    return vouchers.write(tunnel, sequence, carried, 0, 1, party(payer).signer)


@contextmanager
def opened(path: Path, number: int) -> Iterator[Ledger]:
    """Where all have said already what they hold of our chain."""
    ledger = Ledger.open(path, party(number), SIGNATURES)
    try:
        for partner in (1, 2, 3):
            ledger.heard(key(partner))
        yield ledger
    finally:
        ledger.close()


def settle(payer: Ledger, payee: Ledger, raw: bytes, one: int = 1, two: int = 2) -> None:
    payer.keep([raw])
    payee.keep([raw])
    spent = payer.spend(raw, key(two), 7)
    payer.learn(payee.earn(spent, raw, key(one), 8))


# ------------------------------------------------------------------ vouchers


def test_the_newest_voucher_of_a_tunnel_stands_through_a_restart(tmp_path: Path) -> None:
    old, new = a_voucher(1_000, 1), a_voucher(2_000, 2)
    other = a_voucher(5_000, 1, number=2)
    with opened(tmp_path / "ledger", 2) as ledger:
        ledger.keep([old, new, other])
        ledger.keep([old])
    with opened(tmp_path / "ledger", 2) as ledger:
        assert ledger.voucher(vouchers.read(new).tunnel_id, given=False) == vouchers.read(new)
        assert ledger.voucher(vouchers.read(other).tunnel_id, given=False) == vouchers.read(other)
        assert ledger.voucher(vouchers.read(new).tunnel_id, given=True) is None
    with opened(tmp_path / "payer", 1) as ledger:
        ledger.keep([new])
        assert ledger.voucher(vouchers.read(new).tunnel_id, given=True) == vouchers.read(new)


# ------------------------------------------------------------------ chains


def test_a_tunnel_that_is_settled_stands_with_both(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(2 * GB))
        assert one.accounts() == [Account(party(2).machine_id, 0, 100 * MILLIONTHS)]
        assert two.accounts() == [Account(party(1).machine_id, 100 * MILLIONTHS, 0)]
        amount = 100 * MILLIONTHS
        assert one.verify() == Verified(blocks=1, missing=0, pairs=1, open=0, spent=amount)
        assert two.verify() == Verified(blocks=1, missing=0, pairs=1, open=0, earned=amount)


def test_asking_again_signs_nothing_new(tmp_path: Path) -> None:
    raw = a_voucher(GB)
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        spent = one.spend(raw, key(2), 7)
        assert one.spend(raw, key(2), 9) == spent
        earned = two.earn(spent, raw, key(1), 8)
        assert two.earn(spent, raw, key(1), 10) == earned
        assert one.head() == spent
        assert two.head() == earned


def test_a_tunnel_is_settled_once(tmp_path: Path) -> None:
    """Its vouchers are sums since it began: two of them would count the first one twice."""
    first, second = a_voucher(GB, 1), a_voucher(2 * GB, 2)
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, first)
        with pytest.raises(LocalFault, match="settled already"):
            one.spend(second, key(2), 9)
        to = Partner(machine_id=party(2).machine_id, key=key(2))
        read = vouchers.read(second)
        again = blocks.propose(
            party(1), one.head(), to, read.tunnel_id, blocks.voucher_hash(second), read.amount, 9
        )
        with pytest.raises(BadBlock, match="settled already"):
            two.earn(again, second, key(1), 9)
        assert two.accounts() == [Account(party(1).machine_id, 50 * MILLIONTHS, 0)]


def test_a_partner_that_never_signs_freezes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "three", 3) as three:
        one.spend(a_voucher(GB), key(2), 7)
        settle(one, three, a_voucher(GB, payee=3, number=2), 1, 3)
        assert one.accounts() == [Account(party(3).machine_id, 0, 50 * MILLIONTHS)]
        assert one.verify() == Verified(blocks=2, missing=0, pairs=1, open=1, spent=50 * MILLIONTHS)


def test_a_proposal_that_does_not_say_what_the_voucher_says_is_refused(tmp_path: Path) -> None:
    raw, other = a_voucher(GB), a_voucher(2 * GB, 2)
    to = Partner(machine_id=party(2).machine_id, key=key(2))
    tunnel_id = vouchers.read(raw).tunnel_id
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        spent = one.spend(raw, key(2), 7)
        with pytest.raises(BadBlock, match="not of this voucher"):
            two.earn(spent, other, key(1), 8)
        less = blocks.propose(party(1), None, to, tunnel_id, blocks.voucher_hash(raw), 1, 7)
        with pytest.raises(BadBlock, match="not what the voucher says"):
            two.earn(less, raw, key(1), 8)
        with pytest.raises(BadBlock, match="not what the voucher says"):
            two.earn(spent, raw, key(3), 8)
        assert two.head() is None


def test_an_answer_by_another_key_is_no_answer(tmp_path: Path) -> None:
    """Anybody can write blocks in anybody's name; the key that the payer named decides."""
    with opened(tmp_path / "one", 1) as one:
        spent = one.spend(a_voucher(GB), key(2), 7)
        said = spent.said
        thief = Party(machine_id=party(2).machine_id, signer=ToySigner(b"thief" + bytes(27)))
        with pytest.raises(BadBlock, match="not a proposal to us"):
            blocks.accept(thief, None, spent, 8)
        partner = Partner(machine_id=said.author, key=said.key)
        one.learn(blocks.propose(thief, None, partner, said.tunnel_id, said.voucher, 50, 8))
        assert one.accounts() == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3 * GB), st.booleans()), max_size=12
    )
)
def test_all_accounts_together_are_nothing(payments: list[tuple[int, int, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        ledgers = {
            number: Ledger.open(Path(folder) / str(number), party(number), SIGNATURES) for number in (1, 2, 3)
        }
        for ledger, partner in product(ledgers.values(), (1, 2, 3)):
            ledger.heard(key(partner))
        for number, (payer, payee, carried, answered) in enumerate(payments):
            if payer == payee:
                continue
            raw = a_voucher(carried, payer=payer, payee=payee, number=number)
            if answered:
                settle(ledgers[payer], ledgers[payee], raw, payer, payee)
            else:
                ledgers[payer].spend(raw, key(payee), 7)
        accounts = [account for ledger in ledgers.values() for account in ledger.accounts()]
        assert sum(account.earned - account.spent for account in accounts) == 0
        for ledger in ledgers.values():
            assert ledger.verify().missing == 0
            ledger.close()


# ------------------------------------------------------------------ forks and backups


def test_a_machine_that_signs_a_number_twice_is_found_out(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "again", 1) as again:
        first, second = one.spend(a_voucher(GB), key(2), 7), again.spend(a_voucher(2 * GB, 2), key(2), 7)
    with opened(tmp_path / "two", 2) as two:
        assert two.learn(first) is None
        assert two.learn(first) is None
        assert not two.lies(key(1))
        proof = two.learn(second)
        assert proof is not None
        assert two.lies(key(1))
    with opened(tmp_path / "three", 3) as three:
        assert three.learn_fork(proof)
        assert not three.learn_fork(proof), "it is passed on once"
        assert three.lies(key(1))
        with pytest.raises(BadBlock):
            three.learn_fork(proof[:-1] + b"x")


def test_after_a_restore_a_partner_tells_the_way_on(tmp_path: Path) -> None:
    with opened(tmp_path / "two", 2) as two:
        with opened(tmp_path / "one", 1) as one:
            settle(one, two, a_voucher(GB, number=1))
        shutil.copy(tmp_path / "one", tmp_path / "backup")
        with opened(tmp_path / "one", 1) as one:
            settle(one, two, a_voucher(GB, number=2))
            settle(one, two, a_voucher(GB, number=3))
        with opened(tmp_path / "backup", 1) as one:
            newest = two.head(key(1))
            assert newest is not None
            assert newest.said.number == 3
            assert one.learn(newest) is None
            with pytest.raises(ChainBehind, match="ask all of them"):
                settle(one, two, a_voucher(GB, number=4))
            one.heard(key(2))
            settle(one, two, a_voucher(GB, number=4))
            assert one.verify() == Verified(blocks=3, missing=1, pairs=2, open=1, spent=100 * MILLIONTHS)
        assert not two.lies(key(1))
        assert two.accounts() == [Account(party(1).machine_id, 200 * MILLIONTHS, 0)]


def test_nothing_is_signed_before_the_partner_said_what_it_holds(tmp_path: Path) -> None:
    raw = a_voucher(GB)
    one = Ledger.open(tmp_path / "one", party(1), SIGNATURES)
    two = Ledger.open(tmp_path / "two", party(2), SIGNATURES)
    try:
        one.heard(key(3))
        with pytest.raises(ChainBehind, match="not said yet"):
            one.spend(raw, key(2), 7)
        one.heard(key(2))
        spent = one.spend(raw, key(2), 7)
        with pytest.raises(ChainBehind, match="not said yet"):
            two.earn(spent, raw, key(1), 8)
        assert two.head() is None
    finally:
        one.close()
        two.close()


def test_who_is_behind_asks_every_partner_even_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one:
        one.spend(a_voucher(GB, number=1), key(2), 7)
        one.spend(a_voucher(GB, payee=3, number=2), key(3), 7)
    shutil.copy(tmp_path / "one", tmp_path / "backup")
    with opened(tmp_path / "one", 1) as one:
        lost = one.spend(a_voucher(GB, number=3), key(2), 7)
    backup = Ledger.open(tmp_path / "backup", party(1), SIGNATURES)
    backup.learn(lost)
    backup.heard(key(2))
    assert backup.behind
    assert [partner.key for partner in backup.to_ask()] == [key(3)]
    with pytest.raises(ChainBehind, match="ask all of them"):
        backup.spend(a_voucher(GB, number=4), key(2), 7)
    backup.close()
    again = Ledger.open(tmp_path / "backup", party(1), SIGNATURES)
    assert again.behind
    again.heard(key(2))
    again.ask_no_more()
    assert again.spend(a_voucher(GB, number=4), key(2), 7).said.number == 4
    assert again.verify().missing == 0
    again.close()


def test_a_proposal_that_forks_is_not_accepted(tmp_path: Path) -> None:
    first, second = a_voucher(GB, number=1), a_voucher(2 * GB, number=2)
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "again", 1) as again:
        proposals = one.spend(first, key(2), 7), again.spend(second, key(2), 7)
    with opened(tmp_path / "two", 2) as two:
        two.earn(proposals[0], first, key(1), 8)
        with pytest.raises(BadBlock, match="contradicts"):
            two.earn(proposals[1], second, key(1), 8)
        assert two.lies(key(1))
        (proof,) = two.untold()
        two.told(proof)
        assert two.untold() == []
        assert two.accounts() == [Account(party(1).machine_id, 50 * MILLIONTHS, 0)]


def test_who_lies_itself_leaves_it_to_others_to_say_so(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "again", 1) as again:
        one.spend(a_voucher(GB), key(2), 7)
        assert one.learn(again.spend(a_voucher(2 * GB, number=2), key(2), 7)) is not None
        assert one.lies(key(1))
        assert one.untold() == []


def test_strangers_words_are_bounded_and_pairs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.ledger.STRANGERS_OF_ONE", 4)
    monkeypatch.setattr("node.ledger.STRANGERS", 6)
    monkeypatch.setattr("node.ledger.LIARS", 3)
    to = Partner(machine_id=party(9).machine_id, key=key(9))
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(GB))
        for author in (4, 5, 6):
            block: blocks.Block | None = None
            for number in range(1, 9):
                tunnel_id = bytes([author, number]) * 8
                block = blocks.propose(party(author), block, to, tunnel_id, bytes(32), 1, 7)
                two.learn(block)
            assert two.head(key(author)) == block
        assert len(two.sample(100, 0, 0)) == 6 + 1
        assert two.verify().pairs == 1
        assert two.head(key(1)) == one.head()
        for author in (1, 4, 5, 6, 7):
            forks = [
                blocks.propose(party(author), None, to, bytes(16), bytes(32), amount, 7) for amount in (1, 2)
            ]
            assert two.learn_fork(blocks.fork(*forks))
        assert [two.lies(key(author)) for author in (1, 4, 5, 6, 7)] == [True, False, False, True, True]


def test_a_long_chain_of_strangers_words_does_not_cost_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal is counted also where its author has shown higher blocks than it before."""
    monkeypatch.setattr("node.ledger.STRANGERS_OF_ONE", 2)
    raw = a_voucher(GB)
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        spent = one.spend(raw, key(2), 7)
        for number in (2, 3, 4):
            two.learn(one.spend(a_voucher(GB, payee=3, number=number), key(3), 7))
        two.earn(spent, raw, key(1), 8)
        assert two.verify().pairs == 1


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(4)))
def test_halves_pair_in_whatever_order_they_come(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    """As after a restore, where partners give back our own blocks, too."""
    first = a_voucher(GB, number=1)
    spent = blocks.propose(
        party(1), None, Partner(machine_id=party(2).machine_id, key=key(2)), *_named(first), 7
    )
    answer = blocks.accept(party(2), None, spent, 8)
    second = a_voucher(2 * GB, payer=2, payee=1, number=2)
    theirs = blocks.propose(
        party(2), answer, Partner(machine_id=party(1).machine_id, key=key(1)), *_named(second), 9
    )
    earned = blocks.accept(party(1), spent, theirs, 10)
    made = [spent, answer, theirs, earned]
    with opened(tmp_path_factory.mktemp("pairs") / "one", 1) as one:
        for place in order:
            one.learn(made[place])
        assert one.accounts() == [Account(party(2).machine_id, 100 * MILLIONTHS, 50 * MILLIONTHS)]
        assert one.verify() == Verified(2, 0, 2, 0, 100 * MILLIONTHS, 50 * MILLIONTHS)


def _named(raw: bytes) -> tuple[bytes, bytes, int]:
    read = vouchers.read(raw)
    return read.tunnel_id, blocks.voucher_hash(raw), read.amount


def test_sums_that_somebody_changed_are_found(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(GB))
    changed = sqlite3.connect(tmp_path / "two")
    changed.execute("UPDATE partners SET earned = '99'")
    changed.commit()
    changed.close()
    with opened(tmp_path / "two", 2) as two, pytest.raises(StateDamaged, match="the sums are others"):
        two.verify()


def test_a_receipt_counts_once_and_only_of_those_who_carried_for_us(tmp_path: Path) -> None:
    """2 carried for 1; 3 carried for 2, and for 4, of whom 1 knows nothing."""
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(GB))
        before = two.head()
    to = Partner(machine_id=party(3).machine_id, key=key(3))
    known = blocks.propose(party(2), before, to, b"a" * 16, bytes(32), 9, 7)
    unknown = blocks.propose(party(4), None, to, b"b" * 16, bytes(32), 9, 7)
    one_answer = blocks.accept(party(3), None, known, 8)
    other_answer = blocks.accept(party(3), one_answer, unknown, 8)
    twice = blocks.accept(party(3), other_answer, known, 8)
    with opened(tmp_path / "one", 1) as one:
        for pair in ((known, one_answer), (unknown, other_answer), (known, twice)):
            one.learn_pair(*pair)
        with pytest.raises(BadBlock, match="not a pair"):
            one.learn_pair(unknown, one_answer)
        assert one.receipts(key(3)) == [Receipt(key(1), key(2), 50 * MILLIONTHS), Receipt(key(2), key(3), 9)]
        assert one.head(key(4)) is None


def test_vouchers_of_tunnels_that_are_not_settled_count_apart(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(GB, number=1))
        running = [a_voucher(GB // 2, 1, number=2), a_voucher(GB, 2, number=2)]
        taken = a_voucher(GB // 4, payer=3, payee=1, number=3)
        one.keep([*running, taken])
        assert one.unsettled() == [
            Account(party(2).machine_id, 0, 50 * MILLIONTHS),
            Account(party(3).machine_id, 12_500_000, 0),
        ]
        assert one.carried() == {
            party(2).machine_id: Carried(2 * GB, 0),
            party(3).machine_id: Carried(0, GB // 4),
        }


def test_a_voucher_of_others_does_not_take_the_place_of_one(tmp_path: Path) -> None:
    """Who asks for a tunnel chooses its number."""
    taken = a_voucher(GB, 1)
    with opened(tmp_path / "two", 2) as two:
        two.keep([taken])
        two.keep([a_voucher(2 * GB, 9, payer=3)])
        assert two.voucher(vouchers.read(taken).tunnel_id, given=False) == vouchers.read(taken)


@given(st.lists(st.integers(0, MAX_BYTES), max_size=20))
@settings(max_examples=10, deadline=None)
def test_byte_counts_are_summed_exactly(tmp_path_factory: pytest.TempPathFactory, counts: list[int]) -> None:
    free = agree(Unit.GB, 0, 1000)
    with opened(tmp_path_factory.mktemp("sums") / "two", 2) as two:
        tunnels = [
            msgspec.structs.replace(a_tunnel(1, 2, number), terms=free) for number in range(len(counts))
        ]
        signer = party(1).signer
        two.keep(
            [
                vouchers.write(tunnel, 1, count, 0, 1, signer)
                for tunnel, count in zip(tunnels, counts, strict=True)
            ]
        )
        carried = two.carried().get(party(1).machine_id, Carried(0, 0))
        assert carried == Carried(0, sum(counts))


def test_a_damaged_block_is_named_with_what_to_do(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one:
        for number in (1, 2, 3):
            one.spend(a_voucher(GB, number=number), key(2), 7)
    damaged = sqlite3.connect(tmp_path / "one")
    raw = damaged.execute("SELECT raw FROM blocks WHERE number = 2").fetchone()[0]
    damaged.execute("UPDATE blocks SET raw = ? WHERE number = 2", (raw[:-1] + b"x",))
    damaged.commit()
    damaged.close()
    with (
        opened(tmp_path / "one", 1) as one,
        pytest.raises(StateDamaged, match=r"block 2: .*; put back a backup"),
    ):
        one.verify()


def test_a_block_out_of_its_place_is_named(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 1) as one:
        for number in (1, 2, 3):
            one.spend(a_voucher(GB, number=number), key(2), 7)
    moved = sqlite3.connect(tmp_path / "one")
    moved.execute("UPDATE blocks SET number = 4 WHERE number = 1")
    moved.execute("UPDATE blocks SET number = 1 WHERE number = 2")
    moved.commit()
    moved.close()
    with (
        opened(tmp_path / "one", 1) as one,
        pytest.raises(StateDamaged, match=r"block 1: it does not follow"),
    ):
        one.verify()


# ------------------------------------------------------------------ witnesses, and who is known to lie


def a_strangers(number: int, author: int = 3, before: Block | None = None) -> Block:
    to = Partner(machine_id=party(4).machine_id, key=key(4))
    return blocks.propose(party(author), before, to, number.to_bytes(16, "big"), bytes(32), 1, 7)


def test_nothing_is_signed_for_who_is_known_to_lie(tmp_path: Path) -> None:
    raw, late = a_voucher(GB), a_voucher(GB, number=2)
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        two.keep([raw, late])
        first = one.spend(raw, key(2), 7)
        earned = two.earn(first, raw, key(1), 8)
        second = one.spend(late, key(2), 7)
        assert two.learn_fork(blocks.fork(a_strangers(1, 1), a_strangers(2, 1)))
        with pytest.raises(BadBlock, match="proven to lie"):
            two.earn(second, late, key(1), 9)
        assert two.earn(first, raw, key(1), 9) == earned, "what was signed stands"


def test_blocks_of_others_are_due_until_witnesses_know_them(tmp_path: Path) -> None:
    week = ledger_module.WITNESSED_SECONDS
    with opened(tmp_path / "one", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(GB))
        spent, earned = one.head(), two.head()
        assert one.unwitnessed(0, 9) == [earned]
        heard = a_strangers(1)
        two.learn(heard)
        assert two.unwitnessed(0, 9) == [heard, spent]
        assert two.unwitnessed(0, 1) == [heard]
        assert spent is not None
        two.witnessed([spent], [heard], 1_000, 1_900)
        assert two.unwitnessed(1_899, 9) == []
        assert two.unwitnessed(1_900, 9) == [heard]
        two.learn(a_strangers(2, before=heard))
        assert [each.said.number for each in two.unwitnessed(1_900, 9)] == [2, 1], "new ones first"
    with opened(tmp_path / "two", 2) as two:
        assert len(two.unwitnessed(1_000 + week - 1, 9)) == 2
        assert len(two.unwitnessed(1_000 + week, 9)) == 3
        two.learn_fork(blocks.fork(a_strangers(5), a_strangers(6)))
        assert two.unwitnessed(1_000 + week, 9) == [spent], "of who lies nobody needs to be told"


def test_old_blocks_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.ledger.WITNESSED_AGAIN", 2)
    with opened(tmp_path / "one", 1) as one:
        made = [a_strangers(number, author) for number, author in ((1, 3), (2, 5), (3, 6))]
        for each in made:
            one.learn(each)
        one.witnessed(made, [], 0, 0)
        assert one.unwitnessed(2**61, 9) == [made[2], made[1]]


def test_since_when_it_is_behind_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "copy", 1) as one, opened(tmp_path / "two", 2) as two:
        settle(one, two, a_voucher(GB))
        spent = one.head()
        assert spent is not None
    with closing(Ledger.open(tmp_path / "one", party(1), SIGNATURES)) as one:
        assert one.behind_since(5) is None
        one.learn(spent)
        assert one.behind_since(7) == 7
    with closing(Ledger.open(tmp_path / "one", party(1), SIGNATURES)) as one:
        assert one.behind_since(9) == 7
        one.learn(spent)
        one.ask_no_more()
        assert one.behind_since(11) is None


def test_a_ledger_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    raw = a_voucher(GB)
    with closing(Database.open(tmp_path / "two", MIGRATIONS[:1])) as old, old.transaction():
        names = (bytes(32), bytes(32), bytes(16), bytes(8), 0)
        spent = a_strangers(1)
        old.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *spent.place, *names, spent.raw)
        old.execute("INSERT INTO state VALUES (?)", "behind")
    with closing(Ledger.open(tmp_path / "two", party(2), SIGNATURES)) as two:
        assert two.unwitnessed(0, 9) == [spent]
        assert two.behind_since(7) == 7
        two.ask_no_more()
    with opened(tmp_path / "two", 2) as two, opened(tmp_path / "one", 1) as one:
        settle(one, two, raw)
        assert two.verify().pairs == 1
