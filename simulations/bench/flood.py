"""How many forged first messages a node refuses each second: a real engine and its real socket on loopback.

    flooder, one core ─▶ UDP on loopback ─▶ node, another core: engine ─▶ core ─▶ doorkeeper ─▶ guard

The flooder sends as fast as it can, from many sources, and the kernel drops what the node is too slow for.
What the node refused is divided by the CPU time of its process, so that it is per second on one core whatever
else the machine does. The flooder sends trains, lest it be the slower one; the kernel takes them apart for a
node without UDP_GRO, which so reads datagrams one by one, as it would those of spoofed sources.

    python -m simulations.bench.flood HOST CORE WITHOUT < seeds in hex    the node; started by `measure_flood`
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from struct import Struct
from typing import Any

import trio

from crypto.cookies import COOKIE_BYTES, mac1_key
from crypto.identity import MachineKeys
from crypto.kem import RealPrimitives
from tun import fragments
from tun.core import TunnelCore
from tun.device import MemoryTun
from tun.engine import Engine, boot_us
from tun.frames import MESSAGE1
from tun.sockets import SOL_UDP, UDP_SEGMENT, open_group

HOST = "127.91.0.1"
LOOKUP_SECRET = bytes(range(16))
SOURCES = 256  # enough to draw all the cookie replies that a node ever gives
TRAIN = 54  # datagrams of 1,200 bytes in one send of at most 65,507
DISTINCT = 8 * TRAIN  # datagrams, sent in turn
WARM_SECONDS = 0.3  # also brings the node under load
WRONG = "wrong mac1"
RIGHT = "right mac1, under load"
COSTLIEST = "right mac1 and forged mac2, under load"
REFUSED = {
    WRONG: "mac1 refused",
    RIGHT: "handshake under load without cookie",
    COSTLIEST: "handshake under load without cookie",
}
_SIZE = Struct("=H")


@dataclass(frozen=True)
class Refused:
    """Forged first messages of 1,200 bytes that the node refused in each second of its CPU time.

    `joined`: it read them in trains, else one by one."""

    kind: str
    joined: bool
    per_second: float


def measure_flood(seconds: float) -> list[Refused]:
    """Spend roughly `seconds` on six floods: each kind read one by one, and in trains."""
    cores = sorted(os.sched_getaffinity(0))
    keys = MachineKeys.generate()
    found = []
    with ExitStack() as stack:
        nodes = {joined: stack.enter_context(_node(keys, cores[-1], joined)) for joined in (False, True)}
        os.sched_setaffinity(0, {cores[0]})
        stack.callback(os.sched_setaffinity, 0, cores)
        sources = [stack.enter_context(_source(f"127.92.{number}.1")) for number in range(SOURCES)]
        for kind in REFUSED:
            trains = _trains(forgeries(kind, keys.machine_id))
            for joined, node in nodes.items():
                flood = _Flood(trains, sources, (HOST, int(node.ask()["port"])))
                found.append(Refused(kind, joined, _refused_by(node, flood, kind, seconds / 6)))
    return found


def forgeries(kind: str, machine_id: bytes) -> list[bytes]:
    """First fragments, each of another message: under load the node answers those with cookie replies."""
    key = mac1_key(machine_id, bytes(len(LOOKUP_SECRET)) if kind == WRONG else LOOKUP_SECRET)
    cookie = os.urandom(COOKIE_BYTES) if kind == COSTLIEST else None
    size = fragments.FRAGMENT_BYTES - 32
    bare = [bytes([MESSAGE1, 0, 4, 0]) + os.urandom(size - 4) for _ in range(DISTINCT)]
    return [fragments.seal(each, key, cookie) for each in bare]


def _trains(datagrams: Sequence[bytes]) -> list[bytes]:
    return [b"".join(datagrams[at : at + TRAIN]) for at in range(0, len(datagrams), TRAIN)]


class _Flood:
    def __init__(
        self, trains: Sequence[bytes], sources: Sequence[socket.socket], where: tuple[str, int]
    ) -> None:
        self._trains = trains
        self._sources = sources
        self._where = where

    def go_on(self, seconds: float) -> None:
        size = [(SOL_UDP, UDP_SEGMENT, _SIZE.pack(fragments.FRAGMENT_BYTES))]
        end, turn = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            source, train = self._sources[turn % SOURCES], self._trains[turn % len(self._trains)]
            source.sendmsg([train], size, 0, self._where)
            turn += 1


def _refused_by(node: _Node, flood: _Flood, kind: str, seconds: float) -> float:
    flood.go_on(WARM_SECONDS)
    before = node.ask()
    flood.go_on(seconds)
    after = node.ask()
    name = REFUSED[kind]
    refused = after["counters"][name] - before["counters"].get(name, 0)
    return float(refused / (after["cpu_seconds"] - before["cpu_seconds"]))


def _source(host: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((host, 0))
    return udp


# ---------------------------------------------------------------------------------- the node


class _Node:
    """The node's process: it says how it stands for every line that it gets."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def ask(self, line: bytes = b"?") -> dict[str, Any]:
        self._in.write(line + b"\n")
        self._in.flush()
        answer: dict[str, Any] = json.loads(self._out.readline())
        return answer


@contextmanager
def _node(keys: MachineKeys, core: int, joined: bool) -> Iterator[_Node]:
    without = "" if joined else "udp_gro"
    command = [sys.executable, "-m", "simulations.bench.flood", HOST, str(core), without]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            node = _Node(process)
            node.ask(keys.to_bytes().hex().encode())
            yield node
        finally:
            process.kill()


async def _run(host: str, without: str) -> None:
    seeds = bytes.fromhex(sys.stdin.buffer.readline().decode())
    core = TunnelCore(MachineKeys.from_bytes(seeds), LOOKUP_SECRET, RealPrimitives(), os.urandom, boot_us())
    group = open_group(host, 0, 1, without.split())
    with closing(group), closing(MemoryTun()) as device:
        async with trio.open_nursery() as nursery:
            await nursery.start(Engine(core, device, group.main, lambda _event: None).run)
            while True:
                standing = {"cpu_seconds": time.process_time(), "counters": core.counters, "port": group.port}
                os.write(1, json.dumps(standing).encode() + b"\n")
                await trio.lowlevel.wait_readable(0)
                if not os.read(0, 65536):
                    nursery.cancel_scope.cancel()
                    return


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[2])})
    trio.run(_run, sys.argv[1], sys.argv[3])
