"""Who shows two payees two branches of its chain is found out, though they never meet; and what lies cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from crypto.identity import KeyBundle
from node.asking import AskRefused
from node.contacts import AWAY_SECONDS
from node.ledger import WITNESSED_SECONDS
from node.settlement import blocks, heads, witnessing
from node.settlement.telling import VAIN_MAX
from node.witnesses import HELD, LATER_SECONDS, WITNESS
from tests.node.ask_world import Mailbox, running
from tests.node.witness_kit import Node, Town, a_voucher, nodes, party, pay, unix

SOON_SECONDS = 120.0  # some rounds, and questions that are put again


@pytest.fixture(autouse=True)
def _rates_by_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.answering.boot_us", lambda: int(trio.current_time() * 1e6))


def all_know(found: list[Node], liar: Mailbox) -> bool:
    return all(node.ledger.lies(liar.keys.bundle.ed25519) for node in found)


def due(node: Node) -> int:
    return len(node.ledger.unwitnessed(2**61, 100))


async def test_payees_that_never_meet_find_a_forker_and_tell_everybody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, *relays = [town.add() for _ in range(8)]
    async with nodes(town, *relays) as found:
        one, two = pay(payer, found[0], 1), pay(payer, found[1], 2)
        assert one.place == two.place
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, payer)
        assert [node.ledger.untold() for node in found] == [[]] * 7
        assert sum(node.witnesses.counters["forks found"] for node in found[:2]) >= 1
        assert not any(node.ledger.lies(other.key) for node in found for other in found)


async def test_the_block_before_is_told_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One branch is n, the other goes on to n + 1 before it is shown."""
    town = Town(tmp_path)
    payer, friend, *relays = [town.add() for _ in range(8)]
    async with nodes(town, *relays) as found:
        raw = a_voucher(payer, friend, 3)
        hidden = blocks.propose(
            party(payer), None, found[2].partner, bytes(16), blocks.voucher_hash(raw), 1, 7
        )
        pay(payer, found[0], 1)
        pay(payer, found[1], 2, before=hidden)
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, payer)


async def test_who_is_honest_is_told_of_once_and_never_accused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, *relays = [town.add() for _ in range(6)]
    async with nodes(town, *relays) as found:
        before = None
        for number in range(1, 6):
            before = pay(payer, found[number % 2], number, before)
        await trio.sleep(SOON_SECONDS)
        assert [due(node) for node in found] == [2, 3, 0, 0, 0]
        assert not found[0].ledger.unwitnessed(unix(), 9)
        assert not found[1].ledger.unwitnessed(unix(), 9)
        heard = sum(len(node.box.heard) for node in found)
        await trio.sleep(3 * LATER_SECONDS)
        assert sum(len(node.box.heard) for node in found) == heard
        assert not all_know(found, payer)
        assert not any(node.witnesses.counters["forks found"] for node in found)


async def test_what_could_not_be_told_is_told_when_the_relays_are_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Through a restart of the payee."""
    town = Town(tmp_path)
    payer, *relays = [town.add() for _ in range(6)]
    town.unfound |= {box.keys.machine_id for box in relays[2:]}
    async with nodes(town, *relays) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
        assert found[0].witnesses.counters["witness away"] == 3
        assert found[0].ledger.unwitnessed(unix() + LATER_SECONDS, 9)
        assert not found[0].ledger.unwitnessed(unix(), 9)
    town.unfound.clear()
    async with nodes(town, *relays) as found:
        await trio.sleep(LATER_SECONDS + AWAY_SECONDS)
        assert found[0].witnesses.counters["blocks told"] == 1
        pay(payer, found[1], 2)
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, payer)


async def test_witnesses_that_have_forgotten_are_told_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Who waits for that gains a week."""
    town = Town(tmp_path)
    payer, *relays = [town.add() for _ in range(6)]
    async with nodes(town, *relays) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
    async with nodes(town, *relays) as found:
        pay(payer, found[1], 2)
        await trio.sleep(SOON_SECONDS)
        assert found[1].witnesses.counters["blocks told"] == 1
        if not found[1].witnesses.counters["forks found"]:
            await trio.sleep(WITNESSED_SECONDS)
        assert all_know(found, payer)


async def test_who_is_not_listed_finds_forks_and_is_not_named(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, hidden, *relays = town.add(), town.add(listed=False), *[town.add() for _ in range(5)]
    async with nodes(town, hidden, *relays) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
        pay(payer, found[1], 2)
        await trio.sleep(SOON_SECONDS)
        assert not all_know(found[:1], payer), "who was told later cannot ask it"
        assert found[1].witnesses.counters["suspect away"] == 0
        await trio.sleep(WITNESSED_SECONDS)
        assert all_know(found, payer), "but it asks itself, a week later"


async def test_who_cannot_be_asked_is_not_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    town = Town(tmp_path)
    hidden, listed, witness = town.add(listed=False), town.add(), town.add()
    async with running(hidden, listed), nodes(town, witness):
        answers = []
        for number, box in enumerate((hidden, listed, hidden)):
            report = witnessing.encode_report({bytes(8): bytes([number]) * 16})
            answers.append(await box.asking.ask(witness.recipient(), WITNESS, report))
        assert [witnessing.decode_claims(each) for each in answers] == [
            {},
            {},
            {bytes(8): [listed.keys.machine_id]},
        ]


async def test_a_suspect_that_is_away_is_asked_when_it_is_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, *relays = [town.add() for _ in range(6)]
    async with nodes(town, *relays) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
        town.unfound.add(found[0].machine_id)
        pay(payer, found[1], 2)
        await trio.sleep(SOON_SECONDS)
        assert found[1].witnesses.counters["suspect away"] == 1
        assert not all_know(found, payer)
        town.unfound.clear()
        await trio.sleep(LATER_SECONDS + AWAY_SECONDS)
        assert all_know(found, payer)


async def test_a_payee_that_is_the_only_witness_looks_into_its_own_ledger(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, one, two = town.add(), town.add(), town.add()
    async with nodes(town, one, two) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
        pay(payer, found[1], 2)
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, payer)


async def test_an_offer_in_anothers_name_makes_no_witness(tmp_path: Path, autojump_clock: MockClock) -> None:
    town = Town(tmp_path)
    payer, one, two = town.add(), town.add(), town.add()
    town.market_of.clear()
    town.offers(two.keys.machine_id, b"not its own key" + bytes(17))
    async with nodes(town, one, two) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
        assert found[0].witnesses.counters == {"witness away": 1, "blocks told": 0}
        assert two.heard == []


# ------------------------------------------------------------------ who lies


async def test_a_witness_that_names_everybody_is_followed_only_so_far(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, other, liar, *relays = [town.add() for _ in range(7)]
    everybody = [box.keys.machine_id for box in (*relays, payer, other, liar)]

    async def accuse(_author: KeyBundle, payload: bytes) -> bytes:
        return witnessing.encode_claims(dict.fromkeys(witnessing.decode_report(payload), everybody))

    liar.answering.handle(WITNESS, accuse)
    async with running(liar), nodes(town, *relays) as found:
        before = None
        for number in range(1, 2 * VAIN_MAX + 1):
            before = pay(payer, found[0], number, before)
            await trio.sleep(SOON_SECONDS)
        vain = found[0].witnesses.counters["suspect holds nothing"]
        assert 0 < vain <= VAIN_MAX * len(relays)
        assert found[0].witnesses.counters["suspect passed over"] > 0
        assert not any(node.ledger.lies(payer.keys.bundle.ed25519) for node in found)
        pay(other, found[0], 100)
        pay(other, found[1], 101)
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, other), "the other witnesses are followed as before"


async def test_witnesses_that_say_nothing_are_not_enough_to_hide_a_fork(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, liar, *relays = [town.add() for _ in range(6)]

    async def be_silent(_author: KeyBundle, _payload: bytes) -> bytes:
        return witnessing.encode_claims({})

    liar.answering.handle(WITNESS, be_silent)
    async with running(liar), nodes(town, *relays) as found:
        pay(payer, found[0], 1)
        pay(payer, found[1], 2)
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, payer)


@pytest.mark.parametrize("answer", [b"", b"nonsense", None])
async def test_a_reporter_that_lies_costs_some_questions(
    answer: bytes | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It tells all relays other hashes than there are, holds nothing, and answers nothing of use."""
    town = Town(tmp_path)
    payer, liar, *relays = [town.add() for _ in range(7)]
    asked = []

    async def hold(_author: KeyBundle, payload: bytes) -> bytes:
        asked.append(payload)
        if answer is None:
            await trio.sleep_forever()
        return answer or b""

    liar.answering.handle(HELD, hold)
    async with running(liar), nodes(town, *relays) as found:
        key = payer.keys.bundle.ed25519
        report = {heads.place(key, number): bytes([number]) * 16 for number in range(1, 30)}
        for box in relays:
            await liar.asking.ask(box.recipient(), WITNESS, witnessing.encode_report(report))
        before = None
        for number in range(1, 21):
            before = pay(payer, found[0], number, before)
        await trio.sleep(24 * 3600)
        assert 0 < len(asked) <= VAIN_MAX * len(relays) * 2
        assert found[0].witnesses.counters["blocks told"] == 20
        assert not found[0].ledger.lies(key)
        pay(payer, found[1], 100, before=None)
        await trio.sleep(SOON_SECONDS)
        assert all_know(found, payer)


async def test_only_the_author_of_a_chain_can_ask_for_what_is_held(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    town = Town(tmp_path)
    payer, relay, thief = town.add(), town.add(), town.add(listed=False)
    async with running(thief), nodes(town, relay) as found:
        held = pay(payer, found[0], 1)
        to = found[0].partner
        other = blocks.propose(party(payer), None, to, bytes(16), bytes(32), 1, 9)
        next_one = blocks.propose(party(payer), held, to, bytes(16), bytes(32), 1, 9)
        nothing_there = blocks.propose(party(thief), None, to, bytes(16), bytes(32), 1, 9)
        for raw in (other.raw[:-1] + b"x", nothing_there.raw[:-1] + b"x", b"nonsense"):
            with pytest.raises(AskRefused) as no:
                await thief.asking.ask(relay.recipient(), HELD, raw)
            assert no.value.code == "BAD_BLOCK", "whether anything is there does not show"
        for raw in (held.raw, next_one.raw):
            assert await thief.asking.ask(relay.recipient(), HELD, raw) == b""
        assert found[0].ledger.head(payer.keys.bundle.ed25519) == held, "what was shown so is not kept"
        await trio.sleep(10)  # its rate
        assert await thief.asking.ask(relay.recipient(), HELD, other.raw) == blocks.fork(held, other)
        with pytest.raises(AskRefused) as no:
            await thief.asking.ask(relay.recipient(), WITNESS, b"nonsense")
        assert no.value.code == "BAD_REPORT"


async def test_a_proof_about_somebody_else_is_none(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Else a relay could have everybody it named pass on proofs about keys that it makes up."""
    town = Town(tmp_path)
    payer, liar, relay, third = [town.add() for _ in range(4)]
    to = blocks.Partner(machine_id=bytes(32), key=bytes(32))
    made_up = [blocks.propose(party(third), None, to, bytes(16), bytes(32), each, 7) for each in (1, 2)]

    async def accuse(_author: KeyBundle, payload: bytes) -> bytes:
        names = [liar.keys.machine_id]
        return witnessing.encode_claims(dict.fromkeys(witnessing.decode_report(payload), names))

    async def prove(_author: KeyBundle, _payload: bytes) -> bytes:
        return blocks.fork(*made_up)

    liar.answering.handle(WITNESS, accuse)
    liar.answering.handle(HELD, prove)
    async with running(liar), nodes(town, relay) as found:
        pay(payer, found[0], 1)
        await trio.sleep(SOON_SECONDS)
        assert found[0].witnesses.counters["suspect proves nothing"] == 1
        assert not found[0].ledger.lies(third.keys.bundle.ed25519)
