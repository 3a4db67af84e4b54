"""Notes that are repeated until they are answered: each kind once, the newest in place of the one before."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

NEVER: Final = 2**63 - 1
FIRST_WAIT_US: Final = 1_000_000
LONGEST_WAIT_US: Final = 16_000_000
PATIENCE_US: Final = 4_000_000


class _Waiting:
    __slots__ = ("body", "due_us", "wait_us")

    def __init__(self, body: bytes, due_us: int) -> None:
        self.body = body
        self.due_us = due_us
        self.wait_us = FIRST_WAIT_US


class Outbox:
    """Repeats after 1, 2, 4, 8 and then every 16 s, until `done`; from the first again after `renew`."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, kind: Hashable, body: bytes, now_us: int) -> None:
        """Sent with the next `due`."""
        self._waiting[kind] = _Waiting(body, now_us)

    def done(self, kind: Hashable) -> None:
        """It was answered, or does not matter any more."""
        self._waiting.pop(kind, None)

    def clear(self) -> None:
        self._waiting.clear()

    def has(self, kind: Hashable) -> bool:
        return kind in self._waiting

    def renew(self, now_us: int) -> None:
        """There is a session again."""
        for each in self._waiting.values():
            each.due_us, each.wait_us = now_us, FIRST_WAIT_US

    def due(self, now_us: int) -> list[bytes]:
        """Bodies to send now."""
        bodies = []
        for each in self._waiting.values():
            if each.due_us <= now_us:
                bodies.append(each.body)
                each.due_us = now_us + each.wait_us
                each.wait_us = min(2 * each.wait_us, LONGEST_WAIT_US)
        return bodies

    def unheard(self) -> bool:
        """Whether one of them was sent three times, in three seconds, and not answered."""
        return any(each.wait_us > PATIENCE_US for each in self._waiting.values())

    def deadline_us(self) -> int:
        return min((each.due_us for each in self._waiting.values()), default=NEVER)
