"""Whom only a tunnel lets in reaches what the owner opened to guests, and nothing else.

Both ends of a tunnel, real sockets on every address, real filters; and no filter, no guests."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from simulations.lab.lab import Host, Lab
from tests.lab.nodes import COMMAND, Node, as_nobody, eventually, join, needs_tun, reaches
from tests.lab.test_node_paid import typed
from tests.rights import NOBODY

pytestmark = [pytest.mark.lab, needs_tun]

HOSTS = ("seed", "relay", "guest")
WORLD = "[routers.internet]\n" + "".join(
    f'[hosts.{name}]\n[links.{name}]\nends = ["internet", "{name}"]\nsubnet = "203.{number}.113.0/24"\n'
    for number, name in enumerate(HOSTS, 1)
)
OPEN, CLOSED = 8000, 2222
ALL, NONE = {"tcp": True, "udp": True}, {"tcp": False, "udp": False}
ANSWER_SECONDS = 1.0
# `zeqnode` on a machine where nft is not installed.
WITHOUT_NFT = (
    *("unshare", "--mount", "sh", "-c"),
    'for nft in /usr/sbin/nft /sbin/nft; do mount --bind /dev/null "$nft"; done; exec "$@"',
    *("sh", *COMMAND),
)

Make = Callable[..., Node]


class Service:
    """TCP and UDP on one port of all of a host's addresses, as a careless program listens."""

    def __init__(self, host: Host, port: int) -> None:
        self.port = port
        self._tcp = host.call(lambda: socket.create_server(("", port), family=socket.AF_INET6, **_DUAL))
        self._udp = host.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._udp.bind(("::", port))
        for each in (self._tcp, self._udp):
            each.settimeout(ANSWER_SECONDS)

    def close(self) -> None:
        self._tcp.close()
        self._udp.close()

    def answers(self, client: Host, address: str) -> dict[str, bool]:
        """What of the two gets there from another host, and the answer back."""
        return {"tcp": self._over_tcp(client, address), "udp": self._over_udp(client, address)}

    @contextmanager
    def connection(self, client: Host, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of one over TCP."""
        with _socket(client, address, socket.SOCK_STREAM) as near:
            near.connect((address, self.port))
            far, _ = self._tcp.accept()
            with far:
                far.settimeout(ANSWER_SECONDS)
                yield near, far

    def _over_tcp(self, client: Host, address: str) -> bool:
        try:
            with self.connection(client, address) as (near, far):
                return echoes(near, far)
        except TimeoutError:
            return False

    def _over_udp(self, client: Host, address: str) -> bool:
        with _socket(client, address, socket.SOCK_DGRAM) as near:
            near.connect((address, self.port))
            near.send(b"asked")
            try:
                data, source = self._udp.recvfrom(100)
            except TimeoutError:
                return False
            self._udp.sendto(data, source)
            return near.recv(100) == b"asked"


_DUAL: dict[str, Any] = {"dualstack_ipv6": True, "reuse_port": False}


def _socket(host: Host, address: str, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = host.call(lambda: socket.socket(family, kind))
    made.settimeout(ANSWER_SECONDS)
    return made


def echoes(near: socket.socket, far: socket.socket) -> bool:
    try:
        near.sendall(b"asked")
        far.sendall(far.recv(5))
        return near.recv(5) == b"asked"
    except TimeoutError:
        return False


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.from_toml(WORLD) as lab:
        yield lab


@pytest.fixture
def make(lab: Lab, tmp_path: Path) -> Iterator[Make]:
    """make(name, ports, command=COMMAND): a node that runs; "seed" first."""
    with ExitStack() as stack:

        def made(name: str, ports: tuple[int, ...] = (), command: tuple[str, ...] = COMMAND) -> Node:
            node = Node(lab.host(name), tmp_path, sections(lab, name, ports), command=command)
            stack.callback(lambda: node.stop() if node.process.poll() is None else None)
            return node.start()

        yield made


@pytest.fixture
def service(lab: Lab) -> Iterator[Callable[[str, int], Service]]:
    """service(host, port): one that listens."""
    with ExitStack() as stack:

        def made(name: str, port: int) -> Service:
            listening = Service(lab.host(name), port)
            stack.callback(listening.close)
            return listening

        yield made


def sections(lab: Lab, name: str, ports: tuple[int, ...]) -> Mapping[str, Mapping[str, object]]:
    seeds = [] if name == "seed" else [f"{lab.host('seed').address('seed')}:51777"]
    return {"dht": {"lan": False, "seeds": seeds}, "relay": {"ports": list(ports)}}


def called(relay: Node) -> str:
    """The name by which a stranger connects to it."""
    own = typed(relay, "id")
    return f"{own['slug']}~{own['fingerprint'][:19]}"


def offered(relay: Node, *others: Node) -> None:
    """By the owner's command; comes back when the others know of it."""
    done = relay.command("relay", "offer", "--per-gb", "50")
    assert (done.returncode, done.stderr) == (0, "")
    own = typed(relay, "id")["slug"]
    for other in others:
        known = lambda other=other: own in [each["slug"] for each in typed(other, "market")["offers"]]  # noqa: E731
        eventually(known, 30, f"the offer is known to {other.host.name}")


def tables(node: Node) -> list[str]:
    listed = json.loads(node.host.run(["nft", "-j", "list", "tables"]).stdout)["nftables"]
    return [each["table"]["name"] for each in listed if "table" in each]


def reload(node: Node, lab: Lab, ports: tuple[int, ...]) -> None:
    before = node.said().count(" reloaded")
    node.configure(sections(lab, node.host.name, ports))
    node.signal(signal.SIGHUP)
    _until_said(node, " reloaded", before)


def _until_said(node: Node, text: str, before: int) -> None:
    """More often than `before`."""
    eventually(lambda: node.said().count(text) > before, 10, f"{node.host.name} said {text}")


def test_a_guest_reaches_what_is_opened_to_guests_and_nothing_else(
    lab: Lab, make: Make, service: Callable[[str, int], Service]
) -> None:
    friend, relay, guest = make("seed"), make("relay", (OPEN,)), make("guest")
    join(relay, friend)
    offered(relay, guest)
    assert (tables(relay), tables(guest)) == ([], []), "who has no guest pays nothing for a filter"
    made = typed(guest, "connect", called(relay))
    there = [made["address6"], made["address4"]]
    (stranger,) = [name for name in relay.peers() if name != "seed"]
    back = [relay.address(family, of=stranger) for family in (6, 4)]
    opened, closed = service("relay", OPEN), service("relay", CLOSED)
    own = [service("guest", port) for port in (OPEN, CLOSED)]

    for address in there:
        assert opened.answers(guest.host, address) == ALL
        assert closed.answers(guest.host, address) == NONE
        assert reaches(guest.host, address)
    for address in back:
        assert [each.answers(relay.host, address) for each in own] == [NONE, NONE], "nor the relay the guest"
        assert reaches(relay.host, address)
    for family in (6, 4):
        by_friend = friend.address(family, of="relay")
        assert [each.answers(friend.host, by_friend) for each in (opened, closed)] == [ALL, ALL]

    ended = typed(guest, "disconnect", called(relay).partition("~")[0])
    assert ended["state"] == "terminated"
    eventually(lambda: not tables(relay) and not tables(guest), 10, "there is no filter without guests")
    assert [opened.answers(guest.host, each) for each in there] == [NONE, NONE]
    assert opened.answers(friend.host, friend.address(6, of="relay")) == ALL


def test_a_reload_opens_and_closes_ports_also_for_what_runs(
    lab: Lab, make: Make, service: Callable[[str, int], Service]
) -> None:
    _, relay, guest = make("seed"), make("relay", (OPEN,)), make("guest")
    offered(relay, guest)
    there = typed(guest, "connect", called(relay))["address6"]
    first, second = service("relay", OPEN), service("relay", CLOSED)
    with first.connection(guest.host, there) as (near, far):
        assert echoes(near, far)
        reload(relay, lab, (CLOSED,))
        assert not echoes(near, far), "what was begun to a port goes with it"
    assert (first.answers(guest.host, there), second.answers(guest.host, there)) == (NONE, ALL)
    reload(relay, lab, ())
    assert second.answers(guest.host, there) == NONE
    reload(relay, lab, (OPEN,))
    assert first.answers(guest.host, there) == ALL
    guest.call("join", invitation=relay.call("invite", name="")["invitation"])
    assert second.answers(guest.host, there) == ALL, "a peer by the owner's word is no guest any more"
    assert (tables(relay), tables(guest)) == ([], [])


def test_what_empties_nftables_opens_nothing_for_long(
    lab: Lab, make: Make, service: Callable[[str, int], Service]
) -> None:
    _, relay, guest = make("seed"), make("relay", (OPEN,)), make("guest")
    offered(relay, guest)
    there = typed(guest, "connect", called(relay))["address4"]
    opened, closed = service("relay", OPEN), service("relay", CLOSED)
    again = "the filter for guests stands again"
    for _ in range(2):
        before = relay.said().count(again)
        relay.host.run(["nft", "flush", "ruleset"])
        _until_said(relay, again, before)
        assert closed.answers(guest.host, there) == NONE
        eventually(lambda: opened.answers(guest.host, there) == ALL, 10, "guests are carried again")


def test_a_crash_leaves_the_filter_and_the_next_start_takes_the_guest_in_again(
    lab: Lab, make: Make, service: Callable[[str, int], Service]
) -> None:
    _, relay, guest = make("seed"), make("relay", (OPEN,)), make("guest")
    offered(relay, guest)
    there = typed(guest, "connect", called(relay))["address6"]
    opened, closed = service("relay", OPEN), service("relay", CLOSED)
    assert opened.answers(guest.host, there) == ALL
    relay.kill()
    assert tables(relay) == ["zeqnode_zeq0"]
    relay.start()
    assert "filter for guests removed: table inet zeqnode_zeq0" in relay.said()
    eventually(lambda: opened.answers(guest.host, there) == ALL, 30, "the tunnel goes on")
    assert closed.answers(guest.host, there) == NONE
    assert tables(relay) == ["zeqnode_zeq0"]
    relay.stop()
    assert tables(relay) == []


def test_without_nft_no_stranger_is_let_in_and_friends_are(lab: Lab, make: Make) -> None:
    seed, relay, guest = make("seed"), make("relay", (OPEN,), WITHOUT_NFT), make("guest")
    done = relay.command("relay", "offer", "--per-gb", "50")
    assert done.returncode == 0
    assert "Warning: requests of strangers are refused for now." in done.stderr
    assert "sudo apt install nftables" in done.stderr
    assert "tunnels with strangers are refused" not in relay.said()
    offered(seed, relay, guest)
    eventually(lambda: len(typed(guest, "market")["offers"]) == 2, 30, "both offers are known")

    asked = guest.command("connect", called(relay))
    assert asked.returncode == 5
    assert "its owner has to install nftables there" in asked.stderr
    assert (relay.peers(), guest.peers()) == ([], [])
    assert relay.said().count("tunnels with strangers are refused") == 1

    asking = relay.command("connect", called(seed))
    assert asking.returncode == 5
    assert "sudo apt install nftables" in asking.stderr

    join(relay, guest)
    assert typed(guest, "connect", "relay")["state"] == "active"


def test_an_ordinary_user_with_one_capability_filters_too(
    lab: Lab, make: Make, service: Callable[[str, int], Service]
) -> None:
    """As the systemd unit runs it."""
    command = as_nobody("net_admin")
    make("seed")
    guest = make("guest")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        state = Path(folder, "state")
        state.mkdir(mode=0o700)
        os.chown(state, NOBODY, NOBODY)
        told = sections(lab, "relay", (OPEN,))
        with Node(lab.host("relay"), Path(folder), told, state=state, command=command) as relay:
            offered(relay, guest)
            there = typed(guest, "connect", called(relay))["address6"]
            opened, closed = service("relay", OPEN), service("relay", CLOSED)
            assert (opened.answers(guest.host, there), closed.answers(guest.host, there)) == (ALL, NONE)
