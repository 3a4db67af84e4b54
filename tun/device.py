"""TUN devices: Linux's, and one in memory with the same face for tests and simulations.

Packets are bare IP packets (IFF_NO_PI), one per read or write. The fast path's virtio_net_hdr (IFF_VNET_HDR)
changes only the flags and the buffer here.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from tun.errors import (
    DeviceBusyError,
    DeviceError,
    DeviceGoneError,
    DeviceMissingError,
    DeviceNameError,
    DevicePermissionError,
)

TUN_PATH: Final = Path("/dev/net/tun")
NAME_BYTES: Final = 15
PACKET_BYTES: Final = 65535
BATCH: Final = 256

# linux/if_tun.h, linux/if.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFREQ: Final = struct.Struct("=16sH22x")

_GONE: Final = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO})


class Device(Protocol):
    """What the engine needs of a TUN."""

    @property
    def name(self) -> str: ...

    def fileno(self) -> int:
        """A descriptor that is readable while packets wait."""

    def read_batch(self, limit: int = BATCH) -> list[bytes]:
        """Up to `limit` waiting packets, at once; empty when none waits. Raises DeviceGoneError."""

    def write_batch(self, packets: Iterable[bytes | bytearray | memoryview]) -> int:
        """Hands packets to the host; returns how many it refused. Raises DeviceGoneError."""

    def close(self) -> None: ...


class LinuxTun:
    """A TUN interface that lives as long as this object; the kernel removes it with its addresses and routes.

    Raises a DeviceError whose text says what to do.
    """

    def __init__(self, name: str) -> None:
        _check_name(name)
        try:
            fd = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _explain_open(error) from error
        try:
            flags = _IFF_TUN | _IFF_NO_PI
            answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        except OSError as error:
            os.close(fd)
            raise _explain_attach(error, name) from error
        self._name = str(answer[:16].rstrip(b"\0"), "utf-8")  # the kernel fills in a %d
        # FileIO answers None, not an exception, when nothing waits, and reads into one buffer.
        self._file = io.FileIO(fd, "r+")
        self._buffer = bytearray(PACKET_BYTES)
        self._view = memoryview(self._buffer)

    @property
    def name(self) -> str:
        return self._name

    def fileno(self) -> int:
        return self._file.fileno()

    def read_batch(self, limit: int = BATCH) -> list[bytes]:
        packets: list[bytes] = []
        read, buffer, view = self._file.readinto, self._buffer, self._view
        try:
            while len(packets) < limit:
                size = read(buffer)
                if not size:  # None: nothing waits
                    break
                packets.append(bytes(view[:size]))
        except (OSError, ValueError) as error:
            raise self._lost(error) from error
        return packets

    def write_batch(self, packets: Iterable[bytes | bytearray | memoryview]) -> int:
        refused = 0
        write = self._file.write
        for packet in packets:
            try:
                if write(packet) is None:  # EAGAIN: the queue is full
                    refused += 1
            except OSError as error:
                if error.errno in _GONE:
                    raise self._lost(error) from error
                refused += 1  # EIO: the interface is down; EINVAL: no IP packet; ENOBUFS, ENOMEM
            except ValueError as error:
                raise self._lost(error) from error
        return refused

    def close(self) -> None:
        self._file.close()

    def _lost(self, error: OSError | ValueError) -> DeviceError:
        if isinstance(error, ValueError) or error.errno in _GONE:  # ValueError: closed by us
            return DeviceGoneError(
                f"The TUN interface {self._name} was removed while in use: start the node again,"
                " and let nothing else manage that interface."
            )
        return DeviceError(
            f"Reading from the TUN interface {self._name} failed ({os.strerror(error.errno or 0)}):"
            " start the node again."
        )


class MemoryTun:
    """A TUN without a kernel: `inject` is what the host sends, `taken` what the host got.

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
        return self._event

    def inject(self, packet: bytes) -> None:
        """Queues a packet as if the host had routed it into the tunnel."""
        self._check_open()
        self._waiting.append(packet)
        os.eventfd_write(self._event, 1)

    def read_batch(self, limit: int = BATCH) -> list[bytes]:
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


def _check_name(name: str) -> None:
    bad = any(char in "/:" or char.isspace() for char in name) or name in ("", ".", "..")
    if bad or len(name.encode()) > NAME_BYTES:
        raise DeviceNameError(
            f"{name!r} cannot name a network interface: choose 1 to {NAME_BYTES} letters and digits"
            " for name in [interface]."
        )


def _explain_open(error: OSError) -> DeviceError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
        return DeviceMissingError(
            f"This machine has no {TUN_PATH}: load the driver with `sudo modprobe tun`,"
            f" or pass the device into the container (--device {TUN_PATH})."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return DevicePermissionError(
            f"{TUN_PATH} is closed to this user: start zeqnode as root, or open it with"
            f" `sudo chmod 666 {TUN_PATH}` (who may use it still needs CAP_NET_ADMIN)."
        )
    return DeviceError(f"{TUN_PATH} cannot be opened ({error.strerror}): close other programs and retry.")


def _explain_attach(error: OSError, name: str) -> DeviceError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return DevicePermissionError(
            f"Making the TUN interface {name} needs CAP_NET_ADMIN: start zeqnode with sudo, or as a"
            " systemd service with AmbientCapabilities=CAP_NET_ADMIN."
        )
    if error.errno in (errno.EBUSY, errno.EINVAL):  # EINVAL: it exists and is no TUN
        return DeviceBusyError(
            f"The interface name {name} is in use, by another zeqnode or another program:"
            " stop that one, or choose another name in [interface]."
        )
    return DeviceError(f"The TUN interface {name} cannot be made ({error.strerror}): see the kernel's log.")
