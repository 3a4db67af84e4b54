"""A TUN in memory, with the face of Linux's and a side to read, for tests and simulations."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from tun.errors import DeviceGoneError

BATCH: Final = 256


class MemoryTun:
    """A TUN without a kernel: `inject` is what the host sends, `taken` what the host got. Raises
    DeviceGoneError once it is closed.

    `on_packet` is called with each packet that is taken, e.g. to answer a ping.
    """

    def __init__(self, name: str = "mem0", on_packet: Callable[[bytes], object] | None = None) -> None:
        self._name = name
        self._on_packet = on_packet
        self._waiting: deque[bytes] = deque()
        self.taken: list[bytes] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def name(self) -> str:
        return self._name

    def fileno(self) -> int:
        """Readable while packets wait."""
        return self._event

    def inject(self, packet: bytes) -> None:
        """Queues a packet as if the host had routed it into the tunnel."""
        self._check_open()
        self._waiting.append(packet)
        os.eventfd_write(self._event, 1)

    def read_batch(self, limit: int = BATCH) -> list[bytes]:
        """Up to `limit` waiting packets, at once; empty when none waits."""
        self._check_open()
        packets = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        if packets and not self._waiting:
            os.eventfd_read(self._event)
        return packets

    def write_batch(self, packets: Iterable[bytes | bytearray | memoryview]) -> int:
        self._check_open()
        refused = 0
        for packet in packets:
            if not packet or packet[0] >> 4 not in (4, 6):  # as the kernel: EINVAL
                refused += 1
                continue
            self.taken.append(bytes(packet))
            if self._on_packet:
                self._on_packet(self.taken[-1])
        return refused

    def close(self) -> None:
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

    def _check_open(self) -> None:
        if self._event < 0:
            raise DeviceGoneError(f"The TUN interface {self._name} is closed: open a new one.")
