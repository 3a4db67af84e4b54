"""Both ends of an invitation: giving one out and redeeming it when it comes back, and joining by one.

inviter  invite ─▶ row on disk ─▶ zeq://…            Introduced ─▶ redeem ─▶ peer on disk ─▶ Welcome
joiner   join ─▶ pending on disk ─▶ keys ─▶ handshake ─▶ Hello …… Welcome ─▶ peer on disk, pending gone
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256

import trio

from crypto.identity import KeyBundle, MachineKeys, sign, slug
from node.config import Config
from node.errors import Refused, Unreachable, Usage, UserError
from node.invitation import (
    ADDRESSES_MAX,
    Invitation,
    InvitationExpired,
    clean_name,
    encode,
    is_address,
    parse,
)
from node.logs import Log
from node.peers import Peers, unix_now
from node.resolve import resolve
from node.store import AsyncStore, InvitationRow, PeerRow, Redeemed, Store
from tun import addresses, events
from tun.control import TOKEN_BYTES, Hello
from tun.core import TunnelCore
from tun.doorkeeper import Invited
from tun.engine import Engine, boot_us, unix_us

JOIN_SECONDS = 30
RETRY_SECONDS = 60
ID_CHARS = 8

log = Log("invitations")
Progress = Callable[[str], Awaitable[None]]

_STANDING = {
    Redeemed.DONE: Invited.GOOD,
    Redeemed.AGAIN: Invited.GOOD,
    Redeemed.USED: Invited.USED,
    Redeemed.EXPIRED: Invited.EXPIRED,
    Redeemed.REVOKED: Invited.REVOKED,
}


class Joining:
    """`own_addresses()` are the "host:port" texts under which others may reach this node."""

    def __init__(
        self,
        config: Config,
        keys: MachineKeys,
        lookup_secret: bytes,
        store: AsyncStore,
        core: TunnelCore,
        engine: Engine,
        peers: Peers,
        own_addresses: Callable[[], list[str]],
    ) -> None:
        self.config = config
        self._keys = keys
        self._lookup_secret = lookup_secret
        self._store = store
        self._core = core
        self._engine = engine
        self._peers = peers
        self._own_addresses = own_addresses
        self._given: dict[bytes, InvitationRow] = {}  # by token id: the first 16 bytes of the token's hash
        self._joining: dict[bytes, bytes] = {}  # machine_id -> token, of those that we are joining
        core.door.invited = self._standing
        core.hello_to = self._hello

    async def load(self) -> None:
        self._given = {row.token_hash[:16]: row for row in await self._store.call(Store.list_invitations)}

    # ------------------------------------------------------------------ giving out

    async def invite(self, name: str, seconds: int) -> tuple[str, InvitationRow]:
        """A new invitation's text, and its row, which is on disk. Raises Usage without any own address."""
        where = self._own_addresses()[:ADDRESSES_MAX]
        if not where:
            raise Usage(
                "no address of this machine is known that another could call; connect it to a network, "
                'or set `advertise = ["host:port"]` in [listen]'
            )
        token = os.urandom(TOKEN_BYTES)
        now = unix_now()
        row = InvitationRow(sha256(token).digest(), clean_name(name), now, now + seconds)
        bundle = self._keys.bundle
        invitation = Invitation(
            machine_id=bundle.machine_id,
            ed25519=bundle.ed25519,
            name=self.config.node.name,
            addresses=tuple(where),
            homes=(),
            lookup_secret=self._lookup_secret,
            token=token,
            expires=row.expires,
        )
        text = encode(invitation, lambda label, payload: sign(self._keys, label, payload))
        await self._store.call(Store.add_invitation, row)
        await self.load()
        log.info("invited", name=row.name, id=identifier(row))
        return text, row

    def rows(self) -> list[InvitationRow]:
        return list(self._given.values())

    async def revoke(self, wanted: str) -> InvitationRow:
        found = [row for row in self._given.values() if identifier(row) == wanted.lower()]
        if not found:
            raise Usage(f"no invitation has the id {wanted!r}; see zeqnode invite list")
        await self._store.call(Store.revoke, found[0].token_hash)
        await self.load()
        return found[0]

    def _standing(self, token_id: bytes, unix_time_us: int) -> Invited:
        """For the doorkeeper, which has seen no token yet: only that somebody knows of one."""
        row = self._given.get(token_id)
        if row is None:
            return Invited.UNKNOWN
        if row.revoked:
            return Invited.REVOKED
        if row.used_by is not None:
            return Invited.USED
        return Invited.EXPIRED if unix_time_us >= row.expires * 1_000_000 else Invited.GOOD

    async def introduced(self, event: events.Introduced) -> None:
        """A machine with a confirmed session shows a token: redeem it on disk, then let it in."""
        token_hash = sha256(event.hello.token).digest()
        result = await self._store.call(Store.redeem, token_hash, event.machine_id, unix_now())
        await self.load()
        if not result.admits or result.invitation is None:
            self._core.refuse(
                event.machine_id, f"the invitation is {result.outcome.value}", boot_us(), unix_us()
            )
            self._engine.poke()
            log.warning("invitation refused", machine=slug(event.machine_id), why=result.outcome.value)
            return
        row = self._peers.rows.get(event.machine_id)
        if row is None:
            wanted = result.invitation.name or event.hello.name
            endpoints = tuple(filter(is_address, event.hello.addresses))
            row = self._row(event.bundle, wanted, event.hello.lookup_secret, endpoints)
            await self._peers.put(row)
            await self._peers.start(row)
            log.info("joined", peer=row.name, fingerprint_of=slug(row.machine_id))
        self._core.welcome(event.machine_id, self.config.node.name, boot_us(), unix_us())
        self._engine.poke()

    # ------------------------------------------------------------------ joining

    async def join(self, text: str, progress: Progress) -> PeerRow:
        """The whole way in; what was begun is kept on disk and tried again until it expires."""
        invitation = parse(text, unix_now())
        if invitation.machine_id == self._keys.machine_id:
            raise Usage("this invitation is this machine's own: give it to the machine that is to join")
        known = self._peers.rows.get(invitation.machine_id)
        if known is not None:
            await self._store.call(Store.remove_pending, text)
            return known
        await self._store.call(Store.add_pending, text, unix_now())
        try:
            row = await self._join(invitation, progress)
        except Unreachable as error:
            await self._store.call(Store.set_pending_error, text, str(error))
            raise
        except Refused:
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
                row = self._row(bundle, invitation.name, invitation.lookup_secret, invitation.addresses)
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
                    row = await self.join(pending.invitation, _log_progress)
                    log.info("joined", peer=row.name)
                except InvitationExpired as error:
                    await self._store.call(Store.remove_pending, pending.invitation)
                    log.warning("join given up", error=error)
                except UserError as error:
                    log.warning("join not finished", error=error)
            await trio.sleep(RETRY_SECONDS)

    def _hello(self, machine_id: bytes) -> Hello:
        token = self._joining.get(machine_id, bytes(TOKEN_BYTES))
        return Hello(token, self.config.node.name, self._lookup_secret, tuple(self._own_addresses()[:8]))

    def _row(self, bundle: KeyBundle, name: str, lookup_secret: bytes, endpoints: tuple[str, ...]) -> PeerRow:
        machine_id = bundle.machine_id
        return PeerRow(
            machine_id=machine_id,
            bundle=bundle.to_bytes(),
            name=self._peers.free_name(name, machine_id),
            lookup_secret=lookup_secret,
            endpoints=endpoints,
            allowed_ips=(),
            ipv4=str(self._core.pool.assign(machine_id)),
            enabled=True,
            last_clock=0,
            added_at=unix_now(),
        )


async def _log_progress(text: str) -> None:
    log.debug(text)


def identifier(row: InvitationRow) -> str:
    """What people name an invitation by: the start of its token's hash, in hex."""
    return row.token_hash.hex()[:ID_CHARS]
