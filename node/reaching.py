"""Peers that do not answer where they were last: their records say where they are now, their homes call them.

    handshake unanswered for 3 s ─▶ lookup ─▶ its addresses of now, called at once
                                     └ no session 3 s later ─▶ "vpn.call" through its homes ─▶ it calls us

A peer that stays away is looked up ever more rarely. Two that are both behind NATs call each other's
addresses at the same time, which opens both NATs where they keep one port for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta

from crypto.identity import KeyBundle, slug
from dht.calls import Recipient
from dht.endpoints import Endpoint
from dht.locations import Location, listed_secret
from dht.tags import Tagged
from node.discovery import Discovery
from node.logs import Log
from node.peers import Peers
from node.store import PeerRow
from tun.core import TunnelCore
from tun.engine import Engine, boot_us, unix_us
from tun.peer import Peer

CALL_TAG: Final = "vpn.call"
PATIENCE_US: Final = 3_000_000
LOOK_SECONDS: Final = 2.0
CALL_SECONDS: Final = 3.0
FIRST_WAIT_US: Final = 15_000_000
LONGEST_WAIT_US: Final = 900_000_000
CALLED_AGAIN_US: Final = 5_000_000  # one peer's wish to be called
AT_ONCE: Final = 4

# The body of "vpn.call": msgpack array of at most eight endpoints where the author is now.
_Places = Annotated[list[Annotated[bytes, Meta(min_length=6, max_length=18)]], Meta(max_length=8)]
_places = msgspec.msgpack.Decoder(_Places)

log = Log("reaching")


def encode_call(places: list[Endpoint]) -> bytes:
    return msgspec.msgpack.encode(places[:8])


def decode_call(body: bytes) -> list[Endpoint]:
    """Raises ValueError for anything else."""
    return _places.decode(body)


@dataclass(slots=True)
class _Search:
    """Of one peer: when it may be looked up again, and how long the wait after that is."""

    next_us: int = 0
    wait_us: int = FIRST_WAIT_US


class Reaching:
    """`own_places()` are the endpoints under which this machine may be reached now."""

    def __init__(
        self,
        discovery: Discovery,
        peers: Peers,
        core: TunnelCore,
        engine: Engine,
        own_places: Callable[[], list[Endpoint]],
    ) -> None:
        self._discovery = discovery
        self._peers = peers
        self._core = core
        self._engine = engine
        self._own_places = own_places
        self._searches: dict[bytes, _Search] = {}
        self._called: dict[bytes, int] = {}
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_calls)
            while True:
                for row in self.missing(boot_us()):
                    nursery.start_soon(self._search, row)
                await trio.sleep(LOOK_SECONDS)

    def network_changed(self) -> None:
        """Whoever was not found may be now."""
        self._searches.clear()

    def missing(self, now_us: int) -> list[PeerRow]:
        """Peers that are to be looked up now; each once until its wait is over."""
        found = []
        for machine_id, row in self._peers.rows.items():
            peer = self._core.peers.get(machine_id)
            if peer is None or not row.enabled or not _is_missed(peer, now_us):
                if peer is None or peer.keypairs.current is not None:
                    self._searches.pop(machine_id, None)
                continue
            search = self._searches.setdefault(machine_id, _Search())
            if now_us >= search.next_us:
                search.next_us = now_us + search.wait_us
                search.wait_us = min(2 * search.wait_us, LONGEST_WAIT_US)
                found.append(row)
        return found

    async def _search(self, row: PeerRow) -> None:
        async with self._limit:
            bundle = KeyBundle.from_bytes(row.bundle)
            secret = row.lookup_secret or listed_secret(row.machine_id)
            location = await self._discovery.find_machine(row.machine_id, bundle.ed25519, secret)
            if location is None:
                log.debug("no record of a peer", peer=row.name)
                return
            self._found(row, location)
            await trio.sleep(CALL_SECONDS)
            peer = self._core.peers.get(row.machine_id)
            if peer is None or not _is_missed(peer, boot_us()):
                return
            to = Recipient(bundle, secret, location.endpoints, location.homes)
            sent = await self._discovery.send_event(to, CALL_TAG, encode_call(self._own_places()))
            log.info(
                "asked a peer to call back",
                peer=row.name,
                homes=len(location.homes),
                delivered=sent is not None and sent.delivered,
                held=sent is not None and bool(sent.held),
            )

    def _found(self, row: PeerRow, location: Location) -> None:
        peer = self._core.peers.get(row.machine_id)
        addresses = self._discovery.links.addresses(location.endpoints)
        if peer is not None and addresses:
            log.info("found a peer", peer=row.name, addresses=len(addresses))
            peer.handshakes.found_at(addresses, boot_us(), unix_us())
            self._engine.poke()

    async def _answer_calls(self) -> None:
        async with self._discovery.listen(CALL_TAG) as heard:
            async for event in heard:
                if event.bundle:  # sealed to this machine; what is gossiped under this tag is nobody's call
                    self.called(event)

    def called(self, event: Tagged) -> None:
        """A peer that wants to be called: signed by it, and sealed to us."""
        row, peer = self._peers.rows.get(event.author), self._core.peers.get(event.author)
        now = boot_us()
        if row is None or peer is None or not row.enabled:
            self._core.count("call of a stranger")
        elif now - self._called.get(event.author, -CALLED_AGAIN_US) < CALLED_AGAIN_US:
            self._core.count("call of a peer over the rate limit")
        else:
            self._called[event.author] = now
            try:
                places = decode_call(event.body)
            except ValueError:
                self._core.count("call of a peer that cannot be read")
                return
            log.info("called by a peer", peer=row.name, machine=slug(event.author))
            peer.handshakes.found_at(self._discovery.links.addresses(places), now, unix_us())
            peer.handshakes.connect(now, unix_us(), brief=True)  # a session that it has lost is replaced
            self._engine.poke()


def _is_missed(peer: Peer, now_us: int) -> bool:
    """Called in vain for a while, or never reached since the start."""
    attempt = peer.handshakes.attempt
    if attempt is not None:
        return attempt.started_us >= 0 and now_us - attempt.started_us >= PATIENCE_US
    return peer.keypairs.current is None and peer.last_handshake_us < 0
