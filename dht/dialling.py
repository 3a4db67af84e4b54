"""Calls to addresses that may become neighbours: each twice, some at a time, rarer when they give nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dht.endpoints import Endpoint
from dht.link import SECOND_US
from dht.messages import GossipMessage, Open
from dht.parts import NEVER

DIAL_US: Final = SECOND_US
TRIES: Final = 2  # the same Open, sent this often
PAUSE_US: Final = SECOND_US  # between rounds; doubles while they give nothing
PAUSE_NEEDY_US: Final = 4 * SECOND_US
PAUSE_LONGEST_US: Final = 60 * SECOND_US


class Dial:
    """`mine`: our cookie, 8 bytes. `token`: what the other side wants to see, once it has said so."""

    __slots__ = ("due_us", "mine", "token", "tries")

    def __init__(self, mine: bytes) -> None:
        self.mine, self.token = mine, b""
        self.tries = self.due_us = 0


class Dials:
    """`pending`: calls without an answer yet. `next_us`: when the next round may be."""

    __slots__ = ("_candidates", "_entropy", "_pause_us", "_send", "next_us", "pending")

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        now_us: int,
        candidates: Callable[[int], Iterable[Endpoint]],
        send: Callable[[GossipMessage, Endpoint], None],
    ) -> None:
        self._entropy, self._candidates, self._send = entropy, candidates, send
        self.pending: dict[Endpoint, Dial] = {}
        self._pause_us = PAUSE_US
        self.next_us = now_us

    def answered(self, endpoint: Endpoint) -> None:
        """One of them is a neighbour now."""
        del self.pending[endpoint]
        self._pause_us = PAUSE_US

    def show(self, endpoint: Endpoint, dial: Dial, token: bytes, now_us: int) -> None:
        """Calls again, with the token that was wanted."""
        dial.token, dial.tries = token, 0
        self._call(endpoint, dial, now_us)

    def begin(self, need: int, now_us: int, welcome: Callable[[Endpoint], bool], *, needy: bool) -> None:
        """A round: `need` calls, if there are so many candidates that are welcome."""
        self.next_us = now_us + self._pause_us
        self._pause_us = min(2 * self._pause_us, PAUSE_NEEDY_US if needy else PAUSE_LONGEST_US)
        for endpoint in self._candidates(2 * need + 2):
            if need > 0 and endpoint not in self.pending and welcome(endpoint):
                need -= 1
                dial = self.pending[endpoint] = Dial(self._entropy(8))
                self._call(endpoint, dial, now_us)

    def repeat(self, now_us: int) -> list[Endpoint]:
        """Calls again where no answer came; those that were called often enough, which are given up."""
        silent = []
        for endpoint, dial in list(self.pending.items()):
            if now_us < dial.due_us:
                continue
            if dial.tries < TRIES:
                self._call(endpoint, dial, now_us)
            else:
                del self.pending[endpoint]
                silent.append(endpoint)
        return silent

    @property
    def due_us(self) -> int:
        """When `repeat` has something to do."""
        return min((dial.due_us for dial in self.pending.values()), default=NEVER)

    def _call(self, endpoint: Endpoint, dial: Dial, now_us: int) -> None:
        dial.tries += 1
        dial.due_us = now_us + DIAL_US
        self._send(Open(dial.mine, dial.token), endpoint)
