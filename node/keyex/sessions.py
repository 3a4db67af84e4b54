"""Record keys that came of key exchanges, for an hour; in memory alone, as whoever likes may begin one.

A session is named after the exchange's transcript, so one that comes again is the same. One machine has 16 at
most, the oldest of its own gives way; all together 1,024, and then the oldest of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from crypto.pulse import ZEQOND_MS
from node.keyex.errors import NoSession

SESSION_ID_BYTES: Final = 16
LIFE_ZEQONDS: Final = 3_600_000 // ZEQOND_MS
OF_ONE: Final = 16
IN_ALL: Final = 1024


@dataclass(frozen=True)
class Session:
    """`by`: the machine_id of who began it. `key`: 32 bytes for AES-256-GCM."""

    by: bytes
    key: bytes = field(repr=False)
    expires_zeqond: int


class Sessions:
    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session_id: bytes, key: bytes, by: bytes, zeqond: int) -> Session:
        """Keep it from now on; one of the same name begins anew."""
        self._sessions.pop(session_id, None)
        own = [name for name, session in self._sessions.items() if session.by == by]
        for name in own[: len(own) - OF_ONE + 1] if len(own) >= OF_ONE else ():
            del self._sessions[name]
        session = self._sessions[session_id] = Session(by, key, zeqond + LIFE_ZEQONDS)
        if len(self._sessions) > IN_ALL:
            del self._sessions[next(iter(self._sessions))]
        return session

    def key(self, session_id: bytes, zeqond: int) -> bytes:
        """32 bytes. Raises NoSession."""
        session = self._sessions.get(session_id)
        if session is None or session.expires_zeqond <= zeqond:
            raise NoSession(
                "no key exchange of this name is open: they are kept for an hour, until a restart"
            )
        return session.key
