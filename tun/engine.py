"""The node's own end of the data path: it owns the core, its socket, and what the workers say.

    socket readable ─▶ up to 256 datagrams ─▶ core.receive ─┐
    a worker speaks ─▶ core.send, heard, carried            ├─▶ workers, TUN, UDP, events; then back to trio
    deadline        ─▶ core.tick                           ─┘

What is fast happens elsewhere: each TUN queue has a worker process (tun/worker.py), and the kernel gives it
the records of its lane. Here comes everything else: handshakes, lane 0, what shares the port, and packets
for peers that have no session yet. Without workers this carries everything on lane 0, slowly.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator

import trio

from tun.addresses import Address, Target, target
from tun.core import TunnelCore
from tun.device import Device
from tun.events import Event
from tun.frames import FIRST_OURS, HEAD_BYTES, LAST_RECORD_TYPE
from tun.intake import Intake
from tun.seam import Carried, Counted, Heard, LossTold, Report, Reported, Stray, TooBig, Unsent, Up
from tun.sockets import SOL_UDP, UDP_SEGMENT, open_socket
from tun.worker import boot_us
from tun.workers import Workers

__all__ = ["Engine", "boot_us", "open_socket", "unix_us"]

BATCH = 256
NAP_US = 30_000_000  # trio's clock stands still in suspend, ours does not: look at least this often
REFRESH_SECONDS = 0.1
MAX_TRAIN_BYTES = 65507
MAX_TRAIN = 64


def unix_us() -> int:
    return time.time_ns() // 1000


class Engine:
    """`on_event` gets every event of the core; `on_foreign` every datagram that is not a tunnel's; `on_lost`
    the number and exit code of a worker that ended and was replaced. Not `listening`: `listen` begins it."""

    def __init__(
        self,
        core: TunnelCore,
        device: Device,
        udp: socket.socket,
        on_event: Callable[[Event], None],
        on_foreign: Callable[[bytes, Address], None] | None = None,
        workers: Workers | None = None,
        on_lost: Callable[[int, int], None] = lambda _worker, _code: None,
        listening: bool = True,
    ) -> None:
        self.core = core
        self.workers = workers
        self._device = device
        self._udp = udp
        self._mapped = udp.family == socket.AF_INET
        self._on_event = on_event
        self.on_foreign = on_foreign
        self._on_lost = on_lost
        self._trains = True
        self._nap = trio.CancelScope()
        self._listening = trio.Event()
        if listening:
            self._listening.set()
        self._report = self._awaited = 0
        self._reported = trio.Event()
        if workers is not None:
            core.briefing.on = True

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then says goodbye to the peers and drops every key."""
        try:
            async with trio.open_nursery() as nursery:
                if self.workers is not None:
                    await nursery.start(self.workers.run, self._hear, self._lost)
                nursery.start_soon(self._from_socket)
                nursery.start_soon(self._by_the_clock)
                task_status.started()
        finally:
            self.core.close(boot_us(), unix_us())
            self._flush()

    async def refresh(self) -> None:
        """Have the workers say what they carried and have not said yet; a tenth of a second at most."""
        if self.workers is None:
            return
        self._report += 1
        self._awaited, self._reported = self.workers.count, trio.Event()
        self.workers.tell([Report(self._report)])
        with trio.move_on_after(REFRESH_SECONDS):
            await self._reported.wait()

    def listen(self) -> None:
        """The peers are known: who calls is no stranger any more for that. What came before has waited."""
        self._listening.set()

    def poke(self) -> None:
        """After a call into the core from elsewhere: send what it has, and keep its new deadline."""
        self._flush()

    def send(self, datagram: bytes, address: Address) -> None:
        """One datagram of who else shares the port, at once."""
        self._send_one(datagram, self._target(address), address)

    # ------------------------------------------------------------------ loops

    async def _from_socket(self) -> None:
        intake = Intake(self._udp)
        await self._listening.wait()
        while True:
            await trio.lowlevel.wait_readable(self._udp)
            now, unix = boot_us(), unix_us()
            for datagram, source in intake.drain(BATCH):
                self._receive(datagram, source, now, unix)
            self._flush()

    def _receive(self, datagram: bytes, source: Address, now: int, unix: int) -> None:
        if (
            self.workers is not None
            and len(datagram) > HEAD_BYTES
            and FIRST_OURS <= datagram[0] <= LAST_RECORD_TYPE
            and datagram[7] & 63
        ):
            self.workers.give(datagram, source)  # it came in a train of ours
        elif not self.core.receive(datagram, source, now, unix):
            self._foreign(datagram, source)

    def _hear(self, messages: list[Up]) -> None:
        """What a worker says."""
        now, unix = boot_us(), unix_us()
        for message in messages:
            self._obey(message, now, unix)
        self._flush()

    def _obey(self, message: Up, now: int, unix: int) -> None:
        core = self.core
        match message:
            case Unsent(packets):
                for packet in packets:
                    core.send(packet, now, unix)
            case Heard(index, host, port, size):
                core.heard(index, (host, port), size, now, unix)
            case Carried():
                core.carried(message, now, unix)
            case TooBig(host, port):
                core.too_big((host, port), now)
            case Stray(datagram, host, port):
                self._receive(datagram, (host, port), now, unix)
            case Counted(counters):
                core.counters.update(counters)
            case Reported(number) if number == self._report:
                self._awaited -= 1
                if self._awaited <= 0:
                    self._reported.set()
            case LossTold() if self.workers is not None:
                self.workers.pass_on(message, message.lane)

    def _lost(self, worker: int, code: int) -> None:
        self.core.count("data-path worker restarted")
        self.core.renew(boot_us(), unix_us())
        self._on_lost(worker, code)
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
        if self.workers is not None:  # before message 2 leaves: what it makes possible may follow at once
            messages = core.briefing.messages()
            if messages:
                self.workers.tell(messages)
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

    def _send_one(self, datagram: bytes, where: Target, address: Address) -> None:
        try:
            self._udp.sendto(datagram, where)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self.core.too_big(address, boot_us())
            self.core.counters[f"datagram not sent: {errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def _foreign(self, datagram: bytes, source: Address) -> None:
        if self.on_foreign is None:
            self.core.counters["datagram of no protocol of ours"] += 1
        else:
            self.on_foreign(datagram, source)

    def _target(self, address: Address) -> Target:
        return target(address, self._mapped)


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
