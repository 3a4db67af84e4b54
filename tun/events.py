"""What the tunnel core tells the node. Machines are named by machine_id (32 bytes)."""

from __future__ import annotations

from dataclasses import dataclass

from crypto.cookies import Refusal
from crypto.identity import KeyBundle
from tun.addresses import Address
from tun.control import Hello


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is confirmed: `clock_us` of its message 1 is to be stored, `address` is proven. `transcript`
    (32 bytes) is its handshake's hash, the same on both sides and no secret."""

    machine_id: bytes
    address: Address | None
    initiator: bool
    clock_us: int
    transcript: bytes


@dataclass(frozen=True, slots=True)
class Roamed:
    machine_id: bytes
    old: Address | None
    new: Address


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No session is left, or the peer said that it stops."""

    machine_id: bytes
    said_bye: bool


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """90 seconds of handshakes went unanswered."""

    machine_id: bytes


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The peer opened our message 1 and refused it, or refused the invitation's token."""

    machine_id: bytes
    kind: Refusal | None
    reason: str


@dataclass(frozen=True, slots=True)
class Introduced:
    """A machine with a confirmed session presents an invitation's token: redeem it, then accept or refuse."""

    machine_id: bytes
    bundle: KeyBundle
    hello: Hello
    address: Address


@dataclass(frozen=True, slots=True)
class Welcomed:
    """Our token was redeemed; `name` is what the other calls itself."""

    machine_id: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Ponged:
    machine_id: bytes
    id: int
    rtt_us: int


@dataclass(frozen=True, slots=True)
class Noted:
    """The peer said this in its session, in at most 900 bytes; what they mean is not known here."""

    machine_id: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class KeysArrived:
    """The key bundle that was asked for; it fits its machine_id."""

    bundle: KeyBundle
    address: Address


@dataclass(frozen=True, slots=True)
class KeysMissing:
    """Nobody answered the request for this machine's keys."""

    machine_id: bytes


Event = (
    Connected
    | Roamed
    | Disconnected
    | NoAnswer
    | TurnedAway
    | Introduced
    | Welcomed
    | Ponged
    | Noted
    | KeysArrived
    | KeysMissing
)
