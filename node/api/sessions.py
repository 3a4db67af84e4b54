"""A cookie in place of a token, for a browser: which token, until when, and a MAC over both.

    zeq_session = token id (16 hex) "." expires (Unix s) "." nonce (16 hex) "." HMAC-SHA256 (64 hex)

The key is made at start and kept nowhere, so a session ends with the node. It ends with its token, too: the
id is looked up every time. Cookies do not know ports: another program that serves pages on this host's
loopback could be shown one, which is why a session is short.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

COOKIE: Final = "zeq_session"
SESSION_SECONDS: Final = 12 * 3600
KEY_BYTES: Final = 32

_LABEL: Final = b"zeqnode session v1"
_FORM: Final = re.compile(r"([0-9a-f]{16}\.([0-9]{1,12})\.[0-9a-f]{16})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True)
class Session:
    """`token_id`: 16 hex digits; `expires`: Unix seconds."""

    token_id: str
    expires: int


class Sessions:
    """`key`: 32 secret bytes."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self._ended: dict[str, int] = {}

    def begin(self, token_id: str, now: int) -> tuple[str, Session]:
        """The cookie's value and what it says."""
        expires = now + SESSION_SECONDS
        said = f"{token_id}.{expires}.{secrets.token_hex(8)}"
        return f"{said}.{self._mac(said)}", Session(token_id, expires)

    def read(self, cookie: str, now: int) -> Session | None:
        """None for one that is not ours, has expired, or was ended."""
        found = _FORM.fullmatch(cookie)
        if found is None or not hmac.compare_digest(self._mac(found[1]), found[3]):
            return None
        expires = int(found[2])
        if expires <= now or cookie in self._ended:
            return None
        return Session(found[1][:16], expires)

    def end(self, cookie: str, now: int) -> None:
        """From now on `read` gives None for it; what is remembered for that is forgotten as it expires."""
        session = self.read(cookie, now)
        self._ended = {each: expires for each, expires in self._ended.items() if expires > now}
        if session is not None:
            self._ended[cookie] = session.expires

    def _mac(self, said: str) -> str:
        return hmac.digest(self._key, _LABEL + said.encode(), "sha256").hex()
