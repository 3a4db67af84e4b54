"""Who wants to hear of tunnels as they change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.settlement.life import Row

WATCHED_MAX: Final = 256
"""Rows kept for one that reads slowly."""


class Watchers:
    """`watch` is for readers, `tell` for the service."""

    def __init__(self) -> None:
        self._senders: set[trio.MemorySendChannel[Row]] = set()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[Row]]:
        """Rows as they change, from here on; a slow reader loses the newest."""
        sender, receiver = trio.open_memory_channel[Row](WATCHED_MAX)
        self._senders.add(sender)
        try:
            yield receiver
        finally:
            self._senders.discard(sender)

    def tell(self, row: Row) -> None:
        """Without waiting for anyone."""
        for sender in list(self._senders):
            try:
                sender.send_nowait(row)
            except (trio.WouldBlock, trio.BrokenResourceError):
                continue
