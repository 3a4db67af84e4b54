"""Many real nodes in one process: the node's own parts, each with its UDP socket on loopback and its tasks.

    tests/node/crowd.py    what node/app.py puts together, without the kernel's TUN and the workers' processes
    127.88.n.1             node n's address: a /24 each, so every limit per network holds as it does outside

DESIGN.md section 15 wants real nodes on loopback so, and no switch that weakens a limit: 127.0.0.0/8 is all
loopback, so no namespace is needed. Addresses are of one scope (endpoints.Scope.HOST), which nodes name to
each other for that reason. What a person types goes the way of the command line's words, through Operations.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from crypto.cookies import LOOKUP_SECRET_BYTES
from crypto.identity import MachineKeys, slug
from crypto.kem import RealPrimitives
from dht import discovery as core_of
from dht import endpoints
from dht.endpoints import Endpoint
from node import mesh
from node.config import Config
from node.context import Context
from node.control import Asker
from node.discovery import Discovery
from node.invitations import Invitations
from node.joining import Joining
from node.operations import Operations
from node.peers import Peers, unix_now
from node.status import Status
from node.store import AsyncStore, open_store
from tun.addresses import Address, text
from tun.core import TunnelCore
from tun.engine import Engine, boot_us, open_socket
from tun.events import Event, Introduced
from tun.guests import Guests
from tun.memory_tun import MemoryTun
from tun.network import Network

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One datagram of discovery, as who sits on the path sees it."""

    source: Endpoint
    target: Endpoint
    datagram: bytes


class TappedEngine(Engine):
    """The engine; `tap` is told of what discovery sends, all of which goes through `send`. `lost`: first
    bytes of datagrams that never leave, as where something on the way does not like them."""

    tap: Callable[[bytes, Address], None]
    lost: frozenset[int] = frozenset()

    def send(self, datagram: bytes, address: Address) -> None:
        if datagram[0] not in self.lost:
            self.tap(datagram, address)
            super().send(datagram, address)


class Silent(Asker):
    """Somebody who wants no lines of progress."""

    def __init__(self) -> None:
        pass

    async def __call__(self, text: str) -> None:
        assert text


class Member:
    """One node; `host` is its address, `udp` its socket there, `wire` what all nodes' datagrams go into."""

    def __init__(
        self, number: int, folder: Path, host: str, store: AsyncStore, udp: socket.socket, wire: list[Seen]
    ) -> None:
        self.name = f"harbour-{number:02}"
        self.keys = MachineKeys.generate()
        self.lookup_secret = os.urandom(LOOKUP_SECRET_BYTES)
        self.address = (f"::ffff:{host}", udp.getsockname()[1])
        self.endpoint = endpoints.pack(host, self.address[1])
        self.device = MemoryTun()
        self._wire = wire
        core = TunnelCore(self.keys, self.lookup_secret, RealPrimitives(), os.urandom, boot_us())
        core.door.addresses = (text(self.address),)
        self.engine = TappedEngine(core, self.device, udp, self._events)
        self.engine.tap = self._tap
        config = Config.parse(f"[dht]\nlan = false\n[node]\nname = '{self.name}'\n", folder / "zeqnode.toml")
        network = Network("none", folder / "network.json")
        peers = Peers(config, store, core, self.engine, network, Guests(network, ()))
        context = Context(
            config, self.keys, self.lookup_secret, store, core, self.engine, peers, self._own_addresses
        )
        self._peers = peers
        self._invitations = Invitations(context)
        status = Status(context, self._invitations)
        made = mesh.build(context, status, self.address[1], "none")
        assert made is not None
        self._mesh = made
        self._operations = Operations(
            context, self._invitations, Joining(context), status, made.finding.operations
        )
        self._sender, self._receiver = trio.open_memory_channel[Event](float("inf"))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.run)
            nursery.start_soon(self._handle_events)
            await self._invitations.load()
            await self._peers.load()
            await self._mesh.start(nursery)
            task_status.started()

    async def ask(self, op: str, **arguments: Any) -> Result:
        """What a command asks of the running node; raises UserError as that does."""
        return await self._operations.handle(op, arguments, Silent())

    @property
    def slug(self) -> str:
        return slug(self.keys.machine_id)

    @property
    def discovery(self) -> Discovery:
        """The shell of its discovery."""
        return self._mesh.discovery

    @property
    def core(self) -> core_of.Discovery:
        found = self._mesh.discovery.core
        assert isinstance(found, core_of.Discovery)
        return found

    def shelf(self) -> dict[bytes, list[bytes]]:
        """What it stores for others, by key."""
        return {key: self.kept(key) for key in self.core._storages[0].keys()}  # noqa: SIM118  it is no dict

    def kept(self, key: bytes) -> list[bytes]:
        raws = self.core._storages[0].values(key, unix_now())
        return msgspec.msgpack.decode(raws, type=list[bytes]) if raws else []

    @property
    def contacts(self) -> int:
        """In its table of IPv4."""
        return self.core.overlays[0].size

    @property
    def links(self) -> int:
        """Neighbours in gossip."""
        return len(self.core.gossip.links)

    def _own_addresses(self) -> list[str]:
        return list(dict.fromkeys([*self._mesh.seen_at(), text(self.address)]))

    def _tap(self, datagram: bytes, address: Address) -> None:
        target = self._mesh.discovery.links.endpoint(address)
        assert target is not None
        self._wire.append(Seen(self.endpoint, target, datagram))

    def _events(self, event: Event) -> None:
        self._sender.send_nowait(event)

    async def _handle_events(self) -> None:
        async for event in self._receiver:
            if isinstance(event, Introduced):
                await self._invitations.introduced(event)
            else:
                await self._peers.handle(event)


@asynccontextmanager
async def crowd(folder: Path, count: int) -> AsyncIterator[tuple[list[Member], list[Seen]]]:
    """Running nodes that know nobody, and what discovery sends from now on."""
    wire: list[Seen] = []
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        members = []
        for number in range(count):
            state = folder / str(number)
            state.mkdir()
            store = await stack.enter_async_context(open_store(state / "node.db"))
            host = f"127.88.{number + 1}.1"
            udp = stack.enter_context(open_socket(host, 0))
            member = Member(number, state, host, store, udp, wire)
            stack.callback(member.device.close)
            await nursery.start(member.run)
            members.append(member)
        yield members, wire
        nursery.cancel_scope.cancel()
