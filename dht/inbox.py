"""Events for this machine itself: put together, opened, read, and taken once.

A node that is not the one that is meant and a machine whose lookup secret the sender does not know answer the
same: refused. So nobody can try addresses for an unlisted machine, even with its key bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from crypto.errors import PeerFault
from crypto.identity import KeyBundle
from crypto.kem import Primitives, PrivateHybrid
from crypto.pulse import zeqond
from crypto.sealed import unseal
from dht import letters
from dht.endpoints import Endpoint, network
from dht.letters import Letter, Once
from dht.limits import RateLimit
from dht.messages import Event
from dht.parts import Partials, event_id
from dht.post import Answer, Called, Host, Status
from dht.signatures import Signatures, Signer

PER_CALLER: Final = (1, 10)  # new events a second, and burst, of one network
PER_HOME: Final = (5, 50)  # of all callers that come through one home
IN_ALL: Final = (50, 100)  # one costs 0.3 ms to open
RECEIPTS: Final = 256


@dataclass(frozen=True, slots=True)
class Machine:
    """Who this node is to others, with its secret halves and where randomness for new boxes comes from."""

    bundle: KeyBundle
    static: PrivateHybrid
    signer: Signer
    primitives: Primitives


class Inbox:
    """`secrets`: lookup secrets (16 bytes each) of which a sender must know one; a listed machine has two."""

    __slots__ = (
        *("_all", "_callers", "_homes", "_host", "_machine", "_receipts", "_signatures"),
        *("once", "partials", "secrets"),
    )

    def __init__(
        self, host: Host, machine: Machine, secrets: tuple[bytes, ...], signatures: Signatures
    ) -> None:
        self._host = host
        self._machine = machine
        self._signatures = signatures
        self.secrets = secrets
        self.partials = Partials()
        self.once = Once()
        self._receipts: dict[bytes, bytes] = {}  # of event ids, for senders that ask again; the oldest first
        self._callers = RateLimit(*PER_CALLER)
        self._homes = RateLimit(*PER_HOME)
        self._all = RateLimit(*IN_ALL)

    def on_event(
        self, message: Event, source: Endpoint, through_home: bool, now_us: int, unix_us: int
    ) -> Answer | None:
        """A part, or a question. None: say nothing."""
        receipt = self._receipts.get(message.event)
        if receipt is not None:
            return Status.DELIVERED, 0, receipt
        key = (source, message.handle, message.event)
        if not message.chunk:
            return Status.MISSING, self.partials.have(key), b""
        if not self.partials.has(key, now_us) and not self._may_begin(source, through_home, now_us):
            self._host.count("event above the rate that is read")
            return None
        sealed = self.partials.add(key, message, now_us)
        if sealed is not None:
            return self._open(sealed, message.event, unix_us)
        return None

    def _may_begin(self, source: Endpoint, through_home: bool, now_us: int) -> bool:
        limit, key = (self._homes, source) if through_home else (self._callers, network(source))
        return limit.allow(key, now_us) and self._all.allow(b"", now_us)

    def _open(self, sealed: bytes, event: bytes, unix_us: int) -> Answer:
        try:
            receipt = self._read(sealed, event, zeqond(unix_us // 1000))
        except PeerFault as error:
            self._host.count(str(error).partition(":")[0])
            return Status.REFUSED, 0, b""
        self._receipts[event] = receipt
        if len(self._receipts) > RECEIPTS:
            del self._receipts[next(iter(self._receipts))]
        return Status.DELIVERED, 0, receipt

    def _read(self, sealed: bytes, event: bytes, now: int) -> bytes:
        if event_id(sealed) != event:
            raise letters.LetterRefused("event whose parts do not make its whole")
        machine = self._machine
        plaintext, receipt = unseal(machine.static, machine.bundle.machine_id, self.secrets, sealed)
        letter, name = letters.read(plaintext, machine.bundle.machine_id, self._signatures, now)
        if self.once.take(letter, name, now):
            self._host.event(_called(letter))
        elif self.once.seen(name):
            self._host.count("event that was here before")
        else:
            raise letters.LetterRefused("event older than all that are remembered")
        return receipt


def _called(letter: Letter) -> Called:
    author = letters.author_of(letter)
    return Called(letter.tag, author, letter.author, letter.body, letter.sequence, letter.zeqond)
