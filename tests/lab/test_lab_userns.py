"""The laboratory without root, and its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.lab import reaper, userns
from simulations.lab.cli import WORLDS

pytestmark = pytest.mark.lab

SMOKE = """
import os, sys
from simulations.lab import userns
from simulations.lab.lab import Lab
userns.reexec_in_user_namespace()
with Lab.from_toml(sys.argv[1]) as lab:
    target = lab.host("server").address("datacentre")
    lab.host("home").run(["ping", "-n", "-c", "1", target])
    lab.link("home-lan").set(delay_ms=10, loss=0.0)
    lab.host("home").run(["ping", "-n", "-c", "1", target])
    lab.host("cafe").set_address("cafe-lan", "192.168.2.77")
    lab.host("cafe").run(["ping", "-n", "-c", "1", target])
    timeout = lab.host("home-nat").run(["cat", "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"]).stdout
    print("done", os.getuid(), timeout.strip(), lab.marker)
"""
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def unprivileged() -> list[str]:
    """A Python for an ordinary user: this one, or where nobody may not run it, the system's."""
    prefix = NOBODY if os.geteuid() == 0 else []
    for python in (sys.executable, "/usr/bin/python3"):
        attempt = subprocess.run(
            [*prefix, "env", python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"],
            capture_output=True,
            check=False,
        )
        if attempt.returncode == 0:
            return [*prefix, "env", "PYTHONDONTWRITEBYTECODE=1", python]
    pytest.skip("no Python 3.11 here that an unprivileged user may run")


def test_an_ordinary_user_gets_a_laboratory_in_a_user_namespace() -> None:
    if not Path("/proc/sys/user/max_user_namespaces").exists():
        pytest.skip("this kernel has no user namespaces")
    python = unprivileged()
    said = subprocess.run(
        [*python, "-W", "error", "-c", SMOKE, WORLDS / "nat.toml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=reaper.python_environment(),
    )
    if "UnavailableError" in said.stderr:
        pytest.skip(said.stderr.strip().splitlines()[-1])
    assert said.returncode == 0, said.stderr
    word, uid, timeout, marker = said.stdout.split()
    assert (word, uid, timeout) == ("done", "0", "30")
    assert [member for member in reaper.members() if member.marker == marker] == []


def test_what_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "_path", lambda: "/nonexistent")
    reason = userns.available(tun=False)
    assert reason is not None
    assert "sudo apt install ethtool iproute2 nftables util-linux" in reason


def test_root_needs_no_user_namespace() -> None:
    assert userns.privileged()
    userns.reexec_in_user_namespace()  # returns: nothing was replaced


def lab_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from simulations.lab.cli import command; command()", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=reaper.python_environment(),
    )


def test_the_command_line_runs_a_program_in_a_host() -> None:
    said = lab_command(
        "run", "two.toml", "--on", "cafe", "--", "sh", "-c", "ip -brief address show wire; exit 7"
    )
    assert said.returncode == 7, said.stderr
    assert "10.80.0.2/24" in said.stdout
    first = lab_command("run", str(WORLDS / "two.toml"), "--", "ip", "-brief", "address", "show", "wire")
    assert "10.80.0.1/24" in first.stdout


def test_the_command_line_lists_and_cleans() -> None:
    script = "from simulations.lab.cli import command; command()"
    said = lab_command(
        "run", "two.toml", "--on", "cafe", "--", sys.executable, "-c", script, "list", "--json"
    )
    assert said.returncode == 0, said.stderr
    rows = json.loads(said.stdout)
    mine = [row for row in rows if row["place"] == "cafe"]
    assert "list --json" in mine[-1]["command"]
    assert mine[-1]["owner_lives"]
    assert any(row["place"] == "" and row["lab"] == mine[-1]["lab"] for row in rows)  # the reaper
    assert mine[-1]["lab"] not in lab_command("list", "--json").stdout
    assert all(not row["owner_lives"] for row in json.loads(lab_command("clean", "--json").stdout))


def test_the_command_line_refuses_in_a_sentence() -> None:
    for words, sentence in (
        (["run", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["run", "two.toml", "--on", "hut", "--", "true"], "There is no host 'hut'"),
        (["run", "two.toml", "--shell", "home", "--", "true"], "not both"),
    ):
        said = lab_command(*words)
        assert said.returncode != 0
        assert sentence in said.stderr
