"""What a node and its data-path workers tell each other: typed messages, msgpack on a Unix stream socket.

    down   who the peers are, which sessions there are, which one to send with, and where to
    up     packets without a session, where a peer was heard from, what was carried, what went wrong

Keys go down as secrets of one session and epoch, never to disk; nothing else is shared. Every message is a
msgpack array: its number, then its fields in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import msgpack

MAX_BUFFERED = 64 << 20


@dataclass(frozen=True, slots=True)
class PeerIs:
    """A peer, or what has changed of it: its local IPv4 name (4 bytes) and the networks that are its own.

    `held`: no packet of theirs goes either way for now."""

    machine_id: bytes
    name4: bytes
    networks: list[str]
    held: bool = False


@dataclass(frozen=True, slots=True)
class PeerGone:
    machine_id: bytes


@dataclass(frozen=True, slots=True)
class Serves:
    """Where peers may send to through us: all of it."""

    networks: list[str]


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session's keys (crypto.session.SessionKeys). Not `receives`: a worker before this one already took
    records of it, and its replay windows are gone, so only sending is safe."""

    machine_id: bytes
    local_index: int
    remote_index: int
    initiator: bool
    root: bytes
    epoch: int
    zeqond_base: int
    started_us: int
    receives: bool

    def __repr__(self) -> str:
        return f"SessionOpened(local_index={self.local_index:#x})"


@dataclass(frozen=True, slots=True)
class SessionClosed:
    local_index: int


@dataclass(frozen=True, slots=True)
class Aim:
    """Which session a peer's packets leave with (−1: none), where to, in how many bytes of UDP payload."""

    machine_id: bytes
    local_index: int
    host: str
    port: int
    room: int


@dataclass(frozen=True, slots=True)
class Stray:
    """A datagram that the kernel gave to the wrong one of us, because it came in a train of others."""

    datagram: bytes
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class LossTold:
    """A peer's loss report about another worker's lane."""

    machine_id: bytes
    local_index: int
    lane: int
    epoch: int
    next_sequence: int
    received: int


@dataclass(frozen=True, slots=True)
class Begin:
    """All that a new worker has to know was told: it takes up its queue and its socket, and says Ready."""


@dataclass(frozen=True, slots=True)
class Report:
    """Somebody looks at the figures: say at once what was carried and counted, then Reported."""

    number: int


@dataclass(frozen=True, slots=True)
class Reported:
    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer to Begin."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Bare IP packets from the TUN for peers without a session."""

    packets: list[bytes]


@dataclass(frozen=True, slots=True)
class Heard:
    """Authentic records of `size` bytes in all: the first of a session here, or from a new address."""

    local_index: int
    host: str
    port: int
    size: int


@dataclass(frozen=True, slots=True)
class Carried:
    """What one worker did for one peer since its last such message. Times are boot-time µs, 0: not at all.

    `heard`: any authentic record; sent and received: packets with inner bytes."""

    machine_id: bytes
    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int
    first_sent_us: int
    last_sent_us: int
    last_heard_us: int
    first_received_us: int
    last_received_us: int
    span: bool
    loss: float


@dataclass(frozen=True, slots=True)
class TooBig:
    """The kernel refused a datagram to this address as larger than the path's MTU."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Additions to the node's counters."""

    counters: dict[str, int]


Down: TypeAlias = (
    PeerIs | PeerGone | Serves | SessionOpened | SessionClosed | Aim | Stray | LossTold | Report | Begin
)
Up: TypeAlias = Ready | Unsent | Heard | Carried | TooBig | Counted | Stray | LossTold | Reported
Message: TypeAlias = Down | Up

_KINDS: tuple[type[Any], ...] = (
    PeerIs,
    PeerGone,
    Serves,
    SessionOpened,
    SessionClosed,
    Aim,
    Stray,
    LossTold,
    Ready,
    Unsent,
    Heard,
    Carried,
    TooBig,
    Counted,
    Report,
    Reported,
    Begin,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_FIELDS = {kind: tuple(each.name for each in fields(kind)) for kind in _KINDS}


def pack(messages: Iterable[Message]) -> bytes:
    packer = msgpack.Packer()
    return b"".join(
        packer.pack([_NUMBERS[type(each)], *[getattr(each, name) for name in _FIELDS[type(each)]]])
        for each in messages
    )


class Reader:
    """Messages out of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_BUFFERED)

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are whole now."""
        self._unpacker.feed(data)
        for number, *values in self._unpacker:
            yield _KINDS[number](*values)
