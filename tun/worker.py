"""One data-path worker: a process with one TUN queue, one UDP socket and the seam to its node. Nothing else.

    python -m tun.worker TUN_FD UDP_FD SEAM_FD SETTINGS     started by tun/workers.py only

It runs apart from the node so that neither waits for the other's interpreter, and so that what reads packets
of peers holds no long-term key, no file and no privilege. When the node goes, by whatever way, it goes too.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network

from tun.datagrams import Datagrams
from tun.plane import Plane
from tun.seam import Begin, LossTold, Message, Reader, Ready, Report, Reported, Stray, Unsent, pack
from tun.table import Table

SWEEP_US = 500_000
SEAM_BYTES = 1 << 18
MAX_BACKLOG = 8 << 20  # bytes that the node has not read yet; what can be lost is, from there on
NAP_US = 30_000_000  # poll's clock stands still in suspend, ours does not
# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LOSABLE = (Unsent, Stray)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is started with. `pool`: the network of the node's local IPv4 names. tun/workers.py fills
    in its lane, how many workers there are, and the node's process id."""

    pool: str
    vnet_hdr: bool
    segment: bool
    choice: str
    lane: int = 0
    queues: int = 1
    parent: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def boot_us() -> int:
    """Microseconds since boot, suspend included (CLOCK_BOOTTIME); the same in every process."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Seam:
    """The worker's end: reads whole messages, and never waits for the node to read ours."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._reader = Reader()
        self._backlog = bytearray()

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def waits(self) -> bool:
        return bool(self._backlog)

    def read(self) -> list[Message] | None:
        """What has come; None when the node is gone."""
        try:
            data = self._end.recv(SEAM_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self._reader.feed(data)) if data else None

    def write(self, messages: list[Message]) -> None:
        if len(self._backlog) > MAX_BACKLOG:
            messages = [each for each in messages if not isinstance(each, _LOSABLE)]
        self._backlog += pack(messages)
        self.flush()

    def flush(self) -> None:
        try:
            while self._backlog:
                del self._backlog[: self._end.send(memoryview(self._backlog)[:SEAM_BYTES])]
        except BlockingIOError:
            pass
        except OSError:
            self._backlog.clear()  # the node is gone: reading says so next


class Worker:
    """The loop: whatever is readable is drained in turns, then the node is told."""

    def __init__(self, tun: io.FileIO, udp: socket.socket, seam: Seam, settings: Settings) -> None:
        self._tun, self._udp, self._seam = tun, udp, seam
        self._table = Table(
            settings.lane, IPv4Network(settings.pool), settings.queues, udp.family == socket.AF_INET
        )
        self._plane = Plane(
            tun,
            Datagrams(udp),
            self._table,
            vnet_hdr=settings.vnet_hdr,
            segment=settings.segment,
            choice=settings.choice,
        )
        self._poll = select.epoll()
        self._failed = False
        self._swept_us = 0
        self._keys_us = 0

    def run(self) -> None:
        """Until the node is gone."""
        tun, udp, seam, plane = self._tun.fileno(), self._udp.fileno(), self._seam.fileno(), self._plane
        poll = self._poll
        poll.register(seam, select.EPOLLIN)
        waited = False
        while True:
            ready = poll.poll(self._patience())
            now = boot_us()
            if now >= self._keys_us:  # before anything is opened: after a suspend, much may be too old
                self._keys_us = self._table.advance(now)
            for fd, _ in ready:
                if fd == tun:
                    plane.transmit(now)
                elif fd == udp:
                    self._survive(plane.receive, now)
                elif not self._obey(now):
                    return
            self._tell(now)
            if self._seam.waits != waited:
                waited = self._seam.waits
                poll.modify(seam, select.EPOLLIN | (select.EPOLLOUT if waited else 0))

    def _survive(self, receive: Callable[..., None], *arguments: object) -> None:
        """A datagram that our code did not foresee may cost itself, and never the worker."""
        try:
            receive(*arguments)
        except (ArithmeticError, LookupError, TypeError, ValueError, struct.error):
            self._plane.counters["datagrams that our own code failed on"] += 1
            if not self._failed:
                self._failed = True
                traceback.print_exc()

    def _obey(self, now: int) -> bool:
        self._seam.flush()
        messages = self._seam.read()
        if messages is None:
            return False
        for message in messages:
            match message:
                case Stray(datagram, host, port):
                    self._survive(self._plane.given, datagram, (host, port), now)
                case Begin():  # whatever came before would have been for nobody
                    for fd in (self._tun, self._udp):
                        self._poll.register(fd, select.EPOLLIN)
                    self._plane.upward.append(Ready())
                case Report(number):
                    self._plane.upward += [*self._plane.report(), Reported(number)]
                case LossTold():
                    self._loss_told(message)
                case _:
                    self._table.apply(message)  # type: ignore[arg-type]  # the node sends what goes down
        self._keys_us = min(self._keys_us, now)  # new sessions have deadlines of their own
        return True

    def _loss_told(self, message: LossTold) -> None:
        flow = self._table.flows.get(message.machine_id)
        if flow is None or flow.session is None or flow.lane is None:
            return
        told = (flow.session.local_index, flow.lane.number, flow.meter.epoch)
        if told == (message.local_index, message.lane, message.epoch):
            flow.meter.report(message.next_sequence, message.received)

    def _tell(self, now: int) -> None:
        plane = self._plane
        if plane.unsent:
            plane.upward.append(Unsent(plane.unsent.copy()))
            plane.unsent.clear()
        if (plane.active or plane.counters) and now >= self._swept_us + SWEEP_US:
            self._swept_us = now
            plane.upward += plane.report()
        if plane.upward:
            self._seam.write(list(plane.upward))
            plane.upward.clear()

    def _patience(self) -> float:
        """Seconds until something is due without anybody calling."""
        now = boot_us()
        due = min(self._keys_us, now + NAP_US)
        if self._plane.active or self._plane.counters:
            due = min(due, self._swept_us + SWEEP_US)
        return max(0, due - now) / 1e6


def confine(parent: int) -> None:
    """Die with the node, and give up every privilege: the descriptors are open, and need none."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)):  # effective, permitted, inheritable: none, in two halves
        raise OSError(ctypes.get_errno(), "the worker cannot give up its privileges")
    if os.getppid() != parent:
        sys.exit(0)  # it went before we asked to be told


def main(arguments: list[str]) -> None:
    tun, udp, seam = map(int, arguments[:3])
    settings = Settings(**json.loads(arguments[3]))
    confine(settings.parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # to the node and its group: it ends us in its order
        signal.signal(number, signal.SIG_IGN)
    # What is there now stays: the collector need not look at it again, and the loop makes no cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    worker = Worker(
        io.FileIO(tun, "r+"), socket.socket(fileno=udp), Seam(socket.socket(fileno=seam)), settings
    )
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1:])
