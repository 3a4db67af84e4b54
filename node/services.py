"""What stands on discovery and the tunnel core: vault, key exchange, ledger, agreed tunnels, the API.

vault ─ ledger ─ tunnels on the disk ─ desk ─ key exchange ─ API        closed in the other order
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Final

import trio

from crypto.identity import slug
from dht.signatures import Ed25519Signatures, MachineSigner
from node import bookkeeping
from node.answering import Answering
from node.api.settings import ApiSettings
from node.asking import Asking
from node.backend import NodeBackend, Parts
from node.books import Books, open_books
from node.contacts import Contacts
from node.context import Context
from node.finding import off
from node.forks import Forks
from node.keyex.directory import Directory
from node.keyex.peer_seed import PeerSeeds
from node.keyex.service import KeyExchange
from node.mesh import Mesh
from node.operations import Operation
from node.peers import unix_now
from node.replies import Replies
from node.restoring import Restoring
from node.settlement.blocks import Party
from node.tokens import FILE as TOKENS_FILE
from node.tokens import OPERATIONS as TOKEN_OPERATIONS
from node.tokens import Tokens, open_tokens
from node.tunnels.connecting import Connecting
from node.tunnels.limits import TunnelLimits
from node.tunnels.operations import OPERATIONS as TUNNEL_OPERATIONS
from node.tunnels.operations import TunnelOperations
from node.tunnels.service import Service, open_service
from node.tunnels.targets import Pins, Targets
from node.vault.operations import VaultOperations
from node.vault.secrets import Secrets, open_secrets
from node.witnesses import Witnesses
from tun.events import Event

NEEDS_DISCOVERY: Final = (*TUNNEL_OPERATIONS, *bookkeeping.OPERATIONS, *TOKEN_OPERATIONS)


class Services:
    """`add` takes operations of the control socket when what is behind them is open. `mesh`: None where the
    owner wants no discovery, without which there are no tunnels with strangers and no API."""

    def __init__(
        self, context: Context, mesh: Mesh | None, add: Callable[[Mapping[str, Operation]], None]
    ) -> None:
        self._context = context
        self._mesh = mesh
        self._add = add
        self._tunnels: Service | None = None

    def handle(self, event: Event) -> None:
        """Of the tunnel core, after the peers have dealt with it."""
        if self._tunnels is not None:
            self._tunnels.handle(event)

    async def reload(self) -> None:
        """The configuration may be another."""
        await self._context.peers.guests.open_ports(self._context.config.relay.ports)
        if self._tunnels is not None:
            self._tunnels.refresh()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. The peers are loaded; raises StorageFailed and errors of the vault's key."""
        state = self._context.config.node.state
        async with AsyncExitStack() as stack:
            secrets = await stack.enter_async_context(open_secrets(state, os.environ))
            self._add(VaultOperations(secrets, self._name).operations)
            if self._mesh is None:
                self._add(dict.fromkeys(NEEDS_DISCOVERY, off))
            async with trio.open_nursery() as nursery:
                if self._mesh is not None:
                    await self._open(stack, nursery, self._mesh, secrets)
                task_status.started()
                await trio.sleep_forever()

    async def _open(self, stack: AsyncExitStack, nursery: trio.Nursery, mesh: Mesh, secrets: Secrets) -> None:
        context, discovery = self._context, mesh.discovery
        replies = Replies(discovery.answer_to)
        books = await self._books(stack)
        opening = open_service(context, discovery, mesh.offering, replies, books, secrets)
        service = self._tunnels = await stack.enter_async_context(opening)
        pins = Pins(service.disk)
        await pins.load()
        directory = Directory(discovery, lambda: context.peers.rows, pins.of)
        connecting = Connecting(context, discovery, service, Targets(context, discovery, directory, pins))
        operations = TunnelOperations(context, service, connecting)
        self._add(operations.operations)
        await self._keep_books(nursery, mesh, service)
        await nursery.start(service.run)
        asking = Asking(discovery, replies, discovery.places, discovery.core.counters)
        answering = Answering(discovery, context.peers.rows.__contains__, discovery.core.counters)
        exchange = KeyExchange(context.keys, secrets, directory, asking, answering)
        await nursery.start(asking.run)
        await nursery.start(answering.run)
        if service.books is not None:
            contacts = Contacts(discovery, asking, directory.of)
            await self._watch_chains(nursery, service, service.books, contacts, answering)
        tokens = await stack.enter_async_context(open_tokens(context.config.node.state / TOKENS_FILE))
        self._add(tokens.operations)
        if context.config.api.enabled:
            parts = Parts(
                machine_id=context.keys.machine_id,
                key=context.keys.bundle.ed25519,
                discovery=discovery,
                offering=mesh.offering,
                service=service,
                connecting=connecting,
                tunnels=operations,
                directory=directory,
                exchange=exchange,
                seeds=PeerSeeds(exchange, directory, secrets),
                secrets=secrets,
            )
            nursery.start_soon(self._serve, NodeBackend(parts), tokens)

    async def _serve(self, backend: NodeBackend, tokens: Tokens) -> None:
        """The API's packages take half a second to load: in a thread, while the node works."""
        wanted = self._context.config.api
        settings = ApiSettings(
            port=wanted.port,
            socket=wanted.socket,
            hosts=wanted.hosts,
            reads_per_minute=wanted.reads_per_minute,
            writes_per_minute=wanted.writes_per_minute,
        )
        server = await trio.to_thread.run_sync(import_module, "node.api.server")
        await server.serve(settings, backend, tokens)

    async def _watch_chains(
        self, nursery: trio.Nursery, service: Service, books: Books, contacts: Contacts, answering: Answering
    ) -> None:
        """Who shows others another branch of its chain is found out, and we do not become such a one."""
        found = service.on_shown
        us = self._context.keys.machine_id
        witnesses = Witnesses(us, books, contacts, answering, found, unix_now)
        restoring = Restoring(books, contacts, answering, found, unix_now)

        def shown() -> None:
            for each in (found, witnesses.shown, restoring.shown):
                each()

        service.on_shown = shown
        await nursery.start(witnesses.run)
        await nursery.start(restoring.run)

    async def _keep_books(self, nursery: trio.Nursery, mesh: Mesh, service: Service) -> None:
        if service.books is None:
            self._add(bookkeeping.OFF)
            return
        limits, bundle = TunnelLimits(service), self._context.keys.bundle
        kept = bookkeeping.Bookkeeping(service.books, bundle, limits, self._name)
        self._add(kept.operations)
        books = service.books

        async def tier_of(key: bytes) -> int:
            return (await books.standing(key)).tier

        mesh.finding.tier_of = tier_of
        forks = Forks(mesh.discovery, service.books)
        service.on_shown = forks.found
        await nursery.start(forks.run)

    async def _books(self, stack: AsyncExitStack) -> Books | None:
        if not self._context.config.ledger.enabled:
            return None
        keys = self._context.keys
        party = Party(machine_id=keys.machine_id, signer=MachineSigner(keys))
        path = self._context.config.node.state / "ledger.db"
        return await stack.enter_async_context(open_books(path, party, Ed25519Signatures()))

    def _name(self, machine_id: bytes) -> str | None:
        row = self._context.peers.rows.get(machine_id)
        return row.name if row is not None else slug(machine_id).lower()
