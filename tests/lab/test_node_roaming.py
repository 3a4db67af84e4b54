"""Whole nodes whose addresses change under them, and nodes behind NATs.

The first test leaves a pair behind a NAT alone, and the last one, over a minute later, looks whether it can
still be called; the others pass the time between.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulations.lab.lab import Lab
from tests.lab.nodes import Node, Transfer, eventually, needs_tun, pair, reaches, transfer

pytestmark = [pytest.mark.lab, needs_tun]

NATS = """
[hosts.home]
[hosts.cafe]
[routers.internet]
[nats.box]
kind = "{kind}"
inside = "lan"
outside = "line"
udp_timeout = 30
[links.lan]
ends = ["box", "cafe"]
subnet = "192.168.2.0/24"
[links.line]
ends = ["internet", "box"]
subnet = "203.0.113.0/24"
rate = "40mbit"
[links.datacentre]
ends = ["internet", "home"]
subnet = "192.0.2.0/24"
"""
WIRE = """
[hosts.home]
[hosts.cafe]
[links.wire]
ends = ["home", "cafe"]
subnet = "10.80.0.0/24"
subnet6 = "fd80::/64"
rate = "40mbit"
"""
IDLE = 70.0  # s: more than twice the NAT's timeout
IDLE_BYTES = 1_000  # a second, both ways
IDLE_CPU = 0.005  # of a core
SIZE = 6_000_000  # bytes: over a second at the wire's rate
PART = 1_000_000


@dataclass
class Idle:
    """cafe, behind a NAT that forgets after 30 s, joined to home, and from `since` on nothing was sent.

    The two plain sockets show that the NAT forgets: inside spoke to outside once."""

    lab: Lab
    home: Node
    cafe: Node
    inside: socket.socket
    outside: socket.socket
    since: float
    cpu: tuple[float, float]
    line: int

    def cpu_now(self) -> tuple[float, float]:
        """Seconds that each node has used."""
        home, cafe = (_cpu_seconds(node.process.pid) for node in (self.home, self.cafe))
        return home, cafe

    def line_now(self) -> int:
        """Bytes on the NAT's outside link, both ways."""
        statistics = self.lab.host("box").run(["cat", "/proc/net/dev"]).stdout
        fields = next(row for row in statistics.splitlines() if row.strip().startswith("line:")).split()
        return int(fields[1]) + int(fields[9])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idle]:
    folder = tmp_path_factory.mktemp("idle")
    with Lab.from_toml(NATS.format(kind="cone")) as lab:
        home, cafe = pair(Node(lab.host("home"), folder), Node(lab.host("cafe"), folder))
        cafe.call("ping", peer="home")
        inside, outside = (
            node.host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for node in (cafe, home)
        )
        with inside, outside:
            outside.bind((home.host.address("datacentre"), 9))
            inside.sendto(b"?", outside.getsockname())
            found = Idle(lab, home, cafe, inside, outside, time.monotonic(), (0.0, 0.0), 0)
            found.cpu, found.line = found.cpu_now(), found.line_now()
            yield found


def test_a_pair_behind_a_nat_is_left_alone(idle: Idle) -> None:
    """Begins the wait that `test_who_is_behind_a_nat_can_be_called_after_a_minute_of_silence` ends."""
    assert idle.cafe.peer("home")["behind_nat"] is True
    assert idle.home.peer("cafe")["behind_nat"] is False


@pytest.mark.parametrize("kind", ["cone", "symmetric"])
def test_a_joiner_behind_a_nat(kind: str, tmp_path: Path) -> None:
    with Lab.from_toml(NATS.format(kind=kind)) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        assert cafe.peer("home")["behind_nat"] is True
        assert home.peer("cafe")["endpoint"].startswith(lab.host("box").address("line"))
        for family in (4, 6):
            transfer(home, cafe, family, PART)
            transfer(cafe, home, family, PART)


# ---------------------------------------------------------------------- roaming


def test_roaming_in_mid_transfer(tmp_path: Path) -> None:
    """Each side moves, with the transfer in each direction: it goes on, and both know the new place."""
    with Lab.from_toml(WIRE) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        last = 100
        for source, target in ((home, cafe), (cafe, home)):
            for mover, other in ((home, cafe), (cafe, home)):
                last += 1
                moved = f"10.80.0.{last}"
                address = source.address(6, of=target.host.name)
                with Transfer(source.host, target.host, address, SIZE) as running:
                    running.wait_received(PART)
                    mover.host.set_address("wire", moved)
                    running.finish()
                assert running.longest_gap < 3
                assert other.peer(mover.host.name)["endpoint"] == f"{moved}:51777"
        assert home.peer("cafe")["last_handshake_s"] >= 4  # the sessions of the join went along


def test_a_nat_that_gets_a_new_address_in_mid_transfer(tmp_path: Path) -> None:
    """Neither node can notice by itself; whoever sends from behind it is heard at the new address."""
    with Lab.from_toml(NATS.format(kind="cone")) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        with Transfer(cafe.host, home.host, cafe.address(4, of="home"), SIZE) as running:
            running.wait_received(PART)
            lab.host("box").set_address("line", "203.0.113.77")
            running.finish()
        assert running.longest_gap < 3
        assert home.peer("cafe")["endpoint"].startswith("203.0.113.77:")
        lab.host("box").set_address("line", "203.0.113.88")
        inside = home.address(4, of="cafe")
        eventually(lambda: reaches(home.host, inside, wait=0.5), 30, "cafe asks after 15 s without an answer")
        assert home.peer("cafe")["endpoint"].startswith("203.0.113.88:")


def test_a_cable_that_is_pulled_and_put_back(tmp_path: Path) -> None:
    with Lab.from_toml(WIRE) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        with Transfer(home.host, cafe.host, home.address(6, of="cafe"), SIZE) as running:
            running.wait_received(PART)
            cafe.host.run(["ip", "link", "set", "dev", "wire", "down"])
            eventually(lambda: cafe.status()["listen"]["addresses"] == [], 5, "cafe knows that it is alone")
            cafe.host.run(["ip", "link", "set", "dev", "wire", "up"])
            running.finish()


def test_the_other_family_takes_over(tmp_path: Path) -> None:
    """From a network with IPv4 to one without: the invitation told of IPv6 addresses too."""
    with Lab.from_toml(WIRE) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        assert cafe.peer("home")["endpoint"] == "10.80.0.1:51777"
        cafe.host.run(["ip", "address", "flush", "dev", "wire", "to", "10.80.0.0/24"])
        inside = cafe.address(6, of="home")
        eventually(lambda: reaches(cafe.host, inside, wait=0.2), 5, "a ping is answered over IPv6")
        assert cafe.peer("home")["endpoint"] == "[fd80::1]:51777"
        assert home.peer("cafe")["endpoint"] == "[fd80::2]:51777"


def test_a_path_that_begins_to_swallow_large_datagrams(tmp_path: Path) -> None:
    """No ICMP says so: fifteen seconds without an answer do."""
    with Lab.from_toml(WIRE) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        home.wait_payload("cafe", 1452)
        cafe.wait_payload("home", 1452)
        for end in ("home", "cafe"):
            lab.link("wire").run(["ip", "link", "set", "dev", end, "mtu", "1300"])
        inside = cafe.address(6, of="home")
        eventually(lambda: reaches(cafe.host, inside, size=1300, wait=0.5), 30, "a large ping is answered")
        transfer(home, cafe, 4, PART)


# ---------------------------------------------------------------------- the end of the wait


def test_who_is_behind_a_nat_can_be_called_after_a_minute_of_silence(idle: Idle) -> None:
    time.sleep(max(0.0, idle.since + IDLE - time.monotonic()))
    elapsed = time.monotonic() - idle.since
    box = idle.lab.host("box").address("line")
    idle.outside.sendto(b"!", (box, idle.inside.getsockname()[1]))
    cpu, line = idle.cpu_now(), idle.line_now()

    before = idle.home.peer("cafe")
    idle.home.call("ping", peer="cafe", timeout_s=2)
    assert reaches(idle.home.host, idle.home.address(4, of="cafe"))
    after = idle.home.peer("cafe")
    assert after["endpoint"] == before["endpoint"]
    assert after["last_handshake_s"] >= int(IDLE) - 1  # the NAT's entry was kept, not made anew

    idle.inside.setblocking(False)
    with pytest.raises(BlockingIOError):  # the plain socket's entry was forgotten meanwhile
        idle.inside.recv(100)
    assert (line - idle.line) / elapsed < IDLE_BYTES
    for now, then in zip(cpu, idle.cpu, strict=True):
        assert (now - then) / elapsed < IDLE_CPU
