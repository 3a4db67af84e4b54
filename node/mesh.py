"""Everything of discovery that a running node has: put together, begun, and told what changes.

    Discovery ─┬─ Offering   this machine's own offer
               ├─ Probing    whether others' offers hold
               ├─ Reaching   peers that do not answer where they were
               ├─ Lan        nodes of the local network
               └─ Finding    what people ask through the control socket

To begin with it knows nodes from: the tables of the last run, the configured seeds, the peers' addresses,
invitations, and the local network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

import trio

from crypto.kem import HybridKey, expand
from dht import discovery as core_of
from dht.calls import Machine
from dht.endpoints import Endpoint
from dht.signatures import MachineSigner
from node.context import Context
from node.discovery import Discovery
from node.discovery_face import Face
from node.errors import StorageFailed
from node.finding import OPERATIONS, Finding, off
from node.lan import Lan
from node.logs import Log
from node.offering import Offering
from node.peers import unix_now
from node.probing import Probing
from node.reaching import Reaching
from node.resolve import numeric, resolve
from node.status import Status
from node.store import Store
from tun.addresses import Address
from tun.engine import boot_us

BEGIN_AGAIN_SECONDS: Final = 300.0  # while no node is known: names may lead elsewhere now

OFF: Final = dict.fromkeys(OPERATIONS, off)

log = Log("mesh")


def build(context: Context, status: Status, port: int, device: str) -> Mesh | None:
    """None where the owner wants none. `port` is the node's UDP port, `device` the name of its TUN."""
    if not context.config.dht.enabled:
        return None
    return Mesh(context, _core(context), status, port, device)


def _core(context: Context) -> Face:
    keys, wanted = context.keys, context.config.dht
    machine = Machine(
        keys.bundle,
        HybridKey(keys.x25519_key, keys.ml_kem_key),
        MachineSigner(keys),
        context.core.local.primitives,
    )
    # It follows from the keys, so homes know this machine again after a restart, and tells nothing of them.
    lodging = expand(sha256(keys.to_bytes()).digest(), b"zeqnode lodging secret v1")
    public = None if wanted.public == "auto" else bool(wanted.public)
    return core_of.Discovery(
        *(machine, context.lookup_secret, lodging, os.urandom, boot_us()), public=public, homes=wanted.homes
    )


class Mesh:
    """The parts, and what is between them and the rest of the node."""

    def __init__(self, context: Context, core: Face, status: Status, port: int, device: str) -> None:
        self._context = context
        self._changed = trio.Event()
        context.heard_of = self.remember
        status.discovery = self.status
        self.discovery = discovery = Discovery(core, context.store, context.engine.send)
        self.offering = Offering(
            context.keys.machine_id, context.store, discovery, context.core, self.publish
        )
        probing = Probing(discovery, context.peers, context.core, context.engine)
        self._reaching = Reaching(discovery, context.peers, context.core, context.engine, self.own_places)
        self.finding = Finding(context, discovery, self.offering, probing, status)
        self._lan = Lan(port, {device}, self._met) if context.config.dht.lan else None

    async def start(self, services: trio.Nursery) -> None:
        """Its tasks become children of `services`; the engine is running."""
        self._context.engine.on_foreign = self.discovery.receive
        await services.start(self.discovery.run)
        await self.offering.load()
        self.publish()
        services.start_soon(self._begin)
        services.start_soon(self._reaching.run)
        if self._lan is not None:
            services.start_soon(self._lan.run)

    def network_changed(self) -> None:
        """This machine's addresses are others now."""
        self.publish()
        self._reaching.network_changed()
        self._changed.set()
        if self._lan is not None:
            self._lan.network_changed()

    def reload(self) -> None:
        """Seeds may be others, and advertised addresses."""
        self.publish()
        self._changed.set()

    def publish(self) -> None:
        self.discovery.publish(self._own_addresses(), self.offering.listed)

    def seen_at(self) -> list[str]:
        """Where other nodes see this one, as they agree: behind a NAT, its outer side."""
        families = self.discovery.status()["families"]
        return [family["endpoint"] for family in families if family["endpoint"]]

    def own_places(self) -> list[Endpoint]:
        return self.discovery.links.endpoints(self._own_addresses())

    def status(self) -> dict[str, Any]:
        """The part of `zeqnode status`."""
        own = self.offering.snapshot()
        return {"enabled": True, "offer": own, **self.discovery.status()}

    async def remember(self, endpoints: Iterable[str]) -> None:
        """Of an invitation: where its inviter is, others of the mesh are known."""
        found = list(endpoints)
        try:
            await self._context.store.call(Store.remember_seeds, found, unix_now())
        except StorageFailed as error:
            log.warning("seeds not kept for the next start", error=error)
        self.discovery.begin_at(await resolve(found))

    def _own_addresses(self) -> list[Address]:
        return numeric(self._context.own_addresses())

    def peer_at(self, address: Address) -> None:
        """A machine has joined us from there."""
        self.discovery.begin_at([address])

    def _met(self, address: Address) -> None:
        """In the local network, where anybody may say so."""
        self.discovery.begin_at([address], named=False)

    async def _begin(self) -> None:
        """Tell discovery where others may be: now, after each change, and while nobody has answered."""
        while True:
            self._changed = trio.Event()
            self.discovery.begin_at(await resolve(await self._seeds()))
            while not self._changed.is_set():
                with trio.move_on_after(BEGIN_AGAIN_SECONDS):
                    await self._changed.wait()
                if not any(family["contacts"] for family in self.discovery.status()["families"]):
                    break

    async def _seeds(self) -> list[str]:
        peers = self._context.peers
        texts = list(self._context.config.dht.seeds)
        for row in peers.rows.values():
            texts += [*([row.last_endpoint] if row.last_endpoint else []), *row.endpoints]
        return list(dict.fromkeys([*texts, *await self._context.store.call(Store.seeds)]))
