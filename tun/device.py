"""The TUN device, and what the main process needs of one.

A descriptor of LinuxTun is one queue of the interface. With `offloads.vnet_hdr` every read and write is

    ├ virtio_net_hdr (10 bytes, little-endian on every machine) ┼ IP packet ┤

and without it the bare IP packet (IFF_NO_PI); with `offloads.tso` a packet read may be a super-packet of up
to 64 KiB whose checksum nobody has computed. The workers read and write the queues themselves; here stands
what opens them, and the slow path's writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
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
from tun.frames import VIRTIO_BYTES
from tun.memory_tun import MemoryTun

__all__ = ["Device", "LinuxTun", "MemoryTun", "TunOffloads", "open_tun"]

TUN_PATH: Final = Path("/dev/net/tun")
NAME_BYTES: Final = 15
BUSY_SECONDS: Final = 1.0  # a killed node's worker dies a moment after it, and holds its queue until then
BUSY_POLL_SECONDS: Final = 0.02

# linux/if_tun.h, linux/if.h
_TUNSETIFF: Final = 0x400454CA
_TUNGETFEATURES: Final = 0x800454CF
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_IFF_TUN: Final = 0x0001
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
_IFREQ: Final = struct.Struct("=16sH22x")
_INT: Final = struct.Struct("=i")

_CSUM_TSO: Final = 0x01 | 0x02 | 0x04  # TUN_F_CSUM, TSO4, TSO6
_ECN: Final = 0x08
_USO: Final = 0x20 | 0x40  # USO4 and USO6, which Linux 6.2 takes only together

_GONE: Final = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO})


@dataclass(frozen=True)
class TunOffloads:
    """What the kernel leaves to us; each needs the one before it."""

    vnet_hdr: bool = False  # every packet is preceded by a virtio_net_hdr
    tso: bool = False  # TCP super-packets, and checksums left open
    uso: bool = False  # UDP super-packets


class Device(Protocol):
    """What the main process needs of a TUN."""

    @property
    def name(self) -> str: ...

    def write_batch(self, packets: Iterable[bytes | bytearray | memoryview]) -> int:
        """Hands bare IP packets to the host; returns how many it refused. Raises DeviceGoneError."""

    def close(self) -> None: ...


def open_tun(name: str, queues: int = 1, without: Collection[str] = ()) -> LinuxTun:
    """A LinuxTun, of a name that another process may be about to give up.

    Blocks, for up to BUSY_SECONDS while the name is in use: call it in a worker thread. Raises a DeviceError.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return LinuxTun(name, queues, without)
        except DeviceBusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(BUSY_POLL_SECONDS)


class LinuxTun:
    """A TUN interface that lives as long as one of its descriptors is open, in this process or a child; then
    the kernel removes it with its addresses and routes.

    `without` names what is not used even where the kernel has it, of "uso", "tso" and "vnet_hdr"; each takes
    the ones before it along. With several queues the interface must be new: joining the queues of another
    node would take its packets. Raises a DeviceError whose text says what to do.
    """

    def __init__(self, name: str, queues: int = 1, without: Collection[str] = ()) -> None:
        _check_name(name)
        self.fds: list[int] = []  # one per queue, non-blocking
        self.offloads = TunOffloads()
        self._name = name
        try:
            vnet_hdr = "vnet_hdr" not in without and self._attach(queues, _IFF_VNET_HDR)
            if not vnet_hdr:
                self._attach(queues, 0)
            self.offloads = _set_offloads(self.fds[0], vnet_hdr, without)
        except BaseException:
            self.close()
            raise
        self._header = bytes(VIRTIO_BYTES) if self.offloads.vnet_hdr else b""

    @property
    def name(self) -> str:
        return self._name

    def write_batch(self, packets: Iterable[bytes | bytearray | memoryview]) -> int:
        """For single packets, whole, checksum and all: the header says that nothing is left to do."""
        if not self.fds:
            raise self._lost()
        refused = 0
        fd, header = self.fds[0], self._header
        for packet in packets:
            try:
                os.write(fd, header + packet)
            except OSError as error:
                if error.errno in _GONE:
                    raise self._lost() from error
                # EAGAIN: the queue is full; EIO: the interface is down; EINVAL: no IP packet; ENOBUFS, ENOMEM
                refused += 1
        return refused

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())

    def _attach(self, queues: int, header: int) -> bool:
        """Opens every queue; False, and nothing is open, where this kernel lacks `header`."""
        flags = _IFF_TUN | _IFF_NO_PI | header
        if queues > 1:
            flags |= _IFF_MULTI_QUEUE | _IFF_TUN_EXCL
        for number in range(queues):
            fd = _open()
            self.fds.append(fd)
            missing = flags & (_IFF_VNET_HDR | _IFF_MULTI_QUEUE) & ~_features(fd)
            if missing & _IFF_VNET_HDR:
                self.close()
                return False
            if missing:
                raise _too_many_queues(1)
            try:
                answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(self._name.encode(), flags))
            except OSError as error:
                raise (_too_many_queues(number) if number else _explain_attach(error, self._name)) from error
            self._name = str(answer[:16].rstrip(b"\0"), "utf-8")  # the kernel fills in a %d
            flags &= ~_IFF_TUN_EXCL  # the others join it
        if header and not _agree_on_header(self.fds[0]):
            self.close()
            return False
        return True

    def _lost(self) -> DeviceGoneError:
        return DeviceGoneError(
            f"The TUN interface {self._name} was removed while in use: start the node again,"
            " and let nothing else manage that interface."
        )


def _check_name(name: str) -> None:
    bad = any(char in "/:" or char.isspace() for char in name) or name in ("", ".", "..")
    if bad or len(name.encode()) > NAME_BYTES:
        raise DeviceNameError(
            f"{name!r} cannot name a network interface: choose 1 to {NAME_BYTES} letters and digits"
            " for name in [interface]."
        )


def _open() -> int:
    try:
        return os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _explain_open(error) from error


def _features(fd: int) -> int:
    """The IFF_ flags that this driver knows: TUNSETIFF's EINVAL may also be about the name."""
    try:
        found: int = _INT.unpack(fcntl.ioctl(fd, _TUNGETFEATURES, bytes(_INT.size)))[0]
        return found
    except OSError:
        return 0


def _agree_on_header(fd: int) -> bool:
    """Ten bytes, little-endian: whether the kernel will do so. All queues of an interface share this."""
    with suppress(OSError):  # ten is what a new interface has
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, _INT.pack(VIRTIO_BYTES))
    try:
        fcntl.ioctl(fd, _TUNSETVNETLE, _INT.pack(1))
    except OSError:
        return sys.byteorder == "little"  # then the machine's own order will do
    return True


def _set_offloads(fd: int, vnet_hdr: bool, without: Collection[str]) -> TunOffloads:
    """The most that the kernel takes. With none it computes checksums and cuts super-packets itself."""
    most = [_CSUM_TSO | _ECN | _USO, _CSUM_TSO | _ECN, _CSUM_TSO] if vnet_hdr else []
    for offloads in most:
        if "tso" in without or ("uso" in without and offloads & _USO):
            continue
        with suppress(OSError):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
            return TunOffloads(vnet_hdr, True, bool(offloads & _USO))
    with suppress(OSError):  # a lasting interface keeps those of its user before us
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    return TunOffloads(vnet_hdr)


def _too_many_queues(most: int) -> DeviceError:
    return DeviceError(
        f"This kernel gives a TUN interface no more than {most} {'queue' if most == 1 else 'queues'}:"
        f" set queues = {most} in [engine]."
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
