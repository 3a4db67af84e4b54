"""What the services of one running node share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from crypto.cookies import LOOKUP_SECRET_BYTES
from crypto.identity import MachineKeys
from node.config import Config
from node.peers import Peers
from node.store import AsyncStore, Store
from tun.core import TunnelCore
from tun.engine import Engine

LOOKUP_SETTING: Final = "lookup secret"


async def _pass_over(_endpoints: Iterable[str]) -> None:
    """Without discovery."""


async def lookup_secret_of(store: AsyncStore) -> bytes:
    """16 random bytes, made once: whoever was not given them cannot make this machine answer. Raises
    StorageFailed."""
    secret = await store.call(Store.setting, LOOKUP_SETTING)
    if secret is None:
        secret = os.urandom(LOOKUP_SECRET_BYTES)
        await store.call(Store.set_setting, LOOKUP_SETTING, secret)
    return secret


@dataclass(slots=True)
class Context:
    """`config` is replaced by a reload. `lookup_secret`: 16 bytes, without which we answer nobody.

    `own_addresses()` are the "host:port" texts under which others may reach this node; `heard_of` is told
    those of other nodes, for discovery to begin with."""

    config: Config
    keys: MachineKeys
    lookup_secret: bytes
    store: AsyncStore
    core: TunnelCore
    engine: Engine
    peers: Peers
    own_addresses: Callable[[], list[str]]
    heard_of: Callable[[Iterable[str]], Awaitable[None]] = _pass_over
