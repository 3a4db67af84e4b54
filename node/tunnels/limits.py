"""Who lets whom owe how much, as far as it is known here: for `zeqnode balance`."""

from __future__ import annotations

from node.settlement.terms import Unit
from node.tunnels.service import Service
from node.tunnels.store import TunnelStore


class TunnelLimits:
    """Millionths of a ZEQ."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def extended(self, machine_id: bytes) -> int:
        """By us."""
        return self._service.desk.credit.limit(machine_id, Unit.GB)

    async def left_at(self, machine_id: bytes) -> int | None:
        """What it said last, when it was asked for a tunnel, less what was used since; None: it never was, or
        said nothing. Raises StorageFailed."""
        used = 0
        for kept in await self._service.disk.call(TunnelStore.paid_to, machine_id):
            row = self._service.desk.row(kept.tunnel_id) or kept
            used += row.value
            if row.left is not None:
                return row.left - used
        return None
