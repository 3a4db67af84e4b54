"""Tokens that open the API: shown once when they are made, and kept as a hash.

    zsm_ ‖ base64url of 32 random bytes, without padding                   47 characters

    tokens   hash (SHA-256 of the text) │ name scope created expires      state/tokens.db

The id of a token is the first 16 hex digits of its hash. All are in memory while the node runs: checking one
touches no disk, and compares with every one in constant time. Revoking a token removes it; with it end the
sessions that were begun with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from node import config_values
from node.config_values import Wrong
from node.control import Asker
from node.database import Database
from node.errors import Usage

FILE: Final = "tokens.db"
OPERATIONS: Final = ("token_new", "tokens", "token_revoke")
SCOPES: Final = ("read", "write")
TOKENS_MAX: Final = 256
DAYS_MAX: Final = 3650
DEFAULT_DAYS: Final = 365

_PREFIX: Final = "zsm_"
_SECRET_BYTES: Final = 32
_TEXT: Final = re.compile(r"zsm_[A-Za-z0-9_-]{43}")
_DAY_SECONDS: Final = 86_400
MIGRATIONS: Final = (
    (
        """CREATE TABLE tokens (
            hash BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, scope TEXT NOT NULL,
            created INTEGER NOT NULL, expires INTEGER NOT NULL) STRICT""",
    ),
)


@dataclass(frozen=True)
class Token:
    """`scope`: "read" or "write", which may read, too. Times are Unix seconds."""

    hash: bytes = field(repr=False)
    name: str
    scope: str
    created: int
    expires: int

    @property
    def id(self) -> str:
        """16 hex digits."""
        return self.hash.hex()[:16]

    @property
    def may_write(self) -> bool:
        return self.scope == "write"


class Tokens:
    """Use `open_tokens`. What changes something may raise StorageFailed, and then has changed nothing."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = database
        self._clock = clock
        self._one = trio.CapacityLimiter(1)
        rows = database.rows("SELECT * FROM tokens ORDER BY created, name")
        self._tokens = [Token(**dict(row)) for row in rows]
        answers = (self._on_new, self._on_list, self._on_revoke)
        self.operations = dict(zip(OPERATIONS, answers, strict=True))

    async def new(self, name: str, scope: str, days: int) -> tuple[Token, str]:
        """The token, and the text that is never seen again. Raises Usage."""
        _check(name, scope, days)
        if any(each.name == name for each in self._tokens):
            raise Usage(f"there is a token {name} already; revoke it first, or choose another name")
        if len(self._tokens) >= TOKENS_MAX:
            raise Usage(f"there are {TOKENS_MAX} tokens already; revoke some: zeqnode token list")
        text = _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).rstrip(b"=").decode()
        now = int(self._clock())
        token = Token(_hash(text), name, scope, now, now + days * _DAY_SECONDS)
        self._tokens.append(token)  # at once, so that nobody else takes the name meanwhile
        try:
            await self._write(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?)",
                *(token.hash, token.name, token.scope, token.created, token.expires),
            )
        except BaseException:
            self._tokens.remove(token)
            raise
        return token, text

    async def revoke(self, named: str) -> Token:
        """By id or name: when this has returned, it lets nobody in, also after a crash. Raises Usage."""
        found = next((each for each in self._tokens if named in (each.id, each.name)), None)
        if found is None:
            raise Usage(f"there is no token {named!r}; see: zeqnode token list")
        await self._write("DELETE FROM tokens WHERE hash = ?", found.hash)
        if found in self._tokens:
            self._tokens.remove(found)
        return found

    def check(self, text: str) -> Token | None:
        """The live token with this text, if there is one."""
        if not _TEXT.fullmatch(text):
            return None
        shown, found = _hash(text), None
        for each in self._tokens:
            if hmac.compare_digest(each.hash, shown):
                found = each
        return found if found is not None and self._lives(found) else None

    def by_id(self, token_id: str) -> Token | None:
        """The live token with this id, if there is one."""
        return next((each for each in self._tokens if each.id == token_id and self._lives(each)), None)

    def all(self) -> list[Token]:
        """Oldest first, those that have expired included."""
        return list(self._tokens)

    def _lives(self, token: Token) -> bool:
        return token.expires > self._clock()

    async def _write(self, statement: str, *values: object) -> None:
        """Done or failed when it returns, also for a caller that is cancelled."""
        await trio.to_thread.run_sync(partial(self._write_now, statement, values), limiter=self._one)

    def _write_now(self, statement: str, values: tuple[object, ...]) -> None:
        with self._db.transaction():
            self._db.execute(statement, *values)

    # ------------------------------------------------------------------ of the control socket

    async def _on_new(self, arguments: Mapping[str, Any], _asker: Asker) -> dict[str, Any]:
        name, scope = arguments.get("name"), arguments.get("scope", "write")
        days = arguments.get("days", DEFAULT_DAYS)
        if not isinstance(name, str) or not isinstance(scope, str) or type(days) is not int:
            raise Usage("a token has a name, a scope and a number of days")
        token, text = await self.new(name, scope, days)
        return {"token": text, **self._row(token)}

    async def _on_list(self, _arguments: Mapping[str, Any], _asker: Asker) -> dict[str, Any]:
        return {"tokens": [self._row(each) for each in self._tokens]}

    async def _on_revoke(self, arguments: Mapping[str, Any], _asker: Asker) -> dict[str, Any]:
        named = arguments.get("token")
        if not isinstance(named, str):
            raise Usage("this needs the id or the name of a token")
        return {"revoked": self._row(await self.revoke(named))}

    def _row(self, token: Token) -> dict[str, Any]:
        return {
            "id": token.id,
            "name": token.name,
            "scope": token.scope,
            "created": token.created,
            "expires": token.expires,
            "state": "open" if self._lives(token) else "expired",
        }


@asynccontextmanager
async def open_tokens(path: Path, clock: Callable[[], float] = time.time) -> AsyncIterator[Tokens]:
    """Those in the file at `path`, made (0600) if it is not there. Raises StorageFailed."""
    database = await trio.to_thread.run_sync(Database.open, path, MIGRATIONS)
    try:
        yield Tokens(database, clock)
    finally:
        database.close()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _check(name: str, scope: str, days: int) -> None:
    try:
        config_values.pet_name(name)
    except Wrong as wrong:
        raise Usage(f"the name of a token {wrong}") from None
    if scope not in SCOPES:
        raise Usage(f"--scope is read or write, not {scope!r}")
    if not 1 <= days <= DAYS_MAX:
        raise Usage(f"--days is 1 to {DAYS_MAX}, not {days}")
