"""The node's side of its data-path workers: one process per TUN queue, started, talked to, started again.

A worker that ended took its replay windows with it. The next one sends on lanes that nobody has used,
receives only in sessions that are newer than itself, and every session is renewed at once.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import trio

from crypto.pulse import ZEQOND_MS
from crypto.session import LANES, REJECT_ZEQONDS
from tun.addresses import Address
from tun.errors import DataPathError
from tun.seam import Begin, Down, Reader, Ready, Stray, Up, pack
from tun.worker import MAX_BACKLOG, SEAM_BYTES, Settings

READY_SECONDS = 20.0
STOP_SECONDS = 1.0
BACKOFF_SECONDS = (0.0, 0.05, 0.2, 1.0, 5.0)
SESSION_SECONDS = 2 * REJECT_ZEQONDS * ZEQOND_MS / 1000  # after which no session from before is left
LIVED_SECONDS = 60.0  # a worker that lasted so long starts the back-off anew


Hear: TypeAlias = Callable[[list[Up]], None]


class _Worker:
    """One process and our end of its seam. What is told is kept until the socket takes it."""

    def __init__(self, settings: Settings, tun_fd: int, udp_fd: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self._end = ours
        self._backlog = bytearray()
        self._news = trio.Event()
        with theirs:
            fds = (tun_fd, udp_fd, theirs.fileno())
            # -P: a folder called "tun" where the node was started is not ours.
            command = [sys.executable, "-P", "-m", "tun.worker", *map(str, fds), settings.to_json()]
            self.process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)

    @property
    def backlog(self) -> int:
        """Bytes that the worker has not read yet."""
        return len(self._backlog)

    def tell(self, data: bytes) -> None:
        self._backlog += data
        self._flush()
        if self._backlog:
            self._news.set()

    def _flush(self) -> None:
        try:
            while self._backlog:
                del self._backlog[: self._end.send(memoryview(self._backlog)[:SEAM_BYTES])]
        except BlockingIOError:
            pass
        except OSError:  # it ended: reading says so next
            self._backlog.clear()

    async def write(self) -> None:
        """Send what the socket did not take at once."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._backlog:
                await trio.lowlevel.wait_writable(self._end)
                self._flush()

    async def read(self, hear: Hear) -> None:
        """Until the worker ends. All that came at once is heard at once."""
        reader = Reader()
        while True:
            await trio.lowlevel.wait_readable(self._end)
            try:
                data = self._end.recv(SEAM_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            hear(list(reader.feed(data)))

    async def stop(self) -> None:
        """It ends when the seam does; by force after a second."""
        self._end.close()
        with trio.move_on_after(STOP_SECONDS, shield=True):
            while self.process.poll() is None:  # noqa: ASYNC110 - no event tells of another process's end
                await trio.sleep(0.005)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Workers:
    """`tun_fds`, `udp_fds`: one each per worker; both stay the caller's. `brief(receives)`: what a new
    worker has to know. Counts `restarts`."""

    def __init__(
        self,
        settings: Settings,
        tun_fds: Sequence[int],
        udp_fds: Sequence[int],
        brief: Callable[[bool], list[Down]],
    ) -> None:
        self.restarts = 0
        self._settings = replace(settings, queues=len(tun_fds), parent=os.getpid())
        self._tun_fds, self._udp_fds = tun_fds, udp_fds
        self._brief = brief
        self._running: dict[int, _Worker] = {}
        self._free_at: dict[int, float] = {}  # lane -> trio's time from which on it may be used again

    @property
    def count(self) -> int:
        return len(self._tun_fds)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for _, worker in sorted(self._running.items())]

    def tell(self, messages: Iterable[Down]) -> None:
        """All of them."""
        data = pack(messages)
        if data:
            for worker in self._running.values():
                worker.tell(data)

    def give(self, datagram: bytes, source: Address) -> None:
        """A record of a data lane that came to the node's own socket: to the worker whose lane it is."""
        worker = self._running.get(((datagram[7] & (LANES - 1)) - 1) % self.count)
        if worker is not None and worker.backlog < MAX_BACKLOG:
            worker.tell(pack([Stray(datagram, *source)]))

    def pass_on(self, message: Down, lane: int) -> None:
        """To the worker that sends on this lane."""
        worker = self._running.get((lane - 1) % self.count)
        if worker is not None:
            worker.tell(pack([message]))

    async def run(
        self,
        hear: Hear,
        lost: Callable[[int, int], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled. `lost(worker, exit code)` is called after one has ended and another has started.

        Raises DataPathError where they keep ending."""
        async with trio.open_nursery() as nursery:
            for number in range(self.count):
                await nursery.start(self._keep_alive, number, hear, lost)
            task_status.started()

    async def _keep_alive(
        self,
        number: int,
        hear: Hear,
        lost: Callable[[int, int], None],
        task_status: trio.TaskStatus[None],
    ) -> None:
        failures = life = 0
        ended: int | None = None
        while True:
            lane = self._free_lane(number)
            if lane is None or failures >= len(BACKOFF_SECONDS):
                raise DataPathError(
                    f"A worker of the data path keeps ending (exit code {ended}): its own words are above;"
                    " start the node again, if need be with other settings in [engine]."
                )
            await trio.sleep(BACKOFF_SECONDS[failures])
            settings = replace(self._settings, lane=lane)
            worker = _Worker(settings, self._tun_fds[number], self._udp_fds[number])
            self._running[number] = worker
            worker.tell(pack([*self._brief(life == 0), Begin()]))
            if ended is not None:
                lost(number, ended)
            started = trio.current_time()
            try:
                await self._live(worker, hear, task_status if life == 0 else trio.TASK_STATUS_IGNORED)
            finally:
                del self._running[number]
                self._free_at[lane] = trio.current_time() + SESSION_SECONDS
                await worker.stop()
            ended = worker.process.returncode
            lasted = trio.current_time() - started
            failures = 0 if lasted >= LIVED_SECONDS else failures + 1
            life += 1
            self.restarts += 1

    def _free_lane(self, number: int) -> int | None:
        """A lane of this worker's that no session knows from an earlier life: a nonce must not repeat."""
        lanes = range(1 + number, LANES, self.count)
        now = trio.current_time()
        return next((lane for lane in lanes if now >= self._free_at.get(lane, now)), None)

    async def _live(self, worker: _Worker, hear: Hear, task_status: trio.TaskStatus[None]) -> None:
        """One worker's life. Started when it has taken up its work, or ended without."""
        started = False

        def hear_and_start(messages: list[Up]) -> None:
            nonlocal started
            if not started and Ready() in messages:
                started = True
                task_status.started()
            hear(messages)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.write)
            await worker.read(hear_and_start)
            nursery.cancel_scope.cancel()
        if not started:
            task_status.started()
