"""What `zeqnode status` shows: one dictionary, the same for people (rendered), `--json` and scripts.

A peer's `state`: connected (a session is up), connecting (a handshake is under way), idle (there was a
session; the next packet makes another), unreached (never answered since the start), down (by its owner).
Times are seconds, sizes bytes; null is what is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from crypto.identity import fingerprint, slug, ula
from node.context import Context
from node.invitations import Invitations
from node.peers import unix_now
from node.store import PeerRow
from tun import addresses
from tun.engine import boot_us
from tun.peer import Peer

SECOND_US = 1_000_000
DOWN = "it was switched off here; `zeqnode up` brings it back"


class Status:
    """`interface`, `listen` and `discovery` are filled in when they are known."""

    def __init__(self, context: Context, invitations: Invitations) -> None:
        self._context = context
        self._core, self._peers = context.core, context.peers
        self._invitations = invitations
        self._started_us = boot_us()
        self.interface: dict[str, Any] = {}
        self.listen: dict[str, Any] = {}
        self.engine: dict[str, Any] = {}
        self.discovery: Callable[[], dict[str, Any]] = lambda: {"enabled": False}

    def snapshot(self) -> dict[str, Any]:
        machine_id = self._core.local.bundle.machine_id
        open_invitations = [
            row
            for row in self._invitations.rows()
            if row.used_by is None and not row.revoked and row.expires > unix_now()
        ]
        return {
            "machine": {
                "name": self._context.config.node.name,
                "slug": slug(machine_id),
                "fingerprint": fingerprint(machine_id),
                "address6": str(ula(machine_id)),
                "address4": str(self._core.pool.own),
                "version": version("zeqnode"),
                "uptime_s": (boot_us() - self._started_us) // SECOND_US,
            },
            "interface": self.interface,
            "listen": self.listen,
            "engine": self.engine | self._workers(),
            "peers": [self.peer(row) for row in self._peers.rows.values()],
            "discovery": self.discovery(),
            "invitations_open": len(open_invitations),
            "counters": dict(sorted(self._core.counters.items())),
        }

    def _workers(self) -> dict[str, Any]:
        workers = self._context.engine.workers
        return {"workers": workers.pids, "restarts": workers.restarts} if workers is not None else {}

    def peer(self, row: PeerRow) -> dict[str, Any]:
        peer = self._core.peers.get(row.machine_id)
        state = _state(row, peer)
        why = DOWN if state == "down" else self._peers.why.get(row.machine_id)
        if state == "unreached" and why is None:
            why = self._peers.why_not(row.machine_id)
        return {
            "name": row.name,
            "slug": slug(row.machine_id),
            "fingerprint": fingerprint(row.machine_id),
            "state": state,
            "address6": str(self._peers.address6(row)),
            "address4": str(self._peers.address4(row)),
            "networks": [str(network) for network in self._peers.networks(row)],
            "why": None if state == "connected" else why,
            **_live(peer, self._peers.since_us.get(row.machine_id)),
        }


def _state(row: PeerRow, peer: Peer | None) -> str:
    if peer is None or not row.enabled:
        return "down"
    if peer.keypairs.current is not None:
        return "connected"
    if peer.handshakes.attempt is not None:
        return "connecting"
    return "idle" if peer.last_handshake_us >= 0 else "unreached"


def _live(peer: Peer | None, since_us: int | None) -> dict[str, Any]:
    now = boot_us()
    current = peer.keypairs.current if peer is not None else None
    endpoint = peer.paths.endpoint if peer is not None else None
    return {
        "endpoint": addresses.text(endpoint) if endpoint is not None else None,
        "path": "direct" if current is not None and endpoint is not None else None,
        "since_s": (now - since_us) // SECOND_US if current is not None and since_us is not None else None,
        "last_heard_s": _ago(now, peer.timers.last_received_us if peer is not None else -1),
        "last_handshake_s": _ago(now, peer.last_handshake_us if peer is not None else -1),
        "rtt_ms": round(peer.rtt_us / 1000, 2) if peer is not None and peer.rtt_us is not None else None,
        "sent_bytes": peer.traffic.sent_bytes if peer is not None else 0,
        "received_bytes": peer.traffic.received_bytes if peer is not None else 0,
        "epoch": current.session.epoch(now) if current is not None else None,
        "initiator": current.initiator if current is not None else None,
        "mode": ("span" if peer.span else "segments") if peer is not None and current is not None else None,
        "loss": peer.loss if peer is not None else None,
        "payload": peer.paths.payload if peer is not None else None,
        "behind_nat": peer.behind_nat if peer is not None else None,
    }


def _ago(now_us: int, then_us: int) -> int | None:
    return (now_us - then_us) // SECOND_US if then_us >= 0 else None
