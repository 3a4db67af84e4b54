"""Witnesses between real nodes over UDP: found by machine_id in market and DHT, asked, and believed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from crypto.identity import MachineKeys
from dht.signatures import Ed25519Signatures, MachineSigner
from node import witnesses
from node.answering import Answering
from node.asking import Asking
from node.books import Books, open_books
from node.contacts import Contacts
from node.forks import Forks
from node.keyex.directory import Directory
from node.ledger import Ledger
from node.peers import unix_now
from node.replies import Replies
from node.settlement import blocks
from node.settlement.blocks import Partner, Party
from node.witnesses import Witnesses
from tests.node.crowd import Member, crowd

OFFER = {"per_gb": 50, "per_zeqond": 1, "max_tunnels": 8, "country": "DE", "accept": ["ANY"]}


async def watching(
    member: Member, path: Path, stack: AsyncExitStack, nursery: trio.Nursery
) -> tuple[Witnesses, Books]:
    """As node/services.py puts it together."""
    discovery, rows, keys = member.discovery, member._peers.rows, member.keys
    party = Party(machine_id=keys.machine_id, signer=MachineSigner(keys))
    books = await stack.enter_async_context(open_books(path, party, Ed25519Signatures()))
    asking = Asking(discovery, Replies(discovery.answer_to), discovery.places, discovery.core.counters)
    answering = Answering(discovery, rows.__contains__, discovery.core.counters)
    contacts = Contacts(discovery, asking, Directory(discovery, lambda: rows, lambda _slug: None).of)
    forks = Forks(discovery, books)
    made = Witnesses(keys.machine_id, books, contacts, answering, forks.found, unix_now)
    for each in (forks, asking, answering, made):
        await nursery.start(each.run)
    return made, books


async def test_relays_that_never_meet_find_a_forker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnesses, "GATHER_SECONDS", 0.1)
    payer = MachineKeys.generate()
    party = Party(machine_id=payer.machine_id, signer=MachineSigner(payer))
    key = payer.bundle.ed25519
    async with (
        crowd(tmp_path, 6) as (members, _wire),
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        for member in members[1:]:
            member.discovery.begin_at([members[0].address])
        with trio.fail_after(60):
            while not all(member.contacts for member in members):  # noqa: ASYNC110
                await trio.sleep(0.05)
            for member in members[1:]:
                await member.ask("relay_offer", **OFFER)
            while any(len(each.discovery.market("ANY", None)) < 5 for each in members):  # noqa: ASYNC110
                await trio.sleep(0.1)
            for member, other in zip(members[1:], members[2:] + members[1:2], strict=True):
                while not (claims := await other.discovery.find_slug(member.slug)) or not claims.claims:  # noqa: ASYNC110
                    await trio.sleep(0.2)
        made = [
            await watching(member, tmp_path / f"ledger {number}", stack, nursery)
            for number, member in enumerate(members)
        ]
        for number in (1, 2):
            to = Partner(machine_id=members[number].keys.machine_id, key=members[number].keys.bundle.ed25519)
            shown = blocks.propose(party, None, to, bytes([number]) * 16, bytes(32), 1, 7)
            await made[number][1].call(Ledger.learn, shown)
            made[number][0].shown()
        with trio.fail_after(60):
            for _, books in made:
                while not await books.call(Ledger.lies, key):  # noqa: ASYNC110
                    await trio.sleep(0.1)
        assert sum(each.counters["forks found"] for each, _ in made) >= 1
        nursery.cancel_scope.cancel()
