"""The tunnel core of one node: all its peers, the index table, and who gets what arrived.

Bytes and the time in; datagrams, IP packets and events out, in the lists `outgoing`, `packets` and `events`,
which the shell empties. No socket, no clock, no task: the same code runs in the engine and in a simulation.

    first byte   C0–C7 ─▶ index ─▶ Peer.on_record ─▶ allowed-IPs ─▶ packets
                 C8 CE ─▶ Doorkeeper ─▶ a message 1, a key request
                 C9 CC CD CF ─▶ Asked ─▶ the attempt or request that it answers
                 other ─▶ not ours: `receive` says so
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from crypto.cookies import LOOKUP_SECRET_BYTES
from crypto.handshake import PUBLIC_MESH_SECRET
from crypto.identity import MachineKeys, ula
from crypto.kem import HybridKey, Primitives
from crypto.session import REKEY_ZEQONDS
from tun.addresses import MAPPED, Address
from tun.alarms import Alarms
from tun.asked import Asked
from tun.attempt import Local
from tun.briefing import Briefing
from tun.control import Bye, Hello, Refused, Welcome
from tun.doorkeeper import Doorkeeper
from tun.events import Event
from tun.frames import (
    COOKIE,
    FIRST_OURS,
    HEAD_BYTES,
    KEY_REQUEST,
    KEYS,
    LAST_RECORD_TYPE,
    LAST_TUNNEL_TYPE,
    MESSAGE1,
    MESSAGE2,
    OVERHEAD_BYTES,
    REFUSAL,
)
from tun.host import PeerConfig
from tun.indexes import Indexes
from tun.keypairs import Keypair
from tun.names4 import Pool, Translator
from tun.packet import AllowedIPs
from tun.peer import Peer
from tun.seam import Carried

GUEST_US = 90_000_000
MAX_GUESTS = 64


class TunnelCore:
    """`inner_mtu`: the TUN's. `entropy(n)` gives n random bytes. Times: microseconds, monotonic and Unix."""

    def __init__(
        self,
        keys: MachineKeys,
        lookup_secret: bytes,
        primitives: Primitives,
        entropy: Callable[[int], bytes],
        now_us: int,
        pool: Pool | None = None,
        inner_mtu: int = 1404,
        mesh_secret: bytes = PUBLIC_MESH_SECRET,
    ) -> None:
        assert len(lookup_secret) == LOOKUP_SECRET_BYTES
        self.outgoing: list[tuple[bytes, Address]] = []
        self.packets: list[bytes] = []
        self.events: list[Event] = []
        self.counters: Counter[str] = Counter()
        self.peers: dict[bytes, Peer] = {}
        self.guests: dict[bytes, Peer] = {}
        self.briefing = Briefing(self)  # for the workers of the data path
        self.pool = pool or Pool()
        self.allowed: AllowedIPs[Peer] = AllowedIPs()
        self.served: AllowedIPs[bool] = AllowedIPs()  # destinations that peers may reach through us
        self.local_hosts: frozenset[str] = frozenset()
        self.hello_to: Callable[[bytes], Hello] = lambda _machine_id: Hello(bytes(16), "", lookup_secret, ())
        self.full_payload = inner_mtu + OVERHEAD_BYTES
        self.rekey_zeqonds = REKEY_ZEQONDS
        self.indexes = Indexes(entropy)
        self.local = Local(
            static=HybridKey(keys.x25519_key, keys.ml_kem_key),
            bundle=keys.bundle,
            lookup_secret=lookup_secret,
            primitives=primitives,
            mesh_secret=mesh_secret,
            entropy=entropy,
            new_index=self.indexes.reserve,
            free_index=self.indexes.free,
        )
        self.door = Doorkeeper(self, now_us)
        self._translator = Translator(self.pool)
        self._asked = Asked(self)
        self._alarms = Alarms()
        self._held: set[bytes] = set()  # whose packets go nowhere for now
        self.serving: list[IPv4Network | IPv6Network] = []
        self.serve(IPv6Network(ula(keys.machine_id)))
        self.serve(IPv4Network(self.pool.own))

    # ------------------------------------------------------------------ peers

    def serve(self, network: IPv4Network | IPv6Network) -> None:
        """Let peers send to these addresses; nothing else that they send is let in, least of all onward."""
        self.served.insert(network, True)
        self.serving.append(network)
        self.briefing.serves()

    def add_peer(
        self, config: PeerConfig, networks: Iterable[IPv4Network | IPv6Network], now_us: int
    ) -> IPv4Address:
        """A peer that the owner wants; returns its local IPv4 name. A guest of that id is adopted."""
        machine_id = config.bundle.machine_id
        peer = self.guests.pop(machine_id, None) or self.peers.get(machine_id)
        if peer is None:
            peer = Peer(self, config, now_us)
        else:
            config.last_clock_us = max(config.last_clock_us, peer.config.last_clock_us)
            peer.reconfigure(config, now_us)
        self.peers[machine_id] = peer
        peer.held = machine_id in self._held
        name = self.pool.assign(machine_id)
        self.allowed.remove_value(peer)
        for network in [IPv6Network(ula(machine_id)), IPv4Network(name), *networks]:
            self.allowed.insert(network, peer)
        self.briefing.peer_is(peer)
        self.arm(peer, now_us)
        return name

    def end_join(self, machine_id: bytes) -> None:
        """Nobody waits any more for what comes of the token that this peer was added with."""
        if machine_id in self.peers:
            self.peers[machine_id].drop_token()

    def remove_peer(self, machine_id: bytes, now_us: int, unix_us: int) -> None:
        """Say goodbye, drop its keys and its addresses; its local IPv4 name stays its own."""
        peer = self.peers.pop(machine_id, None) or self.guests.pop(machine_id, None)
        if peer is not None:
            if peer.keypairs.current is not None:
                peer.send_control(Bye(), now_us, unix_us)
            peer.forget()
            self.allowed.remove_value(peer)
            self.briefing.peer_gone(machine_id)
        self._held.discard(machine_id)

    def add_guest(self, config: PeerConfig, now_us: int) -> Peer | None:
        """A machine that came with a good invitation; None while 64 of them are waiting."""
        if len(self.guests) >= MAX_GUESTS:
            return None
        peer = self.guests[config.bundle.machine_id] = Peer(self, config, now_us, guest=True)
        self.arm(peer, now_us + GUEST_US)
        return peer

    def _drop_guest(self, machine_id: bytes) -> None:
        self.guests.pop(machine_id).forget()
        self.briefing.peer_gone(machine_id)

    def welcome(self, machine_id: bytes, name: str, now_us: int, unix_us: int) -> None:
        """The invitation is redeemed (on disk): tell the guest that it is a peer now."""
        self.peers[machine_id].send_control(Welcome(name), now_us, unix_us)

    def refuse(self, machine_id: bytes, reason: str, now_us: int, unix_us: int) -> None:
        """The invitation cannot be redeemed."""
        peer = self.guests.get(machine_id) or self.peers.get(machine_id)
        if peer is not None:
            peer.send_control(Refused(reason), now_us, unix_us)
        if machine_id in self.guests:
            self._drop_guest(machine_id)

    def request_keys(
        self, machine_id: bytes, lookup_secret: bytes, addresses: Sequence[Address], now_us: int
    ) -> None:
        """Answered by KeysArrived or KeysMissing."""
        self._asked.keys(machine_id, lookup_secret, addresses, now_us)

    def network_changed(self, hosts: Collection[str], now_us: int, unix_us: int) -> None:
        """Our addresses are now these (IP texts); peers learn of it at once."""
        self.local_hosts = frozenset(hosts)
        for peer in self.peers.values():
            peer.network_changed(now_us, unix_us)

    # ------------------------------------------------------------------ for who settles with a peer

    def note(self, machine_id: bytes, body: bytes, now_us: int, unix_us: int) -> bool:
        """Say this (at most 900 bytes) in one record of the present session; nothing says that it arrived.
        False where there is no session: then nothing waits for one, and none is begun."""
        peer = self.peers.get(machine_id)
        return peer is not None and peer.send_note(body, now_us, unix_us)

    def gate(self, machine_id: bytes, opened: bool) -> None:
        """Closed: no packet of this peer goes out or comes in, until it is opened; all else goes on. May be
        closed before the peer is added, and is open again for one that was removed."""
        (self._held.discard if opened else self._held.add)(machine_id)
        peer = self.peers.get(machine_id)
        if peer is not None and peer.held is opened:
            peer.held = not opened
            self.briefing.peer_is(peer)

    def transcripts(self, machine_id: bytes) -> tuple[bytes, ...]:
        """The handshakes' hashes (32 bytes) of the sessions that are confirmed, the present one first."""
        peer = self.peers.get(machine_id)
        return peer.keypairs.transcripts() if peer is not None else ()

    def exporter(self, machine_id: bytes, transcript: bytes) -> bytes | None:
        """32 secret bytes that only we and the peer have of this confirmed session, while its keys live."""
        peer = self.peers.get(machine_id)
        return peer.keypairs.exporter(transcript) if peer is not None else None

    # ------------------------------------------------------------------ data

    def receive(self, datagram: bytes, source: Address, now_us: int, unix_us: int) -> bool:
        """One UDP datagram. False when it is not a tunnel's: STUN, DHT and gossip share the socket."""
        if not datagram or not FIRST_OURS <= datagram[0] <= LAST_TUNNEL_TYPE:
            return False
        kind = datagram[0]
        if kind <= LAST_RECORD_TYPE:
            self._on_record(datagram, source, now_us, unix_us)
        elif kind in (MESSAGE1, KEY_REQUEST):
            self.door.knock(datagram, source, now_us, unix_us)
        elif kind in (MESSAGE2, REFUSAL, COOKIE, KEYS):
            self._asked.answered(datagram, source, now_us, unix_us)
        else:
            self.count("datagram of unknown type")
        return True

    def send(self, packet: bytes, now_us: int, unix_us: int) -> None:
        """One IP packet from the TUN, to the peer whose networks hold its destination."""
        peer = self.allowed.lookup_destination(packet)
        if peer is None:
            self.count("packet for nobody")
            return
        translated = self._translator.outward(packet)
        if translated is None:
            self.count("packet with a local name where none may be")
        else:
            peer.send_packet(translated, now_us, unix_us)

    def _on_record(self, datagram: bytes, source: Address, now_us: int, unix_us: int) -> None:
        if len(datagram) <= HEAD_BYTES:
            self.count("record too short")
            return
        entry = self.indexes.find(int.from_bytes(datagram[4:8], "big"))
        if entry is None:
            self.count("unknown receiver index")
            return
        self.briefing.touch(entry[0])
        entry[0].on_record(entry[1], datagram, source, now_us, unix_us)

    # ------------------------------------------------------------------ time

    def tick(self, now_us: int, unix_us: int) -> None:
        """Do everything that is due."""
        self._asked.drive(now_us)
        for peer in self._alarms.due(now_us):
            if self.peers.get(peer.machine_id) is peer:
                self.arm(peer, peer.tick(now_us, unix_us))
            elif self.guests.get(peer.machine_id) is peer:
                if now_us >= peer.born_us + GUEST_US:
                    self._drop_guest(peer.machine_id)
                else:
                    self.arm(peer, min(peer.tick(now_us, unix_us), peer.born_us + GUEST_US))

    def deadline_us(self) -> int:
        """When `tick` next has something to do."""
        return min(self._alarms.deadline_us(), self._asked.deadline_us())

    def close(self, now_us: int, unix_us: int) -> None:
        """Tell every connected peer that we stop, and drop every key."""
        for machine_id in [*self.peers, *self.guests]:
            self.remove_peer(machine_id, now_us, unix_us)

    def too_big(self, address: Address, now_us: int) -> None:
        """The kernel refused a datagram to this address as larger than the path's MTU."""
        for peer in self.peers.values():
            if peer.paths.endpoint == address:
                peer.paths.too_big(address, now_us)
                self.arm(peer, peer.deadline_us())

    # ------------------------------------------------------------------ the workers of the data path

    def heard(self, local_index: int, source: Address, size: int, now_us: int, unix_us: int) -> None:
        """A worker had authentic records of `size` bytes in this session, from there."""
        entry = self.indexes.find(local_index)
        if entry is not None:
            self.briefing.touch(entry[0])
            entry[0].heard(entry[1], source, size, now_us, unix_us)

    def carried(self, told: Carried, now_us: int, unix_us: int) -> None:
        """What a worker did for one peer."""
        peer = self.peers.get(told.machine_id)
        if peer is not None:
            peer.carried(told, now_us, unix_us)

    def renew(self, now_us: int, unix_us: int) -> None:
        """A worker has lost its replay windows: every session is replaced, so that it may receive again."""
        for peer in self.peers.values():
            if peer.keypairs.current is not None:
                peer.handshakes.connect(now_us, unix_us)

    # ------------------------------------------------------------------ what peers ask of their host

    def emit(self, datagram: bytes, address: Address) -> None:
        self.outgoing.append((datagram, address))

    def event(self, event: Event) -> None:
        self.events.append(event)

    def count(self, what: str) -> None:
        self.counters[what] += 1

    def register(self, keypair: Keypair, peer: Peer) -> None:
        self.indexes.put(keypair, peer)
        self.briefing.opened(peer, keypair)

    def unregister(self, keypairs: Sequence[Keypair]) -> None:
        for keypair in keypairs:
            self.indexes.free(keypair.session.local_index)
            self.briefing.closed(keypair)

    def attempt_moved(self, peer: Peer, before: bytes) -> None:
        """The peer's message 1 is another one now, or none."""
        self._asked.attempt_moved(peer, before)

    def arm(self, peer: Peer, when_us: int) -> None:
        self.briefing.touch(peer)
        self._alarms.arm(peer, when_us)

    def deliver(self, peer: Peer, packet: bytes) -> None:
        """A packet out of a peer's record: its source must be the peer's, its destination ours."""
        local = self._translator.inward(packet, self.pool.assign(peer.machine_id).packed)
        if local is None:
            self.count("packet with a local name where none may be")
        elif self.allowed.lookup_source(local) is not peer:
            self.count("packet with a source that is not the peer's")
        elif self.served.lookup_destination(local) is None:
            self.count("packet for a destination that is not served")
        else:
            self.packets.append(local)

    def is_local_address(self, address: str) -> bool:
        return address.rpartition(":")[0].strip("[]") in self.local_hosts

    def has_family_of(self, address: Address) -> bool:
        """Or no address at all: then no other family would help."""
        ipv4 = address[0].startswith(MAPPED)
        return not self.local_hosts or any((":" not in host) is ipv4 for host in self.local_hosts)
