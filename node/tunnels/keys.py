"""The secret of each tunnel in the vault: `vpn.tunnel.<id>.key`, which both ends have and nobody else.

It is an exporter secret of the handshake that the tunnel began with; no record's key follows from it. It is
the owner's and may be fetched by the partner; it is erased when the tunnel ends.
"""

from __future__ import annotations

from node.errors import UserError
from node.logs import Log
from node.settlement.life import Row
from node.tunnels.shown import identifier
from node.vault.entries import machine
from node.vault.secrets import Secrets
from tun.core import TunnelCore

log = Log("tunnels")


def purpose(tunnel_id: bytes) -> str:
    """The seeds' `key_purpose_id`."""
    return f"vpn.tunnel.{identifier(tunnel_id)}.key"


class Keys:
    """Told of every change of a tunnel."""

    def __init__(self, core: TunnelCore, secrets: Secrets) -> None:
        self._core = core
        self._secrets = secrets
        self._parked: set[bytes] = set()

    async def changed(self, row: Row) -> None:
        """What cannot be done is logged: no tunnel waits for it."""
        try:
            if row.ended:
                self._parked.discard(row.tunnel_id)
                await self._secrets.remove(purpose(row.tunnel_id), by=self._secrets.owner)
            elif row.began_at and row.tunnel_id not in self._parked:
                await self._park(row)
        except UserError as error:
            log.warning("the vault has not taken up a change of a tunnel", error=error)

    async def _park(self, row: Row) -> None:
        secret = self._core.exporter(row.partner, row.session)
        if secret is None:  # begun before this start: it is there
            return
        self._parked.add(row.tunnel_id)
        owner, partner = self._secrets.owner, machine(row.partner)
        await self._secrets.put(purpose(row.tunnel_id), secret, permissions=[partner], by=owner)
