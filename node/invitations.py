"""Invitations given out by this node: made, listed, revoked, and redeemed when they come back.

invite ─▶ row on disk ─▶ zeq://…          Introduced ─▶ redeem ─▶ peer on disk ─▶ Welcome
"""

from __future__ import annotations

import os
from hashlib import sha256

from crypto.identity import sign, slug
from node.context import Context
from node.errors import Usage
from node.invitation import ADDRESSES_MAX, Invitation, clean_name, encode, is_address
from node.logs import Log
from node.peers import unix_now
from node.store import InvitationRow, Store
from tun import events
from tun.control import TOKEN_BYTES
from tun.doorkeeper import Invited
from tun.engine import boot_us, unix_us

ID_CHARS = 8

log = Log("invitations")


class Invitations:
    """Those that are on disk, by the id that their token shows itself by."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store, self._core = context.store, context.core
        self._engine, self._peers = context.engine, context.peers
        self._given: dict[bytes, InvitationRow] = {}  # by token id: the first 16 bytes of the token's hash
        context.core.door.invited = self._standing

    async def load(self) -> None:
        self._given = {row.token_hash[:16]: row for row in await self._store.call(Store.list_invitations)}

    async def invite(self, name: str, seconds: int) -> tuple[str, InvitationRow]:
        """A new invitation's text, and its row, which is on disk. Raises Usage without any own address."""
        where = self._context.own_addresses()[:ADDRESSES_MAX]
        if not where:
            raise Usage(
                "no address of this machine is known that another could call; connect it to a network, "
                'or set `advertise = ["host:port"]` in [listen]'
            )
        token = os.urandom(TOKEN_BYTES)
        now = unix_now()
        row = InvitationRow(sha256(token).digest(), clean_name(name), now, now + seconds)
        bundle = self._context.keys.bundle
        invitation = Invitation(
            machine_id=bundle.machine_id,
            ed25519=bundle.ed25519,
            name=self._context.config.node.name,
            addresses=tuple(where),
            homes=(),
            lookup_secret=self._context.lookup_secret,
            token=token,
            expires=row.expires,
        )
        text = encode(invitation, lambda label, payload: sign(self._context.keys, label, payload))
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
        if row is None or row.machine_id in self._peers.lodged:
            wanted = result.invitation.name or event.hello.name
            endpoints = tuple(filter(is_address, event.hello.addresses))
            row = self._peers.new_row(event.bundle, wanted, event.hello.lookup_secret, endpoints)
            await self._peers.put(row)
            await self._peers.start(row)
            log.info("joined", peer=row.name, fingerprint_of=slug(row.machine_id))
        self._core.welcome(event.machine_id, self._context.config.node.name, boot_us(), unix_us())
        self._engine.poke()


def identifier(row: InvitationRow) -> str:
    """What people name an invitation by: the start of its token's hash, in hex."""
    return row.token_hash.hex()[:ID_CHARS]
