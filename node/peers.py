"""The peers of this node: what the store keeps of them, kept in step with what the core does with them.

store row  ◀──▶  Peers  ──▶  core.add_peer, routes
                   ▲
                   └── events: clocks and endpoints to keep, invitations to redeem
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import trio

from crypto.identity import BadFingerprint, KeyBundle, fingerprint, parse_fingerprint, slug, ula
from node.config import Config, PeerOptions
from node.errors import StorageFailed, Usage
from node.invitation import clean_name
from node.logs import Log
from node.resolve import numeric, resolve
from node.store import AsyncStore, PeerRow, Store
from tun import addresses, events
from tun.core import TunnelCore
from tun.engine import Engine, boot_us, unix_us
from tun.errors import TunError
from tun.guests import Guests
from tun.host import NO_TOKEN_ID, PeerConfig
from tun.network import Network

FINGERPRINT_PREFIX = 16
MAX_WATCHERS = 256

log = Log("peers")


class Peers:
    """Rows by machine_id. Every change is on the disk before it takes effect."""

    def __init__(
        self,
        config: Config,
        store: AsyncStore,
        core: TunnelCore,
        engine: Engine,
        network: Network,
        guests: Guests,
    ) -> None:
        self.config = config
        self.rows: dict[bytes, PeerRow] = {}
        self.why: dict[bytes, str] = {}  # the last reason why a peer is not reached, as a sentence
        self.since_us: dict[bytes, int] = {}  # boot time of the last connection or roam
        self._store = store
        self._core = core
        self._engine = engine
        self._network = network
        self.guests = guests
        self.lodged: set[bytes] = set()  # of `rows`: those that only a tunnel let in; in no table on the disk
        self._watchers: set[trio.MemorySendChannel[events.Event]] = set()

    async def load(self) -> None:
        """All peers of the store into the core; the enabled ones are called at once."""
        rows = await self._store.call(Store.peers)
        self._core.pool.load({row.machine_id: IPv4Address(row.ipv4) for row in rows if row.ipv4})
        self.rows = {row.machine_id: row for row in rows}
        for row in rows:
            if row.enabled:
                self._add(row, numeric(self._endpoints(row)))
        self._engine.poke()
        self._engine.listen()
        async with trio.open_nursery() as nursery:  # some names may be slow to look up
            for row in rows:
                if row.enabled:
                    nursery.start_soon(self.start, row)

    async def start(self, row: PeerRow, token: bytes = b"", token_id: bytes = NO_TOKEN_ID) -> None:
        """Let the core have the peer, and route its networks."""
        self._add(row, await resolve(self._endpoints(row)), token, token_id)
        self._engine.poke()
        for network in self.networks(row):
            try:
                await self._network.add_route(network)
            except TunError as error:
                self.why[row.machine_id] = str(error)
                log.warning("route refused", peer=row.name, network=network, error=error)

    def _endpoints(self, row: PeerRow) -> list[str]:
        """In the order of trying."""
        last = [row.last_endpoint] if row.last_endpoint else []
        return [*last, *self.options(row).endpoints, *row.endpoints]

    def _add(
        self, row: PeerRow, known: list[addresses.Address], token: bytes = b"", token_id: bytes = NO_TOKEN_ID
    ) -> None:
        config = PeerConfig(
            bundle=KeyBundle.from_bytes(row.bundle),
            name=row.name,
            lookup_secret=row.lookup_secret or b"",
            addresses=known,
            token=token,
            token_id=token_id,
            last_clock_us=row.last_clock,
            keepalive=self.options(row).keepalive,
        )
        self._core.add_peer(config, self.networks(row), boot_us())

    async def stop(self, row: PeerRow) -> None:
        """Say goodbye, and take its routes away."""
        self._core.remove_peer(row.machine_id, boot_us(), unix_us())
        self._engine.poke()
        for network in self.networks(row):
            await self._network.remove_route(network)

    def new_row(
        self, bundle: KeyBundle, name: str, lookup_secret: bytes, endpoints: tuple[str, ...]
    ) -> PeerRow:
        """A peer that is let in now; not on the disk yet."""
        machine_id = bundle.machine_id
        return PeerRow(
            machine_id=machine_id,
            bundle=bundle.to_bytes(),
            name=self.free_name(name, machine_id),
            lookup_secret=lookup_secret,
            endpoints=endpoints,
            allowed_ips=(),
            ipv4=str(self._core.pool.assign(machine_id)),
            enabled=True,
            last_clock=0,
            added_at=unix_now(),
        )

    async def put(self, row: PeerRow) -> None:
        """On the disk from now on: whoever a tunnel let in stays, by the owner's word."""
        await self._store.call(Store.put_peer, row)
        self.rows[row.machine_id] = row
        if row.machine_id in self.lodged:
            self.lodged.discard(row.machine_id)
            await self.guests.remove(row.machine_id)
            self._core.gate(row.machine_id, True)

    def of_owner(self, row: PeerRow) -> PeerRow:
        """Raises Usage for one that only a tunnel let in."""
        if row.machine_id in self.lodged:
            raise Usage(f"{row.name} is here by a tunnel only; end it with: zeqnode disconnect {row.name}")
        return row

    async def enable(self, row: PeerRow, enabled: bool) -> PeerRow:
        """`up` and `down`, remembered."""
        row = replace(row, enabled=enabled)
        await self.put(row)
        await (self.start(row) if enabled else self.stop(row))
        return row

    async def rename(self, row: PeerRow, name: str) -> PeerRow:
        row = replace(row, name=self.free_name(name, strict=True))
        await self.put(row)
        peer = self._core.peers.get(row.machine_id)
        if peer is not None:
            peer.config.name = row.name
        return row

    async def forget(self, row: PeerRow) -> None:
        """As if it had never been let in."""
        await self._store.call(Store.remove_peer, row.machine_id)
        del self.rows[row.machine_id]
        await self.stop(row)
        self._core.pool.release(row.machine_id)

    async def reload(self, config: Config) -> None:
        """Options of peers may be others now."""
        before = {machine_id: self.options(row) for machine_id, row in self.rows.items()}
        old_networks = {machine_id: self.networks(row) for machine_id, row in self.rows.items()}
        self.config = config
        for machine_id, row in self.rows.items():
            by_owner = row.enabled and machine_id not in self.lodged
            if by_owner and self.options(row) != before[machine_id]:
                for network in set(old_networks[machine_id]) - set(self.networks(row)):
                    await self._network.remove_route(network)
                await self.start(row)

    # ------------------------------------------------------------------ names

    def options(self, row: PeerRow) -> PeerOptions:
        """What the configuration says of this peer, by its fingerprint or its name."""
        return self.config.peer(row.name, fingerprint(row.machine_id))

    def networks(self, row: PeerRow) -> list[IPv4Network | IPv6Network]:
        """Its networks besides its own two addresses."""
        texts = dict.fromkeys([*map(str, self.options(row).allowed_ips), *row.allowed_ips])
        return [ip_network(text) for text in texts]

    def free_name(self, wanted: str, machine_id: bytes = b"", strict: bool = False) -> str:
        """A name that no other peer has: the wanted one, or with a number behind. Raises Usage if strict."""
        name = clean_name(wanted) or (slug(machine_id).lower() if machine_id else "")
        taken = {row.name for row in self.rows.values() if row.machine_id != machine_id}
        if strict and (not name or name in taken):
            raise Usage(f"{wanted!r} cannot be a peer's name: it is taken, or has no letter or digit")
        number = 2
        free = name
        while free in taken:
            free = f"{name[:28]}-{number}"
            number += 1
        return free

    def find(self, text: str) -> PeerRow:
        """By name, slug, fingerprint (16 characters of it will do) or mesh address. Raises Usage."""
        compact = text.replace("-", "").lower()
        found = [row for row in self.rows.values() if text in self._texts(row)]
        if not found and len(compact) >= FINGERPRINT_PREFIX:
            found = [
                row
                for row in self.rows.values()
                if fingerprint(row.machine_id).replace("-", "").startswith(compact)
            ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(sorted(row.name for row in self.rows.values())) or "none yet; see zeqnode invite"
        problem = "more than one peer is" if found else "no peer is"
        raise Usage(f"{problem} called {text!r}; known: {known}")

    def machine_of(self, text: str) -> bytes | None:
        """The machine_id that a name or a whole fingerprint means; None for neither."""
        for row in self.rows.values():
            if row.name == text:
                return row.machine_id
        try:
            return parse_fingerprint(text)
        except BadFingerprint:
            return None

    def _texts(self, row: PeerRow) -> tuple[str, ...]:
        return (row.name, slug(row.machine_id), str(self.address6(row)), str(self.address4(row)))

    def address6(self, row: PeerRow) -> IPv6Address:
        return ula(row.machine_id)

    def address4(self, row: PeerRow) -> IPv4Address:
        return self._core.pool.assign(row.machine_id)

    # ------------------------------------------------------------------ events

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[events.Event]]:
        """Events from here on, after they were dealt with; a slow reader loses the newest."""
        sender, receiver = trio.open_memory_channel[events.Event](MAX_WATCHERS)
        self._watchers.add(sender)
        try:
            yield receiver
        finally:
            self._watchers.discard(sender)

    async def handle(self, event: events.Event) -> None:
        match event:
            case events.Connected():
                await self._connected(event)
            case events.Roamed(machine_id, old, new):
                self._log("roamed", machine_id, old=_text(old), new=_text(new))
                self.since_us[machine_id] = boot_us()
                await self._keep_endpoint(machine_id, new)
            case events.Disconnected(machine_id, said_bye):
                self.why[machine_id] = (
                    "it said goodbye: its node was stopped"
                    if said_bye
                    else "nothing was sent for three minutes; the next packet connects again"
                )
                self._log("session ended", machine_id, said_bye=said_bye)
            case events.NoAnswer(machine_id):
                self.why[machine_id] = self._no_answer(machine_id)
                self._log("no answer", machine_id)
            case events.TurnedAway(machine_id, _, reason):
                self.why[machine_id] = f"it turned us away: {reason}"
                self._log("turned away", machine_id, reason=reason)
            case _:
                pass
        for watcher in list(self._watchers):
            try:
                watcher.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                continue  # who waits for an event also waits no longer than so many seconds

    async def _connected(self, event: events.Connected) -> None:
        row = self.rows.get(event.machine_id)
        self.why.pop(event.machine_id, None)
        self.since_us[event.machine_id] = boot_us()
        if row is None:
            return
        if not event.initiator:
            row = replace(row, last_clock=event.clock_us)
            await self._note(lambda store: store.set_clock(event.machine_id, event.clock_us))
            self.rows[event.machine_id] = row
        self._log("connected", event.machine_id, endpoint=_text(event.address))
        if event.address is not None:
            await self._keep_endpoint(event.machine_id, event.address)

    async def _keep_endpoint(self, machine_id: bytes, address: addresses.Address) -> None:
        row, endpoint = self.rows.get(machine_id), addresses.text(address)
        if row is not None and row.last_endpoint != endpoint:
            self.rows[machine_id] = replace(row, last_endpoint=endpoint)
            await self._note(lambda store: store.set_last_endpoint(machine_id, endpoint))

    async def _note(self, change: Callable[[Store], None]) -> None:
        """Keep what only the next start needs; a full disk costs that, and not the node."""
        try:
            await self._store.call(change)
        except StorageFailed as error:
            log.warning("not kept for the next start", error=error)

    def why_not(self, machine_id: bytes) -> str:
        """Why this peer is not reached, as far as is known now."""
        return self.why.get(machine_id) or self._no_answer(machine_id)

    def _no_answer(self, machine_id: bytes) -> str:
        peer = self._core.peers.get(machine_id)
        known = [addresses.text(address) for address in (peer.handshakes.addresses() if peer else [])]
        if not known:
            return "no address of it is known; it has to call us, or a new invitation is needed"
        return (
            f"no answer from {', '.join(known)}: is its node running, and does its UDP port reach it from "
            "here? A router in front of it must forward the port"
        )

    def _log(self, what: str, machine_id: bytes, **fields: object) -> None:
        row = self.rows.get(machine_id)
        log.info(what, peer=row.name if row is not None else slug(machine_id), **fields)


def _text(address: addresses.Address | None) -> str | None:
    return addresses.text(address) if address is not None else None


def unix_now() -> int:
    """Whole seconds, for what the store keeps."""
    return int(time.time())
