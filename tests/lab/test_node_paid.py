"""A stranger's relay is found, asked, used and paid: the program, real NATs, a real download."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from simulations.lab.lab import Lab
from tests.lab.nodes import Node, eventually, needs_tun

pytestmark = [pytest.mark.lab, needs_tun]

TOWNS = {"seed": 1, "relay": 2}
WORLD = (
    "[routers.internet]\n"
    + "".join(f"[hosts.{name}]\n" for name in [*TOWNS, "guest"])
    + "".join(
        f'[links.{name}]\nends = ["internet", "{name}"]\nsubnet = "203.{number}.113.0/24"\n'
        for name, number in TOWNS.items()
    )
    + '[nats.box]\nkind = "cone"\ninside = "lan"\noutside = "line"\n'
    + '[links.lan]\nends = ["box", "guest"]\nsubnet = "192.168.2.0/24"\n'
    + '[links.line]\nends = ["internet", "box"]\nsubnet = "203.9.113.0/24"\n'
)
MB = 1_000_000


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, Node]]:
    """Nobody has invited anybody: they share a mesh, and nothing else."""
    with Lab.from_toml(WORLD) as lab:
        seeds = [f"{lab.host('seed').address('seed')}:51777"]
        made = {
            name: Node(
                lab.host(name),
                tmp_path,
                {
                    "dht": {"lan": False, "seeds": seeds if name != "seed" else []},
                    "relay": {"ports": [8000] if name == "relay" else []},
                },
            )
            for name in [*TOWNS, "guest"]
        }
        try:
            for node in made.values():
                node.start()
            yield made
        finally:
            for node in made.values():
                node.stop()


@contextmanager
def serving(node: Node, folder: Path) -> Iterator[None]:
    """A web server on the relay's mesh address."""
    address = typed(node, "id")["address"]
    words = [sys.executable, "-m", "http.server", "8000", "--bind", address, "--directory", str(folder)]
    process = node.host.popen(words, log=folder.parent / "web.log")
    try:
        listens = lambda: "8000" in node.host.run(["ss", "-ltnH"]).stdout  # noqa: E731
        eventually(listens, 10, "the web server listens")
        yield
    finally:
        process.kill()
        process.wait()


def typed(node: Node, *words: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = node.command(*words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_strangers_relay_is_found_asked_used_and_paid(nodes: dict[str, Node], tmp_path: Path) -> None:
    relay, guest = nodes["relay"], nodes["guest"]
    assert relay.command("relay", "offer", "--per-gb", "50", "--country", "EU").returncode == 0
    offers = eventually(lambda: typed(guest, "market")["offers"], 30, "the offer is in the market")
    assert [each["slug"] for each in offers] == [typed(relay, "id")["slug"]]
    name = f"{offers[0]['slug']}~{offers[0]['fingerprint'][:19]}"

    bare = guest.command("connect", offers[0]["slug"])
    assert bare.returncode == 5
    assert name in bare.stderr

    made = typed(guest, "connect", name)
    assert (made["state"], made["carrying"]) == ("active", True)
    content = bytes(range(256)) * (20 * MB // 256)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(content)
    got = tmp_path / "got"
    with serving(relay, tmp_path / "served"):
        url = f"http://[{made['address6']}]:8000/file"
        guest.host.run(["curl", "-sSf", "--globoff", "--max-time", "60", "-o", str(got), url])
    assert sha256(got.read_bytes()).digest() == sha256(content).digest()

    ended = typed(guest, "disconnect", offers[0]["slug"])
    assert (ended["state"], ended["zeq"], ended["settled"]) == ("terminated", "50", True)
    assert ended["bytes"] >= 20 * MB
    there = typed(relay, "tunnels")["tunnels"][0]
    assert (there["id"], there["zeq"], there["settled"]) == (ended["id"], "50", True)
    assert guest.status()["peers"] == []
