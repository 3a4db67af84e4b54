"""Bringing a sealed event to one address: a caller does it, and a home towards its lodger.

    no token yet ─▶ ask ─▶ "show this token" ─▶ all parts ─▶ delivered, held, nobody, refused
                                                  │ ▲    └─▶ under way: ask until it is one of these
                                                  └─┘ what is missing again

Parts are acknowledged when all are there. Otherwise it asks, 0.15 s after them (so that parts which only
overtook each other are not sent twice) and then after 0.5, 1, 2 and 4 s; an answer that gets things on starts
these anew, a bounded number of times. Only the address itself can answer: nobody else saw the transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol, TypeAlias

from dht.endpoints import Endpoint
from dht.messages import Event, Taken, encode_call
from dht.parts import NEVER, Parcel
from dht.tokens import Tokens

PAUSES_US: Final = (500_000, 1_000_000, 2_000_000, 4_000_000)
SETTLE_US: Final = 150_000
ANSWERS: Final = 16  # of one delivery that are acted on
LIFE_US: Final = 20_000_000


class Status(IntEnum):
    """What a Taken says."""

    MISSING = 0
    DELIVERED = 1
    HELD = 2
    NOBODY = 3
    REFUSED = 4
    SHOW_TOKEN = 5
    UNDER_WAY = 6


_ON_THE_WAY: Final = (Status.MISSING, Status.SHOW_TOKEN, Status.UNDER_WAY)
Answer: TypeAlias = tuple[Status, int, bytes]  # status, parts that are here, receipt


@dataclass(frozen=True, slots=True)
class Called:
    """An event for this machine. `author_bundle`: 1,248 bytes that author_id (32) is the hash of; of its keys
    only the Ed25519 one has been looked at, so `KeyBundle.from_bytes` it before use."""

    tag: str
    author_id: bytes
    author_bundle: bytes
    body: bytes
    sequence: int
    zeqond: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the event of this handle. `delivered`: the machine itself proved that it has read it.
    `held`: how many homes say that they keep it. `refused`: how many would not take it."""

    handle: int
    delivered: bool
    held: int
    refused: int


@dataclass(frozen=True, slots=True)
class HomesChanged:
    """We are called through these: (endpoint, handle 16) each. `wanted`: how many homes are missing still."""

    homes: tuple[tuple[Endpoint, bytes], ...]
    wanted: int


class Host(Protocol):
    """What the parts of Calls share."""

    entropy: Callable[[int], bytes]
    tokens: Tokens

    def emit(self, datagram: bytes, target: Endpoint) -> None: ...

    def event(self, event: Called | Sent | HomesChanged) -> None: ...

    def count(self, what: str) -> None: ...


class Delivery:
    """`status` is the last that was said; `over`: nothing more is sent. Both None and over: nobody answered.

    `told(delivery, now_us)` is called when the status changes and when it is over."""

    __slots__ = (
        *(
            "due_us",
            "handle",
            "over",
            "parcel",
            "receipt",
            "status",
            "target",
            "told",
            "token",
            "transaction",
        ),
        *("_answers", "_have", "_sent", "_tries", "_until_us"),
    )

    def __init__(
        self,
        parcel: Parcel,
        target: Endpoint,
        handle: bytes,
        token: bytes,
        told: Callable[[Delivery, int], None],
    ) -> None:
        self.parcel = parcel
        self.target = target
        self.handle = handle
        self.token = token
        self.told = told
        self.transaction = b""
        self.status: Status | None = None
        self.receipt = b""
        self.over = False
        self.due_us = NEVER
        self._answers = 0
        self._have = 0
        self._sent = False
        self._tries = 0
        self._until_us = 0

    def step(self, now_us: int) -> list[bytes]:
        """What is to be sent now that the time has come."""
        self._until_us = self._until_us or now_us + LIFE_US
        if self._tries == len(PAUSES_US) or now_us >= self._until_us:
            self.end()
            return []
        if self.token and not self._sent:
            return self._parts(now_us)
        self.due_us = now_us + PAUSES_US[self._tries]
        self._tries += 1
        return [self._datagram(0, b"")]

    def on_taken(self, message: Taken, status: Status, now_us: int) -> list[bytes]:
        """What an answer leads to."""
        self.token = message.token or self.token
        if status not in _ON_THE_WAY:
            self.status, self.receipt = status, message.receipt
            self.end()
            return []
        if self._answers == ANSWERS:
            return []
        self._answers += 1
        if status is Status.UNDER_WAY:
            if self.status is not status:
                self.status = status
                self._tries, self.due_us = 0, now_us + PAUSES_US[0]
            self._tries = min(self._tries, 2)  # goes on asking: the home may need a while until it knows
            return []
        if message.have & ~self._have or not self._sent:
            self._tries = 0
        self._have, self.status = message.have, None
        return self._parts(now_us)

    def end(self) -> None:
        self.over, self.due_us = True, NEVER

    def _parts(self, now_us: int) -> list[bytes]:
        """Those that are missing there, as far as is known; a moment later it asks."""
        self._sent, self.due_us = True, now_us + SETTLE_US
        chunks = enumerate(self.parcel.chunks)
        return [self._datagram(part, chunk) for part, chunk in chunks if not self._have >> part & 1]

    def _datagram(self, part: int, chunk: bytes) -> bytes:
        parcel = self.parcel
        return encode_call(
            Event(self.transaction, self.token, self.handle, parcel.event, part, len(parcel.chunks), chunk)
        )


class Post:
    """All deliveries of this node."""

    __slots__ = ("_by_transaction", "_host", "due_us")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_transaction: dict[bytes, Delivery] = {}
        self.due_us = NEVER

    def __len__(self) -> int:
        return len(self._by_transaction)

    def start(self, delivery: Delivery, when_us: int) -> Delivery:
        """Begin then."""
        delivery.transaction = self._host.entropy(8)
        delivery.due_us = when_us
        self._by_transaction[delivery.transaction] = delivery
        self.due_us = min(self.due_us, when_us)
        return delivery

    def drop(self, delivery: Delivery) -> None:
        """Forget it: answers that still come are answers to nothing."""
        delivery.end()
        self._by_transaction.pop(delivery.transaction, None)

    def on_taken(self, message: Taken, source: Endpoint, now_us: int) -> None:
        delivery = self._by_transaction.get(message.t)
        if delivery is None or delivery.target != source:
            self._host.count("answer to no event that we sent")
            return
        if message.status > max(Status):
            self._host.count("answer to an event with an unknown status")
            return
        if delivery.over and delivery.status is not Status.HELD:
            return
        before = delivery.status
        datagrams = delivery.on_taken(message, Status(message.status), now_us)
        self._send(delivery, datagrams)
        if delivery.over or delivery.status is not before:
            delivery.told(delivery, now_us)

    def tick(self, now_us: int) -> None:
        if now_us < self.due_us:
            return
        for delivery in list(self._by_transaction.values()):
            if delivery.due_us <= now_us:
                self._send(delivery, delivery.step(now_us))
                if delivery.over:
                    delivery.told(delivery, now_us)
        self.due_us = min((one.due_us for one in self._by_transaction.values()), default=NEVER)

    def _send(self, delivery: Delivery, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self._host.emit(datagram, delivery.target)
        self.due_us = min(self.due_us, delivery.due_us)
