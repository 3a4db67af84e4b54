"""The vault for the services of a running node: what Keeper and Book do, in one thread at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from crypto.pulse import zeqond
from crypto.vault_keys import KeyKind, KeySource
from node.vault.book import SecretInfo, Verified
from node.vault.entries import Entry
from node.vault.keeper import Keeper

_T = TypeVar("_T")


def zeqond_now() -> int:
    """By the wall clock: an expiry is told to people, and goes on while the node does not run."""
    return zeqond(time.time_ns() // 1_000_000)


class Secrets:
    """Named secrets. `by`, and those in `permissions`, are a ZID or "machine:" and 64 hex digits of
    machine_id (ValueError for anything else). Each put, get, remove and denial is in the audit before it is
    answered.

    Whoever put a secret may have it, and alone may replace or remove it; its permissions name others who may
    have it. Every method may raise StorageFailed; a cancelled caller still waits for what it has begun.
    """

    def __init__(self, keeper: Keeper, clock: Callable[[], int]) -> None:
        self._keeper = keeper
        self._clock = clock
        self._one = trio.CapacityLimiter(1)
        self.owner = keeper.owner
        """The ZID of this machine's owner."""
        self.machine = keeper.machine
        """This machine itself, as `by`: for what is nobody's to ask for, the owner's neither."""

    async def put(
        self,
        purpose: str,
        secret: bytes,
        *,
        permissions: Iterable[str] = (),
        expires_zeqond: int | None = None,
        by: str,
    ) -> None:
        """Keep at most 4,096 bytes, over what `by` kept there before. Raises BadPurpose, NotPermitted where
        another has put it, VaultFull."""
        named = tuple(permissions)
        await self._call(
            lambda: self._keeper.book.put(purpose, secret, named, expires_zeqond, by, self._clock())
        )

    async def get(self, purpose: str, *, by: str) -> bytes:
        """Raises NoSuchSecret (Expired is one), NotPermitted, BadPurpose."""
        return await self._call(lambda: self._keeper.book.get(purpose, by, self._clock()))

    async def remove(self, purpose: str, *, by: str) -> None:
        """Erase; done also where there is none. Raises NotPermitted, BadPurpose."""
        await self._call(lambda: self._keeper.book.remove(purpose, by, self._clock()))

    async def names(self) -> list[SecretInfo]:
        """By purpose."""
        return await self._call(self._keeper.book.infos)

    async def audit(self, last: int) -> list[Entry]:
        """The newest entries, at most `last`, in their order. Raises StateDamaged where a link is wrong."""
        return await self._call(partial(self._keeper.book.audit, last))

    async def verify_audit(self) -> Verified:
        """Read all from the disk anew: every link of the audit, every secret. Raises StateDamaged."""
        return await self._call(self._keeper.book.verify)

    async def claim(self) -> bytes:
        """That this machine is its owner's: the 209 bytes of crypto/zid.py, good for months."""
        return await self._call(lambda: self._keeper.claim(self._clock()))

    async def rotate(self, source: KeySource | None) -> KeyKind:
        """Change the key of the vault, see node/vault/keeper.py; what kind it is then. Raises Usage."""
        await self._call(lambda: self._keeper.rotate(source, self._clock()))
        return self._keeper.kind

    async def _call(self, function: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(function, limiter=self._one)


@asynccontextmanager
async def open_secrets(
    state: Path, env: Mapping[str, str], clock: Callable[[], int] = zeqond_now
) -> AsyncIterator[Secrets]:
    """The vault of a state directory with an identity, closed at the end also when the block is cancelled.

    `env` has ZEQ_FIELD_KEY or ZEQ_PASSPHRASE, as for `identity_store.load`, which raises the same. The caller
    holds the state directory's lock.
    """
    keeper = await trio.to_thread.run_sync(lambda: Keeper(state, env, clock()))
    secrets = Secrets(keeper, clock)
    try:
        yield secrets
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(keeper.close)
