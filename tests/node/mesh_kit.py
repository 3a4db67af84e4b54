"""Nodes without a TUN of the kernel: real cores, engines, stores and UDP sockets on loopback.

In place of discovery's core stands one that knows what the test tells it.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from crypto.errors import LocalFault
from crypto.identity import KeyBundle, MachineKeys
from crypto.kem import RealPrimitives
from dht.calls import Recipient, Sent
from dht.endpoints import Endpoint
from dht.locations import Location, listed_secret
from dht.marketplace import Listing, Probe
from dht.offers import Offer
from dht.tags import Tagged
from node.config import Config
from node.context import Context
from node.discovery_face import MachineFound, MarketRefreshed, SlugFound
from node.invitations import Invitations
from node.mesh import Mesh
from node.peers import Peers
from node.status import Status
from node.store import AsyncStore, PeerRow, open_store
from tun.addresses import text
from tun.core import TunnelCore
from tun.engine import Engine, boot_us, open_socket
from tun.events import Event
from tun.guests import Guests
from tun.memory_tun import MemoryTun
from tun.network import Network

LOOKUP = bytes(range(16))


class KnowingCore:
    """Discovery that has found everything already: `locations` by (machine_id, lookup secret)."""

    def __init__(self) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Any] = []
        self.counters: Counter[str] = Counter()
        self.locations: dict[tuple[bytes, bytes], Location] = {}
        self.claims: tuple[KeyBundle, ...] = ()
        self.offers: dict[bytes, Listing] = {}
        self.asked: list[tuple[object, ...]] = []
        self.subscriptions: dict[int, str] = {}
        self.due_us = 2**62
        self.loaded = b""
        self.silent = False
        self._handle = 0
        self.unnamed: list[Endpoint] = []

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        self.asked.append(("receive", datagram, source))
        self.outgoing.append((datagram[::-1], source))

    def tick(self, now_us: int, unix_us: int) -> None:
        if now_us >= self.due_us:
            self.asked.append(("tick",))
            self.due_us = 2**62

    def deadline_us(self) -> int:
        return self.due_us

    def bootstrap(self, endpoints: Sequence[Endpoint], now_us: int, *, named: bool = True) -> None:
        self.asked.append(("bootstrap", list(endpoints)))
        self.unnamed += [] if named else endpoints

    def save(self) -> bytes:
        return b"tables"

    def load(self, data: bytes, now_us: int) -> None:
        if data == b"damaged":
            raise ValueError("not tables")
        self.loaded = data

    def publish(self, endpoints: Sequence[Endpoint], listed: bool, now_us: int, unix_us: int) -> None:
        self.asked.append(("publish", list(endpoints), listed))

    def answer_to(self, secrets: tuple[bytes, ...]) -> None:
        self.asked.append(("answer to", secrets))

    def places(self) -> tuple[tuple[Endpoint, ...], tuple[tuple[Endpoint, bytes], ...]]:
        return (), ()

    def lookup_machine(
        self, machine_id: bytes, ed25519: bytes | None, lookup_secret: bytes, now_us: int, unix_us: int
    ) -> int:
        self.asked.append(("lookup", machine_id, ed25519))
        return self._end(lambda handle: MachineFound(handle, self.locations.get((machine_id, lookup_secret))))

    def lookup_slug(self, slug: str, now_us: int, unix_us: int) -> int:
        return self._end(lambda handle: SlugFound(handle, self.claims))

    def send_event(self, to: Recipient, tag: str, body: bytes, now_us: int, unix_us: int) -> int:
        self.asked.append(("send", to, tag, body))
        return self._end(lambda handle: Sent(handle, True, 0, 0))

    def subscribe(self, pattern: str) -> int:
        if " " in pattern:
            raise LocalFault("a tag has words")
        self._handle += 1
        self.subscriptions[self._handle] = pattern
        return self._handle

    def unsubscribe(self, number: int) -> None:
        del self.subscriptions[number]

    def publish_tag(self, tag: str, body: bytes, now_us: int, unix_us: int) -> int:
        numbers = tuple(number for number, pattern in self.subscriptions.items() if pattern == tag)
        if len(body) > 900:
            raise LocalFault("a public event has at most 900 bytes")
        if numbers:
            self.events.append(Tagged(numbers, tag, b"K" * 32, b"", body, 7))
        return len(numbers)

    def offer(self, offer: Offer, now_us: int, unix_us: int) -> None:
        self.asked.append(("offer", offer))

    def withdraw(self, offer: Offer, now_us: int, unix_us: int) -> None:
        self.asked.append(("withdraw", offer))

    def market(self, country: str, max_per_gb: int | None, unix_us: int) -> list[Listing]:
        return [
            each
            for each in self.offers.values()
            if each.offer.accepts(country)
            and (max_per_gb is None or each.offer.price_per_gb_zeq <= max_per_gb)
        ]

    def checked(self, signer: bytes, probe: Probe) -> None:
        old = self.offers[signer]
        self.offers[signer] = Listing(old.offer, signer, old.sequence, old.expires, probe, old.proven)

    def proven(self, bundle: KeyBundle) -> None:
        self.asked.append(("proven", bundle))

    def refresh_market(self, country: str, now_us: int, unix_us: int) -> int:
        return self._end(MarketRefreshed)

    def status(self, now_us: int) -> dict[str, Any]:
        family = {"family": 4, "contacts": 3, "serving": False, "endpoint": None}
        return {
            "families": [family],
            "homes": [],
            "lodgers": 0,
            "links": [],
            "records": 1,
            "offers": len(self.offers),
            "counters": dict(self.counters),
        }

    def _end(self, event: Any) -> int:
        self._handle += 1
        if not self.silent:
            self.events.append(event(self._handle))
        return self._handle

    def asked_for(self, what: str) -> list[tuple[object, ...]]:
        return [each[1:] for each in self.asked if each[0] == what]


class Kit:
    """One node; `host` is its loopback address, `udp` its socket there."""

    def __init__(self, folder: Path, host: str, store: AsyncStore, udp: socket.socket) -> None:
        self.keys = MachineKeys.generate()
        self.store = store
        self.found = KnowingCore()
        self.address = (f"::ffff:{host}", udp.getsockname()[1])
        core = TunnelCore(self.keys, LOOKUP, RealPrimitives(), os.urandom, boot_us())
        self.core, self.device = core, MemoryTun()
        self.engine = Engine(core, self.device, udp, self._events)
        config = Config.parse("[dht]\nlan = false\n[node]\nname = 'kit'\n", folder / "zeqnode.toml")
        network = Network("none", folder / "network.json")
        self.peers = Peers(config, store, core, self.engine, network, Guests(network, ()))
        self.context = Context(
            config,
            self.keys,
            LOOKUP,
            store,
            core,
            self.engine,
            self.peers,
            lambda: [text(self.address)],
        )
        self.status = Status(self.context, Invitations(self.context))
        self.mesh = Mesh(self.context, self.found, self.status, self.address[1], "none")
        self._sender, self._receiver = trio.open_memory_channel[Event](float("inf"))

    def _events(self, event: Event) -> None:
        self._sender.send_nowait(event)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.run)
            nursery.start_soon(self._handle_events)
            await self.mesh.start(nursery)
            task_status.started()

    async def _handle_events(self) -> None:
        async for event in self._receiver:
            await self.peers.handle(event)

    def endpoint(self) -> Endpoint:
        found = self.mesh.discovery.links.endpoint(self.address)
        assert found is not None
        return found

    async def knows(self, other: Kit, *endpoints: str) -> PeerRow:
        """Let the other in, known at these addresses."""
        row = self.peers.new_row(other.keys.bundle, "other", LOOKUP, endpoints)
        await self.peers.put(row)
        await self.peers.start(row)
        return row

    def is_connected_to(self, other: Kit) -> bool:
        return self.core.peers[other.keys.machine_id].keypairs.current is not None


@asynccontextmanager
async def kits(folder: Path, count: int) -> AsyncIterator[list[Kit]]:
    """Running nodes, each in a /24 of its own."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        made = []
        for number in range(count):
            state = folder / str(number)
            state.mkdir()
            store = await stack.enter_async_context(open_store(state / "node.db"))
            host = f"127.77.{number + 1}.1"
            udp = stack.enter_context(open_socket(host, 0))
            kit = Kit(state, host, store, udp)
            stack.callback(kit.device.close)
            await nursery.start(kit.run)
            made.append(kit)
        yield made
        nursery.cancel_scope.cancel()


def listing(keys: MachineKeys, **changed: Any) -> Listing:
    """An offer by the machine of these keys, at 50 ZEQ for a GB, for everybody."""
    words: dict[str, Any] = {"price_per_gb_zeq": 50, "price_per_zeqond_zeq": 1, "max_concurrent_tunnels": 8}
    words |= {"accept_country_classes": ("ANY",), "country": "DE"}
    offer = Offer(machine_id=keys.machine_id, **(words | changed))
    return Listing(offer, keys.bundle.ed25519, 1, 4_000_000_000, None, False)


def listed(kit: Kit) -> tuple[bytes, bytes]:
    return kit.keys.machine_id, listed_secret(kit.keys.machine_id)
