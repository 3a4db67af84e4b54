"""A payee that was started again asks its payers to call it: they are not listed, so it cannot call them.

start ─▶ a tunnel of a payer without a session ─▶ "vpn.call" under the reply secret of its request
          └ 2, 4, 8, … 64 s later again, until there is a session, or the tunnel has ended

One that had ended before and is not settled counts for half a minute: its payer may not know that it is over.
Without it a payer that only waits for what it downloads would not notice for minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from crypto.identity import KeyBundle, slug
from dht.calls import MAX_ENDPOINTS, Recipient
from node.discovery import Discovery
from node.logs import Log
from node.reaching import CALL_TAG, encode_call
from node.settlement import wire
from node.settlement.life import Role, Row, State
from node.settlement.side import CLOSING_US
from tun import addresses
from tun.core import TunnelCore

FIRST_WAIT_SECONDS: Final = 2.0
LONGEST_WAIT_SECONDS: Final = 64.0
AT_ONCE: Final = 8

log = Log("tunnels")


class Summons:
    """`newest(row)`: what has become of it."""

    def __init__(self, discovery: Discovery, core: TunnelCore, newest: Callable[[Row], Row]) -> None:
        self._discovery = discovery
        self._core = core
        self._newest = newest
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def run(self, rows: list[Row]) -> None:
        """Until each of these, as a start has found them, has a session or is over."""
        async with trio.open_nursery() as nursery:
            for row in rows:
                if row.role is Role.PAYEE and row.state is not State.PENDING:
                    nursery.start_soon(self._summon, row)

    async def _summon(self, row: Row) -> None:
        wait, closed = FIRST_WAIT_SECONDS, trio.current_time() + CLOSING_US / 1e6
        while not self._connected(row):
            if self._newest(row).ended and (not row.ended or trio.current_time() > closed):
                return
            async with self._limit:
                to, own = self._recipient(row), self._discovery.places()[0]
                sent = await self._discovery.send_event(to, CALL_TAG, encode_call(list(own)))
            delivered = sent is not None and sent.delivered
            log.info("asked a payer to call", machine=slug(row.partner), delivered=delivered)
            await trio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _connected(self, row: Row) -> bool:
        peer = self._core.peers.get(row.partner)
        return peer is not None and peer.keypairs.current is not None

    def _recipient(self, row: Row) -> Recipient:
        """Where it was last, and where it said that it is."""
        request = wire.decode_request(row.answer_to)
        last = [addresses.parse(row.place)] if row.place else []
        endpoints = dict.fromkeys([*self._discovery.links.endpoints(last), *request.endpoints])
        bundle = KeyBundle.from_bytes(row.bundle)
        return Recipient(bundle, request.reply_secret, tuple(endpoints)[:MAX_ENDPOINTS], request.homes)
