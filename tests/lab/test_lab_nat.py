"""NATs of the real kernel: what they translate, what they keep out, how long they remember."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from simulations.lab.cli import WORLDS
from simulations.lab.lab import Lab

pytestmark = pytest.mark.lab
UdpSocket = Callable[..., socket.socket]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.from_toml(WORLDS / "nat.toml") as built:
        yield built


@pytest.mark.parametrize(("host", "same"), [("home", True), ("cafe", False)], ids=["cone", "symmetric"])
def test_which_port_a_server_sees(lab: Lab, udp: UdpSocket, host: str, same: bool) -> None:
    inside, server = lab.host(host), lab.host("server")
    sock = udp(inside, inside.address(f"{host}-lan"))
    seen = set()
    for _ in range(4):
        echo = udp(server, server.address("datacentre"))
        sock.sendto(b"?", echo.getsockname())
        _, source = echo.recvfrom(100)
        assert source[0] == lab.host(f"{host}-nat").address(f"{host}-line")
        seen.add(source[1])
        echo.sendto(b"!", source)
        assert sock.recvfrom(100) == (b"!", echo.getsockname())
    assert (len(seen) == 1) is same
    assert (sock.getsockname()[1] in seen) is same


@pytest.mark.parametrize("host", ["home", "cafe"])
def test_only_answers_come_in(lab: Lab, udp: UdpSocket, host: str) -> None:
    inside, server = lab.host(host), lab.host("server")
    sock = udp(inside, inside.address(f"{host}-lan"))
    asked, stranger = (udp(server, server.address("datacentre")) for _ in range(2))
    sock.sendto(b"?", asked.getsockname())
    _, mapping = asked.recvfrom(100)
    stranger.sendto(b"unsolicited", mapping)
    stranger.connect((mapping[0], 9))
    stranger.send(b"to a port that nobody has")
    asked.sendto(b"answer", mapping)
    assert sock.recv(100) == b"answer"  # the stranger's came first, and would be first here
    stranger.send(b"again")  # would raise ConnectionRefusedError if the NAT had answered
    table = lab.host(f"{host}-nat").run(["nft", "list", "table", "inet", "lab"]).stdout
    assert "counter packets 3" in table
    assert lab.host("server").run(["ping", "-n", "-c", "1", mapping[0]]).returncode == 0


def test_an_unasked_packet_does_not_move_the_insides_port(lab: Lab, udp: UdpSocket) -> None:
    """Hole punching: the other side's first packet comes before ours has made the mapping."""
    home, server = lab.host("home"), lab.host("server")
    peer = udp(server, server.address("datacentre"))
    sock = udp(home, home.address("home-lan"))
    outside = (lab.host("home-nat").address("home-line"), sock.getsockname()[1])
    peer.sendto(b"early", outside)
    home.run(["ping", "-n", "-c", "1", server.address("datacentre")])  # by now the early one has been dropped
    sock.sendto(b"punch", peer.getsockname())
    assert peer.recvfrom(100) == (b"punch", outside)


def test_the_udp_timeout_is_in_force(udp: UdpSocket) -> None:
    text = (WORLDS / "nat.toml").read_text().replace("udp_timeout = 30", "udp_timeout = 1", 1)
    with Lab.from_toml(text) as lab:
        for name, timeout in (("home-nat", "1"), ("cafe-nat", "30")):
            for key in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
                said = lab.host(name).run(["cat", f"/proc/sys/net/netfilter/{key}"]).stdout
                assert said.strip() == timeout
        home, server, nat = lab.host("home"), lab.host("server"), lab.host("home-nat")
        sock, peer = udp(home, home.address("home-lan")), udp(server, server.address("datacentre"))
        sock.sendto(b"?", peer.getsockname())
        _, mapping = peer.recvfrom(100)
        deadline = time.monotonic() + 10
        while "udp" in nat.run(["cat", "/proc/net/nf_conntrack"]).stdout and time.monotonic() < deadline:
            pass
        peer.sendto(b"too late", mapping)
        server.run(["ping", "-n", "-c", "1", mapping[0]])
        sock.sendto(b"??", peer.getsockname())
        _, mapping = peer.recvfrom(100)
        peer.sendto(b"in time", mapping)
        assert sock.recv(100) == b"in time"


def test_neither_side_reaches_the_others_private_addresses(lab: Lab) -> None:
    for source, target in (("server", "home"), ("cafe", "home"), ("home", "cafe")):
        address = lab.host(target).address(f"{target}-lan")
        refused = lab.host(source).run(["ping", "-n", "-c", "1", "-W", "1", address], check=False)
        assert refused.returncode != 0
