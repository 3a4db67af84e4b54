"""What every test of the data path asks of two nodes: all that passes between them comes right.

And what it must know of them: their workers, and what their hosts refused.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from simulations.lab.lab import Lab
from simulations.lab.namespaces import Namespace
from tests.lab.nodes import Node, Sections, eventually, join, ping
from tests.lab.traffic import Datagrams, Stream
from tests.scale import times

WIRE = """
[hosts.home]
[hosts.cafe]
[links.wire]
ends = ["home", "cafe"]
"""
IPV4, IPV6 = 'subnet = "10.80.0.0/24"', 'subnet6 = "fd80::/64"'
DUAL = f"{WIRE}{IPV4}\n{IPV6}\n"
MODES = ("span", "segments")
OFFLOADS = ("uso", "tso", "vnet_hdr", "udp_segment", "udp_gro")
MEGABYTE = 1_000_000
SILENCE = 5.0  # s, at most, when something breaks or moves
LARGE: Final = (1_405, 2_000, 4_097, 9_000, 20_000, 65_000)  # UDP payloads that go as fragments inside
TRAINS: Final = ((1_200, 40, 500), (1_200, 50, 1_200), (771, 33, 1), (100, 64, 99))  # size, segments, last
PINGS: Final = (1_372, 1_373, 9_000, 40_000)


@dataclass
class Tunnel:
    lab: Lab
    home: Node
    cafe: Node

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.home, self.cafe


@contextlib.contextmanager
def tunnel(
    folder: Path, world: str = DUAL, home: Sections | None = None, cafe: Sections | None = None
) -> Iterator[Tunnel]:
    """Two nodes, joined, that end well. cafe: its configuration, where it is not home's."""
    with Lab.from_toml(world) as lab:
        nodes = Node(lab.host("home"), folder, home), Node(lab.host("cafe"), folder, cafe or home)
        with nodes[0], nodes[1]:
            join(*nodes)
            yield Tunnel(lab, *nodes)
        for node in nodes:
            assert "Traceback" not in node.said(), node.said()


def engine(**keys: object) -> dict[str, Mapping[str, object]]:
    return {"engine": keys}


def wrong_sums(host: Namespace) -> int:
    """Packets that the host's kernel refused for their checksum: a tunnel that computes one wrong hides in
    it, since TCP sends again what it took for noise."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text().split("\n")
        rows = [
            dict(zip(*(line.split() for line in pair), strict=True))
            for pair in zip(lines[::2], lines[1::2], strict=False)
        ]
        found = sum(int(row.get("InCsumErrors", "0")) for row in rows if row)
        six = dict(line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
        return found + sum(int(six.get(f"{name}InCsumErrors", 0)) for name in ("Udp6", "Icmp6"))

    return host.call(read)


def workers(node: Node) -> list[int]:
    """The processes of the node's data path, one for each queue of its TUN."""
    found = []
    for children in Path(f"/proc/{node.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread, or the worker, ended just now
            for pid in map(int, children.read_text().split()):
                if b"tun.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return sorted(found)


def both_ways(home: Node, cafe: Node, family: int) -> tuple[tuple[Node, Node, str], tuple[Node, Node, str]]:
    """Source, target, and the target's mesh address as the source knows it."""
    return (home, cafe, home.address(family, of=cafe.host.name)), (
        cafe,
        home,
        cafe.address(family, of=home.host.name),
    )


def streams(home: Node, cafe: Node, size: int, seconds: float = 30.0) -> float:
    """`size` bytes each way over IPv4, both at once, and then over IPv6. Gives the longest gap in seconds."""
    gaps = []
    for family in (4, 6):
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(Stream(source.host, target.host, address, size, seed=seed))
                for seed, (source, target, address) in enumerate(both_ways(home, cafe, family))
            ]
            for each in running:
                each.finish(seconds)
                gaps.append(each.longest_gap)
    return max(gaps)


def datagrams(home: Node, cafe: Node, rounds: int, share: float) -> None:
    """Every size from 1 to 1,300 once and some fragments; then trains; received with UDP_GRO and without.

    One way over IPv4, the other over IPv6. rounds: of the trains. share: of the payloads, that must come."""
    (out, _), (_, back) = both_ways(home, cafe, 4), both_ways(home, cafe, 6)
    for (source, target, address), gro in ((out, True), (back, False), (out, False), (back, True)):
        with Datagrams(source.host, target.host, address, gro=gro) as running:
            if gro:
                sizes = [*range(1, 1_301, 1), *LARGE, *LARGE]
                random.Random(7).shuffle(sizes)
                running.plain(sizes)
            for train in TRAINS * rounds:
                running.train(*train)
            running.check(share)


def pings(home: Node, cafe: Node, share: float) -> None:
    """ICMP with payloads of up to 40 kB: the answer repeats them, and `ping` compares."""
    for family in (4, 6):
        for size in PINGS:
            # one at a time: once `ping` has an answer, it waits for the next one two round trips at most
            said = ping(
                home.host, home.address(family, of=cafe.host.name), size=size, wait=3 if share else 0.3
            )
            assert "wrong data" not in said.stdout
            assert said.returncode == 0 or share < 1, said


def all_comes_right(home: Node, cafe: Node, size: int, *, rounds: int = 8, share: float = 0.99) -> None:
    """TCP, UDP and ICMP, IPv4 and IPv6, both ways. size: bytes of each of the four streams; share: of the UDP
    payloads, that must come: 0 where the link loses some."""
    before = [wrong_sums(node.host) for node in (home, cafe)]
    gap = streams(home, cafe, size)
    assert gap < SILENCE or not share, f"a clean link, and nothing came for {gap:.1f} s"
    datagrams(home, cafe, rounds, share)
    pings(home, cafe, 1 if share else 0)
    assert [wrong_sums(node.host) for node in (home, cafe)] == before


class Busy:
    """Two nodes that keep a little traffic between them in the background: both ways, IPv4 and IPv6, TCP and
    UDP, checked in `finish`."""

    PAUSE: Final = 0.05  # s
    WRITES: Final = (1, 600, 1_399, 40_000)

    def __init__(self, home: Node, cafe: Node) -> None:
        self.since = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._enough = threading.Event()
        self._streams: list[Stream] = []
        self._datagrams: list[Datagrams] = []
        for number, family in enumerate((4, 6)):
            for source, target, address in both_ways(home, cafe, family):
                ends = (source.host, target.host, address)
                stream = Stream(*ends, None, seed=number, pause=self.PAUSE, writes=self.WRITES)
                self._streams.append(self._stack.enter_context(stream))
                self._datagrams.append(self._stack.enter_context(Datagrams(*ends, gro=family == 6)))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()
        self._stack.close()

    def finish(self, share: float) -> None:
        """share: of the UDP payloads, that must have come."""
        self._enough.set()
        self._thread.join()
        for stream in self._streams:
            stream.finish()
        for each in self._datagrams:
            assert each.sent > 0
            each.check(share)

    @property
    def longest_gap(self) -> float:
        """Of any of the streams, in seconds."""
        return max(stream.longest_gap for stream in self._streams)

    def _run(self) -> None:
        sizes = random.Random(3)
        while not self._enough.wait(self.PAUSE):
            for each in self._datagrams:
                each.plain(sizes.choices(range(1, 1_301), k=5))
                each.train(1_200, 10, 500)
                each.settle(0.2)


@contextlib.contextmanager
def full_speed(pair: Tunnel) -> Iterator[list[Stream]]:
    """Both ways as fast as it goes, and slowly all kinds, until the block ends; there they are checked."""
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(Busy(*pair.nodes))
        running = [
            stack.enter_context(Stream(source.host, target.host, address, None))
            for source, target, address in both_ways(*pair.nodes, 6)
        ]
        go_on(running)
        yield running
        for each in running:
            each.finish()
        slow.finish(0.0)
        assert max(slow.longest_gap, *(each.longest_gap for each in running)) < SILENCE


def go_on(running: list[Stream]) -> None:
    for each in running:
        each.wait_more(times(2 * MEGABYTE), 2 * SILENCE)


def missing(node: Node) -> set[str]:
    """The offloads that the node says it has not."""
    found = node.status()["engine"]
    has = found["tun"] | {f"udp_{key}": value for key, value in found["udp"].items()}
    assert set(has) == set(OFFLOADS)
    return {name for name, value in has.items() if not value}


def kill_worker(node: Node, place: int) -> None:
    """kill -9, and another stands there in good time."""
    before = workers(node)
    assert len(before) == node.status()["engine"]["queues"]
    os.kill(before[place], signal.SIGKILL)

    def another() -> bool:
        return len(found := workers(node)) == len(before) and before[place] not in found

    eventually(another, SILENCE, "as many workers again")
