"""The ledger under trio: one call at a time, checked in steps while it goes on, and trust tiers from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from node.books import Books, open_books
from node.ledger import Ledger
from node.settlement import blocks
from node.settlement.blocks import Block, Partner, Party
from node.settlement.tiers import Standing, Witness
from tests.dht.record_kit import ToySignatures, ToySigner

SIGNATURES = ToySignatures()


def party(number: int) -> Party:
    return Party(machine_id=bytes([number]) * 32, signer=ToySigner(bytes([0x80 + number]) * 32))


def partner(number: int) -> Partner:
    return Partner(machine_id=party(number).machine_id, key=party(number).signer.public)


def a_pair(
    payer: int, payee: int, amount: int, before: tuple[Block | None, Block | None] = (None, None)
) -> tuple[Block, Block]:
    tunnel_id = bytes([payer, payee, amount]).ljust(16)
    spent = blocks.propose(party(payer), before[0], partner(payee), tunnel_id, bytes(32), amount, 7)
    return spent, blocks.accept(party(payee), before[1], spent, 8)


async def learn(books: Books, *made: Block) -> None:
    for block in made:
        await books.call(Ledger.learn, block)


async def test_a_tier_comes_from_what_was_carried_for_us_and_for_our_witnesses(tmp_path: Path) -> None:
    direct = a_pair(1, 2, 10)
    other = a_pair(1, 3, 4, (direct[0], None))
    of_witness = a_pair(2, 3, 90, (direct[1], other[1]))
    async with open_books(tmp_path / "ledger", party(1), SIGNATURES) as books:
        await learn(books, *direct, *other)
        await books.call(Ledger.learn_pair, *of_witness)
        witness = Witness(partner(2).key, 10, 90, 10)
        assert await books.standing(partner(3).key) == Standing(1, 14, 4, (witness,), False)
        assert (await books.standing(partner(4).key)).name == "unknown"
        assert await books.standing(partner(1).key) == Standing(0, 0, 0, (), False)
        await learn(books, a_pair(2, 4, 1)[0])
        assert await books.call(Ledger.lies, partner(2).key)
        assert await books.standing(partner(3).key) == Standing(1, 4, 4, (), False), "a liar is no witness"
        assert await books.standing(partner(2).key) == Standing(0, 0, 0, (), True)
    async with open_books(tmp_path / "third", party(3), SIGNATURES) as books:
        await learn(books, *other, *of_witness)
        assert (await books.standing(partner(3).key)).score == 94, "of itself it knows all"


async def test_checking_goes_on_while_the_chain_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ledger_checking.PAGE", 2)
    async with open_books(tmp_path / "ledger", party(1), SIGNATURES) as books:
        chain = [a_pair(1, 2, 1)]
        for amount in range(2, 8):
            chain.append(a_pair(1, 2, amount, chain[-1]))
        for spent, _ in chain[:5]:
            await learn(books, spent)
        seen = []
        async for found in books.verifying():
            seen.append(found.blocks)
            if len(seen) == 1:  # halves of what was checked already, and a new block
                await learn(books, *(answer for _, answer in chain[:5]), chain[5][0])
        assert seen == [2, 4, 6, 6]
        found = await books.call(Ledger.verify)
        assert (found.blocks, found.pairs, found.spent) == (6, 5, 1 + 2 + 3 + 4 + 5)


async def test_who_is_cancelled_leaves_nothing_half_done(tmp_path: Path) -> None:
    async with open_books(tmp_path / "ledger", party(1), SIGNATURES) as books:
        with trio.CancelScope() as scope:
            scope.cancel()
            await learn(books, *a_pair(1, 2, 1))
        assert scope.cancelled_caught
        summary = await books.call(Ledger.summary)
        assert (summary.blocks, summary.pairs) == (0, 0)
