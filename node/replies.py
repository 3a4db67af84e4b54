"""Reply secrets: how a machine that nobody may find is answered by a stranger whom it asked.

A sealed event opens only under a lookup secret that the machine goes by (dht/calls.py). Who asks makes one up
for this question, names it in the question, and goes by it until the answer is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from dht.locations import LOOKUP_SECRET_BYTES
from node.errors import Refused

OPEN_MAX: Final = 64  # each is tried with every event that comes


class Replies:
    """`answer_to` takes all secrets that count from now on, besides the machine's own."""

    def __init__(
        self, answer_to: Callable[[tuple[bytes, ...]], None], entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._answer_to = answer_to
        self._entropy = entropy
        self._open: list[bytes] = []

    @contextmanager
    def secret(self) -> Iterator[bytes]:
        """16 bytes, good inside the block. Raises Refused while 64 are open."""
        secret = self.new()
        try:
            yield secret
        finally:
            self.drop(secret)

    def new(self) -> bytes:
        """16 bytes, good until `drop`. Raises Refused while 64 are open."""
        secret = self._entropy(LOOKUP_SECRET_BYTES)
        self.take(secret)
        return secret

    def take(self, secret: bytes) -> None:
        """One that was named in a question before this start. Raises Refused while 64 are open."""
        if len(self._open) >= OPEN_MAX:
            raise Refused(f"{OPEN_MAX} questions wait for their answers; try again in a minute")
        self._open.append(secret)
        self._answer_to(tuple(self._open))

    def drop(self, secret: bytes) -> None:
        """Nothing is awaited under it any more; a second time is no error."""
        if secret in self._open:
            self._open.remove(secret)
            self._answer_to(tuple(self._open))
