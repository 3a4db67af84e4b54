"""Links of the real kernel: reachability, rate, loss, copies, delay, order, size, roaming."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulations.lab.cli import WORLDS
from simulations.lab.errors import CommandError, LabError, TopologyError, UnavailableError
from simulations.lab.lab import Lab

pytestmark = pytest.mark.lab
UdpSocket = Callable[..., socket.socket]
END = b"end"
WORLD = (
    '[hosts.home]\n[hosts.cafe]\n[links.wire]\nends = ["home", "cafe"]\n'
    'subnet = "10.80.0.0/24"\nsubnet6 = "fd80::/64"\n'
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.from_toml(WORLD) as built:
        yield built


def ping(lab: Lab, source: str, target: str, *options: str) -> list[float]:
    """The round trips in ms, of one ping if no options say otherwise."""
    said = (
        lab.host(source).run(["ping", "-n", "-W", "5", *(options or ("-c", "1")), target], timeout=30).stdout
    )
    return [float(trip) for trip in re.findall(r"time=([\d.]+) ms", said)]


def flow(lab: Lab, udp: UdpSocket, numbers: range, *, lossless: bool = False) -> list[int]:
    """Which of these numbers arrive at the café, in their order; home sends 100 bytes for each."""
    sender = udp(lab.host("home"), lab.host("home").address("wire"))
    receiver = udp(lab.host("cafe"), lab.host("cafe").address("wire"))
    for number in numbers:
        sender.sendto(number.to_bytes(4, "big").ljust(100), receiver.getsockname())
    arrived: list[bytes] = []
    receiver.settimeout(0.2)
    while END not in arrived or (lossless and len(arrived) <= len(numbers)):
        sender.sendto(END, receiver.getsockname())  # it may be lost, and is then sent again
        with contextlib.suppress(TimeoutError):
            while END not in arrived or lossless:
                arrived.append(receiver.recv(2048))
    return [int.from_bytes(data[:4], "big") for data in arrived if data != END]


def test_hosts_reach_each_other_by_both_families(lab: Lab) -> None:
    home, cafe = lab.host("home"), lab.host("cafe")
    assert (home.address("wire"), cafe.address6("wire")) == ("10.80.0.1", "fd80::2")
    for target in ("127.0.0.1", "::1", cafe.address("wire"), cafe.address6("wire")):
        assert len(ping(lab, "home", target)) == 1
    assert home.interface("wire") in home.run(["ip", "-brief", "link"]).stdout


def test_a_world_says_what_it_does_not_have(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="it has home, cafe"):
        lab.host("hut")
    with pytest.raises(LabError, match="it has wire"):
        lab.link("air")
    with pytest.raises(LabError, match="it has wire"):
        lab.host("home").address("air")
    with pytest.raises(LabError, match="hut is not an end of the link wire"):
        lab.link("wire").interface("hut")
    with pytest.raises(UnavailableError, match="`no-such-program` is not there"):
        lab.host("home").run(["no-such-program"])
    with pytest.raises(CommandError, match=r"In home, `sh -c .* ended with exit code 3: why$") as caught:
        lab.host("home").run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.returncode == 3
    assert lab.host("home").run(["cat"], input="text").stdout == "text"
    log = tmp_path / "log"
    lab.host("home").popen(["sh", "-c", "echo $WORD"], log=log, env={"WORD": "in"}).wait()
    lab.host("home").popen(["sh", "-c", "echo $$"], log=log).wait()
    first, second = log.read_text().split()
    assert first == "in"
    assert second.isdigit()


def test_the_pid_is_the_programs_own(lab: Lab) -> None:
    process = lab.host("home").popen(["sleep", "60"])
    assert Path(f"/proc/{process.pid}/exe").readlink() == Path(shutil.which("sleep") or "").resolve()
    assert Path(f"/proc/{process.pid}/ns/net").stat().st_ino == lab.host("home").inode


def test_a_rate_holds_tcp_back_and_can_be_lifted(lab: Lab) -> None:
    lab.link("wire").set(rate="15mbit")
    size = 3_000_000
    seconds = transfer(lab, size)
    assert 0.8 < seconds < 10  # 1.6 s at 15 Mb/s
    port = lab.link("wire").interface("cafe")
    statistics = lab.link("wire").run(["tc", "-s", "qdisc", "show", "dev", port]).stdout
    assert "tbf" in statistics
    assert "rate 15Mbit" in statistics
    sent = re.search(r"Sent (\d+) bytes", statistics)
    assert sent is not None
    assert int(sent[1]) > size
    lab.link("wire").set(rate=None)
    assert "tbf" not in lab.link("wire").run(["tc", "qdisc"]).stdout


def transfer(lab: Lab, size: int) -> float:
    """Seconds that `size` bytes take by TCP from home to the café."""
    cafe = lab.host("cafe")
    listener = cafe.call(lambda: socket.create_server((cafe.address("wire"), 0)))
    sender = lab.host("home").call(lambda: socket.create_connection(listener.getsockname(), 10))
    receiver, _ = listener.accept()

    def feed() -> None:
        sender.sendall(bytes(size))
        sender.close()

    with listener, sender, receiver:
        receiver.settimeout(30)
        feeder = threading.Thread(target=feed)
        started = time.monotonic()
        feeder.start()
        got = 0
        while data := receiver.recv(1 << 16):
            got += len(data)
        feeder.join()
    assert got == size
    return time.monotonic() - started


@pytest.mark.parametrize("delay", [0, 5], ids=["nft", "userlink"])
def test_loss_and_copies_are_as_counted(lab: Lab, udp: UdpSocket, delay: float) -> None:
    target = lab.host("cafe").address("wire")
    ping(lab, "home", target)  # both know the other before anything is lost
    lab.link("wire").set(loss=0.2, duplicate=0.1, delay_ms=delay)
    lots = [range(start, start + 100) for start in range(0, 2000, 100)]  # small, so that no buffer overflows
    arrived = [number for lot in lots for number in flow(lab, udp, lot)]
    counted = lab.link("wire").counters()
    assert 280 < counted.dropped < 520
    assert 80 < counted.duplicated < 260
    expected = 2000 - counted.dropped + counted.duplicated
    assert abs(len(arrived) - expected) <= 40  # the ends of lots and ARP have their share
    assert len(set(arrived)) < 2000
    assert len(arrived) > len(set(arrived))


def test_delay_is_added_in_each_direction_and_jitter_varies_it(lab: Lab) -> None:
    lab.link("wire").set(delay_ms=20)
    target = lab.host("cafe").address("wire")
    ping(lab, "home", target)
    assert all(40 <= trip < 400 for trip in ping(lab, "home", target, "-c", "5", "-i", "0.02"))
    lab.link("wire").set(jitter_ms=20)
    trips = ping(lab, "home", lab.host("cafe").address6("wire"), "-c", "20", "-i", "0.02")
    assert len(trips) == 20
    lab.link("wire").set(delay_ms=0, jitter_ms=0)
    assert min(ping(lab, "home", target, "-c", "5", "-i", "0.02")) < 20


def test_reordering_is_seen_and_nothing_is_lost(lab: Lab, udp: UdpSocket) -> None:
    lab.link("wire").set(delay_ms=30, reorder=0.2)
    arrived = flow(lab, udp, range(200), lossless=True)
    assert sorted(arrived) == list(range(200))
    assert arrived != sorted(arrived)


def test_delay_and_rate_go_together_and_tcp_gets_through(lab: Lab) -> None:
    lab.link("wire").set(delay_ms=5, jitter_ms=2, rate="50mbit", loss=0.001, reorder=0.01)
    assert transfer(lab, 2_000_000) > 0.2  # 0.32 s at 50 Mb/s


@pytest.mark.parametrize("delay", ["", "delay_ms = 1\n"], ids=["bridge", "userlink"])
@pytest.mark.parametrize("mtu", [1280, 9000])
def test_frames_of_the_mtu_cross_and_larger_ones_do_not(mtu: int, delay: str) -> None:
    with Lab.from_toml(f"{WORLD}mtu = {mtu}\n{delay}") as lab:
        for target, overhead in (
            (lab.host("cafe").address("wire"), 28),
            (lab.host("cafe").address6("wire"), 48),
        ):
            assert ping(lab, "home", target, "-c", "1", "-M", "do", "-s", str(mtu - overhead))
            with pytest.raises(CommandError, match="ong"):
                ping(lab, "home", target, "-c", "1", "-W", "1", "-M", "do", "-s", str(mtu - overhead + 1))


@pytest.mark.parametrize(
    ("offload", "features"),
    [
        ("veth", {"udp-segmentation": "on", "tcp-segmentation": "on", "generic-receive": "off"}),
        ("nic", {"udp-segmentation": "off", "tcp-segmentation": "off", "generic-receive": "on"}),
        ("bare", {"udp-segmentation": "off", "tcp-segmentation": "off", "generic-segmentation": "off"}),
    ],
)
def test_offload_is_as_asked_for(offload: str, features: dict[str, str]) -> None:
    with Lab.from_toml(f'{WORLD}offload = "{offload}"\n') as lab:
        for host in lab.hosts.values():
            shown = host.run(["ethtool", "-k", "wire"]).stdout
            for feature, state in features.items():
                assert re.search(rf"{feature}(-offload)?: {state}", shown), (host.name, feature)
        assert transfer(lab, 1_000_000) < 10
        if offload != "bare":
            with pytest.raises(TopologyError, match="count frames"):
                lab.link("wire").set(loss=0.5)


def test_three_hosts_share_a_link() -> None:
    with Lab.from_toml(WORLDS / "rough.toml") as lab:
        lab.link("air").set(loss=0.0)
        assert ping(lab, "home", lab.host("hut").address("air"))
        assert ping(lab, "cafe", lab.host("hut").address6("air"))
    plain = WORLD.replace('"cafe"]', '"cafe", "hut"]') + "[hosts.hut]\n"
    with Lab.from_toml(plain) as lab:
        lab.link("wire").set(duplicate=1.0)
        said = (
            lab.host("home")
            .run(["ping", "-n", "-c", "2", "-i", "0.1", lab.host("hut").address("wire")])
            .stdout
        )
        assert "DUP!" in said


def test_a_host_roams_and_keeps_its_routes() -> None:
    text = (
        "[hosts.home]\n[hosts.server]\n[routers.r]\n"
        '[links.wire]\nends = ["r", "home"]\nsubnet = "10.80.0.0/24"\nsubnet6 = "fd80::/64"\n'
        '[links.far]\nends = ["r", "server"]\nsubnet = "10.90.0.0/24"\nsubnet6 = "fd90::/64"\n'
    )
    with Lab.from_toml(text) as lab:
        home, server = lab.host("home"), lab.host("server")
        for address in ("10.80.0.9/24", "fd80::9", "10.80.0.9"):
            home.set_address("wire", address)
        assert (home.address("wire"), home.address6("wire")) == ("10.80.0.9", "fd80::9")
        shown = home.run(["ip", "address", "show", "dev", home.interface("wire")]).stdout
        assert "10.80.0.2" not in shown
        assert "fd80::2/" not in shown
        assert ping(lab, "home", server.address("far"))
        assert ping(lab, "home", server.address6("far"))
        assert ping(lab, "server", "10.80.0.9")
        with pytest.raises(LabError, match=r"does not lie in the subnet of wire \(10\.80\.0\.0/24\)"):
            home.set_address("wire", "10.81.0.1/24")
        with pytest.raises(LabError, match="'x' is not an address"):
            home.set_address("wire", "x")


@pytest.mark.parametrize("delay", [0, 1], ids=["bridge", "userlink"])
def test_the_middle_of_the_wire_is_where_to_capture(
    lab: Lab, tmp_path: Path, udp: UdpSocket, delay: float
) -> None:
    link = lab.link("wire")
    link.set(delay_ms=delay)
    files = {node: tmp_path / f"{node}.pcap" for node in lab.hosts}
    recorders = [link.capture(node, file) for node, file in files.items()]
    assert flow(lab, udp, range(3)) == [0, 1, 2]
    for recorder in recorders:
        recorder.terminate()
        assert recorder.wait() == 0
    for file in files.values():
        data = file.read_bytes()
        assert data[:4] == bytes.fromhex("d4c3b2a1")
        lengths, at = [], 24
        while at < len(data):
            lengths.append(int.from_bytes(data[at + 8 : at + 12], "little"))
            at += 16 + lengths[-1]
        assert at == len(data)
        assert lengths.count(14 + 28 + 100) == 3
        assert END in data
    with pytest.raises(LabError, match="failed: see the message above"):
        link.capture("home", tmp_path / "no folder" / "file")
