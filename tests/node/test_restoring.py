"""After a backup was put back: all partners are asked what they hold of our chain before it grows again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgpack
import pytest
import trio
from trio.testing import MockClock

from node import meeting, restoring
from node.asking import AskRefused
from node.ledger import ChainBehind
from node.restoring import AGAIN_SECONDS, GIVEN_UP_SECONDS, MEET
from node.settlement import blocks, heads
from node.settlement.blocks import Block
from node.settlement.heads import Heads, Reference
from tests.node.ask_world import Mailbox, running
from tests.node.witness_kit import Node, Town, a_voucher, nodes, open_ledger, party, path_of

SOON_SECONDS = 120.0


@pytest.fixture(autouse=True)
def _rates_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.answering.boot_us", lambda: int(trio.current_time() * 1e6))


def meet(one: Node, two: Node) -> None:
    """In a tunnel; what each has to say to the other's heads is not heard."""
    to_two = meeting.opening(one.ledger, two.partner, os.urandom)[0]
    to_one = meeting.opening(two.ledger, one.partner, os.urandom)[0]
    meeting.received(one.ledger, two.partner, to_one)
    meeting.received(two.ledger, one.partner, to_two)
    one.shown()
    two.shown()


def settle(payer: Node, payee: Node, number: int) -> Block:
    meet(payer, payee)
    raw = a_voucher(payer.box, payee.box, number)
    for each in (payer, payee):
        each.ledger.keep([raw])
    spent = payer.ledger.spend(raw, payee.key, 7)
    payer.ledger.learn(payee.ledger.earn(spent, raw, payer.key, 8))
    return spent


def is_behind(node: Node) -> bool:
    return node.ledger.behind


async def a_town(folder: Path, after: int = 1) -> tuple[Town, list[Mailbox]]:
    """Machine 0 has paid 1, 2 and 3 once each, and `after` a backup 2 again, and again; it was put back."""
    town = Town(folder)
    boxes = [town.add() for _ in range(4)]
    async with nodes(town, *boxes) as found:
        for number in (1, 2, 3):
            settle(found[0], found[number], number)
        found[0].ledger.close()
        shutil.copy(path_of(town, boxes[0]), folder / "backup")
        found[0].ledger = ledger = open_ledger(boxes[0], path_of(town, boxes[0]))
        for number in range(after):
            settle(found[0], found[2], 100 + number)
        ledger.close()
    shutil.copy(folder / "backup", path_of(town, boxes[0]))
    return town, boxes


async def test_who_is_behind_asks_all_and_signs_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    town, boxes = await a_town(tmp_path, after=2)
    async with nodes(town, *boxes) as found:
        ours = found[0].ledger
        meet(found[0], found[2])
        assert is_behind(found[0])
        with pytest.raises(ChainBehind):
            ours.spend(a_voucher(boxes[0], boxes[2], 9), found[2].key, 7)
        await trio.sleep(SOON_SECONDS)
        assert not is_behind(found[0])
        assert ours.to_ask() == []
        assert settle(found[0], found[1], 10).said.number == 6
        assert not any(node.ledger.lies(found[0].key) for node in found)
        assert ours.verify().missing == 1


async def test_what_another_partner_holds_is_learnt_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first to show more holds less than the second."""
    town, boxes = await a_town(tmp_path, after=0)
    async with nodes(town, *boxes) as found:
        ours = found[0].ledger
        made = ours.head()
        for number in (1, 3):
            to = found[number].partner
            made = blocks.propose(party(boxes[0]), made, to, bytes([number]) * 16, bytes(32), 1, 7)
            found[number].ledger.learn(made)
        meet(found[0], found[1])
        await trio.sleep(SOON_SECONDS)
        assert not is_behind(found[0])
        assert ours.head() == made


async def test_who_does_not_answer_has_a_day(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Counted through restarts."""
    town, boxes = await a_town(tmp_path)
    town.unfound.add(boxes[3].keys.machine_id)
    async with nodes(town, *boxes) as found:
        meet(found[0], found[2])
        await trio.sleep(GIVEN_UP_SECONDS / 2)
        assert is_behind(found[0])
        assert [each.machine_id for each in found[0].ledger.to_ask()] == [boxes[3].keys.machine_id]
        questions = found[0].finds.count(boxes[3].keys.machine_id)
        assert (
            GIVEN_UP_SECONDS / 2 / AGAIN_SECONDS - 2 <= questions <= GIVEN_UP_SECONDS / 2 / AGAIN_SECONDS + 2
        )
    async with nodes(town, *boxes) as found:
        await trio.sleep(GIVEN_UP_SECONDS / 2 - 2 * AGAIN_SECONDS)
        assert is_behind(found[0])
        await trio.sleep(4 * AGAIN_SECONDS)
        assert not is_behind(found[0])
        assert settle(found[0], found[1], 10).said.number == 5


async def test_who_comes_back_within_the_day_is_heard(tmp_path: Path, autojump_clock: MockClock) -> None:
    town, boxes = await a_town(tmp_path)
    town.unfound.add(boxes[3].keys.machine_id)
    async with nodes(town, *boxes) as found:
        meet(found[0], found[2])
        await trio.sleep(SOON_SECONDS)
        assert is_behind(found[0])
        town.unfound.clear()
        await trio.sleep(2 * AGAIN_SECONDS)
        assert not is_behind(found[0])


async def test_who_has_signed_a_number_twice_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A backup was put back, and another partner paid at once: honesty is all that is left. Nobody else
    would find out: there are no witnesses."""
    town, boxes = await a_town(tmp_path)
    town.market_of.clear()
    async with nodes(town, *boxes) as found:
        for number in (10, 11, 12, 13):
            settle(found[0], found[1], number)
        made = found[0].ledger.head()
        for number in (14, 15):
            to = found[3].partner
            made = blocks.propose(party(boxes[0]), made, to, bytes([number]) * 16, bytes(32), 1, 7)
        assert made is not None
        found[3].ledger.learn(made)
        meet(found[0], found[3])
        await trio.sleep(SOON_SECONDS)
        assert all(node.ledger.lies(found[0].key) for node in found)


async def test_strangers_learn_nothing_and_nonsense_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town, boxes = await a_town(tmp_path)
    stranger = town.add(listed=False)
    async with running(stranger), nodes(town, boxes[1]) as found:
        empty = heads.encode(Heads(b"", b""))
        answer = await stranger.asking.ask(boxes[1].recipient(), MEET, empty)
        assert msgpack.unpackb(answer) == [empty]
        head = found[0].ledger.head()
        assert head is not None
        for note in (
            b"",
            b"x",
            heads.encode(Reference(head.raw, head.raw)),
            heads.encode(heads.sketch([head], bytes(8))),
        ):
            with pytest.raises(AskRefused) as no:
                await stranger.asking.ask(boxes[1].recipient(), MEET, note)
            assert no.value.code == "BAD_NOTE"


@pytest.mark.parametrize(
    "answer", [b"", b"x", msgpack.packb([b"x"]), msgpack.packb([heads.encode(Heads(b"", b""))] * 5)]
)
async def test_a_partner_that_answers_nonsense_was_not_heard(
    answer: bytes, tmp_path: Path, autojump_clock: MockClock
) -> None:
    town, boxes = await a_town(tmp_path)
    async with nodes(town, *boxes) as found:

        async def nonsense(_author: object, _payload: bytes) -> bytes:
            return answer

        boxes[3].answering.handle(MEET, nonsense)
        meet(found[0], found[2])
        await trio.sleep(SOON_SECONDS)
        assert [each.machine_id for each in found[0].ledger.to_ask()] == [boxes[3].keys.machine_id]
        assert is_behind(found[0])


def test_an_answer_fits() -> None:
    """Heads, and one of our blocks that contradicts what was shown."""
    longest = [heads.NOTE_BYTES, blocks.BLOCK_BYTES + 8]
    assert len(msgpack.packb([bytes(size) for size in longest])) <= 3584
    assert len(longest) <= restoring.NOTES
