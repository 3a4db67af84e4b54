"""Whole nodes that find each other: the market, slugs, tags, and a machine that moved while nobody saw it.

Everybody lives in a network of its own, as limits per network want it; hidden is behind a NAT.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from simulations.lab.lab import Lab
from tests.lab.nodes import COMMAND, Node, eventually, join, needs_tun

pytestmark = [pytest.mark.lab, needs_tun]

TOWNS = {"home": 1, "cafe": 2, "relay": 3, "hut": 4}
WORLD = (
    "[routers.internet]\n"
    + "".join(f"[hosts.{name}]\n" for name in [*TOWNS, "hidden"])
    + "".join(
        f'[links.{name}]\nends = ["internet", "{name}"]\nsubnet = "203.{number}.113.0/24"\n'
        for name, number in TOWNS.items()
    )
    + '[nats.box]\nkind = "cone"\ninside = "lan"\noutside = "line"\n'
    + '[links.lan]\nends = ["box", "hidden"]\nsubnet = "192.168.2.0/24"\n'
    + '[links.line]\nends = ["internet", "box"]\nsubnet = "203.9.113.0/24"\n'
)


@dataclass
class Mesh:
    lab: Lab
    nodes: dict[str, Node]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """All have joined home, and nobody else."""
    folder = tmp_path_factory.mktemp("mesh")
    with Lab.from_toml(WORLD) as lab:
        nodes = {name: Node(lab.host(name), folder, {"dht": {"lan": False}}) for name in [*TOWNS, "hidden"]}
        try:
            for node in nodes.values():
                node.start()
            for name, node in nodes.items():
                if name != "home":
                    join(nodes["home"], node)
            for node in nodes.values():
                eventually(lambda node=node: _contacts(node) >= 3, 30, "it knows three others")  # type: ignore[misc]
            yield Mesh(lab, nodes)
        finally:
            for node in nodes.values():
                node.stop()


def _discovery(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.status()["discovery"]
    return found


def _contacts(node: Node) -> int:
    return max(int(family["contacts"]) for family in _discovery(node)["families"])


def _typed(node: Node, *words: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = node.command(*words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_offer_is_found_by_a_stranger_checked_and_withdrawn(mesh: Mesh) -> None:
    relay, cafe = mesh["relay"], mesh["cafe"]
    done = relay.command("relay", "offer", "--per-gb", "50", "--country", "DE", "--accept", "EU")
    assert done.returncode == 0, done.stderr

    def listed() -> list[dict[str, Any]]:
        offers: list[dict[str, Any]] = _typed(cafe, "market", "--country", "EU", "--max-per-gb", "60")[
            "offers"
        ]
        return [offer for offer in offers if offer["reachable"]]

    offer = eventually(listed, 30, "the offer is listed, and was reached")[0]
    assert offer["per_gb"] == 50
    assert offer["slug"] == _typed(relay, "id")["slug"]
    assert _typed(cafe, "market", "--max-per-gb", "49")["offers"] == []
    assert relay.command("relay", "withdraw").returncode == 0
    eventually(lambda: not _typed(cafe, "market", "--no-probe")["offers"], 30, "the offer is gone")


def test_only_who_lists_itself_is_found_by_strangers(mesh: Mesh) -> None:
    hut, cafe = mesh["hut"], mesh["cafe"]
    slug = str(_typed(hut, "id")["slug"])
    assert cafe.command("lookup", slug).returncode == 4
    assert hut.command("relay", "offer", "--per-gb", "10").returncode == 0
    found = eventually(
        lambda: cafe.command("lookup", slug, "--json").returncode == 0, 60, "its slug leads to it"
    )
    assert found
    assert hut.command("relay", "withdraw").returncode == 0


def test_who_is_behind_a_nat_asks_and_does_not_serve(mesh: Mesh) -> None:
    hidden = mesh["hidden"]
    eventually(lambda: len(_discovery(hidden)["homes"]) >= 2, 60, "it lodges with others")
    assert not any(family["serving"] for family in _discovery(hidden)["families"] if family["endpoint"])
    assert sum(int(_discovery(node)["lodgers"]) for node in mesh.nodes.values()) >= 2


def test_a_public_tag_is_heard_by_who_tails_it(mesh: Mesh) -> None:
    cafe, hut = mesh["cafe"], mesh["hut"]
    tail = cafe.host.popen(
        [*COMMAND, "tags", "tail", "news.*", "--json", "--config", str(cafe.config)],
        log=cafe.log.with_name("tail.log"),
    )
    try:

        def said() -> bool:
            assert hut.command("tags", "publish", "news.today", "rain").returncode == 0
            return "rain" in cafe.log.with_name("tail.log").read_text()

        eventually(said, 30, "the event is printed")
    finally:
        tail.terminate()
        tail.wait(timeout=5)


def test_peers_and_status_can_be_read(mesh: Mesh) -> None:
    for words in (["peers"], ["status"]):
        done: subprocess.CompletedProcess[str] = mesh["hut"].command(*words)
        assert done.returncode == 0, done.stderr
        assert "home" in done.stdout


def test_a_machine_that_moved_unseen_is_found_again(mesh: Mesh) -> None:
    """home moves while cafe is off: no roaming can tell cafe, and it knows only the old address."""
    cafe = mesh["cafe"]
    cafe.stop()
    mesh.lab.host("home").set_address("home", "203.1.113.77/24")
    with cafe:
        cafe.wait_connected("home", 60)
        assert "203.1.113.77" in cafe.peer("home")["endpoint"]
