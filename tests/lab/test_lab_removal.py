"""Whatever ends a laboratory, nothing of it stays: no process, no namespace, no device."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations.lab import reaper
from simulations.lab.cli import WORLDS
from simulations.lab.errors import CommandError
from simulations.lab.lab import Lab

pytestmark = pytest.mark.lab

# Runs a laboratory with a program that stops on SIGTERM and, if it is to wait for its end, one that does not,
# whose child hides: another session, another environment. Then it runs the statement that it is given.
OWNER = """
import json, os, signal, sys
from simulations.lab.lab import Lab
with Lab.from_toml(sys.argv[1]) as lab:
    home = lab.host("home")
    loop = "while :; do sleep 0.05; done"
    home.popen(["sh", "-c", "trap 'echo stopped; exit' TERM; echo ready; " + loop], log=sys.argv[2])
    if "pause" in sys.argv[3]:
        home.popen(["sh", "-c", "trap '' TERM; setsid env -i sleep 1000 & " + loop])
    lab.link(next(iter(lab.links))).set(delay_ms=1)
    places = [*lab.hosts.values(), *lab.links.values()]
    told = {"reaper": lab._reaper.pid, "marker": lab.marker, "inodes": [place.inode for place in places]}
    print(json.dumps(told), flush=True)
    exec(sys.argv[3])
"""


class Owner:
    def __init__(self, log: Path, statement: str = "signal.pause()") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, WORLDS / "two.toml", log, statement],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=reaper.python_environment(),
        )
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.marker: str = told["marker"]
        self.inodes: set[int] = set(told["inodes"])
        self.reaper = os.pidfd_open(told["reaper"])
        if statement == "signal.pause()":
            wait_for(lambda: log.exists() and "ready" in log.read_text() and "env" in self.commands())

    def commands(self) -> str:
        """Of all in the namespaces; "env" stands for the one that hides behind `env -i`."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        inside = [pid for pid in pids if inode(Path(f"/proc/{pid}/ns/net")) in self.inodes]
        hidden = [pid for pid in inside if not read(Path(f"/proc/{pid}/environ"))]
        return " ".join(["env"] * len(hidden) + ["other"] * (len(inside) - len(hidden)))

    def wait_for_reaper(self) -> None:
        poll = select.poll()
        poll.register(self.reaper, select.POLLIN)
        assert poll.poll(20_000)

    def finish(self) -> tuple[int, str]:
        _, complaint = self.process.communicate(timeout=20)
        self.wait_for_reaper()
        os.close(self.reaper)
        return self.process.returncode, complaint.decode()

    def assert_nothing_left(self) -> None:
        assert holders(self.inodes) == []
        assert [member for member in reaper.members() if member.marker == self.marker] == []


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


def inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


def read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None


def holders(inodes: set[int]) -> list[str]:
    """All that can keep a network namespace alive, but sockets: processes, descriptors, mounts."""
    wanted = {f"net:[{number}]" for number in inodes}
    found = []
    for place in ("[0-9]*/ns/net", "[0-9]*/task/*/ns/net", "[0-9]*/fd/*"):
        for path in Path("/proc").glob(place):
            with contextlib.suppress(OSError):
                if os.readlink(path) in wanted:
                    found.append(str(path))
    mounts = Path("/proc/self/mountinfo").read_text()
    return found + [name for name in wanted if name in mounts]


def devices() -> set[str]:
    return set(Path("/proc/net/dev").read_text().split()) & {"home", "cafe", "wire", "lab.bridge"}


def test_leaving_removes_everything_and_stops_programs_gently(tmp_path: Path) -> None:
    log = tmp_path / "log"
    owner = Owner(log, "import time\nwhile 'ready' not in open(sys.argv[2]).read(): time.sleep(0.01)")
    code, complaint = owner.finish()
    assert (code, complaint) == (0, "")
    owner.assert_nothing_left()
    assert log.read_text() == "ready\nstopped\n"


def test_an_exception_and_a_sys_exit_remove_everything(tmp_path: Path) -> None:
    for statement, code in (("raise RuntimeError('in the block')", 1), ("sys.exit(4)", 4)):
        owner = Owner(tmp_path / "log", statement)
        assert owner.finish()[0] == code
        owner.assert_nothing_left()


def test_ctrl_c_removes_everything(tmp_path: Path) -> None:
    log = tmp_path / "log"
    owner = Owner(log)
    owner.process.send_signal(signal.SIGINT)
    _, complaint = owner.finish()
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    owner.assert_nothing_left()
    assert "stopped" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_an_owner_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    owner = Owner(tmp_path / "log")
    assert holders(owner.inodes)
    owner.process.send_signal(number)
    code, _ = owner.finish()
    assert code == -number
    owner.assert_nothing_left()


def test_what_outlives_owner_and_reaper_is_found_by_the_next_start(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "log")
    assert {member.place for member in reaper.members() if member.marker == owner.marker} == {
        "home",
        "wire",
        "",
    }
    signal.pidfd_send_signal(owner.reaper, signal.SIGKILL)
    owner.process.kill()
    owner.finish()
    assert not reaper.owner_lives(owner.marker)
    with Lab.from_toml("[hosts.home]\n") as lab:
        assert {member.marker for member in reaper.members()} >= {lab.marker}
        assert owner.marker not in {member.marker for member in reaper.members()}
        assert reaper.owner_lives(lab.marker)
    assert owner.marker not in {member.marker for member in reaper.sweep_dead()}
    # What may stay: a program that threw the marker away, where owner and reaper were both killed.
    for pid in {int(path.split("/")[2]) for path in holders(owner.inodes)}:
        os.kill(pid, signal.SIGKILL)


def test_one_that_fails_to_come_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ethtool").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "ethtool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lab = Lab.from_toml(WORLDS / "two.toml")
    inodes: set[int] = set()
    real = lab.link("wire").create

    def create() -> None:
        real()
        inodes.add(lab.link("wire").inode)

    monkeypatch.setattr(lab.link("wire"), "create", create)
    with pytest.raises(CommandError, match="exit code 9"):
        lab.__enter__()
    assert inodes
    assert holders(inodes) == []
    assert [member for member in reaper.members() if member.marker == lab.marker] == []


def test_this_machines_own_network_is_not_touched() -> None:
    before = devices()
    with Lab.from_toml(WORLDS / "two.toml"):
        assert devices() == before


def test_two_laboratories_at_once_do_not_meet() -> None:
    with Lab.from_toml(WORLDS / "two.toml") as one, Lab.from_toml(WORLDS / "two.toml") as two:
        process = two.host("home").popen(["sleep", "60"])
        one.host("home").run(["ping", "-n", "-c", "1", "10.80.0.2"])
        one.close()
        assert process.poll() is None
        two.host("home").run(["ping", "-n", "-c", "1", "10.80.0.2"])
    assert process.returncode == -signal.SIGTERM
