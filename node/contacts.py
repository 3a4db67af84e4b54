"""Machines that are asked by machine_id alone: relays of the market, and others whom somebody has named.

machine_id ─▶ where it is, remembered for half an hour ─▶ question ─┬─▶ answer
                                                                    └─▶ away, left alone for 20 minutes
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import trio

from crypto.identity import slug
from dht.calls import Recipient
from dht.marketplace import Listing
from dht.offers import ANY
from node.asking import Asking, Unanswered
from node.errors import UserError
from node.settlement import witnessing
from node.settlement.witnessing import Relay

LISTED_SECONDS: Final = 60.0
REFRESH_SECONDS: Final = 3600.0
AWAY_SECONDS: Final = 1200.0
FOUND_SECONDS: Final = 1800.0
QUESTION_SECONDS: Final = 30.0  # with finding the machine
AT_ONCE: Final = 4  # of the 16 questions that all services have
KNOWN_MAX: Final = 512

_T = TypeVar("_T")


class Market(Protocol):
    """What is needed of node/discovery.py."""

    async def refresh_market(self, country: str) -> bool: ...

    def market(self, country: str, max_per_gb: int | None) -> list[Listing]: ...


class Contacts:
    """`find(machine_id)`: how it is asked; raises UserError."""

    def __init__(self, market: Market, asking: Asking, find: Callable[[bytes], Awaitable[Recipient]]) -> None:
        self._market = market
        self._asking = asking
        self._find = find
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._relays: list[Relay] = []
        self._looked_until = self._refreshed_until = float("-inf")
        self._recipients: dict[bytes, tuple[Recipient, float]] = {}
        self._away: dict[bytes, float] = {}  # until when

    async def ask(self, machine_id: bytes, key: bytes | None, method: str, payload: bytes) -> bytes:
        """The answer of the machine, which has this Ed25519 key, if one is given. Raises UserError, and from
        then on it `is_away`."""
        try:
            async with self._at_once:
                with trio.move_on_after(QUESTION_SECONDS):
                    to = await self._recipient(machine_id)
                    if key not in (None, to.bundle.ed25519):
                        raise Unanswered(f"{slug(machine_id)} does not have the key that it was named with")
                    return await self._asking.ask(to, method, payload)
            raise Unanswered(f"{slug(machine_id)} was not found, or did not answer, in time")
        except UserError:
            self._recipients.pop(machine_id, None)
            _put(self._away, machine_id + (key or b""), trio.current_time() + AWAY_SECONDS)
            raise

    def is_away(self, machine_id: bytes, key: bytes | None = None) -> bool:
        """Whether it was asked in the last 20 minutes, by the same key, and gave no answer."""
        return self._away.get(machine_id + (key or b""), float("-inf")) > trio.current_time()

    async def refreshed(self) -> list[Relay]:
        """`relays`, after the DHT was asked for them, once an hour, or while none is known."""
        if trio.current_time() >= self._refreshed_until or not self.relays():
            self._refreshed_until = trio.current_time() + REFRESH_SECONDS
            await self._market.refresh_market(ANY)
            self._looked_until = float("-inf")
        return self.relays()

    def relays(self) -> list[Relay]:
        """Those that are listed, as far as is known here; looked at once a minute, as it takes some ms."""
        now = trio.current_time()
        if now >= self._looked_until:
            self._looked_until = now + LISTED_SECONDS
            listed = {(each.offer.machine_id, each.signer) for each in self._market.market(ANY, None)}
            self._relays = [witnessing.relay(*each) for each in sorted(listed)]
        return self._relays

    async def _recipient(self, machine_id: bytes) -> Recipient:
        to, until = self._recipients.get(machine_id, (None, 0.0))
        if to is None or until <= trio.current_time():
            to = await self._find(machine_id)
            _put(self._recipients, machine_id, (to, trio.current_time() + FOUND_SECONDS))
        return to


def _put(known: dict[bytes, _T], name: bytes, value: _T) -> None:
    """As the newest; the oldest makes room."""
    known.pop(name, None)
    known[name] = value
    if len(known) > KNOWN_MAX:
        del known[next(iter(known))]
