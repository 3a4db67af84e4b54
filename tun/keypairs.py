"""The sessions of one peer: WireGuard's current, previous and next, the last one plural.

An unconfirmed session (we answered a message 1, which proves nobody) replaces nothing. Several wait beside
each other, so that whoever can forge message 1s cannot push out the true machine's; the first authentic
record decides, however late it comes: the caller may have nothing to say for a while after its first record
was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from crypto.session import Lane, Session
from tun.addresses import Address
from tun.frames import SpanBuffer

MAX_UNCONFIRMED = 8


@dataclass(slots=True, eq=False)
class Keypair:
    """One session and what is known of its handshake. `clock_us`: Unix time in message 1. `exporter`: 32
    secret bytes of the handshake, for other uses than records; gone with the session."""

    session: Session
    lane: Lane
    initiator: bool
    born_us: int
    clock_us: int
    answered_to: Address | None  # where message 2 went (None: to several places), or came from
    exporter: bytes = field(repr=False)
    used: bool = False  # we have sealed a record with it
    crossed: bool = False  # both sides started at once, and ours is the one that should win
    spans: SpanBuffer = field(default_factory=SpanBuffer)

    @property
    def slot(self) -> int:
        """Key of the core's index table: all 64 lanes share it."""
        return self.session.local_index >> 6


class Keypairs:
    """Every method returns the sessions that ended by it; whoever calls takes them out of the index table."""

    def __init__(self) -> None:
        self.current: Keypair | None = None
        self.previous: Keypair | None = None
        self.unconfirmed: list[Keypair] = []

    def all(self) -> list[Keypair]:
        return [kp for kp in (self.current, self.previous, *self.unconfirmed) if kp is not None]

    def transcripts(self) -> tuple[bytes, ...]:
        """Of the confirmed sessions, the current one first."""
        return tuple(keypair.session.transcript for keypair in self._confirmed())

    def exporter(self, transcript: bytes) -> bytes | None:
        """Of the confirmed session with this transcript."""
        found = (kp.exporter for kp in self._confirmed() if kp.session.transcript == transcript)
        return next(found, None)

    def _confirmed(self) -> list[Keypair]:
        return [kp for kp in (self.current, self.previous) if kp is not None and not kp.session.expired]

    def offer(self, keypair: Keypair) -> list[Keypair]:
        """A session that its initiator has not confirmed yet."""
        self.unconfirmed.append(keypair)
        return self._end(self.unconfirmed[:-MAX_UNCONFIRMED])

    def install(self, keypair: Keypair) -> list[Keypair]:
        """Our own handshake was answered, or the peer's is confirmed: it is the current one from here on."""
        ended = [self.previous] if self.previous is not None else []
        self.previous, self.current = self.current, keypair
        return self._end(ended)

    def install_as_previous(self, keypair: Keypair) -> list[Keypair]:
        """Confirmed, but it lost against the one that was started at the same moment."""
        ended = [self.previous] if self.previous is not None else []
        self.previous = keypair
        return self._end(ended)

    def confirm(self, keypair: Keypair) -> list[Keypair]:
        """The first authentic record came: whatever else waited for confirmation is void."""
        self.unconfirmed.remove(keypair)
        return self._end(list(self.unconfirmed))

    def advance(self, now_us: int) -> list[Keypair]:
        """Old keys go by our own clock."""
        for keypair in self.all():
            keypair.session.advance(now_us)
        return self._end([kp for kp in self.all() if kp.session.expired])

    def forget(self) -> list[Keypair]:
        return self._end(self.all())

    def deadline_us(self) -> int:
        return min((kp.session.deadline_us() for kp in self.all()), default=2**63 - 1)

    def _end(self, ended: list[Keypair]) -> list[Keypair]:
        for keypair in ended:
            keypair.session.forget()
            keypair.exporter = b""
            if keypair is self.current:
                self.current = None
            elif keypair is self.previous:
                self.previous = None
            else:
                self.unconfirmed = [kp for kp in self.unconfirmed if kp is not keypair]
        return ended
