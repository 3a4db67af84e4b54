"""Real worker processes on loopback, with a Unix socket in the TUN's place: carrying, dying, replaced."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.virtio_packets import UDP, V6_PAIR, Shape
from tun import workers as workers_module
from tun.addresses import MAPPED
from tun.errors import DataPathError
from tun.seam import (
    Aim,
    Carried,
    Counted,
    Down,
    Heard,
    PeerIs,
    Report,
    Reported,
    Serves,
    SessionOpened,
    Stray,
    Unsent,
    Up,
)
from tun.sockets import SOL_UDP, UDP_SEGMENT, open_group
from tun.worker import Settings, boot_us
from tun.workers import SESSION_SECONDS, Workers

MACHINE = {"a": b"a" * 32, "b": b"b" * 32}
OTHER = {"a": "b", "b": "a"}
INDEX = {"a": 0x4000, "b": 0x8000}
ROOT = bytes(range(32))
SECONDS = 10.0
ROOM = 1452


@dataclass
class Side:
    """One node's workers; `ends`: our ends of what they take for TUN queues."""

    name: str
    port: int
    ends: list[socket.socket]
    workers: Workers = field(init=False)
    heard: list[Up] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    started_us: int = 0
    peer: Side | None = None
    session: int = 0
    restarted_with: list[bool] = field(default_factory=list)

    def is_lost(self, worker: int, code: int) -> None:
        self.lost.append((worker, code))

    def brief(self, receives: bool) -> list[Down]:
        """What a worker that starts now is told."""
        self.restarted_with.append(receives)
        return self.messages(receives) if self.peer is not None else []

    def messages(self, receives: bool = True) -> list[Down]:
        assert self.peer is not None
        other = OTHER[self.name]
        index, remote = (INDEX[name] + 64 * self.session for name in (self.name, other))
        return [
            Serves(["::/0"]),
            PeerIs(MACHINE[other], bytes([198, 18, 0, 2]), ["::/0"]),
            SessionOpened(
                MACHINE[other],
                index,
                remote,
                self.name == "a",
                bytes([self.session]) + ROOT[1:],
                0,
                7,
                self.started_us,
                receives,
            ),
            Aim(MACHINE[other], index, MAPPED + "127.91.0.1", self.peer.port, ROOM),
        ]

    def strays(self) -> list[Stray]:
        return [each for each in self.heard if isinstance(each, Stray)]

    async def take(self, queue: int) -> bytes:
        """The next packet that a worker wrote, without its virtio_net_hdr."""
        with trio.fail_after(SECONDS):
            await trio.lowlevel.wait_readable(self.ends[queue])
        return self.ends[queue].recv(65_600)[10:]

    async def wait(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(SECONDS):
            while not condition():  # noqa: ASYNC110 - what other processes do comes with no event of ours
                await trio.sleep(0.01)


def tun_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
    return ours, theirs


@asynccontextmanager
async def pair(queues: int = 1) -> AsyncIterator[tuple[Side, Side]]:
    sides = []
    async with trio.open_nursery() as nursery:
        with ExitStack() as stack:
            for name in "ab":
                group = open_group("127.91.0.1", 0, queues)
                stack.callback(group.close)
                ends = [tun_pair() for _ in range(queues)]
                for end in (end for both in ends for end in both):
                    stack.callback(end.close)
                settings = Settings("198.18.0.0/16", True, group.segment, "auto")
                fds = [theirs.fileno() for _, theirs in ends]
                side = Side(name, group.port, [ours for ours, _ in ends])
                side.workers = Workers(settings, fds, [each.fileno() for each in group.workers], side.brief)
                sides.append(side)
                await nursery.start(side.workers.run, side.heard.extend, side.is_lost)
            a, b = sides
            a.peer, b.peer = b, a
            a.started_us = b.started_us = boot_us()
            for side in sides:
                side.workers.tell(side.messages())
            try:
                yield a, b
            finally:
                nursery.cancel_scope.cancel()


def packet(text: bytes) -> bytes:
    return Shape(version=6, protocol=UDP, payload=text).build()


async def test_packets_cross_and_are_reported() -> None:
    async with pair() as (a, b):
        a.ends[0].send(packet(b"there"))
        assert (await b.take(0)).endswith(b"there")
        b.ends[0].send(packet(b"and back"))
        assert (await a.take(0)).endswith(b"and back")
        b.workers.tell([Report(1)])
        await b.wait(lambda: Reported(1) in b.heard)
        carried = [each for each in b.heard if isinstance(each, Carried)]
        assert sum(each.sent_packets for each in carried) == 1
        assert sum(each.received_packets for each in carried) == 1
        assert sum(each.received_bytes for each in carried) == len(packet(b"there")) - 10
        heard = [each for each in b.heard if isinstance(each, Heard)]
        assert [(each.host, each.port) for each in heard] == [(MAPPED + "127.91.0.1", a.port)]


async def test_each_queue_has_its_lane_and_its_worker() -> None:
    async with pair(queues=2) as (a, b):
        for queue in (0, 1):
            a.ends[queue].send(packet(b"queue %d" % queue))
            assert (await b.take(queue)).endswith(b"queue %d" % queue)


async def test_in_a_train_of_two_lanes_each_record_is_opened_once() -> None:
    """The kernel steers a train by its first datagram; who gets it passes on what another's window is for."""
    async with pair(queues=2) as (a, b):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tap:
            tap.bind(("127.91.0.9", 0))
            tap.settimeout(SECONDS)
            port = tap.getsockname()[1]
            a.workers.tell([Aim(MACHINE["b"], INDEX["a"], MAPPED + "127.91.0.9", port, ROOM)])
            records = []
            for queue in (0, 1):
                a.ends[queue].send(packet(b"lane %d" % queue))
                records.append(await trio.to_thread.run_sync(tap.recv, 2_000))
            assert len(records[0]) == len(records[1])
            size = len(records[0]).to_bytes(2, sys.byteorder)
            for _ in range(2):  # the second time it is a replay
                tap.sendmsg([b"".join(records)], [(SOL_UDP, UDP_SEGMENT, size)], 0, ("127.91.0.1", b.port))
            tap.sendto(records[1], ("127.91.0.1", b.port))  # and once more, by itself, to its own worker
        await b.wait(lambda: len(b.strays()) == 2)
        for stray in b.strays():
            b.workers.give(stray.datagram, (stray.host, stray.port))
        got = [(await b.take(0))[-6:], (await b.take(1))[-6:]]
        b.ends[0].send(packet(b"done"))
        await a.take(0)
        b.workers.tell([Report(1)])
        await b.wait(lambda: b.heard.count(Reported(1)) == 2)
        for end in b.ends:
            with suppress(BlockingIOError):
                while True:
                    got.append(end.recv(65_600)[-6:])
        assert sorted(got) == [b"lane 0", b"lane 1"]


async def test_a_packet_without_a_session_goes_up_whole() -> None:
    async with pair() as (a, _):
        a.workers.tell([Aim(MACHINE["b"], -1, "", 0, ROOM)])
        a.ends[0].send(packet(b"who takes me"))
        await a.wait(lambda: [each for each in a.heard if isinstance(each, Unsent)])
        (unsent,) = [each for each in a.heard if isinstance(each, Unsent)]
        assert [each[-12:] for each in unsent.packets] == [b"who takes me"]
        assert unsent.packets[0][8:40] == V6_PAIR


async def test_a_gate_closes_for_every_worker_both_ways_and_opens_again() -> None:
    async with pair(queues=2) as (a, b):
        (peer,) = [each for each in b.messages() if isinstance(each, PeerIs)]

        async def gate(number: int, held: bool) -> None:
            b.workers.tell([replace(peer, held=held), Report(number)])
            await b.wait(lambda: b.heard.count(Reported(number)) == 2)

        def held_back() -> int:
            counted = [each.counters for each in b.heard if isinstance(each, Counted)]
            return sum(counters.get("packet held back", 0) for counters in counted)

        for queue in (0, 1):
            a.ends[queue].send(packet(b"before"))
            await b.take(queue)
        await gate(1, held=True)
        for queue in (0, 1):
            a.ends[queue].send(packet(b"in"))
            b.ends[queue].send(packet(b"out"))
        await b.wait(lambda: held_back() == 4)
        await gate(2, held=False)
        for queue in (0, 1):
            a.ends[queue].send(packet(b"in again"))
            assert (await b.take(queue)).endswith(b"in again")
            b.ends[queue].send(packet(b"out again"))
            assert (await a.take(queue)).endswith(b"out again")
        assert held_back() == 4
        assert not [each for each in b.heard if isinstance(each, Unsent)]


async def test_a_killed_worker_is_replaced_and_receives_only_in_newer_sessions() -> None:
    async with pair() as (a, b):
        a.ends[0].send(packet(b"before"))
        await b.take(0)
        (old,) = b.workers.pids
        os.kill(old, signal.SIGKILL)
        await b.wait(lambda: b.lost)
        assert b.lost == [(0, -signal.SIGKILL)]
        assert b.restarted_with == [True, False]
        assert b.workers.restarts == 1
        assert b.workers.pids != [old]
        b.ends[0].send(packet(b"it sends at once"))
        assert (await a.take(0)).endswith(b"it sends at once")
        a.ends[0].send(packet(b"a record of the old session"))
        await b.wait(lambda: any("no session here" in str(each) for each in b.heard))
        for side in (a, b):
            side.session = 1
            side.workers.tell(side.messages())
        a.ends[0].send(packet(b"and a new session"))
        assert (await b.take(0)).endswith(b"and a new session")


async def test_a_lane_is_taken_again_only_when_no_session_knows_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = Workers(
        Settings("198.18.0.0/16", True, True, "auto"), range(32), range(32), lambda _receives: []
    )
    lives = []
    for _ in range(3):
        lane = workers._free_lane(0)
        lives.append(lane)
        if lane is not None:
            workers._free_at[lane] = trio.current_time() + SESSION_SECONDS
        await trio.sleep(1)
    assert lives == [1, 33, None]
    await trio.sleep(SESSION_SECONDS)
    assert workers._free_lane(0) == 1


async def test_workers_end_with_the_run() -> None:
    async with pair(queues=2) as (a, b):
        pids = [*a.workers.pids, *b.workers.pids]
        assert len(pids) == 4
    assert not [pid for pid in pids if is_there(pid)]


async def test_a_worker_has_no_privilege() -> None:
    async with pair() as (a, _):
        status = status_of(a.workers.pids[0])
        assert {status[name].strip() for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"].strip() == "1"


async def test_a_worker_that_keeps_ending_ends_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers_module, "BACKOFF_SECONDS", (0.0, 0.01, 0.02))
    ours, theirs = tun_pair()
    with ours, theirs, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        settings = Settings("no network", True, True, "auto")
        workers = Workers(settings, [theirs.fileno()], [udp.fileno()], lambda _receives: [])
        with pytest.raises(BaseExceptionGroup) as caught:
            await workers.run(lambda _messages: None, lambda _worker, _code: None)
    (reason,) = flat(caught.value)
    assert isinstance(reason, DataPathError)
    assert "keeps ending (exit code 1)" in str(reason)
    assert workers.restarts == 3


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def flat(group: BaseException) -> list[BaseException]:
    if not isinstance(group, BaseExceptionGroup):
        return [group]
    return [leaf for each in group.exceptions for leaf in flat(each)]


def test_a_worker_dies_with_its_node() -> None:
    """kill -9 leaves nobody behind that holds the port and the TUN."""
    node = textwrap.dedent(
        """
        import os, socket, subprocess, sys
        from tun.seam import Begin, pack
        from tun.worker import Settings
        tun, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        seam, theirs = socket.socketpair()
        fds = (tun.fileno(), udp.fileno(), theirs.fileno())
        settings = Settings("198.18.0.0/16", True, True, "auto", 1, 1, os.getpid()).to_json()
        command = [sys.executable, "-m", "tun.worker", *map(str, fds), settings]
        worker = subprocess.Popen(command, pass_fds=fds)
        seam.send(pack([Begin()]))
        seam.recv(100)
        print(worker.pid, flush=True)
        seam.recv(100)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", node], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        watch = os.pidfd_open(worker)
        process.kill()
    with open(watch, "rb", buffering=0) as file:
        assert trio.run(_ends, file.fileno())


async def _ends(pidfd: int) -> bool:
    with trio.move_on_after(SECONDS):
        await trio.lowlevel.wait_readable(pidfd)
        return True
    return False
