"""The README's commands, as they stand there, typed on two machines of the laboratory, all of them."""

from __future__ import annotations

import json
import re
import shlex
import signal
from functools import partial
from pathlib import Path

import pytest

from simulations.lab.lab import Lab
from tests.lab.nodes import COMMAND, Node, eventually, needs_tun

pytestmark = [pytest.mark.lab, needs_tun, pytest.mark.timeout(120)]

README = Path(__file__).parent.parent.parent / "README.md"
TWO = """
[hosts.home]
[hosts.cafe]
[links.wire]
ends = ["home", "cafe"]
subnet = "10.80.0.0/24"
"""
# Where the README types them, in an order that makes sense; `run` and reload are the test's own steps.
STORY = (
    ("home", "config check"),
    ("home", "init"),
    ("cafe", "init"),
    ("home", "run"),
    ("cafe", "run"),
    ("home", "invite cafe"),
    ("cafe", "join zeq://…"),
    ("cafe", "ping home"),
    ("cafe", "status"),
    ("home", "id"),
    ("home", "invite list"),
    ("home", "invite revoke ID"),
    ("home", "peers"),
    ("home", "relay offer --per-gb 50 --country DE --accept EU"),
    ("cafe", "market --country EU --max-per-gb 60"),
    ("cafe", "connect ZEQ07000000007~abcd-efgh-ijkl-mnop --per gb --for 12h"),
    ("cafe", "tunnels"),
    ("cafe", "disconnect ZEQ07000000007"),
    ("cafe", "balance"),
    ("home", "ledger"),
    ("home", "credit MACHINE 500"),
    ("home", "token new laptop"),
    ("home", "relay withdraw"),
    ("cafe", "run --ledger off"),
    ("home", "sim list"),
    ("home", "down cafe"),
    ("home", "up cafe"),
    ("home", "rename cafe laptop"),
    ("home", "forget cafe"),
)


def documented() -> set[str]:
    """Every `zeqnode …` of the README, in blocks and in sentences, without sudo."""
    text = README.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    return {
        line.removeprefix("sudo ").removeprefix("zeqnode ").strip()
        for line in lines
        if re.match(r"(sudo )?zeqnode [a-z]", line)
    }


def test_every_command_in_the_readme_is_in_the_story() -> None:
    assert documented() == {command for _, command in STORY}


def named(node: Node, slug: str) -> dict[str, str]:
    """What stands for the words of the README: this machine, if it has a name already."""
    done = node.command("id", "--json")
    if done.returncode:
        return {}
    own = json.loads(done.stdout)
    return {
        slug: own["slug"],
        f"{slug}~abcd-efgh-ijkl-mnop": f"{own['slug']}~{own['fingerprint'][:19]}",
        "MACHINE": own["fingerprint"],
    }


def curl(node: Node, token: str) -> str:
    """The README's own, with this token."""
    (line,) = re.findall(r"^curl .*$", README.read_text(), re.MULTILINE)
    return node.host.run(shlex.split(line.replace("zsm_…", token)), check=False).stdout


def test_the_story(tmp_path: Path) -> None:
    with Lab.from_toml(TWO) as lab:
        nodes = {name: Node(lab.host(name), tmp_path, {"api": {}}) for name in ("home", "cafe")}
        invitation = identifier = ""
        for where, command in STORY:
            node = nodes[where]
            if command == "run":
                node.start()
                continue
            if command == "forget cafe":
                command = "forget laptop --yes"  # renamed a line before; nobody is there to be asked
            if command == "run --ledger off":
                node.stop()
                node.start("--ledger", "off")
                continue
            given = {"zeq://…": invitation, "ID": identifier, **named(nodes["home"], "ZEQ07000000007")}
            words = [given.get(word, word) for word in shlex.split(command)]
            done = node.host.run([*COMMAND, *words]) if words[0] == "sim" else node.command(*words)
            assert done.returncode == 0, (command, done.stdout, done.stderr, node.said())
            if command == "invite cafe":
                found = re.search(r"zeq://\S+", done.stdout)
                assert found is not None
                invitation = found[0]
            elif command == "invite list":
                found = re.search(r"^([0-9a-f]{8}) ", done.stdout, re.MULTILINE)
                assert found is not None
                identifier = found[1]
            elif command == "token new laptop":
                found = re.search(r"zsm_\S+", done.stdout)
                assert found is not None
                status = eventually(partial(curl, node, found[0]), 10, "the API answers")
                assert json.loads(status)["ok"] is True
            elif command.startswith("connect "):
                assert "Connected to home" in done.stdout
            elif command == "ping home":
                assert "0% lost" in done.stdout
            elif command == "status":
                assert "home" in done.stdout
                assert "connected" in done.stdout
        nodes["home"].signal(signal.SIGHUP)  # the reload
        for node in nodes.values():
            node.stop()
        assert "reloaded" in nodes["home"].said()
