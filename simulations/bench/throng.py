"""A real node with many peers, opposite a crowd (`crowd`) that stands in for them; and its own tests.

a: the hub, `zeqnode run` with COUNT peers in its store  ═ wire ═  b: the crowd, COUNT identities
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Final

from node import identity_store
from node.context import LOOKUP_SETTING
from node.store import PeerRow, Store
from simulations.bench import processes, traffic
from simulations.bench.contenders import Contender
from simulations.bench.contenders.ours import answers
from simulations.bench.crowd import DEVICE, PAUSE_SECONDS
from simulations.bench.errors import Unmeasured
from simulations.bench.members import GATES, HUB_PORT, LOOKUP_SECRET, MESH, NETWORKS, Member, outside
from simulations.bench.setting import SIDES, Family
from simulations.bench.trials import Bout
from simulations.bench.wiring import DEVICE as WIRE
from simulations.bench.wiring import Pair
from simulations.lab import reaper

AT_ONCE: Final = 64
TURN_SECONDS: Final = 1.0
_PORT: Final = 5202
_INNER_MTU: Final = 1404  # as the hub's, and as the three below
_TUN: Final = f"mtu {_INNER_MTU} gso_max_size 60420 gso_max_segs 64 txqueuelen 1000"
_JOIN_SECONDS: Final = 30.0  # beyond what the crowd itself takes
_WARM_SECONDS: Final = 1.0


class Throng(Contender):
    """Members are the same in every round, and so is the hub; each round's sessions are new."""

    families = (6,)
    count: ClassVar[int]

    def __init__(self, folder: Path, family: Family) -> None:
        super().__init__(folder, family)
        self.members = [Member(folder.name, number) for number in range(self.count)]

    @classmethod
    def version(cls) -> str:
        return f"zeqnode {version('zeqnode')}"

    def prepare(self, pair: Pair) -> None:  # noqa: ARG002
        keys = identity_store.create(self._state, None)
        (self.folder / "bundle").write_bytes(keys.bundle.to_bytes())
        store = Store.open(self._state / "node.db")
        try:
            store.set_setting(LOOKUP_SETTING, LOOKUP_SECRET)
            for member in self.members:
                store.put_peer(_row(member))
        finally:
            store.close()
        self._config.write_text(
            f'[node]\nname = "hub"\nstate = {json.dumps(str(self._state))}\nlog = "warning"\n'
            f'[listen]\nport = {HUB_PORT}\n[interface]\nserve = ["{GATES}"]\n',
            encoding="utf-8",
        )

    def start(self, pair: Pair) -> None:
        """Returns when every member has its session."""
        for number, side in enumerate(SIDES, 1):
            lines = [
                f"address add {outside(network, number)}/24 dev {WIRE}"
                for network in range(min(NETWORKS, self.count))
            ]
            pair[side].run(["ip", "-batch", "-"], input="\n".join(lines))
            pair[side].sysctl("ipv6/ip_nonlocal_bind", 1)
        pair.a.run(["ip", "-6", "route", "add", "local", str(GATES), "dev", "lo"])
        pair.b.run(["ip", "-6", "route", "add", "local", str(MESH), "dev", "lo"])
        self.log("b").unlink(missing_ok=True)
        self.launch(pair, "a", [sys.executable, "-m", "node", "run", "--config", self._config])
        self.wait(lambda: answers(self._state), "the start of its node")
        words: list[str | Path] = [self.folder.name, str(self.count), self.folder / "bundle"]
        self.launch(pair, "b", [sys.executable, "-m", "simulations.bench.crowd", *words])
        self.wait_for_device(pair, "b", DEVICE)
        pair.b.run(
            ["ip", "-batch", "-"],
            input=f"link set dev {DEVICE} {_TUN} up\naddress add {self.members[0].address}/128 dev {DEVICE} "
            f"nodad\nroute add {GATES} dev {DEVICE}\n",
        )
        self.wait(self._all_connected, "the crowd's joining", _JOIN_SECONDS + self.count * PAUSE_SECONDS * 4)

    def address(self, side: str) -> str:
        first = self.members[0]
        return str(first.address if side == "b" else first.gate.network_address)

    def source(self) -> str:
        return self.address("a")

    def _all_connected(self) -> bool:
        said = self.log("b").read_text(encoding="utf-8", errors="replace")
        return f"connected {self.count}\n" in said

    @property
    def _state(self) -> Path:
        return self.folder / "hub"

    @property
    def _config(self) -> Path:
        return self.folder / "hub.toml"


class OnePeer(Throng):
    name = "one peer"
    count = 1


class FiftyPeers(Throng):
    name = "50 peers"
    count = 50


class ThousandPeers(Throng):
    name = "1,000 peers"
    count = 1000
    patience = 20.0


def one_active(bout: Bout) -> None:
    """One stream, of one peer; the others are idle."""
    _measure(bout, "one", 1, 1)


def all_active(bout: Bout) -> None:
    """64 streams at once, each of another peer where there are so many; then of the next 64, and so on."""
    _measure(bout, "many", AT_ONCE, _throng(bout).count)


def _measure(bout: Bout, key: str, at_once: int, members: int) -> None:
    """What arrives at the hub, and the CPU time that it takes there."""
    throng = _throng(bout)
    hub = processes.tree(throng.pids["a"])
    with _sink(bout) as count, _source(bout, at_once, throng.members[:members]) as source:
        traffic.rest(_WARM_SECONDS, bout.tick)
        began, arrived, spent = time.monotonic(), count(), processes.cpu_seconds(hub)
        turns = max(1.0, members / at_once) * TURN_SECONDS  # so that everybody had a turn
        traffic.rest(max(turns, bout.setting.seconds), bout.tick)
        took, arrived = time.monotonic() - began, count() - arrived
        spent = processes.cpu_seconds(hub) - spent
        if source.poll() is not None:
            raise Unmeasured("a stream broke off: the peers' own log says why, if anything does")
    bout.outcome.figures[key] = arrived * 8 / took / 1e9
    if arrived:
        bout.outcome.figures[f"{key}_cpu"] = spent / (arrived / 1e9)


@contextmanager
def _sink(bout: Bout) -> Iterator[Callable[[], int]]:
    """At the hub; gives what says how many bytes have arrived."""
    argv = [sys.executable, "-m", "simulations.bench.streams", "sink", str(_PORT)]
    pipe = subprocess.PIPE
    process = bout.pair.a.start(argv, stdin=pipe, stdout=pipe, env=reaper.python_environment())
    processes.favour(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin.fileno(), process.stdout

    def count() -> int:
        os.write(stdin, b"\n")
        return int(stdout.readline())

    with process:  # closes its input, which ends it
        count()  # it listens
        yield count


@contextmanager
def _source(bout: Bout, at_once: int, members: list[Member]) -> Iterator[subprocess.Popen[bytes]]:
    """In the crowd."""
    argv = [sys.executable, "-m", "simulations.bench.streams", "source", str(_PORT), str(at_once)]
    process = bout.pair.b.start(
        [*argv, str(TURN_SECONDS)], stdin=subprocess.PIPE, stderr=2, env=reaper.python_environment()
    )
    processes.favour(process.pid)
    assert process.stdin is not None
    pairs = [f"{member.address} {member.gate.network_address}\n" for member in members]
    # one peer has all streams: its pair comes again
    repeated = itertools.islice(itertools.cycle(pairs), max(at_once, len(pairs)))
    with process:
        process.stdin.write("".join(repeated).encode())
        process.stdin.close()
        try:
            yield process
        finally:
            process.terminate()


def _throng(bout: Bout) -> Throng:
    assert isinstance(bout.contender, Throng)
    return bout.contender


def _row(member: Member) -> PeerRow:
    """Without an address: it is the crowd that calls."""
    return PeerRow(
        machine_id=member.id,
        bundle=member.keys.bundle.to_bytes(),
        name=f"member-{member.number}",
        lookup_secret=LOOKUP_SECRET,
        endpoints=(),
        allowed_ips=(),
        ipv4=None,
        enabled=True,
        last_clock=0,
        added_at=0,
    )
