"""The peers that tunnels make: let in by an agreement and not by the owner, and only for as long as it lasts.

They are in no table on the disk: the tunnel's row has the keys, and a start that finds it running lets the
partner in again. A peer by the owner's word is never shut out or dropped here; its tunnel only ends.

    admit     filter (tun/guests.py) ─▶ gate shut ─▶ peer of the core ─▶ gate opens by the desk's word
    dismiss   gate shut ─▶ no peer ─▶ filter
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from crypto.identity import KeyBundle, slug, ula
from node.logs import Log
from node.peers import Peers
from node.settlement.life import Role, Row
from node.settlement.side import Measured
from tun import addresses
from tun.addresses import Address
from tun.core import TunnelCore
from tun.engine import Engine, boot_us, unix_us
from tun.errors import TunError
from tun.host import PeerConfig

LOOK_SECONDS: Final = 0.5
LEAST_LOOK_SECONDS: Final = 0.05
LOOK_BYTES: Final = 4_000_000

log = Log("tunnels")


def next_look(seconds: float, carried: int) -> float:
    """When to look at the meters again, so that some 4 MB are between two looks, within bounds."""
    if not carried:
        return LOOK_SECONDS
    return min(LOOK_SECONDS, max(LEAST_LOOK_SECONDS, seconds * LOOK_BYTES / carried))


class Links:
    """`where(machine_id)`: addresses at which a relay that we asked was found."""

    def __init__(
        self, core: TunnelCore, engine: Engine, peers: Peers, where: Callable[[bytes], Sequence[Address]]
    ) -> None:
        self._core = core
        self._engine = engine
        self._peers = peers
        self._where = where
        self.seen: dict[bytes, int] = {}  # by machine_id: bytes carried by the last look

    def is_friend(self, machine_id: bytes) -> bool:
        """A peer by the owner's word."""
        return machine_id in self._peers.rows and machine_id not in self._peers.lodged

    async def admit(self, row: Row) -> None:
        """The payer calls the payee; a payee waits to be called. Raises TunError for who cannot be kept
        to what is opened to guests, or has no IPv4 name left: then it is not let in."""
        if row.partner not in self._peers.rows:
            await self._let_in(row)
        peer = self._core.peers.get(row.partner)
        if row.role is Role.PAYER and peer is not None and peer.keypairs.current is None:
            peer.handshakes.connect(boot_us(), unix_us())
            self._engine.poke()

    async def _let_in(self, row: Row) -> None:
        """It is in no table on the disk."""
        machine_id, guests, pool = row.partner, self._peers.guests, self._core.pool
        try:
            await guests.add(machine_id, ula(machine_id), pool.assign(machine_id))
        except TunError:
            self._release(machine_id)
            raise
        if machine_id in self._peers.rows:  # meanwhile, by the owner
            await guests.remove(machine_id)
            return
        self._core.gate(machine_id, False)
        bundle, calls = KeyBundle.from_bytes(row.bundle), row.role is Role.PAYER
        known = self._places(row) if calls else []  # as a listed machine; else it calls us
        peer = self._peers.rows[machine_id] = self._peers.new_row(bundle, "", b"", ())
        self._peers.lodged.add(machine_id)
        config = PeerConfig(bundle=bundle, name=peer.name, addresses=known, eager=calls)
        self._core.add_peer(config, [], boot_us())
        self._engine.poke()
        log.info("let in by a tunnel", machine=slug(machine_id), role=row.role)

    def _places(self, row: Row) -> list[Address]:
        """Where it was last, also before this start, then where it says that it is."""
        last = [addresses.parse(row.place)] if row.place else []
        return list(dict.fromkeys([*last, *self._where(row.partner)]))

    def call(self, machine_id: bytes) -> None:
        """A new session beside the one that there is, if it answers."""
        peer = self._core.peers.get(machine_id)
        if peer is not None:
            peer.handshakes.connect(boot_us(), unix_us(), brief=True)
            self._engine.poke()

    async def dismiss(self, machine_id: bytes) -> None:
        if machine_id not in self._peers.lodged:
            return
        self._core.gate(machine_id, False)
        self._peers.lodged.discard(machine_id)
        await self._peers.stop(self._peers.rows.pop(machine_id))
        await self._engine.refresh()  # the workers have heard of it: nothing of it comes in any more
        await self._peers.guests.remove(machine_id)
        self._release(machine_id)
        self.seen.pop(machine_id, None)
        log.info("let go with its tunnel", machine=slug(machine_id))

    def _release(self, machine_id: bytes) -> None:
        """Its IPv4 name, unless it is a peer meanwhile."""
        if machine_id not in self._peers.rows:
            self._core.pool.release(machine_id)

    def gate(self, machine_id: bytes, opened: bool) -> None:
        if machine_id in self._peers.lodged:
            self._core.gate(machine_id, opened and self._peers.guests.holds)
            self._engine.poke()

    def shut(self, machine_ids: Iterable[bytes]) -> None:
        for machine_id in machine_ids:
            self.gate(machine_id, False)

    def send(self, machine_id: bytes, body: bytes) -> None:
        """Lost where there is no session."""
        self._core.note(machine_id, body, boot_us(), unix_us())
        self._engine.poke()

    def measured(self, machine_id: bytes) -> Measured | None:
        peer = self._core.peers.get(machine_id)
        if peer is None:
            return None
        traffic = peer.traffic
        figures = (traffic.sent_bytes, traffic.received_bytes, int(traffic.lost_bytes))
        return Measured(*figures, peer.rtt_us or 0)
