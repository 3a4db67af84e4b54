"""Proofs of forks: told to the mesh once, checked and kept by the others, and bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from dht.tags import PUBLIC_BYTES, Tagged
from node.books import Books, open_books
from node.errors import Usage
from node.forks import OF_ONE_AUTHOR, TAG, Forks
from node.ledger import Ledger
from node.settlement import blocks
from node.settlement.blocks import Block, Partner, Party
from tests.dht.record_kit import ToySignatures, ToySigner

SIGNATURES = ToySignatures()


def party(number: int) -> Party:
    return Party(machine_id=bytes([number]) * 32, signer=ToySigner(bytes([0x80 + number]) * 32))


def a_block(author: int, amount: int) -> Block:
    to = Partner(machine_id=bytes([200]) * 32, key=bytes([201]) * 32)
    return blocks.propose(party(author), None, to, bytes(16), bytes(32), amount, 7)


def a_proof(author: int) -> bytes:
    return blocks.fork(a_block(author, 1), a_block(author, 2))


class Air:
    """What gossip does: everybody who listens hears everything, the author too."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.broken = False
        self.tried = 0
        self._listeners: list[trio.MemorySendChannel[Tagged]] = []

    @asynccontextmanager
    async def listen(self, pattern: str) -> AsyncIterator[trio.MemoryReceiveChannel[Tagged]]:
        assert pattern == TAG
        sender, receiver = trio.open_memory_channel[Tagged](256)
        self._listeners.append(sender)
        try:
            yield receiver
        finally:
            self._listeners.remove(sender)

    def publish_tag(self, tag: str, body: bytes) -> int:
        self.tried += 1
        if self.broken:
            raise Usage("not now")
        assert len(body) <= PUBLIC_BYTES
        self.published.append(body)
        self.say(body, tag=tag)
        return len(self._listeners)

    def say(self, body: bytes, author: bytes = b"a" * 32, bundle: bytes = b"", tag: str = TAG) -> None:
        for each in self._listeners:
            each.send_nowait(Tagged((1,), tag, author, bundle, body, 7))


@asynccontextmanager
async def nodes(folder: Path, air: Air, count: int) -> AsyncIterator[list[tuple[Forks, Books]]]:
    async with AsyncExitStack() as stack:
        found = []
        nursery = await stack.enter_async_context(trio.open_nursery())
        for number in range(1, count + 1):
            path = folder / str(number)
            books = await stack.enter_async_context(open_books(path, party(number), SIGNATURES))
            forks = Forks(air, books)
            await nursery.start(forks.run)
            found.append((forks, books))
        yield found
        nursery.cancel_scope.cancel()


async def until(all_of: list[tuple[Forks, Books]], condition: Callable[[], bool]) -> None:
    """Each turn of the loop waits for a thread, so that what the nodes do goes on."""
    while not condition():
        for _, books in all_of:
            await books.call(Ledger.untold)


async def test_a_find_reaches_everybody_and_is_told_once(tmp_path: Path) -> None:
    air = Air()
    async with nodes(tmp_path, air, 3) as all_of:
        forks, books = all_of[0]
        for author in (9, 8):
            await books.call(Ledger.learn, a_block(author, 1))
            await books.call(Ledger.learn, a_block(author, 2))
            forks.found()
            told = len(air.published) + 1
            await until(all_of, lambda told=told: len(air.published) == told)  # type: ignore[misc]
        await until(all_of, lambda: [each.counters["forks heard of"] for each, _ in all_of] == [0, 2, 2])
        for _, each in all_of:
            assert await each.call(Ledger.lies, party(9).signer.public)
            assert await each.call(Ledger.untold) == []
        assert air.published == [a_proof(9), a_proof(8)]


async def test_what_could_not_be_told_is_told_after_the_next_start(tmp_path: Path) -> None:
    air = Air()
    air.broken = True
    async with nodes(tmp_path, air, 1) as all_of:
        forks, books = all_of[0]
        await books.call(Ledger.learn, a_block(9, 1))
        await books.call(Ledger.learn, a_block(9, 2))
        forks.found()
        await until(all_of, lambda: air.tried > 0)
    air.broken = False
    async with nodes(tmp_path, air, 1) as all_of:
        await until(all_of, lambda: bool(air.published))
    assert air.published == [a_proof(9)]


@pytest.mark.parametrize("body", [b"", a_proof(9)[:-1], a_proof(9) + b"x", bytes(PUBLIC_BYTES)])
async def test_what_proves_nothing_is_counted(body: bytes, tmp_path: Path) -> None:
    air = Air()
    async with nodes(tmp_path, air, 1) as all_of:
        air.say(body)
        air.say(a_proof(9))
        await until(all_of, lambda: all_of[0][0].counters.total() == 2)
        assert all_of[0][0].counters == {"proof of nothing": 1, "forks heard of": 1}


async def test_one_author_has_so_much_looked_at_in_an_hour(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    air = Air()
    async with nodes(tmp_path, air, 1) as all_of:
        forks, books = all_of[0]
        for number in range(OF_ONE_AUTHOR + 3):
            air.say(a_proof(10 + number))
        air.say(a_proof(100), author=b"b" * 32)
        air.say(a_proof(101), author=b"c" * 32, bundle=b"sealed to us")
        await until(all_of, lambda: forks.counters.total() == OF_ONE_AUTHOR + 4)
        assert forks.counters == {"forks heard of": OF_ONE_AUTHOR + 1, "proofs over the limit": 3}
        assert not await books.call(Ledger.lies, party(101).signer.public)
        await trio.sleep(3600)
        air.say(a_proof(102))
        await until(all_of, lambda: forks.counters.total() == OF_ONE_AUTHOR + 5)
        assert await books.call(Ledger.lies, party(102).signer.public)
