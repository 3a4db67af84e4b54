"""Tokens: eight bytes that only who receives at an address can show. Stateless, as BEP 5 has them.

token = BLAKE2s(secret of these five minutes, endpoint); that of the five before is good too
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s
from hmac import compare_digest
from typing import Final

from dht.endpoints import Endpoint

TOKEN_BYTES: Final = 8
ROTATE_US: Final = 300_000_000


class Tokens:
    """`entropy(n)` gives n random bytes."""

    __slots__ = ("_before", "_entropy", "_secret", "_since_us")

    def __init__(self, entropy: Callable[[int], bytes], now_us: int) -> None:
        self._entropy = entropy
        self._secret = entropy(32)
        self._before = entropy(32)
        self._since_us = now_us

    def make(self, endpoint: Endpoint, now_us: int) -> bytes:
        self._rotate(now_us)
        return _mac(self._secret, endpoint)

    def holds(self, token: bytes, endpoint: Endpoint, now_us: int) -> bool:
        """Whether we gave this token to that address in the last five to ten minutes."""
        if len(token) != TOKEN_BYTES:
            return False
        self._rotate(now_us)
        return compare_digest(token, _mac(self._secret, endpoint)) or compare_digest(
            token, _mac(self._before, endpoint)
        )

    def _rotate(self, now_us: int) -> None:
        if now_us - self._since_us >= 2 * ROTATE_US:
            self._before = self._entropy(32)
            self._secret, self._since_us = self._entropy(32), now_us
        elif now_us - self._since_us >= ROTATE_US:
            self._before, self._secret = self._secret, self._entropy(32)
            self._since_us = now_us


def _mac(secret: bytes, endpoint: Endpoint) -> bytes:
    return blake2s(endpoint, key=secret, digest_size=TOKEN_BYTES).digest()
