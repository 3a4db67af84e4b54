"""The peers that tunnels make: let in by an agreement and not by the owner, and only for as long as it lasts.

They are in no table on the disk: the tunnel's row has the keys, and a start that finds it running lets the
partner in again. A peer by the owner's word is never shut out or dropped here; its tunnel only ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from crypto.identity import KeyBundle, slug
from node.logs import Log
from node.peers import Peers
from node.settlement.life import Role, Row
from node.settlement.side import Measured
from tun.addresses import Address
from tun.core import TunnelCore
from tun.engine import Engine, boot_us, unix_us

log = Log("tunnels")


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
        """The payer calls the payee; a payee waits to be called."""
        if row.partner not in self._peers.rows:
            bundle = KeyBundle.from_bytes(row.bundle)
            self._core.gate(row.partner, False)
            calls = row.role is Role.PAYER
            await self._peers.lodge(bundle, self._where(row.partner) if calls else (), calls)
            log.info("let in by a tunnel", machine=slug(row.partner), role=row.role)
        peer = self._core.peers.get(row.partner)
        if row.role is Role.PAYER and peer is not None and peer.keypairs.current is None:
            peer.handshakes.connect(boot_us(), unix_us())
            self._engine.poke()

    async def dismiss(self, machine_id: bytes) -> None:
        if machine_id in self._peers.lodged:
            await self._peers.unlodge(machine_id)
            self.seen.pop(machine_id, None)
            log.info("let go with its tunnel", machine=slug(machine_id))

    def gate(self, machine_id: bytes, opened: bool) -> None:
        if machine_id in self._peers.lodged:
            self._core.gate(machine_id, opened)
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
