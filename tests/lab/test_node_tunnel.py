"""Two whole nodes: what passes the tunnel between them, at every size, and what must not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulations.lab.lab import Host, Lab
from tests.lab.nodes import Node, Transfer, needs_tun, pair, ping, reaches, transfer

pytestmark = [pytest.mark.lab, needs_tun]

WIRE = """
[hosts.home]
[hosts.cafe]
[links.wire]
ends = ["home", "cafe"]
mtu = {mtu}
{subnets}
"""
SUBNETS = {4: 'subnet = "10.80.0.0/24"', 6: 'subnet6 = "fd80::/64"'}
HEADERS = {4: 28, 6: 48}  # bytes: IP and ICMP inside, IP and UDP outside
BASE = 1232  # bytes of UDP payload that every path carries
FAMILIES = (4, 6)
SPOOFED = "packet with a source that is not the peer's"
LOCAL_NAME = "packet with a local name where none may be"
NOT_SERVED = "packet for a destination that is not served"


@dataclass
class Underlay:
    """family, mtu: of the wire; inner: MTU of both TUNs; payload: what probing must arrive at, in bytes."""

    home: Node
    cafe: Node
    family: int
    mtu: int
    inner: int

    @property
    def payload(self) -> int:
        full = self.inner + 48
        return full if full + HEADERS[self.family] <= self.mtu else BASE


@pytest.fixture(
    scope="module",
    params=[
        (4, 1500, 1404),
        (6, 1500, 1404),
        (4, 1280, 1280),
        (6, 1280, 1280),
        (6, 1280, 1404),
        (4, 9000, 8904),
        (6, 9000, 8904),
    ],
    ids=lambda param: "ipv{}-{}-inside-{}".format(*param),
)
def underlay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Underlay]:
    family, mtu, inner = request.param
    folder = tmp_path_factory.mktemp("underlay")
    sections = {"interface": {"mtu": inner}}
    with Lab.from_toml(WIRE.format(mtu=mtu, subnets=SUBNETS[family])) as lab:
        nodes = [Node(lab.host(name), folder, sections) for name in ("home", "cafe")]
        yield Underlay(*pair(*nodes), family, mtu, inner)


def test_the_path_is_of_the_underlays_family(underlay: Underlay) -> None:
    expected = "[fd80::1]:51777" if underlay.family == 6 else "10.80.0.1:51777"
    assert underlay.cafe.peer("home")["endpoint"] == expected
    assert underlay.cafe.peer("home")["path"] == "direct"


def test_packets_up_to_the_inner_mtu_pass_whole(underlay: Underlay) -> None:
    """Both families inside, both ways, DF set: the largest passes, and one byte more is refused with the
    MTU."""
    for source, target in ((underlay.home, underlay.cafe), (underlay.cafe, underlay.home)):
        for family in FAMILIES:
            address = source.address(family, of=target.host.name)
            largest = underlay.inner - HEADERS[family]
            assert reaches(source.host, address, "-M", "do", size=largest)
            larger = ping(source.host, address, "-M", "do", size=largest + 1)
            assert larger.returncode != 0
            assert re.search(f"message too long, mtu.*{underlay.inner}", larger.stderr)


def test_larger_packets_pass_as_fragments_inside(underlay: Underlay) -> None:
    for family in FAMILIES:
        assert reaches(
            underlay.cafe.host, underlay.cafe.address(family, of="home"), "-M", "dont", size=12_000
        )


def test_probing_finds_what_the_path_carries(underlay: Underlay) -> None:
    underlay.home.wait_payload("cafe", underlay.payload)
    underlay.cafe.wait_payload("home", underlay.payload)


def test_a_transfer_comes_whole(underlay: Underlay) -> None:
    transfer(underlay.home, underlay.cafe, 4, 3_000_000)
    transfer(underlay.cafe, underlay.home, 6, 3_000_000)


# ---------------------------------------------------------------------- paths that change


DUAL = WIRE.format(mtu=1500, subnets="\n".join(SUBNETS.values()))
ROUTED = """
[hosts.home]
[hosts.cafe]
[routers.middle]
[links.near]
ends = ["middle", "home"]
subnet = "10.80.0.0/24"
[links.far]
ends = ["middle", "cafe"]
subnet = "10.81.0.0/24"
"""


def test_our_own_link_shrinks_in_use(tmp_path: Path) -> None:
    """The kernel refuses the next datagram with EMSGSIZE."""
    with Lab.from_toml(DUAL) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        home.wait_payload("cafe", 1452)
        cafe.wait_payload("home", 1452)
        for node in (home, cafe):
            node.host.run(["ip", "link", "set", "dev", "wire", "mtu", "1280"])
        transfer(home, cafe, 6, 1_000_000)
        transfer(cafe, home, 4, 1_000_000)
        assert home.peer("cafe")["payload"] == cafe.peer("home")["payload"] == BASE


def test_a_link_behind_a_router_shrinks_in_use(tmp_path: Path) -> None:
    """The router says so by ICMP, and the kernel refuses what comes after."""
    with Lab.from_toml(ROUTED) as lab:
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        home.wait_payload("cafe", 1452)
        for host in (lab.host("middle"), lab.host("cafe")):
            host.run(["ip", "link", "set", "dev", "far", "mtu", "1300"])
        transfer(home, cafe, 4, 1_000_000)
        assert home.peer("cafe")["payload"] == BASE


def test_large_datagrams_that_vanish_without_a_word_are_not_sent(tmp_path: Path) -> None:
    """A black hole in the middle of the wire, where no ICMP comes from."""
    with Lab.from_toml(DUAL) as lab:
        for end in ("home", "cafe"):
            lab.link("wire").run(["ip", "link", "set", "dev", end, "mtu", "1300"])
        home, cafe = pair(Node(lab.host("home"), tmp_path), Node(lab.host("cafe"), tmp_path))
        transfer(home, cafe, 6, 1_000_000)
        transfer(cafe, home, 4, 1_000_000)
        assert home.peer("cafe")["payload"] == cafe.peer("home")["payload"] == BASE


def test_the_two_interfaces_may_differ_in_mtu(tmp_path: Path) -> None:
    with Lab.from_toml(WIRE.format(mtu=9000, subnets=SUBNETS[6])) as lab:
        home = Node(lab.host("home"), tmp_path)
        cafe = Node(lab.host("cafe"), tmp_path, {"interface": {"mtu": 8904}})
        pair(home, cafe)
        for family in FAMILIES:
            large = 8904 - HEADERS[family]
            assert reaches(cafe.host, cafe.address(family, of="home"), size=large)
            transfer(home, cafe, family, 1_000_000)
            transfer(cafe, home, family, 1_000_000)


# ---------------------------------------------------------------------- who may send what


BEHIND = """
[hosts.nas]
[hosts.cafe]
[routers.home]
[links.wire]
ends = ["home", "cafe"]
subnet = "10.80.0.0/24"
[links.lan]
ends = ["home", "nas"]
subnet = "192.168.50.0/24"
subnet6 = "fd50::/64"
"""
NETWORKS = ["192.168.50.0/24", "fd50::/64"]


@dataclass
class Behind:
    """nas has no node; home serves its network to cafe, which also believes 10.77.0.0/24 to be there."""

    home: Node
    cafe: Node
    nas: Host

    def received(self, node: Node) -> int:
        """Packets that the node's TUN gave to its host."""
        listed = json.loads(node.host.run(["ip", "-json", "-statistics", "link", "show", "zeq0"]).stdout)
        return int(listed[0]["stats64"]["rx"]["packets"])


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("behind")
    with Lab.from_toml(BEHIND) as lab:
        # Without discovery, whose pings to home's address in its own network take this way, too: here each
        # packet counts.
        alone = {"dht": {"enabled": False}}
        home = Node(lab.host("home"), folder, {"interface": {"serve": NETWORKS}, **alone})
        allowed = {"peers.home": {"allowed_ips": [*NETWORKS, "10.77.0.0/24"]}}
        cafe = Node(lab.host("cafe"), folder, {**allowed, **alone})
        pair(home, cafe)
        nas = lab.host("nas")
        nas.run(["ip", "route", "add", "198.18.0.0/15", "via", lab.host("home").address("lan")])
        nas.run(["ip", "route", "add", "fd5a::/16", "via", lab.host("home").address6("lan")])
        yield Behind(home, cafe, nas)


def test_a_network_behind_a_peer_is_reached(behind: Behind) -> None:
    assert reaches(behind.cafe.host, behind.nas.address("lan"))
    assert reaches(behind.cafe.host, behind.nas.address6("lan"))
    for family in FAMILIES:
        assert reaches(behind.nas, behind.home.address(family, of="cafe"))
    with Transfer(behind.nas, behind.cafe.host, behind.home.address(4, of="cafe"), 1_000_000) as running:
        running.finish()


def test_who_forwards_into_the_tunnel_says_when_a_packet_is_too_large(behind: Behind) -> None:
    """Fragmentation needed (RFC 792), packet too big (RFC 4443): from home, with the TUN's MTU."""
    for family, words in ((4, "Frag needed and DF set (mtu = 1404)"), (6, "Packet too big: mtu=1404")):
        target = behind.home.address(family, of="cafe")
        assert words in ping(behind.nas, target, "-M", "do", size=1500 - HEADERS[family]).stdout
        assert reaches(behind.nas, target, "-M", "do", size=1404 - HEADERS[family])
        assert reaches(behind.nas, target, "-M", "dont", size=3000)


def test_a_source_that_is_not_the_peers_is_refused(behind: Behind) -> None:
    """A stranger's address, a third machine's mesh address, the receiver's own, one behind the receiver."""
    home, cafe = behind.home, behind.cafe
    machine = home.status()["machine"]
    spoofed = {
        4: ["10.99.0.1", "10.80.0.99", "192.168.50.77"],
        6: ["fd99::1", "fd5a:6571::7", machine["address6"], "fd50::77"],
    }
    targets = {4: behind.nas.address("lan"), 6: behind.nas.address6("lan")}
    for family, sources in spoofed.items():
        for source in sources:
            cafe.host.run(["ip", "address", "add", source, "dev", "lo", *(["nodad"] if family == 6 else [])])
            refused, received = home.counter(SPOOFED), behind.received(home)
            assert not reaches(cafe.host, targets[family], "-I", source, wait=0.2)
            assert home.counter(SPOOFED) == refused + 1, source
            assert behind.received(home) == received
            cafe.host.run(["ip", "address", "del", source, "dev", "lo"])
    assert reaches(cafe.host, targets[6])


def test_local_ipv4_names_do_not_leave_their_node_as_sources(behind: Behind) -> None:
    """They mean something on one machine only: a third machine's name here would be a fourth's there."""
    cafe = behind.cafe
    cafe.host.run(["ip", "address", "add", "198.18.77.77", "dev", "lo"])
    kept, received = cafe.counter(LOCAL_NAME), behind.received(behind.home)
    assert not reaches(cafe.host, cafe.address(4, of="home"), "-I", "198.18.77.77", wait=0.2)
    assert cafe.counter(LOCAL_NAME) == kept + 1
    assert behind.received(behind.home) == received


def test_a_destination_that_is_not_served_is_refused(behind: Behind) -> None:
    refused, received = behind.home.counter(NOT_SERVED), behind.received(behind.home)
    assert not reaches(behind.cafe.host, "10.77.0.1", wait=0.2)
    assert behind.home.counter(NOT_SERVED) == refused + 1
    assert behind.received(behind.home) == received
