"""The programs that make the traffic, iperf3 and ping: run to their end, and what they say."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulations.bench import processes
from simulations.bench.errors import Unmeasured
from simulations.bench.wiring import DEVICE
from simulations.lab.namespaces import Namespace

PORT: Final = 5201
_LISTEN_SECONDS: Final = 5.0
_LATE_SECONDS: Final = 20.0  # that iperf3 may take to end beyond what it was given
_LISTENING: Final = "0A"  # /proc/net/tcp
_LOOK: Final = 0.05  # s, between looks at a program that runs

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds. lost: share of the pings that were not answered."""

    p50: float
    p99: float
    lost: float


@contextmanager
def server(host: Namespace, port: int = PORT) -> Iterator[subprocess.Popen[bytes]]:
    """An iperf3 server for one client, listening. Raises Unmeasured."""
    process = host.start(["iperf3", "-s", "-1", "-p", str(port)])
    processes.favour(process.pid)
    try:
        deadline = time.monotonic() + _LISTEN_SECONDS
        while not _listens(process.pid, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unmeasured("the server of iperf3 does not start")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def client(host: Namespace, address: str, *words: str, port: int = PORT) -> Iterator[subprocess.Popen[bytes]]:
    """iperf3 toward a server, running; ended with the block if it has not ended by itself."""
    argv = ["iperf3", "-c", address, "-p", str(port), "-J", *words]
    process = host.start(argv, stdout=subprocess.PIPE)
    processes.favour(process.pid)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait(process: subprocess.Popen[bytes], seconds: float, tick: Tick) -> bytes:
    """What it says, to its end; `seconds` it was told to run. Raises Unmeasured."""
    deadline = time.monotonic() + seconds + _LATE_SECONDS
    while True:
        tick()
        with suppress(subprocess.TimeoutExpired):
            out, _ = process.communicate(timeout=_LOOK * 4)
            return out
        if time.monotonic() > deadline:
            process.kill()
            raise Unmeasured(f"no end after {seconds + _LATE_SECONDS:.0f} s")


def rest(seconds: float, tick: Tick) -> None:
    """Let it run, in view of the person who watches."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        tick()
        time.sleep(min(left, _LOOK * 4))


def ping(host: Namespace, address: str, count: int, interval: float, tick: Tick) -> Latency:
    """Raises Unmeasured where nothing comes back. interval: s."""
    words = ["ping", "-n", "-c", str(count), "-i", f"{interval:g}", "-W", "2", address]
    process = host.start(words, stdout=subprocess.PIPE)
    processes.favour(process.pid)
    with process:
        return latency(wait(process, count * interval, tick).decode(errors="replace"), count)


# ---------------------------------------------------------------------- what they say


def received_gigabits(said: bytes) -> float:
    """Gb/s that arrived, all streams, without the warming up. Raises Unmeasured."""
    return float(_end(said)["sum_received"]["bits_per_second"]) / 1e9


def received_kilopackets(said: bytes) -> float:
    """Thousands of datagrams a second that arrived. Raises Unmeasured."""
    total = _end(said)["sum"]
    return float(total["packets"] - total["lost_packets"]) / float(total["seconds"]) / 1e3


def latency(said: str, count: int) -> Latency:
    """Of ping's lines. Raises Unmeasured."""
    times = sorted(map(float, re.findall(r"time=([\d.]+) ms", said)))
    if not times:
        raise Unmeasured("no ping was answered")
    return Latency(quantile(times, 0.5), quantile(times, 0.99), 1 - min(len(times), count) / count)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest that is not exceeded by `share` of them (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _end(said: bytes) -> dict[str, Any]:
    try:
        report = json.loads(said)
        if "error" not in report:
            return dict(report["end"])
    except (ValueError, KeyError, TypeError):
        raise Unmeasured("iperf3 said nothing that can be read") from None
    raise Unmeasured(f"iperf3: {report['error']}")


# ---------------------------------------------------------------------- looks at the kernel's tables


def wire_bytes(pid: int) -> int:
    """Sent and received on the wire's device, in the network of that process."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == DEVICE:
                fields = numbers.split()
                return int(fields[0]) + int(fields[8])
    return 0


def _listens(pid: int, port: int) -> bool:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False
