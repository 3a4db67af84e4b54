"""The data path's shell: it owns socket and TUN, feeds the core in batches and sends what it gives.

    socket readable ─▶ up to 256 datagrams ─▶ core.receive ─┐
    TUN readable    ─▶ up to 256 packets   ─▶ core.send     ├─▶ TUN, UDP, events; then back to trio
    deadline        ─▶ core.tick           ─────────────────┘

The seam for the fast path: everything above this file (peers, keys, endpoints) and below it (socket, TUN)
stays; a faster loop replaces `_from_socket`, `_from_device` and `_flush`.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator

import trio

from tun.addresses import MAPPED, Address
from tun.core import TunnelCore
from tun.device import Device
from tun.errors import PortInUseError, SocketRefusedError
from tun.events import Event

BATCH = 256
NAP_US = 30_000_000  # trio's clock stands still in suspend, ours does not: look at least this often
SOCKET_BUFFER = 8 << 20
MAX_TRAIN_BYTES = 65507
MAX_TRAIN = 64
# linux/udp.h, linux/in.h, linux/in6.h: not in Python's socket module
SOL_UDP, UDP_SEGMENT = 17, 103
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32


def boot_us() -> int:
    """Microseconds since boot, suspend included (CLOCK_BOOTTIME); never set back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def unix_us() -> int:
    return time.time_ns() // 1000


def open_socket(host: str, port: int) -> socket.socket:
    """The node's one UDP socket: dual-stack where `host` is "::", don't-fragment, large buffers.

    Raises PortInUseError, SocketRefusedError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        if host != "::":
            raise SocketRefusedError("this kernel has no IPv6; set `address` in [listen]") from None
        return open_socket("0.0.0.0", port)  # noqa: S104 - a kernel without IPv6
    try:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
        udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        _enlarge(udp)
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
    udp.setblocking(False)
    return udp


def _enlarge(udp: socket.socket) -> None:
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
        except OSError:  # without CAP_NET_ADMIN: as much as the system's limit allows
            udp.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER)


class Engine:
    """`on_event` gets every event of the core; `on_foreign` every datagram that is not a tunnel's."""

    def __init__(
        self,
        core: TunnelCore,
        device: Device,
        udp: socket.socket,
        on_event: Callable[[Event], None],
        on_foreign: Callable[[bytes, Address], None] | None = None,
    ) -> None:
        self.core = core
        self._device = device
        self._udp = udp
        self._mapped = udp.family == socket.AF_INET
        self._on_event = on_event
        self._on_foreign = on_foreign
        self._read_size = max(2048, core.full_payload + 64)
        self._trains = True
        self._nap = trio.CancelScope()
        self.received = 0
        self.sent = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then says goodbye to the peers and drops every key."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._from_socket)
                nursery.start_soon(self._from_device)
                nursery.start_soon(self._by_the_clock)
                task_status.started()
        finally:
            self.core.close(boot_us(), unix_us())
            self._flush()

    def poke(self) -> None:
        """After a call into the core from elsewhere: send what it has, and keep its new deadline."""
        self._flush()

    # ------------------------------------------------------------------ loops

    async def _from_socket(self) -> None:
        udp, receive, size = self._udp, self.core.receive, self._read_size
        while True:
            await trio.lowlevel.wait_readable(udp)
            now, unix = boot_us(), unix_us()
            for _ in range(BATCH):
                try:
                    datagram, where = udp.recvfrom(size)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error about something we sent: the timers deal with it
                    continue
                self.received += 1
                source = self._source(where)
                if not receive(datagram, source, now, unix):
                    self._foreign(datagram, source)
            self._flush()

    async def _from_device(self) -> None:
        device, send = self._device, self.core.send
        while True:
            await trio.lowlevel.wait_readable(device)
            now, unix = boot_us(), unix_us()
            for packet in device.read_batch(BATCH):
                send(packet, now, unix)
            self._flush()

    async def _by_the_clock(self) -> None:
        while True:
            self.core.tick(boot_us(), unix_us())
            self._flush()
            with trio.CancelScope() as self._nap:
                self._set_alarm()
                await trio.sleep_forever()

    def _set_alarm(self) -> None:
        wait_us = min(self.core.deadline_us() - boot_us(), NAP_US)
        self._nap.deadline = trio.current_time() + max(0, wait_us) / 1e6

    # ------------------------------------------------------------------ what the core gave

    def _flush(self) -> None:
        core = self.core
        if core.packets:
            packets, core.packets = core.packets, []
            refused = self._device.write_batch(packets)
            if refused:
                core.counters["packet refused by the TUN"] += refused
        if core.outgoing:
            outgoing, core.outgoing = core.outgoing, []
            for train, address, size in _trains(outgoing):
                self._send(train, address, size)
        if core.events:
            events, core.events = core.events, []
            for event in events:
                self._on_event(event)
        self._set_alarm()

    def _send(self, train: list[bytes], address: Address, size: int) -> None:
        where = self._target(address)
        self.sent += len(train)
        if len(train) > 1 and self._trains:
            try:
                ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]
                self._udp.sendmsg([b"".join(train)], ancillary, 0, where)
                return
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    self.core.counters["datagram dropped, socket full"] += len(train)
                    return
                if error.errno in (errno.EIO, errno.ENOPROTOOPT):
                    self._trains = False  # no segmentation on this kernel or card
        for datagram in train:
            self._send_one(datagram, where, address)

    def _send_one(self, datagram: bytes, where: Address, address: Address) -> None:
        try:
            self._udp.sendto(datagram, where)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self.core.too_big(address, boot_us())
            self.core.counters[f"datagram not sent: {errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def _foreign(self, datagram: bytes, source: Address) -> None:
        if self._on_foreign is None:
            self.core.counters["datagram of no protocol of ours"] += 1
        else:
            self._on_foreign(datagram, source)

    def _source(self, where: tuple[str, int] | tuple[str, int, int, int]) -> Address:
        """An IPv4-only socket's sources are written as a dual-stack one's; a link-local keeps its link."""
        if self._mapped:
            return MAPPED + where[0], where[1]
        if len(where) == 4 and where[3] and "%" not in where[0]:
            return f"{where[0]}%{where[3]}", where[1]
        return where[0], where[1]

    def _target(self, address: Address) -> Address:
        return (address[0].removeprefix(MAPPED), address[1]) if self._mapped else address


def _trains(outgoing: list[tuple[bytes, Address]]) -> Iterator[tuple[list[bytes], Address, int]]:
    """Runs that one UDP_SEGMENT call can send: one address, one size, only the last one shorter."""
    train: list[bytes] = []
    where: Address | None = None
    size = total = 0
    closed = False
    for datagram, address in outgoing:
        length = len(datagram)
        fits = not closed and len(train) < MAX_TRAIN and total + length <= MAX_TRAIN_BYTES
        if train and address == where and length <= size and fits:
            train.append(datagram)
            total += length
            closed = length < size
            continue
        if train and where is not None:
            yield train, where, size
        train, where, size, total, closed = [datagram], address, length, length, False
    if train and where is not None:
        yield train, where, size
