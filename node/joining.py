"""Joining another machine by its invitation.

join ─▶ pending on disk ─▶ keys ─▶ handshake ─▶ Hello …… Welcome ─▶ peer on disk, pending gone
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

import trio

from crypto.identity import KeyBundle
from node.context import Context
from node.errors import Refused, Unreachable, Usage, UserError
from node.invitation import Invitation, InvitationDamaged, InvitationExpired, parse
from node.logs import Log
from node.peers import unix_now
from node.resolve import resolve
from node.store import PeerRow, Store
from tun import addresses, events
from tun.control import TOKEN_BYTES, Hello
from tun.engine import boot_us, unix_us

JOIN_SECONDS = 30
RETRY_SECONDS = 60

log = Log("joining")
Progress = Callable[[str], Awaitable[None]]


class Joining:
    """Joins under way, one for each machine."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store, self._core = context.store, context.core
        self._engine, self._peers = context.engine, context.peers
        self._joining: dict[bytes, bytes] = {}  # machine_id -> token, of those that we are joining
        context.core.hello_to = self._hello

    async def join(self, text: str, progress: Progress) -> PeerRow:
        """The whole way in; what was begun is kept on disk and tried again until it expires."""
        invitation = parse(text, unix_now())
        if invitation.machine_id == self._context.keys.machine_id:
            raise Usage("this invitation is this machine's own: give it to the machine that is to join")
        await self._store.call(Store.add_pending, text, unix_now())
        await self._context.heard_of(invitation.addresses)
        try:
            row = await self._join(invitation, progress)
        except Unreachable as error:
            await self._store.call(Store.set_pending_error, text, str(error))
            raise
        except (Refused, InvitationDamaged):
            await self._store.call(Store.remove_pending, text)
            raise
        await self._store.call(Store.remove_pending, text)
        return row

    async def _join(self, invitation: Invitation, progress: Progress) -> PeerRow:
        machine_id = invitation.machine_id
        if machine_id in self._joining:
            raise Usage("this invitation is being redeemed already; see zeqnode status")
        self._joining[machine_id] = invitation.token
        row: PeerRow | None = None
        try:
            async with self._peers.watch() as watcher:
                bundle = await self._fetch_keys(invitation, watcher, progress)
                invitation.confirm(bundle)
                row = self._row(bundle, invitation)
                await progress(f"calling {row.name}, whose keys fit the invitation")
                await self._peers.start(row, invitation.token, sha256(invitation.token).digest()[:16])
                welcomed = await self._wait_for_welcome(row, watcher, progress)
                if welcomed.name:
                    log.info("welcomed", by=welcomed.name)
            await self._peers.put(row)
            return row
        except BaseException:
            if row is not None and machine_id not in self._peers.rows:
                self._core.remove_peer(machine_id, boot_us(), unix_us())
            raise
        finally:
            del self._joining[machine_id]
            self._core.end_join(machine_id)

    def _row(self, bundle: KeyBundle, invitation: Invitation) -> PeerRow:
        """Of a machine that we know already, whose owner has forgotten us, what was chosen here stays."""
        lookup_secret, endpoints = invitation.lookup_secret, invitation.addresses
        known = self._peers.rows.get(bundle.machine_id)
        if known is None:
            return self._peers.new_row(bundle, invitation.name, lookup_secret, endpoints)
        return replace(known, endpoints=endpoints, lookup_secret=lookup_secret, enabled=True)

    async def _fetch_keys(
        self,
        invitation: Invitation,
        watcher: trio.MemoryReceiveChannel[events.Event],
        progress: Progress,
    ) -> KeyBundle:
        where = await resolve(invitation.addresses)
        places = ", ".join(invitation.addresses)
        if not where:
            raise Unreachable(
                f"no address in the invitation can be looked up ({places}); check this machine's network"
            )
        await progress(f"asking {', '.join(map(addresses.text, where))} for its keys")
        self._core.request_keys(invitation.machine_id, invitation.lookup_secret, where, boot_us())
        self._engine.poke()
        with trio.move_on_after(JOIN_SECONDS):
            async for event in watcher:
                match event:
                    case events.KeysArrived(bundle) if bundle.machine_id == invitation.machine_id:
                        return bundle
                    case events.KeysMissing(machine_id) if machine_id == invitation.machine_id:
                        break
        raise Unreachable(
            f"{invitation.name or 'the inviting machine'} does not answer at {places}: see that its node "
            "runs and that its UDP port can be reached from here (a router in front of it must forward it); "
            "the invitation is kept and tried again every minute while this node runs"
        )

    async def _wait_for_welcome(
        self, row: PeerRow, watcher: trio.MemoryReceiveChannel[events.Event], progress: Progress
    ) -> events.Welcomed:
        with trio.move_on_after(JOIN_SECONDS):
            async for event in watcher:
                match event:
                    case events.Connected(machine_id, address) if machine_id == row.machine_id and address:
                        await progress(f"connected at {addresses.text(address)}; redeeming the invitation")
                    case events.Welcomed(machine_id) if machine_id == row.machine_id:
                        return event
                    case events.TurnedAway(machine_id, _, reason) if machine_id == row.machine_id:
                        raise Refused(f"{row.name} turned us away: {reason}; ask for a new invitation")
        raise Unreachable(
            f"{row.name} gave its keys but finished no handshake within {JOIN_SECONDS} s: see its log; "
            "the invitation is kept and tried again every minute while this node runs"
        )

    async def retry_pending(self) -> None:
        """Joins that were begun and not finished, once a minute until they succeed or expire."""
        while True:
            for pending in await self._store.call(Store.pending):
                try:
                    await self._retry(pending.invitation)
                except UserError as error:
                    log.warning("join not finished", error=error)
            await trio.sleep(RETRY_SECONDS)

    async def _retry(self, text: str) -> None:
        try:
            row = await self.join(text, _log_progress)
            log.info("joined", peer=row.name)
        except InvitationExpired as error:
            await self._store.call(Store.remove_pending, text)
            log.warning("join given up", error=error)

    def _hello(self, machine_id: bytes) -> Hello:
        token = self._joining.get(machine_id, bytes(TOKEN_BYTES))
        return Hello(
            token,
            self._context.config.node.name,
            self._context.lookup_secret,
            tuple(self._context.own_addresses()[:8]),
        )


async def _log_progress(text: str) -> None:
    log.debug(text)
