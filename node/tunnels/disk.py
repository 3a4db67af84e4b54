"""A TunnelStore for trio: one thread at a time works on it, and what a call has returned is on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from node.settlement.life import Row
from node.tunnels.store import TunnelStore

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Disk:
    """`await disk.call(TunnelStore.recent, 100)`; a cancelled caller still waits for its call to end."""

    def __init__(self, store: TunnelStore) -> None:
        self._store = store
        self._one = trio.CapacityLimiter(1)

    async def call(
        self, function: Callable[Concatenate[TunnelStore, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Raises what it raises."""
        return await trio.to_thread.run_sync(
            partial(function, self._store, *args, **kwargs), limiter=self._one
        )

    async def save(self, rows: Iterable[Row]) -> None:
        found = list(rows)
        if found:
            await self.call(TunnelStore.save, found)


@asynccontextmanager
async def open_disk(path: Path) -> AsyncIterator[Disk]:
    """The store at `path`, closed at the end also when the block is cancelled."""
    disk = Disk(await trio.to_thread.run_sync(TunnelStore.open, path))
    try:
        yield disk
    finally:
        with trio.CancelScope(shield=True):
            await disk.call(TunnelStore.close)
