"""Proofs that a machine has given one number to two of its blocks, passed on to everybody.

    ledger ── untold ──▶ publish "ledger.fork" ──▶ gossip ──▶ the other nodes' ledgers

Who finds a fork tells the mesh, once; the others check the proof, keep it and say nothing, as gossip has
brought it to all already. Anybody can make keys that lie, and proofs of it, so what one author and all
together may have checked in an hour is bounded, and so is what a ledger keeps.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio

from crypto.errors import PeerFault
from dht.tags import Tagged
from node.books import Books
from node.errors import StorageFailed, Usage
from node.ledger import Ledger
from node.logs import Log

TAG: Final = "ledger.fork"
HOUR_SECONDS: Final = 3600.0
OF_ONE_AUTHOR: Final = 16  # proofs an hour
OF_ALL: Final = 3600  # an hour: half a second of one core, for their signatures

log = Log("forks")


class Mesh(Protocol):
    """What is needed of node/discovery.py."""

    def publish_tag(self, tag: str, body: bytes) -> int: ...
    def listen(self, pattern: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Tagged]]: ...


class Forks:
    """`counters`: what was not looked at, and why."""

    def __init__(self, mesh: Mesh, books: Books) -> None:
        self.counters: Counter[str] = Counter()
        self._mesh = mesh
        self._books = books
        self._found = trio.Event()
        self._since = float("-inf")
        self._of_author: Counter[bytes] = Counter()

    def found(self) -> None:
        """The ledger may have learnt proofs that nobody else knows: after each block that somebody showed."""
        self._found.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Begins with what the last run found and did not tell."""
        async with self._mesh.listen(TAG) as heard, trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            task_status.started()
            async for event in heard:
                if not event.bundle and self._may(event.author):
                    await self._hear(event.body)

    async def _tell(self) -> None:
        while True:
            self._found = trio.Event()
            try:
                for proof in await self._books.call(Ledger.untold):
                    self._mesh.publish_tag(TAG, proof)
                    await self._books.call(Ledger.told, proof)
            except (StorageFailed, Usage) as error:  # the next find, or start, tries again
                log.warning("a proof could not be passed on", error=error)
            await self._found.wait()

    async def _hear(self, proof: bytes) -> None:
        try:
            news = await self._books.call(Ledger.learn_fork, proof)
        except PeerFault:
            self.counters["proof of nothing"] += 1
        except StorageFailed as error:
            log.warning("a proof could not be kept", error=error)
        else:
            self.counters["forks heard of"] += news

    def _may(self, author: bytes) -> bool:
        now = trio.current_time()
        if now - self._since >= HOUR_SECONDS:
            self._since = now
            self._of_author.clear()
        if self._of_author[author] >= OF_ONE_AUTHOR or self._of_author.total() >= OF_ALL:
            self.counters["proofs over the limit"] += 1
            return False
        self._of_author[author] += 1
        return True
