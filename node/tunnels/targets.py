"""Which machine is meant by what somebody typed, and where it is now.

    slug, slug~beginning of the fingerprint ─▶ node/keyex/directory.py; the second is pinned from then on
    name of a peer ─ whole fingerprint      ─▶ machine_id ─▶ its location ─▶ its key bundle

A bare slug never begins a first tunnel (DESIGN.md section 4): who claims it is shown, and one may choose.
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.identity import BadFingerprint, KeyBundle, fingerprint, parse_fingerprint, slug
from dht.calls import Recipient
from dht.locations import listed_secret
from dht.slugs import is_slug
from node.acquainting import ask_keys
from node.context import Context
from node.discovery import Discovery
from node.errors import Usage
from node.keyex.directory import Directory
from node.tunnels.disk import Disk
from node.tunnels.errors import BadTarget, NotThere, Silent
from node.tunnels.store import TunnelStore


@dataclass(frozen=True)
class Target:
    """`bundle`: where it is known before the machine was asked. `name`: for people."""

    machine_id: bytes
    name: str
    bundle: KeyBundle | None = None


class Pins:
    """Which machine a slug stands for here, kept with the tunnels."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._known: dict[str, bytes] = {}

    async def load(self) -> None:
        """Raises StorageFailed."""
        self._known = await self._disk.call(TunnelStore.pins)

    def of(self, name: str) -> bytes | None:
        """machine_id, 32 bytes."""
        return self._known.get(name)

    async def pin(self, name: str, machine_id: bytes) -> None:
        """From now on; in place of another one. Raises StorageFailed."""
        if self._known.get(name) != machine_id:
            await self._disk.call(TunnelStore.pin, name, machine_id)
            self._known[name] = machine_id


class Targets:
    """`directory` knows slugs, by the same pins."""

    def __init__(self, context: Context, discovery: Discovery, directory: Directory, pins: Pins) -> None:
        self._context = context
        self._discovery = discovery
        self._directory = directory
        self._pins = pins

    async def find(self, text: str) -> Target:
        """Raises BadTarget, and what `Directory.named` raises."""
        name, mark, beginning = text.strip().partition("~")
        if name.upper() == slug(self._context.keys.machine_id):
            raise BadTarget("that is this machine itself; name another one")
        if is_slug(name.upper()):
            bundle = await self._directory.named(f"{name.upper()}{mark}{beginning.lower()}")
            if mark:
                await self._pins.pin(name.upper(), bundle.machine_id)
            return Target(bundle.machine_id, self._name(bundle.machine_id), bundle)
        try:
            row = self._context.peers.find(text)
        except Usage:
            return self._of_fingerprint(text)
        return Target(row.machine_id, row.name, KeyBundle.from_bytes(row.bundle))

    async def recipient(self, target: Target) -> Recipient:
        """Where to send it a sealed event. Raises NotThere, Silent, and what `Directory.recipient` raises."""
        if target.bundle is not None:
            return await self._directory.recipient(target.bundle)
        machine_id, secret = target.machine_id, listed_secret(target.machine_id)
        location = await self._discovery.find_machine(machine_id, None, secret)
        if location is None:
            raise NotThere(
                f"{target.name} is not listed, or no part of the mesh that knows it can be reached; see "
                "zeqnode market, and zeqnode peers for how this machine is connected"
            )
        where, context = self._discovery.links.addresses(location.endpoints), self._context
        bundle = await ask_keys(context.core, context.engine, context.peers, machine_id, where)
        if bundle is None:
            raise Silent(
                f"{target.name} is listed and does not answer where it says it is; try again later, or "
                "another one: zeqnode market"
            )
        return Recipient(bundle, secret, location.endpoints, location.homes)

    def _of_fingerprint(self, text: str) -> Target:
        try:
            machine_id = parse_fingerprint(text)
        except BadFingerprint:
            raise BadTarget(
                f"{text[:80]!r} is no peer's name, no slug (ZEQ07 and nine digits) and no whole fingerprint; "
                "zeqnode market shows relays with theirs"
            ) from None
        return Target(machine_id, self._name(machine_id))

    def _name(self, machine_id: bytes) -> str:
        row = self._context.peers.rows.get(machine_id)
        return row.name if row is not None else f"{slug(machine_id)}~{fingerprint(machine_id)[:19]}"
