"""A plane of the data path between a TUN and a socket that are only lists, with one peer and real keys."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from crypto.kem import expand
from tun.plane import Plane
from tun.reference import LaneKeys
from tun.seam import Aim, PeerIs, Serves, SessionClosed, SessionOpened
from tun.table import Table

NOW = 5_000_000_000
ROOT = bytes(range(32))
LANE = 1
ZEQOND = 0x0BADCAFE
REMOTE = 0x1122_3340
EVERYTHING = ["0.0.0.0/0", "::/0"]
MACHINE = b"m" * 16
HOME = ("fd00::1", 4000, 0, 0)
MAX_AT_ONCE = 7  # datagrams of a call, fewer than are asked for: the kernel takes as many as it likes
UDP_SEGMENT, UDP_GRO, SOL_UDP = 103, 104, 17


class FakeTun:
    """`waiting`: what it reads next. `written`: what the plane wrote."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.written: list[bytes] = []

    def readinto(self, view: memoryview) -> int | None:
        if not self.waiting:
            return None
        read = self.waiting.popleft()
        view[: len(read)] = read
        return len(read)

    def write(self, data: memoryview | bytes) -> int:
        self.written.append(bytes(data))
        return len(data)


class FakeUdp:
    """A kernel: a train that is sent with UDP_SEGMENT falls into datagrams; one received is whole."""

    at_once = MAX_AT_ONCE

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waiting: deque[tuple[Sequence[bytes], bool]] = deque()

    def sendto(self, data: bytes | memoryview, to: Any) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def sendmsg(
        self, buffers: list[bytes | memoryview], control: list[tuple[int, int, bytes]], flags: int, to: Any
    ) -> int:
        train = b"".join(buffers)
        ((level, kind, size_bytes),) = control
        (size,) = struct.unpack("=H", size_bytes)
        assert (level, kind) == (SOL_UDP, UDP_SEGMENT)
        pieces = [train[at : at + size] for at in range(0, len(train), size)]
        assert len(train) <= 65_507
        assert len(pieces) <= 64, "EINVAL before Linux 6.9"
        self.sent += pieces
        return len(train)

    def send_many(self, train: bytes | memoryview, size: int, to: Any) -> int:
        self.sent += [bytes(train[at : at + size]) for at in range(0, len(train), size)][: self.at_once]
        return min(self.at_once, -(-len(train) // size))

    def receive_more(
        self, into: bytearray, at: int, size: int, count: int, source: Any
    ) -> tuple[int, list[tuple[bytes, int, Any]], bool]:
        others: list[tuple[bytes, int, Any]] = []
        for _ in range(min(count, self.at_once)):
            if not self.waiting:
                return at, others, False
            train, gro = self.waiting.popleft()
            data = b"".join(train)
            if others or gro or len(data) > size or at % size or source != HOME:
                others.append((data, len(train[0]) if gro else len(data), HOME))
            else:
                into[at : at + len(data)] = data
                at += len(data)
        return at, others, True

    def recvmsg_into(
        self, buffers: list[memoryview], control: int
    ) -> tuple[int, list[tuple[int, int, bytes]], int, tuple[str, int, int, int]]:
        if not self.waiting:
            raise BlockingIOError
        train, gro = self.waiting.popleft()
        data = b"".join(train)[: len(buffers[0])]
        buffers[0][: len(data)] = data
        told = [(SOL_UDP, UDP_GRO, struct.pack("=i", len(train[0])))] if gro else []
        return len(data), told, 0, HOME


class Side:
    """A plane with one peer, between a TUN and a socket that are only lists."""

    def __init__(self, choice: str = "auto", vnet_hdr: bool = True) -> None:
        self.tun, self.udp = FakeTun(), FakeUdp()
        self.table = Table(LANE)
        self.plane = Plane(self.tun, self.udp, self.table, vnet_hdr=vnet_hdr, choice=choice)  # type: ignore[arg-type]
        self.index = 0x40
        self.table.apply(PeerIs(MACHINE, bytes([198, 18, 0, 2]), EVERYTHING))
        self.table.apply(Serves(EVERYTHING))

    def use(self, udp: FakeUdp) -> None:
        """Another socket."""
        self.udp = udp
        self.plane.udp = udp
        self.plane.sender._udp = udp

    def take(self, tun: FakeTun) -> None:
        """Another TUN."""
        self.tun = tun
        self.plane._tun = tun  # type: ignore[assignment]

    def session(self, initiator: bool, remote: int) -> None:
        self.table.apply(SessionClosed(self.index))
        self.index += 64
        if self.index >= 2**32:
            self.index = 0x40
        self.table.apply(SessionOpened(MACHINE, self.index, remote, initiator, ROOT, 0, ZEQOND, NOW, True))

    def seal(self, reads: list[bytes], first: int, room: int) -> list[bytes]:
        """What one wake-up makes of the reads; the first record has that sequence."""
        self.table.apply(Aim(MACHINE, self.index, "fd00::2", 4000, room))
        flow = self.table.flows[MACHINE]
        assert flow.lane is not None
        flow.lane.ready(NOW)
        flow.lane.sequence = first
        self.tun.waiting.extend(reads)
        self.udp.sent = []
        self.plane.transmit(NOW)
        assert not self.tun.waiting
        assert not self.plane.unsent
        return self.udp.sent

    def unseal(self, received: Sequence[Sequence[bytes]], at_once: bool = False) -> list[bytes]:
        """What is written to the TUN for trains that come one by one, or (`at_once`) in one wake-up."""
        self.tun.written = []
        for train in received:
            self.udp.waiting.append((train, len(train) > 1))
            if not at_once:
                self.plane.receive(NOW)
        while self.udp.waiting:
            self.plane.receive(NOW)
        self.plane.upward.clear()
        return self.tun.written


def lane_keys(index: int) -> LaneKeys:
    """Of what the initiator sends on the lane in epoch 0; `index`: the responder's, without the lane."""
    return LaneKeys(expand(ROOT, b"zeqnode lane v1", bytes([0, LANE])), index + LANE, ZEQOND)
