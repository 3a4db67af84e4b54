"""Whether what an offer says can be true: its machine is asked for its keys, there where its record says.

    offer ─▶ location record ─▶ key request to its addresses ─▶ keys that fit machine_id and signed the offer

The record is the machine's own word where it is, and who answers there answers as this machine, for a nonce
of ours; that it also holds the secret keys shows at the first handshake. The time that it took is a bound on
the round trip. Country and speed are not checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import trio

from dht.locations import listed_secret
from dht.marketplace import Listing, Probe
from node.acquainting import ask_keys
from node.discovery import Discovery
from node.peers import Peers, unix_now
from tun.addresses import Address
from tun.core import TunnelCore
from tun.engine import Engine, boot_us

AT_ONCE: Final = 4
ALL_SECONDS: Final = 20.0
RESENT_US: Final = 500_000  # tun/keyrequest.py asks again then: whatever took longer is measured again
GOOD_SECONDS: Final = 600  # a result; then it is asked again


class Probing:
    """The results are kept with the offers (dht/marketplace.py)."""

    def __init__(self, discovery: Discovery, peers: Peers, core: TunnelCore, engine: Engine) -> None:
        self._discovery = discovery
        self._peers = peers
        self._core = core
        self._engine = engine
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def probe(self, listings: Iterable[Listing]) -> None:
        """Those that have not been tried in the last ten minutes; in 20 s at most, all together."""
        with trio.move_on_after(ALL_SECONDS):
            async with trio.open_nursery() as nursery:
                for listing in listings:
                    if is_due(listing):
                        nursery.start_soon(self._probe, listing)

    async def _probe(self, listing: Listing) -> None:
        machine_id, signer = listing.offer.machine_id, listing.signer
        async with self._limit:
            location = await self._discovery.find_machine(machine_id, signer, listed_secret(machine_id))
            where = self._discovery.links.addresses(location.endpoints) if location is not None else []
            rtt_us = await self._ask(machine_id, signer, where)
            if rtt_us is not None and rtt_us >= RESENT_US:
                rtt_us = await self._ask(machine_id, signer, where) or rtt_us
        self._discovery.core.checked(signer, Probe(rtt_us is not None, rtt_us, unix_now()))

    async def _ask(self, machine_id: bytes, signer: bytes, where: Sequence[Address]) -> int | None:
        """Microseconds until its keys were there; None if they did not come, or have not signed the offer."""
        since_us = boot_us()
        bundle = await ask_keys(self._core, self._engine, self._peers, machine_id, where)
        if bundle is None:
            return None
        self._discovery.core.proven(bundle)
        return boot_us() - since_us if bundle.ed25519 == signer else None


def is_due(listing: Listing) -> bool:
    return listing.checked is None or unix_now() - listing.checked.unix >= GOOD_SECONDS
