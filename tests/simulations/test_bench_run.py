"""The bench as a person runs it, short, between contenders that surely exist; and nothing of it is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations.bench.contenders.contender import find
from simulations.lab import reaper, userns

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def possible() -> None:
    if reason := userns.available():
        pytest.skip(reason)
    if not find("iperf3"):
        pytest.skip("iperf3 is not installed: run `sudo apt install iperf3`")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = reaper.python_environment() | {"TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    argv = [sys.executable, "-m", "node", "bench", *words]
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, env=environment, text=True)


def assert_nothing_left(process: subprocess.Popen[str], folder: Path) -> None:
    assert [member for member in reaper.members() if member.owner == process.pid] == []
    assert list(folder.iterdir()) == []


def test_plain_and_zeqnode_side_by_side(tmp_path: Path) -> None:
    words = ["--only", "plain veth,zeqnode", "--rounds", "1", "--seconds", "1", "--json"]
    process = start(tmp_path, *words, "--tests", "tcp,udp,ping,memory")
    out, shown = process.communicate()
    assert process.returncode == 0, shown
    found = json.loads(out)
    assert not found["failures"]
    assert found["command"] == f"zeqnode bench {' '.join(words)} --tests tcp,udp,ping,memory"
    plain, ours = found["rounds"][0]["plain veth"]["figures"], found["rounds"][0]["zeqnode"]["figures"]
    assert set(plain) == {"start", "tcp", "udp", "ping_p50", "ping_p99"}
    assert set(ours) == {*plain, "cpu", "memory"}
    assert all(value > 0 for value in (*plain.values(), *ours.values()))
    assert ours["tcp"] < plain["tcp"]
    assert "TCP there" in shown
    assert_nothing_left(process, tmp_path)


def test_an_unknown_contender_is_a_usage_error(tmp_path: Path) -> None:
    process = start(tmp_path, "--only", "nobody")
    _, shown = process.communicate()
    assert process.returncode == 2
    assert "there is no contender nobody" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_in_between_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "--only", "zeqnode", "--rounds", "1", "--seconds", "60", "--tests", "tcp")
    deadline = time.monotonic() + 30
    assert process.stderr is not None
    assert process.stdout is not None
    line = ""
    while "TCP" not in line or "zeqnode ·" not in line:
        assert time.monotonic() < deadline
        line = process.stdout.readline()
    process.send_signal(number)
    process.communicate()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert_nothing_left(process, tmp_path)
