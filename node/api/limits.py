"""How often one caller may ask: so many requests in any minute, reads and writes apart."""

from __future__ import annotations

from collections import deque
from typing import Final

MINUTE: Final = 60.0


class Limits:
    """Callers are token ids and one name for all without a token, so they are few; who has been quiet for a
    minute is forgotten."""

    def __init__(self, reads: int, writes: int) -> None:
        self._most = {False: reads, True: writes}
        self._asked: dict[tuple[str, bool], deque[float]] = {}

    def take(self, who: str, *, write: bool, now: float) -> float:
        """Count a request at `now` (seconds, never falling) and give 0.0; else the seconds to wait, above 0,
        and nothing is counted."""
        asked = self._asked.setdefault((who, write), deque())
        while asked and asked[0] <= now - MINUTE:
            asked.popleft()
        if len(asked) >= self._most[write]:
            return asked[0] + MINUTE - now
        asked.append(now)
        if len(asked) == 1:
            self._forget(now)
        return 0.0

    def __len__(self) -> int:
        return len(self._asked)

    def _forget(self, now: float) -> None:
        quiet = [key for key, asked in self._asked.items() if not asked or asked[-1] <= now - MINUTE]
        for key in quiet:
            del self._asked[key]
