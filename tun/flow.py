"""One peer, and one lane of what it sends, as a worker sees them: plain state for tun/plane.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from crypto.replay import ReplayWindow
from crypto.session import Lane, Session
from tun.addresses import Address, Target
from tun.frames import SpanBuffer
from tun.loss import LossMeter
from tun.paths import BASE_PAYLOAD
from tun.seam import Carried

Buffer: TypeAlias = bytes | bytearray | memoryview
Cipher: TypeAlias = Callable[[Buffer, Buffer, None, Buffer], int]
"""AESGCM.encrypt_into or decrypt_into: nonce 12, input, no associated data, output."""
Source: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""As recvmsg gives it."""

NO_LANE = -1


def _no_cipher(_nonce: Buffer, _input: Buffer, _associated: None, _output: Buffer) -> int:
    raise AssertionError("the lane is not ready")


@dataclass(slots=True, eq=False)
class Flow:
    """Everything that goes to and comes from one peer through this worker. Times: boot-time microseconds.

    `until_us`: `lane` may seal as it stands until then (NO_LANE: it may not). `held`: no packet goes either
    way for now; its networks stay its own, or they would fall to whoever has wider ones. `room`: bytes of
    UDP payload that the path carries. `source`: what recvmsg says where the peer's records come from
    `endpoint`."""

    machine_id: bytes
    name4: bytes = b""
    session: Session | None = None
    lane: Lane | None = None
    encrypt: Cipher = _no_cipher
    until_us: int = NO_LANE
    held: bool = False
    endpoint: Address | None = None
    source: Source | None = None
    target: Target = ("", 0)
    room: int = BASE_PAYLOAD
    trains: bool = True  # its path takes UDP_SEGMENT
    meter: LossMeter = field(default_factory=LossMeter)
    accepted6: set[bytes] = field(default_factory=set)  # source ‖ destination of packets that may come in
    accepted4: dict[bytes, bytes] = field(default_factory=dict)  # the same, to what they become here
    spans: SpanBuffer = field(default_factory=SpanBuffer)
    active: bool = False  # something happened since the last report
    sent_bytes: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    received_packets: int = 0
    first_sent_us: int = 0
    last_sent_us: int = 0
    last_heard_us: int = 0
    first_received_us: int = 0
    last_received_us: int = 0

    def carried(self) -> Carried:
        """What happened since the last time; counts anew."""
        told = Carried(
            self.machine_id,
            self.sent_bytes,
            self.sent_packets,
            self.received_bytes,
            self.received_packets,
            self.first_sent_us if self.sent_packets else 0,
            self.last_sent_us if self.sent_packets else 0,
            self.last_heard_us,
            self.first_received_us if self.received_packets else 0,
            self.last_received_us if self.received_packets else 0,
            self.meter.span,
            self.meter.loss if self.meter.told else -1.0,
        )
        self.active = False
        self.sent_bytes = self.sent_packets = self.received_bytes = self.received_packets = 0
        self.last_heard_us = 0
        return told

    def close_lane(self) -> None:
        self.session = self.lane = None
        self.encrypt = _no_cipher
        self.until_us = NO_LANE


@dataclass(slots=True, eq=False)
class Channel:
    """What comes in on one lane of one session in one epoch; it exists only once a record was authentic."""

    flow: Flow
    session: Session
    lane: int
    epoch: int
    decrypt: Cipher
    window: ReplayWindow
    kept: bool = False  # a record of it was authentic: the table holds it
    received: int = 0  # authentic records
    reported: int = 0  # sequence that the last loss report named
    report_us: int = 0  # no loss report before
    heard: bool = False  # in this wake-up
