"""A Ledger for trio: one thread at a time works on it, and what a call has returned is on the disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from dht.signatures import Signatures
from node.ledger import Ledger, Verified, Verifying
from node.settlement import tiers
from node.settlement.blocks import Party

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Books:
    """`await books.call(Ledger.keep, vouchers)` runs it in a thread, one call at a time.

    A cancelled caller still waits for its call to end, so whatever was begun is acknowledged or failed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._one = trio.CapacityLimiter(1)

    async def call(
        self, function: Callable[Concatenate[Ledger, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Of a method, or of a function whose first argument is the ledger; raises what it raises."""
        work = partial(function, self._ledger, *args, **kwargs)
        return await trio.to_thread.run_sync(work, limiter=self._one)

    async def verifying(self) -> AsyncGenerator[Verified, None]:
        """As Ledger.verify, in steps, so that vouchers are kept meanwhile; the last one is the result."""
        verifying = Verifying(self._ledger.us, self._ledger.signatures)
        more = True
        while more:
            more = await self.call(verifying.step)
            yield verifying.found

    async def standing(self, key: bytes) -> tiers.Standing:
        """The trust tier of the machine with this Ed25519 key (32 bytes), as this machine sees it."""
        return await self.call(_standing, key)


def _standing(ledger: Ledger, key: bytes) -> tiers.Standing:
    receipts = ledger.receipts(key)
    named = {key, *(each.payer for each in receipts)}
    liars = frozenset(each for each in named if ledger.lies(each))
    return tiers.reckon(ledger.us, key, receipts, liars)


@asynccontextmanager
async def open_books(path: Path, party: Party, signatures: Signatures) -> AsyncIterator[Books]:
    """The ledger at `path`, closed at the end also when the block is cancelled."""
    books = Books(await trio.to_thread.run_sync(Ledger.open, path, party, signatures))
    try:
        yield books
    finally:
        with trio.CancelScope(shield=True):
            await books.call(Ledger.close)
