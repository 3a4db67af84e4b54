"""Whole nodes whose data path meets foreign datagrams, lying hints, smaller paths, a TUN that goes away."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from simulations.lab.lab import Lab
from simulations.lab.userlink import packet_socket
from tests.lab.checked import (
    DUAL,
    MEGABYTE,
    MODES,
    OFFLOADS,
    SILENCE,
    Busy,
    Tunnel,
    all_comes_right,
    both_ways,
    engine,
    full_speed,
    go_on,
    kill_worker,
    streams,
    tunnel,
    wrong_sums,
)
from tests.lab.nodes import Node, eventually, needs_tun, reaches
from tests.lab.traffic import Datagrams, Stream
from tests.scale import seconds, times

pytestmark = [pytest.mark.lab, needs_tun, pytest.mark.timeout(seconds(60))]

AIR = """
[hosts.home]
[hosts.cafe]
[hosts.stranger]
[links.air]
ends = ["home", "cafe", "stranger"]
subnet = "10.80.0.0/24"
offload = "nic"
"""
ROUTED = """
[hosts.home]
[hosts.cafe]
[routers.middle]
[links.near]
ends = ["middle", "home"]
subnet = "10.80.0.0/24"
offload = "nic"
[links.far]
ends = ["middle", "cafe"]
subnet = "10.81.0.0/24"
offload = "nic"
"""
PORT = 51777
HEAD = 16
LARGEST = 1472  # bytes of UDP payload on the link
SMALLER = 1400  # bytes, the MTU that a link is lowered to
RECORDS = range(0xC0, 0xC8)
SOL_UDP, UDP_SEGMENT = 17, 103


# ---------------------------------------------------------------------- a stranger on the link


def spoofed(payload: bytes, source: str, target: str) -> bytes:
    """IPv4 and UDP, both ends at a node's port, with the sum that a receiver's GRO asks for."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    udp = struct.pack(">HHHH", PORT, PORT, 8 + len(payload), 0)
    summed = ends + struct.pack(">HH", socket.IPPROTO_UDP, 8 + len(payload)) + udp + payload
    total = int.from_bytes(summed + b"\0" * (len(summed) % 2), "big") % 0xFFFF
    udp = udp[:6] + struct.pack(">H", 0xFFFF - total or 0xFFFF)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
    return head + udp + payload


def variants(chance: random.Random, datagram: bytes) -> Iterator[bytes]:
    """What a stranger makes of a datagram that it saw."""
    head, rest, length = datagram[:HEAD], datagram[HEAD:], len(datagram)
    noise = chance.randbytes
    yield datagram
    yield datagram[:1] + noise(3) + datagram[4:]  # hints that lie: i, n, place
    yield bytes([datagram[0], chance.randrange(4), chance.randrange(2, 65), 0]) + datagram[4:]
    yield bytes([chance.choice(RECORDS)]) + datagram[1:]
    yield bytes([chance.choice(RECORDS)]) + noise(3) + datagram[4:]
    yield datagram[: chance.randrange(1, length)]
    yield datagram[: chance.choice((1, 4, HEAD - 1, HEAD, HEAD + 1, HEAD + 16, HEAD + 31))]
    yield datagram + noise(chance.randrange(1, 40))
    yield datagram + datagram[: max(1, 1_400 - length)]
    yield head + noise(len(rest))  # an IV that is expected, with anything behind it
    yield head[:4] + noise(4) + datagram[8:]  # receiver index
    yield head[:8] + noise(4) + datagram[12:]  # session zeqond
    yield head[:12] + struct.pack(">I", int.from_bytes(head[12:], "big") + chance.randrange(1, 99)) + rest
    yield head[:12] + noise(4) + rest
    place = chance.randrange(length)
    yield datagram[:place] + bytes([datagram[place] ^ 1 << chance.randrange(8)]) + datagram[place + 1 :]
    yield bytes([chance.choice(RECORDS)]) + noise(length - 1)
    yield noise(chance.randrange(1, 1_400))


class Stranger:
    """Sees what cafe sends on the link, and sends its own versions of it to home, while the block lasts.

    As itself, one by one and as trains; and with cafe's address and port, where home's kernel joins them to
    cafe's own trains. forges: else it only looks. sent: datagrams; seen: those of cafe's."""

    def __init__(self, lab: Lab, *, forges: bool = True) -> None:
        self.sent = 0
        self.seen: list[bytes] = []
        self._forges = forges
        self._home, self._cafe = (lab.host(name).address("air") for name in ("home", "cafe"))
        self._wire = lab.link("air").call(lambda: packet_socket("cafe", ignore_outgoing=True))
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)  # what it sees is of just now
        host = lab.host("stranger")
        self._own = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._raw = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self._own.connect((self._home, PORT))
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()
        for sock in (self._wire, self._own, self._raw):
            sock.close()

    def send(self, datagram: bytes) -> None:
        """With cafe's address."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._raw.sendto(spoofed(datagram, self._cafe, self._home), (self._home, 0))
            self.sent += 1

    def _run(self) -> None:
        chance = random.Random(11)
        while not self._enough.wait(0.001):
            before = len(self.seen)
            self._look()
            if not self._forges or len(self.seen) == before:
                continue
            datagram = self.seen[-1]
            made = [each[:LARGEST] for each in variants(chance, datagram)]
            for each in made:
                self.send(each)
            self._train(made, len(datagram))
            with contextlib.suppress(ConnectionRefusedError):
                self._own.send(chance.choice(made))
            self.sent += 1

    def _look(self) -> None:
        """All that cafe sent since the last time, or the beginning of it."""
        ends = socket.inet_aton(self._cafe) + socket.inet_aton(self._home) + struct.pack(">HH", PORT, PORT)
        with contextlib.suppress(BlockingIOError):
            for _ in range(256):
                frame = self._wire.recv(1 << 16)
                if frame[26:38] == ends and frame[42] in RECORDS:
                    self.seen.append(frame[42:])

    def _train(self, made: list[bytes], size: int) -> None:
        """All in one send, each of the size of the first: cut, or filled up with what it begins with."""
        same = b"".join((each * (size // len(each) + 1))[:size] for each in made)[:65_000]
        with contextlib.suppress(ConnectionRefusedError):
            self._own.sendmsg([same], [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))])
            self.sent += len(same) // size


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_a_stranger_among_our_trains(mode: str, tmp_path: Path) -> None:
    """Random, forged, cut, doubled, replayed: the traffic goes on, and nothing arrives but what was sent."""
    with tunnel(tmp_path, AIR, engine(mode=mode)) as pair:
        sums, began = wrong_sums(pair.home.host), time.monotonic()
        with Busy(*pair.nodes) as busy:
            with Stranger(pair.lab) as stranger:
                streams(*pair.nodes, times(5 * MEGABYTE))
                with contextlib.ExitStack() as stack:
                    for source, target, address in both_ways(*pair.nodes, 4):
                        checked = stack.enter_context(Datagrams(source.host, target.host, address, gro=True))
                        for _ in range(times(20)):
                            checked.train(1_200, 40, 500)
                            checked.plain(range(1, 1_300, 13))
                        checked.check()
            busy.finish(0.0)
        assert stranger.sent > 1_000
        assert pair.home.peer("cafe")["endpoint"] == f"{pair.cafe.host.address('air')}:{PORT}"
        age = pair.home.peer("cafe")["last_handshake_s"]
        assert age >= int(time.monotonic() - began) - 1, "it cost the session"
        all_comes_right(*pair.nodes, MEGABYTE)
        assert wrong_sums(pair.home.host) == sums


@pytest.mark.parametrize("queues", [1, 2])
def test_what_a_worker_took_is_not_taken_again_by_the_next(queues: int, tmp_path: Path) -> None:
    """Records of the same epoch, replayed to a worker that has never seen them."""
    with tunnel(tmp_path, AIR, engine(queues=queues)) as pair:
        address = pair.cafe.address(4, of="home")
        with (
            Datagrams(pair.cafe.host, pair.home.host, address) as checked,
            Stranger(pair.lab, forges=False) as stranger,
        ):
            for _ in range(50):
                checked.plain(range(16, 1_300, 90))
                checked.train(1_200, 10, 500)
            checked.settle()
            eventually(lambda: len(stranger.seen) > 50, SILENCE, "the stranger has seen records")
            known = list(stranger.seen)
            for place in range(queues):
                kill_worker(pair.home, place)
            eventually(lambda: reaches(pair.cafe.host, address, wait=0.3), SILENCE, "home answers")
            for datagram in known:
                stranger.send(datagram)
            checked.plain([1_000] * 20)
            checked.check()


# ---------------------------------------------------------------------- paths that shrink


def shrink(pair: Tunnel, mode: str, *places: tuple[str, str]) -> None:
    """In mid-transfer; places: names of hosts, and of their devices."""
    with full_speed(pair) as running:
        for host, device in places:
            pair.lab.host(host).run(["ip", "link", "set", "dev", device, "mtu", str(SMALLER)])
        go_on(running)
        go_on(running)
    for node, peer in ((pair.home, "cafe"), (pair.cafe, "home")):
        assert node.peer(peer)["payload"] <= SMALLER - 28
    all_comes_right(*pair.nodes, MEGABYTE)


@pytest.mark.parametrize("mode", MODES)
def test_our_own_link_shrinks(mode: str, tmp_path: Path) -> None:
    """The kernel refuses the next train: EMSGSIZE, or EINVAL for a segment that is too long."""
    with tunnel(tmp_path, f'{DUAL}offload = "nic"', engine(mode=mode)) as pair:
        shrink(pair, mode, ("home", "wire"), ("cafe", "wire"))


@pytest.mark.parametrize("mode", MODES)
def test_a_link_behind_a_router_shrinks(mode: str, tmp_path: Path) -> None:
    """ICMP says so."""
    with tunnel(tmp_path, ROUTED, engine(mode=mode)) as pair:
        shrink(pair, mode, ("middle", "far"), ("cafe", "far"))


# ---------------------------------------------------------------------- the TUN


def test_the_interface_is_set_down_and_up(tmp_path: Path) -> None:
    """By somebody else; who does so twice in a transfer, with the addresses kept, finds it going on."""
    with tunnel(tmp_path, home=engine(queues=2)) as pair, contextlib.ExitStack() as stack:
        host = pair.cafe.host
        host.sysctl("ipv6/conf/zeq0/keep_addr_on_down", 1)
        running = [
            stack.enter_context(Stream(source.host, target.host, address, None))
            for family in (4, 6)
            for source, target, address in both_ways(*pair.nodes, family)
        ]
        for _ in range(2):
            go_on(running)
            host.run(["ip", "link", "set", "dev", "zeq0", "down"])
            assert not reaches(pair.home.host, pair.home.address(4, of="cafe"), wait=0.3)
            assert pair.cafe.peer("home")["state"] == "connected"
            host.run(["ip", "link", "set", "dev", "zeq0", "up"])
            go_on(running)
        for each in running:
            each.finish()
        all_comes_right(*pair.nodes, MEGABYTE)


# ---------------------------------------------------------------------- what the status says


def status_engine(node: Node) -> dict[str, object]:
    found: dict[str, object] = json.loads(node.command("status", "--json").stdout)["engine"]
    return found


def test_status_tells_of_the_data_path(tmp_path: Path) -> None:
    with Lab.from_toml(DUAL) as lab, Node(lab.host("home"), tmp_path) as node:
        found = status_engine(node)
        assert found["mode"] == "auto"
        assert isinstance(found["queues"], int)
        assert isinstance(found["tun"], dict)
        assert isinstance(found["udp"], dict)
        assert set(found["tun"]) == {"vnet_hdr", "tso", "uso"}
        assert set(found["udp"]) == {"segment", "gro"}
        assert {type(each) for each in (*found["tun"].values(), *found["udp"].values())} == {bool}


def test_status_tells_what_the_configuration_asked_for(tmp_path: Path) -> None:
    asked = engine(queues=3, mode="segments", without=list(OFFLOADS))
    with Lab.from_toml(DUAL) as lab, Node(lab.host("home"), tmp_path, asked) as node:
        assert status_engine(node) == {
            **status_engine(node),
            "queues": 3,
            "mode": "segments",
            "tun": {"vnet_hdr": False, "tso": False, "uso": False},
            "udp": {"segment": False, "gro": False},
        }


@pytest.mark.parametrize(
    "wrong",
    [
        {"queues": 0},
        {"queues": 17},
        {"mode": "fast"},
        {"without": ["lso"]},
        {"rekey_seconds": 4},
        {"largest_payload": 1231},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense(wrong: dict[str, object], tmp_path: Path) -> None:
    with Lab.from_toml(DUAL) as lab:
        said = Node(lab.host("home"), tmp_path, {"engine": wrong}).command("run")
    assert said.returncode == 2
    assert f"{next(iter(wrong))} in [engine]" in said.stderr
