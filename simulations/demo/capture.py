"""A recording of everything that passes a device, as a pcap file, and what can be read from it.

Frames come through a ring of memory that the kernel fills and this process reads (packet(7), PACKET_RX_RING,
TPACKET_V2): its size is ours to choose also where an ordinary user may not enlarge a socket's buffer. What
the kernel could not put there it counts, and `Capture.dropped` says so.

pcap: head of 24 bytes, then for each frame seconds, nanoseconds, bytes kept, bytes there were, and the frame.
"""

from __future__ import annotations

import mmap
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from simulations.lab.namespaces import Namespace
from tun.frames import LAST_RECORD_TYPE, MESSAGE1, MESSAGE2, RECORD

_ETH_P_ALL = 0x0003
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION = 263, 5, 6, 10
_TPACKET_V2 = 1
_BLOCK, _SLOT = 1 << 16, 1 << 11  # bytes; a slot holds a frame of 1,514 and the kernel's 66 in front
_SLOTS = 1 << 13  # 16 MiB: five seconds at 15 Mb/s both ways
_STATUS = struct.Struct("=I")
_SLOT_HEAD = struct.Struct("=IIIHHII")  # struct tpacket2_hdr: status, len, kept, mac, net, seconds, ns
_FILE_HEAD = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 16, 1)
_FRAME_HEAD = struct.Struct("=IIII")
_PAUSE = 0.01  # s: frames are taken many at a time


class Capture:
    """Records from entering to leaving; the counts are final after that.

    `dropped`: frames that the kernel had no room for, and those longer than a slot."""

    def __init__(self, place: Namespace, device: str, path: Path) -> None:
        self.path = path
        self.frames = self.bytes = self.dropped = 0
        self._place = place
        self._device = device
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"recording {path.name}")

    def __enter__(self) -> Capture:
        self._socket = self._place.call(self._open)
        try:
            self._ring = mmap.mmap(self._socket.fileno(), _SLOTS * _SLOT)
            self._thread.start()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._ring.close()
        self._socket.close()

    @property
    def figures(self) -> dict[str, int]:
        return {"frames": self.frames, "bytes": self.bytes, "dropped": self.dropped}

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        ring = struct.pack("=IIII", _BLOCK, _SLOTS * _SLOT // _BLOCK, _SLOT, _SLOTS)
        sock.setsockopt(_SOL_PACKET, _RX_RING, ring)
        sock.bind((self._device, _ETH_P_ALL))
        return sock

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        with self.path.open("wb") as file:
            file.write(_FILE_HEAD)
            place = 0
            while not self._over.wait(_PAUSE):
                poll.poll(100)
                place = self._take(file, place)
                file.flush()
            self._take(file, place)
        _, lost = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self.dropped += lost

    def _take(self, file: BinaryIO, place: int) -> int:
        """Write the frames that the kernel has finished, give their slots back; returns the next place."""
        ring = self._ring
        while True:
            status, length, kept, at, _, seconds, nanoseconds = _SLOT_HEAD.unpack_from(ring, place)
            if not status & 1:
                return place
            start = place + at
            file.write(_FRAME_HEAD.pack(seconds, nanoseconds, kept, length))
            file.write(ring[start : start + kept])
            _STATUS.pack_into(ring, place, 0)
            self.frames += 1
            self.bytes += kept
            self.dropped += kept < length
            place = (place + _SLOT) % (_SLOTS * _SLOT)


@dataclass(frozen=True, slots=True)
class Datagram:
    """UDP over IPv4. `at`: seconds."""

    at: float
    source: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Handshake:
    """From its first datagram to the initiator's first record, as the wire saw it; bytes of UDP payload."""

    milliseconds: float
    datagrams: int
    bytes: int


def datagrams(path: Path) -> Iterator[Datagram]:
    """Those in the recording, as far as it is written."""
    data = path.read_bytes()
    at = len(_FILE_HEAD)
    while at + _FRAME_HEAD.size <= len(data):
        seconds, nanoseconds, kept, _ = _FRAME_HEAD.unpack_from(data, at)
        at += _FRAME_HEAD.size
        frame = data[at : at + kept]
        at += kept
        if frame[12:14] == b"\x08\x00" and frame[23:24] == b"\x11":
            ip_bytes = 4 * (frame[14] & 15)
            yield Datagram(
                seconds + nanoseconds / 1e9, str(IPv4Address(frame[26:30])), frame[14 + ip_bytes + 8 :]
            )


def first_handshake(path: Path) -> Handshake | None:
    """None where the recording holds no whole one."""
    messages: list[Datagram] = []
    for datagram in datagrams(path):
        kind = datagram.payload[0] if datagram.payload else 0
        if kind in (MESSAGE1, MESSAGE2):
            messages.append(datagram)
        elif messages and RECORD <= kind <= LAST_RECORD_TYPE and datagram.source == messages[0].source:
            took = datagram.at - messages[0].at
            total = sum(len(message.payload) for message in messages)
            return Handshake(took * 1000, len(messages), total)
    return None
