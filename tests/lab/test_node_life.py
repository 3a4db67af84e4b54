"""Whole nodes over their lives: signals, the service manager, crashes, restarts, up, down and forget."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.errors import Refused, Unreachable, UserError
from node.store import Store
from simulations.lab.lab import Lab
from tests.lab.nodes import (
    Node,
    Sections,
    as_nobody,
    eventually,
    join,
    needs_tun,
    pair,
    reaches,
    refusal,
)
from tests.rights import NOBODY

pytestmark = [pytest.mark.lab, needs_tun]

AIR = """
[hosts.home]
[hosts.cafe]
[hosts.hut]
[links.air]
ends = ["home", "cafe", "hut"]
subnet = "10.80.0.0/24"
subnet6 = "fd80::/64"
"""
CAP_NET_ADMIN = 1 << 12


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.from_toml(AIR) as built:
        yield built


@pytest.fixture
def home(lab: Lab, tmp_path: Path) -> Node:
    return Node(lab.host("home"), tmp_path)


@pytest.fixture
def cafe(lab: Lab, tmp_path: Path) -> Node:
    return Node(lab.host("cafe"), tmp_path)


def traffic(home: Node, cafe: Node) -> bool:
    """Whether pings pass now, in both families and directions."""
    ways = ((home, cafe), (cafe, home))
    return all(
        reaches(source.host, source.address(family, of=target.host.name), wait=0.5)
        for source, target in ways
        for family in (4, 6)
    )


# ---------------------------------------------------------------------- its end


def test_sigterm_ends_it_within_a_second(lab: Lab, tmp_path: Path, home: Node, cafe: Node) -> None:
    """With a peer connected and a join under way, which the next start takes up again."""
    pair(home, cafe)
    hut = Node(lab.host("hut"), tmp_path).start()
    invitation = hut.call("invite")["invitation"]
    hut.kill()
    begun, errors = threading.Event(), list[UserError]()

    def progress(_line: str) -> None:
        begun.set()

    def join_hut() -> None:
        errors.append(refusal(lambda: cafe.call("join", invitation=invitation, on_progress=progress)))

    waiting = threading.Thread(target=join_hut)
    waiting.start()
    assert begun.wait(10)
    assert cafe.stop() < 1
    waiting.join()
    assert "stopped before it answered" in str(errors[0])

    assert "zeq0" not in cafe.host.run(["ip", "link"]).stdout
    assert not (cafe.state / "control.sock").exists()
    assert not (cafe.state / "network.json").exists()
    eventually(lambda: home.peer("cafe")["state"] != "connected", 1, "home was told")
    assert "goodbye" in home.peer("cafe")["why"]

    hut.start()
    cafe.start()
    eventually(lambda: cafe.peers() == ["home", "hut"], 10, "the join was taken up again")
    assert hut.peers() == ["cafe"]


def test_ctrl_c_ends_it_like_sigterm(home: Node) -> None:
    home.start()
    home.signal(signal.SIGINT)
    assert home.process.wait(1) == 0


# ---------------------------------------------------------------------- the service manager


def test_systemd_is_told(lab: Lab, tmp_path: Path) -> None:
    """As sd_notify(3) and Type=notify-reload in systemd.service(5) have it."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)

        def told() -> dict[str, str]:
            return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())

        home = Node(lab.host("home"), tmp_path, env={"NOTIFY_SOCKET": str(path)})
        home.launch()
        ready = told()
        assert ready["READY"] == "1"
        assert home.status()["machine"]["slug"] in ready["STATUS"]  # it answers from then on
        before = time.monotonic_ns() // 1000
        home.signal(signal.SIGHUP)
        reloading = told()
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert told()["READY"] == "1"
        home.stop()
        assert told() == {"STOPPING": "1"}


def test_sighup_reloads(home: Node, cafe: Node) -> None:
    """What peers may do changes at once; a wrong configuration changes nothing; neither costs a session."""
    pair(home, cafe)

    def reload(sections: Sections) -> str:
        """What the node logged meanwhile."""
        before = len(home.said())
        home.configure(sections)
        home.signal(signal.SIGHUP)
        eventually(lambda: "running" in home.said()[before:], 5, "it is ready again")
        return home.said()[before:]

    def networks() -> list[str]:
        routes = home.host.run(["ip", "route", "show", "dev", "zeq0"]).stdout
        found: list[str] = home.peer("cafe")["networks"]
        assert ("10.77.0.0/24" in routes) is ("10.77.0.0/24" in found)
        return found

    assert networks() == []
    assert "reloaded" in reload({"peers.cafe": {"allowed_ips": ["10.77.0.0/24"]}})
    assert networks() == ["10.77.0.0/24"]
    assert "not reloaded" in reload({"peers.cafe": {"allowed_ips": "nonsense"}})
    assert networks() == ["10.77.0.0/24"]
    assert "takes a restart" in reload({"listen": {"port": 51888}})
    assert networks() == []
    assert home.status()["listen"]["port"] == 51777

    said = reload({"node": {"log_format": "json"}}).splitlines()
    assert json.loads(said[-1])["event"] == "running"
    home.configure({"node": {"log": "error"}})
    before = len(home.said())
    home.signal(signal.SIGHUP)
    assert traffic(home, cafe)
    home.stop()
    assert "stopping" not in home.said()[before:]


# ---------------------------------------------------------------------- its rights


def test_cap_net_admin_is_all_that_it_needs(lab: Lab, home: Node) -> None:
    command = as_nobody("net_admin")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        state = Path(folder, "state")
        state.mkdir(mode=0o700)
        os.chown(state, NOBODY, NOBODY)
        cafe = Node(lab.host("cafe"), Path(folder), state=state, command=command)
        pair(home, cafe)
        eventually(lambda: traffic(home, cafe), 5, "traffic flows")
        rights = Path(f"/proc/{cafe.process.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}\t", rights, re.MULTILINE)
        for which in ("CapEff", "CapPrm", "CapBnd"):
            assert re.search(rf"^{which}:\t{CAP_NET_ADMIN:016x}$", rights, re.MULTILINE)
        assert cafe.stop() < 1
        assert "zeq0" not in cafe.host.run(["ip", "link"]).stdout
        assert "Traceback" not in cafe.said()


# ---------------------------------------------------------------------- crashes and restarts


@pytest.mark.parametrize("victim", ["home", "cafe"])
def test_after_kill_9_traffic_flows_again_within_seconds(victim: str, home: Node, cafe: Node) -> None:
    pair(home, cafe)
    killed = {"home": home, "cafe": cafe}[victim]
    survivor = cafe if killed is home else home
    inside = survivor.address(6, of=victim)
    killed.kill()
    assert not reaches(survivor.host, inside, wait=0.2)
    killed.start()
    eventually(lambda: traffic(home, cafe), 5, "traffic flows")


@pytest.mark.parametrize("end", [Node.stop, Node.kill], ids=["sigterm", "kill-9"])
def test_both_restart_at_once(end: Callable[[Node], object], home: Node, cafe: Node) -> None:
    pair(home, cafe)
    for node in (home, cafe):
        end(node)
    for node in (home, cafe):
        node.launch()
    for node in (home, cafe):
        node.wait_ready()
    eventually(lambda: traffic(home, cafe), 5, "traffic flows")
    assert home.address(4, of="cafe") == cafe.address(4, of="home") == "198.18.0.2"


def test_the_one_that_was_called_calls_after_both_moved(home: Node, cafe: Node) -> None:
    """cafe comes back elsewhere while home is away: home's stored address of it is stale, cafe's is not."""
    pair(home, cafe)
    home.stop()
    cafe.stop()
    cafe.host.set_address("air", "10.80.0.77")
    cafe.host.set_address("air", "fd80::77")
    home.start()
    cafe.start()
    eventually(lambda: traffic(home, cafe), 5, "traffic flows")
    assert home.peer("cafe")["endpoint"] in ("10.80.0.77:51777", "[fd80::77]:51777")


# ---------------------------------------------------------------------- up, down, forget


def test_down_is_remembered_over_a_restart_and_up_undoes_it(home: Node, cafe: Node) -> None:
    pair(home, cafe)
    inside = home.address(6, of="cafe")
    assert cafe.call("down", peer="home")["state"] == "down"
    assert not reaches(home.host, inside, wait=0.2)
    cafe.stop()
    cafe.start()
    assert cafe.peer("home")["state"] == "down"
    assert "zeqnode up" in cafe.peer("home")["why"]
    assert isinstance(refusal(lambda: cafe.call("ping", peer="home", timeout_s=0.2)), Unreachable)
    assert isinstance(refusal(lambda: home.call("ping", peer="cafe", timeout_s=0.2)), Unreachable)
    assert cafe.call("up", peer="home")["state"] == "connected"
    eventually(lambda: traffic(home, cafe), 5, "traffic flows")


def test_who_is_forgotten_stays_out_until_invited_again(home: Node, cafe: Node) -> None:
    pair(home, cafe)
    used = home.call("invite")["invitation"]
    assert cafe.call("join", invitation=used)["name"] == "home"  # known already: this changes nothing
    inside = cafe.address(6, of="home")
    home.call("forget", peer="cafe")
    assert home.peers() == []
    eventually(lambda: cafe.peer("home")["state"] != "connected", 2, "cafe was told")
    assert not reaches(cafe.host, inside, wait=0.5)
    assert isinstance(refusal(lambda: cafe.call("join", invitation=used)), Refused)
    home.stop()
    home.start()
    assert home.peers() == []
    join(home, cafe, name="friend")
    assert home.peers() == ["friend"]


def test_a_peer_without_any_known_address_says_why_it_is_not_reached(home: Node, cafe: Node) -> None:
    """Nobody can be called, so no attempt ever fails; the status has its reason all the same."""
    pair(home, cafe)
    for node in (cafe, home):
        node.stop()
    store = Store.open(home.state / "node.db")
    [row] = store.peers()
    store.put_peer(replace(row, endpoints=(), last_endpoint=None))
    store.close()
    home.start()
    peer = home.peer("cafe")
    assert peer["state"] == "unreached"
    assert "no address of it is known" in peer["why"]
