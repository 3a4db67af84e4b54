"""What can be asked of the running node through its control socket, by name."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from crypto.identity import fingerprint, slug
from node.context import Context
from node.control import Asker
from node.errors import Unreachable, Usage
from node.invitations import Invitations, identifier
from node.joining import Joining, Progress
from node.peers import unix_now
from node.status import DOWN, Status
from node.store import InvitationRow, PeerRow
from tun import addresses, events
from tun.engine import boot_us, unix_us

DEFAULT_EXPIRY_S = 7 * 24 * 3600
MAX_EXPIRY_S = 365 * 24 * 3600
UP_SECONDS = 10
PING_SECONDS = 5.0
MAX_PING_SECONDS = 60.0

Arguments = dict[str, Any]
Result = dict[str, Any]
Operation = Callable[[Arguments, Asker], Awaitable[Result]]


class Operations:
    """`handle` is what `node.control.serve` calls. `more` are operations from elsewhere."""

    def __init__(
        self,
        context: Context,
        invitations: Invitations,
        joining: Joining,
        status: Status,
        more: Mapping[str, Operation],
    ) -> None:
        self._core, self._engine, self._peers = context.core, context.engine, context.peers
        self._invitations = invitations
        self._joining = joining
        self._status = status
        self._ping_ids = itertools.count(1)
        self._operations: dict[str, Operation] = {
            **more,
            "status": self._on_status,
            "invite": self._on_invite,
            "invitations": self._on_invitations,
            "revoke": self._on_revoke,
            "join": self._on_join,
            "up": self._on_up,
            "down": self._on_down,
            "ping": self._on_ping,
            "forget": self._on_forget,
            "rename": self._on_rename,
        }

    def add(self, more: Mapping[str, Operation]) -> None:
        """From services that are open now."""
        self._operations |= more

    async def handle(self, op: str, arguments: Arguments, asker: Asker) -> Result:
        """Raises UserError with a sentence for whoever asked."""
        operation = self._operations.get(op)
        if operation is None:
            raise Usage(f"the running node knows no {op!r}; is it of another version than this command?")
        return await operation(arguments, asker)

    async def _on_status(self, _arguments: Arguments, _progress: Progress) -> Result:
        await self._engine.refresh()
        return self._status.snapshot()

    async def _on_invite(self, arguments: Arguments, _progress: Progress) -> Result:
        name, seconds = arguments.get("name") or "", arguments.get("expires_s", DEFAULT_EXPIRY_S)
        if not isinstance(name, str) or type(seconds) is not int or not 0 < seconds <= MAX_EXPIRY_S:
            raise Usage("an invitation is good for at least a second and at most a year")
        text, row = await self._invitations.invite(name, seconds)
        return {"invitation": text, **_invitation(row)}

    async def _on_invitations(self, _arguments: Arguments, _progress: Progress) -> Result:
        names = {row.machine_id: row.name for row in self._peers.rows.values()}
        rows = sorted(self._invitations.rows(), key=lambda row: row.created)
        return {
            "invitations": [
                {**_invitation(row), "used_by": names.get(row.used_by or b"") or _slug(row.used_by)}
                for row in rows
            ]
        }

    async def _on_revoke(self, arguments: Arguments, _progress: Progress) -> Result:
        return _invitation(await self._invitations.revoke(required(arguments, "id")))

    async def _on_join(self, arguments: Arguments, progress: Progress) -> Result:
        row = await self._joining.join(required(arguments, "invitation"), progress)
        return {
            "name": row.name,
            "slug": slug(row.machine_id),
            "fingerprint": fingerprint(row.machine_id),
            "addresses": [str(self._peers.address6(row)), str(self._peers.address4(row))],
        }

    async def _on_up(self, arguments: Arguments, progress: Progress) -> Result:
        row = self._peers.of_owner(self._peers.find(required(arguments, "peer")))
        async with self._peers.watch() as watcher:
            row = await self._peers.enable(row, True)
            self._call(row)
            if not self._is_connected(row):
                await progress(f"calling {row.name}")
                with trio.move_on_after(UP_SECONDS):
                    async for event in watcher:
                        if isinstance(event, events.Connected) and event.machine_id == row.machine_id:
                            break
        return self._status.peer(row)

    async def _on_down(self, arguments: Arguments, _progress: Progress) -> Result:
        row = self._peers.of_owner(self._peers.find(required(arguments, "peer")))
        row = await self._peers.enable(row, False)
        return self._status.peer(row)

    async def _on_forget(self, arguments: Arguments, _progress: Progress) -> Result:
        row = self._peers.of_owner(self._peers.find(required(arguments, "peer")))
        await self._peers.forget(row)
        await self._invitations.load()  # the ones that it used are revoked now
        return {"name": row.name}

    async def _on_rename(self, arguments: Arguments, _progress: Progress) -> Result:
        row = self._peers.of_owner(self._peers.find(required(arguments, "peer")))
        return {"name": (await self._peers.rename(row, required(arguments, "name"))).name, "was": row.name}

    async def _on_ping(self, arguments: Arguments, _progress: Progress) -> Result:
        """One round trip through the tunnel, node to node: authentic, and no firewall's business."""
        row = self._peers.find(required(arguments, "peer"))
        timeout = arguments.get("timeout_s", PING_SECONDS)
        if not isinstance(timeout, int | float) or not 0 < timeout <= MAX_PING_SECONDS:
            raise Usage("a ping waits for more than 0 and at most 60 seconds")
        peer = self._core.peers.get(row.machine_id)
        if peer is None:
            raise Unreachable(f"{row.name} is not reached: {DOWN}")
        number = next(self._ping_ids)
        async with self._peers.watch() as watcher:
            peer.conversation.ping(number, boot_us(), unix_us())
            self._engine.poke()
            with trio.move_on_after(timeout):
                async for event in watcher:
                    match event:
                        case events.Ponged(machine_id, answered, rtt_us) if (
                            machine_id == row.machine_id and answered == number
                        ):
                            return self._ponged(row, rtt_us)
        why = self._peers.why_not(row.machine_id)
        raise Unreachable(f"no answer from {row.name} within {timeout:g} s: {why}")

    def _ponged(self, row: PeerRow, rtt_us: int) -> Result:
        endpoint = self._core.peers[row.machine_id].paths.endpoint
        return {
            "name": row.name,
            "rtt_ms": round(rtt_us / 1000, 3),
            "path": "direct",
            "endpoint": addresses.text(endpoint) if endpoint is not None else None,
        }

    def _is_connected(self, row: PeerRow) -> bool:
        peer = self._core.peers.get(row.machine_id)
        return peer is not None and peer.keypairs.current is not None

    def _call(self, row: PeerRow) -> None:
        peer = self._core.peers.get(row.machine_id)
        if peer is not None and peer.keypairs.current is None:
            peer.handshakes.connect(boot_us(), unix_us())
            self._engine.poke()


def required(arguments: Arguments, key: str) -> str:
    """The text under `key`, that is not empty. Raises Usage."""
    value = arguments.get(key)
    if not isinstance(value, str) or not value:
        raise Usage(f"this needs {key!r}")
    return value


def _slug(machine_id: bytes | None) -> str | None:
    return slug(machine_id) if machine_id is not None else None


def _invitation(row: InvitationRow) -> Result:
    state = "open"
    if row.revoked:
        state = "revoked"
    elif row.used_by is not None:
        state = "used"
    elif row.expires <= unix_now():
        state = "expired"
    return {
        "id": identifier(row),
        "name": row.name,
        "created": row.created,
        "expires": row.expires,
        "state": state,
    }
