"""A machine's key bundle, from itself: asked for at its addresses, checked against its machine_id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from crypto.identity import KeyBundle
from node.peers import Peers
from tun import events
from tun.addresses import Address
from tun.core import TunnelCore
from tun.engine import Engine, boot_us

KEYS_SECONDS: Final = 4.0


async def ask_keys(
    core: TunnelCore, engine: Engine, peers: Peers, machine_id: bytes, where: Sequence[Address]
) -> KeyBundle | None:
    """Of a listed machine; None if they did not come within four seconds."""
    if not where:
        return None
    async with peers.watch() as watcher:
        core.request_keys(machine_id, b"", where, boot_us())
        engine.poke()
        with trio.move_on_after(KEYS_SECONDS):
            async for event in watcher:
                match event:
                    case events.KeysArrived(bundle) if bundle.machine_id == machine_id:
                        return bundle
                    case events.KeysMissing(missing) if missing == machine_id:
                        return None
    return None
