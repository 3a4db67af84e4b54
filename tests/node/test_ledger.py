"""The ledger: what is kept is the newest, chains hold through restarts and backups, forks are found."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import LocalFault
from node.errors import StateDamaged
from node.ledger import Account, Ledger, Verified
from node.settlement import blocks, vouchers
from node.settlement.blocks import BadBlock, Partner, Party
from node.settlement.terms import GB, MILLIONTHS, Unit, agree
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
    ledger = Ledger.open(path, party(number), SIGNATURES)
    try:
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
        assert one.verify() == two.verify() == Verified(blocks=1, missing=0, pairs=1, open=0)


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
        assert one.verify() == Verified(blocks=2, missing=0, pairs=1, open=1)


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
            settle(one, two, a_voucher(GB, number=4))
            assert one.verify() == Verified(blocks=3, missing=1, pairs=2, open=1)
        assert not two.lies(key(1))
        assert two.accounts() == [Account(party(1).machine_id, 200 * MILLIONTHS, 0)]


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
        pytest.raises(StateDamaged, match=r"block 2 .* put back a backup"),
    ):
        one.verify()


def test_a_block_out_of_its_place_is_named(tmp_path: Path) -> None:
    to = Partner(machine_id=party(2).machine_id, key=key(2))
    with opened(tmp_path / "one", 1) as one:
        one.spend(a_voucher(GB), key(2), 7)
        stray = blocks.propose(party(1), None, to, b"t" * 16, b"v" * 32, 1, 7)
        one.learn(blocks.propose(party(1), stray, to, b"t" * 16, b"v" * 32, 1, 7))
        with pytest.raises(StateDamaged, match=r"block 2 .* does not follow"):
            one.verify()
