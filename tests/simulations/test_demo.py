"""The whole demo, as a person runs it: it passes, it fails with a reason, and nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations.demo.capture import Capture, first_handshake
from simulations.demo.world import LINK, TOPOLOGY, missing_programs
from simulations.lab import reaper, userns
from simulations.lab.lab import Lab
from tun.frames import MESSAGE1, MESSAGE2, RECORD

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def possible() -> None:
    if reason := userns.available() or missing_programs():
        pytest.skip(reason)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo under test puts its files."""
    made = Path(tempfile.mkdtemp(prefix="demo-test-"))
    yield made
    shutil.rmtree(made)


def start(folder: Path, *words: str, path: str = "") -> subprocess.Popen[str]:
    environment = reaper.python_environment() | {"TMPDIR": str(folder), "PATH": f"{path}{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    argv = [sys.executable, "-m", "node", "demo", *words]
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, env=environment, text=True)


def namespaces(pid: int) -> set[int]:
    """Inodes of the network namespaces in which programs of this owner run."""
    members = (member for member in reaper.members() if member.owner == pid and member.place)
    return {Path(f"/proc/{member.pid}/ns/net").stat().st_ino for member in members}


def assert_nothing_left(process: subprocess.Popen[str], inodes: set[int]) -> None:
    assert [member for member in reaper.members() if member.owner == process.pid] == []
    for place in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found = place.stat().st_ino
        except OSError:
            continue  # that process has just ended
        assert found not in inodes


def steps(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in report["steps"]}


@pytest.mark.timeout(200)
def test_every_step_passes_within_90_seconds(folder: Path) -> None:
    process = start(folder, "--json")
    out, complaints = process.communicate()
    assert process.returncode == 0, complaints
    report = json.loads(out)
    found = steps(report)
    assert {step["state"] for step in report["steps"]} == {"passed"}
    assert report["passed"]
    assert report["seconds"] < 90
    assert found["transfer"]["figures"]["bytes"] == 100_000_000
    assert found["transfer"]["figures"]["megabits_per_second"] < 15
    assert found["kill"]["figures"]["killed_pid"] != found["kill"]["figures"]["new_pid"]
    roam = found["roam"]["figures"]
    assert roam["old_endpoint"].startswith("10.80.0.2:")
    assert roam["new_endpoint"].startswith("10.80.0.77:")
    epoch = found["epoch"]["figures"]
    assert all(epoch["after"][name] > before for name, before in epoch["before"].items())
    assert set(report["found"]["tunnel"].values()) == {0}
    assert all(report["found"]["no tunnel"].values())
    assert report["recorded"]["tunnel"]["bytes"] > 100_000_000
    assert report["recorded"]["tunnel"]["dropped"] == 0
    assert "All 13 steps passed" in complaints.splitlines()[-1]
    assert_nothing_left(process, set())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_mid_transfer_leaves_nothing(folder: Path, number: int, code: int) -> None:
    process = start(folder, "--quick")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any("kill -9: back" in line for line in lines), "the transfer goes on for ten more seconds"
    inodes = namespaces(process.pid)
    assert len(inodes) == 2
    process.send_signal(number)
    out, complaints = process.communicate(timeout=30)
    assert process.returncode == code
    assert complaints == ""
    assert out.splitlines()[-1].endswith("MB through the tunnel”: interrupted.")
    assert_nothing_left(process, inodes)
    assert list(folder.iterdir()) == []


def test_what_a_sigkill_leaves_the_next_one_removes(folder: Path) -> None:
    first = start(folder, "--quick")
    assert first.stdout is not None
    assert "Two hosts" in first.stdout.readline()
    inodes = namespaces(first.pid)
    first.kill()
    first.communicate()
    assert len(list(folder.iterdir())) == 1
    second = start(folder, "--quick")
    assert second.stdout is not None
    assert "Two hosts" in second.stdout.readline()
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)
    assert_nothing_left(first, inodes)
    assert list(folder.iterdir()) == []


def test_a_step_that_fails_says_why_and_where_the_logs_are(folder: Path) -> None:
    programs = folder / "programs"
    programs.mkdir()
    (programs / "curl").write_text("#!/bin/sh\necho nobody is there\nexit 7\n")
    (programs / "curl").chmod(0o755)
    process = start(folder, "--json", "--quick", path=f"{programs}:")
    out, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    report = json.loads(out)
    assert not report["passed"]
    states = {name: step["state"] for name, step in steps(report).items()}
    assert (states["nodes"], states["plain"], states["join"], states["clean"]) == (
        "passed",
        "failed",
        "waiting",
        "passed",
    )
    reason = steps(report)["plain"]["text"]
    assert reason == "curl ended with exit code 7: nobody is there"
    last = complaints.splitlines()[-1]
    assert reason in last
    assert report["logs"] in last
    assert {path.name for path in Path(report["logs"]).iterdir()} >= {"home.log", "cafe.log", "curl.log"}
    assert_nothing_left(process, set())
    assert set(folder.iterdir()) == {programs, Path(report["logs"])}


def test_no_room_is_one_sentence(folder: Path) -> None:
    """A file system of a megabyte, in a mount namespace of its own."""
    words = 'mount -t tmpfs -o size=1m none "$TMPDIR" && exec "$@"'
    environment = reaper.python_environment() | {"TMPDIR": str(folder)}
    argv = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-c", words, "sh"]
    argv += [sys.executable, "-m", "node", "demo", "--quick"]
    ran = subprocess.run(argv, capture_output=True, env=environment, text=True, timeout=30)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "make room, or set TMPDIR" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_recording_holds_every_frame_and_the_handshake_among_them(tmp_path: Path) -> None:
    if not userns.privileged():
        pytest.skip("run as root, or as `unshare --user --map-root-user --net pytest`")
    kinds = [MESSAGE1, MESSAGE1, MESSAGE2, RECORD]
    lines = 2_000
    with Lab.from_toml(TOPOLOGY) as lab:
        home, cafe, wire = lab.host("home"), lab.host("cafe"), lab.link(LINK)
        wire.set(rate=None)
        ends = {}
        for host in (home, cafe):
            ends[host] = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            ends[host].bind((host.address(LINK), 7))
            ends[host].settimeout(5)
        recording = Capture(wire, wire.interface("cafe"), tmp_path / "wire.pcap")
        with recording:
            for kind in kinds:
                sender, receiver = (home, cafe) if kind == MESSAGE2 else (cafe, home)
                ends[sender].sendto(bytes([kind]) * 100, (receiver.address(LINK), 7))
                ends[receiver].recv(2000)
            for number in range(lines):
                ends[home].sendto(b"line %5d " % number * 100, (cafe.address(LINK), 7))
                ends[cafe].recv(2000)
            deadline = time.monotonic() + 5
            while recording.frames < len(kinds) + lines and time.monotonic() < deadline:
                time.sleep(0.01)
        for end in ends.values():
            end.close()
    data = recording.path.read_bytes()
    assert all(b"line %5d " % number * 100 in data for number in range(lines))
    assert recording.dropped == 0
    assert recording.bytes == len(data) - 24 - 16 * recording.frames
    seen = first_handshake(recording.path)
    assert seen is not None
    assert (seen.datagrams, seen.bytes) == (3, 300)
    assert 0 < seen.milliseconds < 5000
