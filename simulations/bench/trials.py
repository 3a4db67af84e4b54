"""The tests that each contender is put through, in this order; each adds its figures to the outcome."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from simulations.bench import processes, traffic
from simulations.bench.contenders import Contender
from simulations.bench.errors import BadRequest, Unmeasured
from simulations.bench.figures import Outcome
from simulations.bench.setting import Setting
from simulations.bench.traffic import Tick
from simulations.bench.wiring import Pair

WARM_SECONDS: Final = 1  # of a TCP stream, before it counts
IDLE_SECONDS: Final = 10.0
TRICKLE_SECONDS: Final = 20.0
_EDGE: Final = 0.25  # s of a stream, at either end, in which CPU time is not counted
_FIRST_BYTE_SECONDS: Final = 30.0
_ECHO_PORT: Final = 5007
_PINGS: Final = 200
_DRAIN_SECONDS: Final = 3.0  # until what was ended has left all queues
_MB: Final = 1 << 20


@dataclass(frozen=True)
class Bout:
    """A contender that is up, and what is asked of it."""

    contender: Contender
    pair: Pair
    setting: Setting
    outcome: Outcome
    tick: Tick

    @property
    def target(self) -> str:
        return self.contender.address("b")


def stream(bout: Bout, key: str, streams: int, *, back: bool) -> None:
    """TCP for the given seconds; of the plain one also what CPU time a GB takes."""
    seconds = bout.setting.seconds
    words = ["-t", str(seconds), "-O", str(WARM_SECONDS), "-P", str(streams), "-C", bout.setting.congestion]
    if back:
        words.append("-R")
    with traffic.server(bout.pair.b), traffic.client(bout.pair.a, bout.target, *words) as client:
        traffic.rest(WARM_SECONDS + _EDGE, bout.tick)
        pids = bout.contender.all_pids()
        began, spent = time.monotonic(), processes.cpu_seconds(pids)
        traffic.rest(seconds - 2 * _EDGE, bout.tick)
        took, spent = time.monotonic() - began, processes.cpu_seconds(pids) - spent
        rate = traffic.received_gigabits(traffic.wait(client, seconds, bout.tick))
    bout.outcome.figures[key] = rate
    if key == "tcp" and pids and rate:
        bout.outcome.figures["cpu"] = spent / (rate / 8 * took)


def datagrams(bout: Bout) -> None:
    """64 bytes of UDP payload each, as many as the sender can: what arrives."""
    seconds = bout.setting.seconds
    words = ["-u", "-l", "64", "-b", "0", "-t", str(seconds)]
    with traffic.server(bout.pair.b), traffic.client(bout.pair.a, bout.target, *words) as client:
        said = traffic.wait(client, seconds, bout.tick)
    bout.outcome.figures["udp"] = traffic.received_kilopackets(said)


def idle_ping(bout: Bout) -> None:
    found = traffic.ping(bout.pair.a, bout.target, _PINGS, 0.005, bout.tick)
    bout.outcome.figures.update(ping_p50=found.p50, ping_p99=found.p99)


def loaded_ping(bout: Bout) -> None:
    """While one TCP stream takes all that it can get."""
    seconds = bout.setting.seconds
    words = ["-t", str(seconds + WARM_SECONDS + 1), "-C", bout.setting.congestion]
    with traffic.server(bout.pair.b), traffic.client(bout.pair.a, bout.target, *words):
        traffic.rest(WARM_SECONDS, bout.tick)
        found = traffic.ping(bout.pair.a, bout.target, seconds * 100, 0.01, bout.tick)
    bout.outcome.figures.update(loaded_p50=found.p50, loaded_p99=found.p99)


def memory(bout: Bout) -> None:
    """After all that traffic: the larger of the two ends."""
    if bout.contender.pids:
        ends = [processes.pss_bytes(processes.tree(pids)) for pids in bout.contender.pids.values()]
        bout.outcome.figures["memory"] = max(ends) / _MB


def idle(bout: Bout) -> None:
    """Nothing to carry: CPU time of one end, and what goes over the wire both ways by itself."""
    traffic.rest(_DRAIN_SECONDS, bout.tick)
    pids = processes.tree(bout.contender.pids.get("a", []))
    if pids:
        began, spent, said = time.monotonic(), processes.cpu_seconds(pids), traffic.wire_bytes(pids[0])
        traffic.rest(IDLE_SECONDS, bout.tick)
        took = time.monotonic() - began
        bout.outcome.figures["idle_cpu"] = 100 * (processes.cpu_seconds(pids) - spent) / took
        bout.outcome.figures["idle_wire"] = (traffic.wire_bytes(pids[0]) - said) / took


def trickle(bout: Bout) -> None:
    """A ping every fifth of a second: CPU time of both ends, halved, and when they last shook hands."""
    pids = bout.contender.all_pids()
    if pids:
        began, spent = time.monotonic(), processes.cpu_seconds(pids)
        traffic.ping(bout.pair.a, bout.target, round(TRICKLE_SECONDS * 5), 0.2, bout.tick)
        took = time.monotonic() - began
        bout.outcome.figures["trickle"] = 100 * (processes.cpu_seconds(pids) - spent) / took / 2
        age = bout.contender.handshake_age()
        if age is not None:
            bout.outcome.figures["handshake"] = age


Trial = Callable[[Bout], None]
TESTS: Final[Mapping[str, Trial]] = {
    "ping": idle_ping,
    "tcp": lambda bout: stream(bout, "tcp", 1, back=False),
    "back": lambda bout: stream(bout, "back", 1, back=True),
    "tcp4": lambda bout: stream(bout, "tcp4", 4, back=False),
    "back4": lambda bout: stream(bout, "back4", 4, back=True),
    "udp": datagrams,
    "loaded": loaded_ping,
    "memory": memory,
    "idle": idle,
    "trickle": trickle,
}
TITLES: Final = {
    "start": "starting",
    "ping": "ping, idle",
    "tcp": "TCP, 1 stream",
    "back": "TCP back, 1 stream",
    "tcp4": "TCP, 4 streams",
    "back4": "TCP back, 4 streams",
    "udp": "UDP of 64 B",
    "loaded": "ping under load",
    "memory": "memory",
    "idle": "nothing to do",
    "trickle": "a ping now and then",
    "one": "one peer active",
    "many": "64 streams at once",
}
USUAL: Final = ("ping", "tcp", "back", "tcp4", "udp", "loaded", "memory")


def chosen(text: str) -> dict[str, Trial]:
    """Of "tcp,udp", in the order of TESTS; "" is the usual. Raises BadRequest."""
    names = [name for name in (word.strip().lower() for word in text.split(",")) if name] or list(USUAL)
    if unknown := [name for name in names if name not in (*TESTS, "all", "start")]:
        raise BadRequest(f"there is no test {unknown[0]}; there are {', '.join(TESTS)}, start, and all")
    return {name: trial for name, trial in TESTS.items() if name in names or "all" in names}


def seconds_of(tests: Iterable[str], setting: Setting) -> float:
    """How long they take, roughly."""
    stream_seconds = setting.seconds + WARM_SECONDS + 0.4
    each = {"ping": 1.2, "udp": setting.seconds + 0.4, "loaded": setting.seconds + WARM_SECONDS + 0.5}
    each |= {"memory": 0.0, "trickle": TRICKLE_SECONDS, "idle": IDLE_SECONDS + _DRAIN_SECONDS}
    return sum(each.get(name, stream_seconds) for name in tests)


def first_byte(pair: Pair, contender: Contender, tick: Tick) -> None:
    """Return when a byte has gone through the tunnel and come back. Raises Unmeasured."""
    family = socket.AF_INET6 if contender.family == 6 else socket.AF_INET
    echo = pair.b.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    asker = pair.a.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    with echo, asker:
        echo.bind(("", _ECHO_PORT))
        echo.setblocking(False)
        asker.setblocking(False)
        if contender.source():
            asker.bind((contender.source(), 0))
        deadline = time.monotonic() + _FIRST_BYTE_SECONDS
        while not _answered(asker, echo, contender.address("b")):
            if time.monotonic() > deadline:
                raise Unmeasured(
                    f"nothing goes through after {_FIRST_BYTE_SECONDS:.0f} s: {contender.said()}"
                )
            tick()
            time.sleep(0.005)


def _answered(asker: socket.socket, echo: socket.socket, address: str) -> bool:
    with suppress(OSError):  # nothing there yet; before the tunnel has its route: the network is unreachable
        _, source = echo.recvfrom(16)
        echo.sendto(b"!", source)
    with suppress(OSError):
        asker.recv(16)
        return True
    with suppress(OSError):
        asker.sendto(b"?", (address, _ECHO_PORT))
    return False
