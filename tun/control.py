"""Control messages between two machines, inside records: a msgpack array whose first element is the op.

HELLO    [1, token 16, name, lookup secret 16, [address, …]]   redeems an invitation
WELCOME  [2, name]                                             it was redeemed, and is on disk
REFUSED  [3, reason]                                           it was not; the session ends
PING     [4, id]      PONG [5, id]                             round trip through the tunnel
BYE      [6]                                                   the sender stops; its keys are gone
NOTE     [7, body]                                             up to 900 bytes for the node; not read here
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from crypto.cookies import LOOKUP_SECRET_BYTES
from crypto.errors import PeerFault

TOKEN_BYTES = 16
MAX_NAME = 32
MAX_ADDRESSES = 8
MAX_TEXT = 200
MAX_CONTROL_BYTES = 1024
MAX_NOTE_BYTES = 900


class BadControl(PeerFault):
    """An authenticated peer sent a control message that does not parse."""


@dataclass(frozen=True, slots=True)
class Hello:
    token: bytes
    name: str
    lookup_secret: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Welcome:
    name: str


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    id: int


@dataclass(frozen=True, slots=True)
class Pong:
    id: int


@dataclass(frozen=True, slots=True)
class Bye:
    pass


@dataclass(frozen=True, slots=True)
class Note:
    body: bytes


Control = Hello | Welcome | Refused | Ping | Pong | Bye | Note


def encode(message: Control) -> bytes:
    match message:
        case Hello(token, name, lookup_secret, addresses):
            fields: list[object] = [1, token, name, lookup_secret, list(addresses)]
        case Welcome(name):
            fields = [2, name]
        case Refused(reason):
            fields = [3, reason[:MAX_TEXT]]
        case Ping(number):
            fields = [4, number]
        case Pong(number):
            fields = [5, number]
        case Bye():
            fields = [6]
        case Note(body):
            assert len(body) <= MAX_NOTE_BYTES
            fields = [7, body]
    packed = msgpack.packb(fields)
    assert isinstance(packed, bytes)
    return packed


def decode(data: bytes) -> Control:
    """Raises BadControl for anything that `encode` would not have made."""
    if len(data) > MAX_CONTROL_BYTES:
        raise BadControl("a control message has at most 1,024 bytes")
    try:
        fields = msgpack.unpackb(data, use_list=False, max_array_len=16, max_map_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise BadControl("a control message does not parse") from error
    match fields:
        case (1, bytes(token), str(name), bytes(lookup_secret), tuple(addresses)) if (
            len(token) == TOKEN_BYTES
            and len(name) <= MAX_NAME
            and len(lookup_secret) in (0, LOOKUP_SECRET_BYTES)
            and len(addresses) <= MAX_ADDRESSES
            and all(isinstance(address, str) and len(address) <= MAX_TEXT for address in addresses)
        ):
            return Hello(token, name, lookup_secret, addresses)
        case (2, str(name)) if len(name) <= MAX_NAME:
            return Welcome(name)
        case (3, str(reason)) if len(reason) <= MAX_TEXT:
            return Refused(reason)
        case (4, int(number)) if _is_id(number):
            return Ping(number)
        case (5, int(number)) if _is_id(number):
            return Pong(number)
        case (6,):
            return Bye()
        case (7, bytes(body)) if len(body) <= MAX_NOTE_BYTES:
            return Note(body)
    raise BadControl("a control message is none of ours")


def _is_id(number: int) -> bool:
    """64 bits, unsigned; Python takes a bool for an int."""
    return type(number) is int and 0 <= number < 2**64
