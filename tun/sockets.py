"""The node's UDP port: one socket for the core and one for each worker, all bound to the same address.

The sockets are one SO_REUSEPORT group. A classic BPF program looks at the head of a record (tun/frames.py)
and says which of them gets a datagram:

    byte 0 in 0xC0…0xC7 and byte 7 & 63 = lane ≥ 1  ─▶  workers[(lane − 1) mod len(workers)]
    everything else, and what is too short          ─▶  main

A train that GRO joined, or that was never cut on its way, is steered whole, by its first datagram: who
gets it must look at each of its datagrams, and pass on what is another's.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from tun.errors import PortInUseError, SocketRefusedError
from tun.frames import FIRST_OURS, LAST_RECORD_TYPE

SOCKET_BUFFER: Final = 8 << 20  # bytes
BUSY_SECONDS: Final = 1.0  # a killed node's worker dies a moment after it, and holds its socket until then
BUSY_POLL_SECONDS: Final = 0.02
LANE_MASK: Final = 63  # base indexes of receivers are aligned to 64

# linux/udp.h, linux/in.h, linux/in6.h, asm-generic/socket.h: not all in Python's socket module
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
_SO_ATTACH_REUSEPORT_CBPF: Final = 51

# linux/filter.h, linux/bpf_common.h: struct sock_filter is code, jump if true, jump if false, constant
_INSTRUCTION: Final = struct.Struct("=HBBI")
_PROGRAM: Final = struct.Struct("@HP")
_LOAD_BYTE, _LOAD_WORD, _AND, _ADD, _SUB, _MOD = 0x30, 0x20, 0x54, 0x04, 0x14, 0x94
_JUMP_EQUAL, _RETURN, _RETURN_A = 0x15, 0x06, 0x16


class UdpGroup:
    """`main` is the core's socket, `workers` one per worker; non-blocking, and in the group in this order.

    Each stays in the group until its last descriptor is closed, here or in a worker: close none of them
    alone, since the group's last one would take its place. `gro` and `segment` say whether UDP_GRO is on and
    UDP_SEGMENT may be used (a card may still refuse it, with EIO, when a train is sent).
    """

    def __init__(
        self, main: socket.socket, workers: list[socket.socket], *, gro: bool, segment: bool
    ) -> None:
        self.main = main
        self.workers = workers
        self.gro = gro
        self.segment = segment

    @property
    def port(self) -> int:
        number: int = self.main.getsockname()[1]
        return number

    def close(self) -> None:
        for each in (self.main, *self.workers):
            each.close()


def open_group(host: str, port: int, workers: int, without: Collection[str] = ()) -> UdpGroup:
    """The sockets of a node with this many workers, at least one, on UDP port `port`, 0 for any free one.

    Dual-stack where `host` is "::". `without` names what is not used even where the kernel has it, of
    "udp_segment" and "udp_gro". Blocks, for up to BUSY_SECONDS while the port is in use: call it in a worker
    thread. Raises PortInUseError, SocketRefusedError.
    """
    main = _open_patiently(host, port)
    sockets = [main]
    try:
        # Only now, so that binding above failed where anybody was on this port, another zeqnode included.
        main.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(workers):
            sockets.append(socket.socket(main.family, socket.SOCK_DGRAM))
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _prepare(sockets[-1])
            sockets[-1].bind(main.getsockname())
        _steer(main, workers)
        # All or none: the kernel asks any one of them, without the program, whether to join a train.
        gro = "udp_gro" not in without and all(_takes_trains(each) for each in sockets)
        if not gro:
            for each in sockets:
                with suppress(OSError):
                    each.setsockopt(SOL_UDP, UDP_GRO, 0)
        segment = "udp_segment" not in without and _has_segment(main)
        return UdpGroup(main, sockets[1:], gro=gro, segment=segment)
    except OSError as error:
        for each in sockets:
            each.close()
        raise SocketRefusedError(
            f"this kernel does not let the node's processes share one UDP port ({error.strerror});"
            " run zeqnode on Linux 4.6 or newer, outside of sandboxes that stand in for the kernel"
        ) from error


def _open_patiently(host: str, port: int) -> socket.socket:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return open_socket(host, port)
        except PortInUseError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(BUSY_POLL_SECONDS)


def open_socket(host: str, port: int) -> socket.socket:
    """One UDP socket: dual-stack where `host` is "::", don't-fragment, large buffers, non-blocking.

    Raises PortInUseError, SocketRefusedError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        if host != "::":
            raise SocketRefusedError("this kernel has no IPv6; set `address` in [listen]") from None
        return open_socket("0.0.0.0", port)  # noqa: S104 - a kernel without IPv6
    try:
        _prepare(udp)
        udp.bind((host, port))
    except OSError as error:
        udp.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"UDP port {port} is taken by another program; stop it, or set `port` in [listen] to another"
            ) from error
        raise SocketRefusedError(
            f"cannot listen on [{host}]:{port} ({error.strerror}); set `address` and `port` in [listen]"
        ) from error
    return udp


def _prepare(udp: socket.socket) -> None:
    udp.setblocking(False)
    if udp.family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
        except OSError:  # without CAP_NET_ADMIN: as much as the system's limit allows
            udp.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER)


def _steer(udp: socket.socket, workers: int) -> None:
    """Attaches the program to the whole group that `udp` is in. Offsets are those of the UDP payload."""
    filters = b"".join(_INSTRUCTION.pack(*instruction) for instruction in steering(workers))
    memory = ctypes.create_string_buffer(filters, len(filters))
    program = _PROGRAM.pack(len(filters) // _INSTRUCTION.size, ctypes.addressof(memory))
    udp.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def steering(workers: int) -> list[tuple[int, int, int, int]]:
    """The program: it answers with a socket's place in the group; 0, main, also on a load beyond the end."""
    return [
        (_LOAD_BYTE, 0, 0, 0),
        (_AND, 0, 0, 0xFF ^ (FIRST_OURS ^ LAST_RECORD_TYPE)),
        (_JUMP_EQUAL, 0, 7, FIRST_OURS),  # no record: to the last line
        (_LOAD_WORD, 0, 0, 4),  # of the network, so the lane is in the low bits
        (_AND, 0, 0, LANE_MASK),
        (_JUMP_EQUAL, 4, 0, 0),  # the core's lane
        (_SUB, 0, 0, 1),
        (_MOD, 0, 0, workers),
        (_ADD, 0, 0, 1),
        (_RETURN_A, 0, 0, 0),
        (_RETURN, 0, 0, 0),
    ]


def _takes_trains(udp: socket.socket) -> bool:
    try:
        udp.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:  # before Linux 5.0
        return False
    return True


def _has_segment(udp: socket.socket) -> bool:
    try:
        udp.setsockopt(SOL_UDP, UDP_SEGMENT, 0)  # every train says its own size
    except OSError:  # before Linux 4.18
        return False
    return True
