"""The running node: one tree of tasks, and the order in which it starts and stops.

start   lock ─ identity ─ store ─ undo leftovers ─ sockets ─ TUN ─ addresses ─ workers ─ engine ─ peers
        ─ discovery ─ vault, ledger, tunnels ─ control ─ network watch ─ pending joins ─ READY=1
stop    STOPPING=1 ─ control and watchers end ─ discovery ends, its tables are kept ─ workers end
        ─ engine says goodbye to the peers and drops all keys ─ network is put back ─ TUN and socket close
        ─ store closes ─ lock is given up
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import asdict
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path

import trio

from crypto.handshake import PUBLIC_MESH_SECRET
from crypto.identity import MachineKeys, slug, ula
from crypto.kem import RealPrimitives
from crypto.pulse import ZEQOND_MS
from node import control, identity_store, logs, mesh, systemd
from node.config import Config
from node.context import Context, lookup_secret_of
from node.errors import StorageFailed, UserError
from node.files import make_private_directory
from node.invitations import Invitations
from node.joining import Joining
from node.lock import state_lock
from node.operations import Operations
from node.peers import Peers
from node.services import Services
from node.status import Status
from node.store import AsyncStore, open_store
from tun.core import TunnelCore
from tun.device import LinuxTun, open_tun
from tun.engine import Engine, boot_us, unix_us
from tun.errors import TunError
from tun.events import Event, Introduced
from tun.frames import MAX_SEGMENTS
from tun.guests import Guests
from tun.names4 import Pool
from tun.network import Network, local_addresses, undo_leftovers, watch_changes
from tun.sockets import UdpGroup, open_group
from tun.worker import Settings
from tun.workers import Workers

MESH_PREFIX = 32
GSO_BYTES = 60_420  # of a super-packet: sealed as segments, it is one send of at most 65,507 bytes

log = logs.Log("node")


async def run(config: Config) -> None:
    """Until SIGTERM or SIGINT. Raises UserError with a sentence where it cannot start or go on."""
    state = config.node.state
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            make_private_directory(state)
            with state_lock(state):
                keys = await trio.to_thread.run_sync(_identity, state)
                async with open_store(state / "node.db") as store:
                    await _run(config, keys, store, signals)
    except (TunError, BaseExceptionGroup) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise sentence from error


def _identity(state: Path) -> MachineKeys:
    """The machine's keys; made now if this is the first start."""
    if identity_store.exists(state):
        return identity_store.load(state, os.environ)
    keys = identity_store.create(state, identity_store.source_from(os.environ))
    log.info("new identity", machine=slug(keys.machine_id), state=state)
    return keys


def _sentence(error: BaseException) -> UserError | None:
    """What a person is told of the first error of ours in a group; None for a fault of the program."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_sentence, error.exceptions)), None)
    if isinstance(error, TunError):
        return UserError(str(error))
    return error if isinstance(error, UserError) else None


async def _run(config: Config, keys: MachineKeys, store: AsyncStore, signals: AsyncIterator[int]) -> None:
    state = config.node.state
    journal = state / "network.json"
    for line in await undo_leftovers(journal):
        log.warning("undone what an earlier run left", what=line)
    engine = config.engine
    queues = engine.queue_count()
    address, port = str(config.listen.address), config.listen.port
    udp = await trio.to_thread.run_sync(open_group, address, port, queues, engine.without)
    try:
        name = config.interface.name
        device = await trio.to_thread.run_sync(open_tun, name, queues, engine.without)
        try:
            async with Network(device.name, journal) as network:
                await _Node(config, keys, store, udp, device, network).run(signals)
        finally:
            device.close()
    finally:
        udp.close()


class _Node:
    """Everything that lives as long as the node runs."""

    def __init__(
        self,
        config: Config,
        keys: MachineKeys,
        store: AsyncStore,
        udp: UdpGroup,
        device: LinuxTun,
        network: Network,
    ) -> None:
        self._config = config
        self._keys = keys
        self._store = store
        self._udp = udp
        self._device = device
        self._network = network
        self._hosts: list[str] = []
        self._events, self._event_stream = trio.open_memory_channel[Event](float("inf"))
        self._changed = trio.Event()
        self._started = False

    async def run(self, signals: AsyncIterator[int]) -> None:
        config = self._config
        lookup_secret = await lookup_secret_of(self._store)
        pool = Pool(config.interface.ipv4_pool)
        core = TunnelCore(
            self._keys,
            lookup_secret,
            RealPrimitives(),
            os.urandom,
            boot_us(),
            pool=pool,
            inner_mtu=config.interface.mtu,
            mesh_secret=config.mesh_secret() or PUBLIC_MESH_SECRET,
        )
        core.rekey_zeqonds = round(config.engine.rekey_seconds * 1000 / ZEQOND_MS)
        if config.engine.largest_payload:
            core.full_payload = config.engine.largest_payload
        await self._configure(core, pool)
        workers = self._workers(core)
        engine = Engine(
            core,
            self._device,
            self._udp.main,
            self._events.send_nowait,
            workers=workers,
            on_lost=self._worker_lost,
            listening=False,
        )
        self._core, self._engine = core, engine
        guests = Guests(self._network, config.relay.ports)
        self._peers = Peers(config, self._store, core, engine, self._network, guests)
        self._context = context = Context(
            config,
            self._keys,
            lookup_secret,
            self._store,
            core,
            engine,
            self._peers,
            self._own_addresses,
        )
        self._invitations = Invitations(context)
        self._joining = Joining(context)
        self._status = Status(context, self._invitations)
        self._mesh = mesh.build(context, self._status, self._udp.port, self._device.name)
        more = self._mesh.finding.operations if self._mesh is not None else mesh.OFF
        operations = Operations(context, self._invitations, self._joining, self._status, more)
        self._services = Services(context, self._mesh, operations.add)
        await self._update_hosts()
        await self._serve(operations, signals)

    def _workers(self, core: TunnelCore) -> Workers:
        """One process for each queue of the TUN."""
        settings = Settings(
            pool=str(core.pool.network),
            vnet_hdr=self._device.offloads.vnet_hdr,
            segment=self._udp.segment,
            choice=self._config.engine.mode,
        )
        udp_fds = [each.fileno() for each in self._udp.workers]
        return Workers(settings, self._device.fds, udp_fds, core.briefing.whole)

    def _worker_lost(self, worker: int, code: int) -> None:
        log.warning("a worker of the data path ended and was started again", worker=worker, exit_code=code)

    async def _serve(self, operations: Operations, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as inner:
            await inner.start(self._engine.run)
            async with trio.open_nursery() as outer:
                outer.start_soon(self._start, operations, outer)
                await self._obey(signals)
                outer.cancel_scope.cancel()
            inner.cancel_scope.cancel()

    async def _start(self, operations: Operations, services: trio.Nursery) -> None:
        """Beside the signals: a name server that does not answer must not keep the node from stopping."""
        services.start_soon(self._handle_events)
        await self._invitations.load()
        await self._peers.load()
        if self._mesh is not None:
            await self._mesh.start(services)
        await services.start(self._services.run)
        socket_path = self._config.node.state / control.SOCKET_NAME
        await services.start(control.serve, socket_path, operations.handle)
        await services.start(watch_changes, {self._device.name}, self._network_changed)
        services.start_soon(self._follow_network)
        services.start_soon(self._joining.retry_pending)
        self._announce()
        self._started = True

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        """SIGHUP reloads, the others end the node."""
        async for number in signals:
            if number != signal.SIGHUP:
                systemd.stopping()
                log.info("stopping", signal=signal.Signals(number).name)
                return
            if self._started:
                systemd.reloading()
                await self._reload()
                self._announce()

    async def _reload(self) -> None:
        """Take up what can be changed while running; a configuration that is wrong changes nothing."""
        try:
            config = await trio.to_thread.run_sync(Config.load, self._config.path)
        except UserError as error:
            log.warning("configuration not reloaded", error=error)
            return
        config, restart = self._config.taking_up(config)
        if restart:
            log.warning("some of what has changed takes a restart", sections=",".join(restart))
        self._config = self._context.config = config
        logs.set_up(config.node.log, config.node.log_format, os.environ)
        await self._peers.reload(config)
        await self._update_hosts()
        if self._mesh is not None:
            self._mesh.reload()
        await self._services.reload()
        log.info("reloaded")

    async def _configure(self, core: TunnelCore, pool: Pool) -> None:
        """Our addresses on the TUN, and what peers may send to."""
        config = self._config.interface
        own6 = IPv6Interface(f"{ula(self._keys.machine_id)}/{MESH_PREFIX}")
        own4 = IPv4Interface(f"{pool.own}/{pool.network.prefixlen}")
        await self._network.configure(
            [own6, own4, *config.addresses], config.mtu, gso_max_size=GSO_BYTES, gso_max_segs=MAX_SEGMENTS
        )
        for address in config.addresses:
            core.serve(ip_network(address.ip))
        for network in config.serve:
            core.serve(network)

    # ------------------------------------------------------------------ events

    async def _handle_events(self) -> None:
        async for event in self._event_stream:
            if isinstance(event, Introduced):
                await self._introduce(event)
            else:
                await self._peers.handle(event)
                self._services.handle(event)

    async def _introduce(self, event: Introduced) -> None:
        try:
            await self._invitations.introduced(event)
            if self._mesh is not None and event.machine_id in self._peers.rows:
                self._mesh.peer_at(event.address)
        except StorageFailed as error:  # it introduces itself again, five times and at its next try
            log.warning("a machine with an invitation could not be let in", error=error)

    def _network_changed(self) -> None:
        self._changed.set()

    async def _follow_network(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._update_hosts()
            log.info("network changed", addresses=",".join(self._hosts) or "none")
            self._core.network_changed(self._hosts, boot_us(), unix_us())
            self._engine.poke()
            if self._mesh is not None:
                self._mesh.network_changed()

    async def _update_hosts(self) -> None:
        self._hosts = await local_addresses({self._device.name})
        self._core.local_hosts = frozenset(self._hosts)
        own = self._own_addresses()
        self._core.door.addresses = tuple(own[:8])
        interface = self._config.interface
        self._status.engine = {
            "queues": self._config.engine.queue_count(),
            "mode": self._config.engine.mode,
            "tun": asdict(self._device.offloads),
            "udp": {"segment": self._udp.segment, "gro": self._udp.gro},
        }
        self._status.listen = {"port": self._udp.port, "addresses": own}
        self._status.interface = {
            "name": self._device.name,
            "mtu": interface.mtu,
            "addresses": [
                str(ula(self._keys.machine_id)),
                str(self._core.pool.own),
                *[str(address.ip) for address in interface.addresses],
            ],
        }

    def _own_addresses(self) -> list[str]:
        """Where others may reach us, as "host:port": as the owner says, as others see us, as we have it."""
        port = self._udp.port
        found = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in self._hosts]
        seen = self._mesh.seen_at() if self._mesh is not None else []
        return list(dict.fromkeys([*self._config.listen.advertise, *seen, *found]))

    def _announce(self) -> None:
        machine = slug(self._keys.machine_id)
        log.info(
            "running",
            machine=machine,
            interface=self._device.name,
            address=ula(self._keys.machine_id),
            port=self._udp.port,
            peers=len(self._peers.rows),
        )
        systemd.ready(f"{machine} on {self._device.name}, {len(self._peers.rows)} peers")
