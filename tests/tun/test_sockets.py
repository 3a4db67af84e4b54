"""The node's UDP port, on a real kernel: which socket of the group a datagram or a train of them comes to.

On loopback; and in a network namespace of its own, in a child started with this file and a scenario's name,
where a veth pair is a wire on which the sender's kernel cuts trains and the receiver's GRO joins them."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from simulations.lab.namespaces import Namespace
from tun import sockets
from tun.errors import PortInUseError, SocketRefusedError
from tun.frames import FIRST_OURS, LAST_RECORD_TYPE, MESSAGE1, RECORD, SEGMENT
from tun.sockets import SOL_UDP, UDP_GRO, UDP_SEGMENT, UdpGroup, open_group, open_socket

ROOT = Path(__file__).resolve().parents[2]
SIZE = 1200
FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
BASE_INDEX = 0xABCDEF40  # of a receiver: its low six bits are the sender's lane
Got = list[tuple[bytes, int]]


def record(lane: int, number: int = 0, size: int = SIZE, kind: int = SEGMENT) -> bytes:
    head = bytes((kind, 0, 1, 0)) + (BASE_INDEX | lane).to_bytes(4, "big") + number.to_bytes(8, "big")
    return (head + bytes(size))[:size]


def train(lane: int, count: int = 40, size: int = SIZE) -> list[bytes]:
    return [record(lane, number, size) for number in range(count)]


def send_train(udp: socket.socket, datagrams: list[bytes], target: tuple[str, int]) -> None:
    cut = [(SOL_UDP, UDP_SEGMENT, len(datagrams[0]).to_bytes(2, sys.byteorder))]
    udp.sendmsg([b"".join(datagrams)], cut, 0, target)


def members(group: UdpGroup) -> list[socket.socket]:
    return [group.main, *group.workers]


def taken(group: UdpGroup) -> list[Got]:
    """What waits at main and at each worker: (bytes of one read, its datagrams' size)."""
    return [list(_reads(each)) for each in members(group)]


def _reads(udp: socket.socket) -> Iterator[tuple[bytes, int]]:
    while True:
        try:
            data, ancillary, _, _ = udp.recvmsg(1 << 17, 64)
        except BlockingIOError:
            return
        sizes = [
            int.from_bytes(value[:4], sys.byteorder)
            for level, kind, value in ancillary
            if (level, kind) == (SOL_UDP, UDP_GRO)
        ]
        yield data, sizes[0] if sizes else len(data)


def datagrams(reads: Got) -> list[bytes]:
    return [data[at : at + size] for data, size in reads for at in range(0, len(data) or 1, size or 1)]


def waiting(group: UdpGroup, count: int) -> list[list[bytes]]:
    """Each socket's datagrams, `count` in all, once they are there; those of loopback are at once."""
    found: list[list[bytes]] = [[] for _ in members(group)]
    deadline = time.monotonic() + 10
    while sum(map(len, found)) < count:
        assert time.monotonic() < deadline, f"{sum(map(len, found))} of {count} came"
        for each, reads in zip(found, taken(group), strict=True):
            each += datagrams(reads)
    return found


@contextmanager
def group_and_sender(
    address: str, workers: int, without: tuple[str, ...] = (), host: str = "::"
) -> Iterator[tuple[UdpGroup, socket.socket, tuple[str, int]]]:
    if ":" in address and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with (
        closing(open_group(host, 0, workers, without)) as group,
        socket.socket(FAMILIES[address], socket.SOCK_DGRAM) as sender,
    ):
        yield group, sender, (address, group.port)


# ---------------------------------------------------------------------------- steering


@pytest.mark.parametrize("address", FAMILIES)
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_every_lane_has_its_socket(workers: int, address: str) -> None:
    with group_and_sender(address, workers) as (group, sender, target):
        assert len({udp.getsockname()[1] for udp in members(group)}) == 1
        for kind in (RECORD, SEGMENT, LAST_RECORD_TYPE):
            for lane in range(64):
                sender.sendto(record(lane, size=64, kind=kind), target)
            found = waiting(group, 64)
            lanes = [[each[7] & 63 for each in mine] for mine in found]
            assert lanes[0] == [0]
            for number in range(workers):
                assert lanes[1 + number] == list(range(1 + number, 64, workers))


def test_what_is_no_record_comes_to_main() -> None:
    """Handshakes, STUN, the DHT, strangers' bytes; and what is too short to have a lane."""
    with group_and_sender("127.0.0.1", 2) as (group, sender, target):
        others = [kind for kind in range(256) if not FIRST_OURS <= kind <= LAST_RECORD_TYPE]
        for kind in others:
            sender.sendto(record(1, size=64, kind=kind), target)
        main, *workers = waiting(group, len(others))
        assert [each[0] for each in main] == others
        assert workers == [[], []]
        for size in range(8):
            sender.sendto(record(1)[:size], target)
        main, *workers = waiting(group, 8)
        assert [len(each) for each in main] == list(range(8))
        assert workers == [[], []]
        sender.sendto(record(1)[:8], target)  # the shortest that says its lane
        assert [len(reads) for reads in taken(group)] == [0, 1, 0]


@pytest.mark.parametrize("address", FAMILIES)
def test_trains_come_whole_to_the_socket_of_their_lane(address: str) -> None:
    with group_and_sender(address, 2) as (group, sender, target):
        if not (group.gro and group.segment):
            pytest.skip("this kernel has no UDP_SEGMENT or no UDP_GRO")
        for lane in range(5):
            send_train(sender, train(lane), target)
        sender.sendto(record(3, size=148, kind=MESSAGE1), target)
        whole = [(b"".join(train(lane)), SIZE) for lane in range(5)]
        handshake = record(3, size=148, kind=MESSAGE1)
        assert taken(group) == [[whole[0], (handshake, 148)], [whole[1], whole[3]], [whole[2], whole[4]]]


def test_a_train_of_several_lanes_comes_whole_to_the_first_ones_socket() -> None:
    """The kernel looks at its first datagram only: whoever reads it must look at them all."""
    with group_and_sender("127.0.0.1", 2) as (group, sender, target):
        for first in (1, 2, 0):
            mixed = [record(first), record(0), record(1), record(2), record(1, kind=MESSAGE1)]
            send_train(sender, mixed, target)
            found = waiting(group, len(mixed))
            assert found[first] == mixed
            assert sum(map(len, found)) == len(mixed)


def test_without_gro_trains_come_cut_to_the_same_socket() -> None:
    with group_and_sender("127.0.0.1", 2, ("udp_gro",)) as (group, sender, target):
        assert not group.gro
        for udp in members(group):
            assert udp.getsockopt(SOL_UDP, UDP_GRO) == 0
        for lane in range(3):
            send_train(sender, train(lane), target)
        assert taken(group) == [[(each, SIZE) for each in train(lane)] for lane in range(3)]


def test_each_part_can_be_forced_off() -> None:
    for without, gro, segment in (
        ((), True, True),
        (("udp_gro", "uso"), False, True),
        (("udp_segment", "tso"), True, False),
        (("udp_segment", "udp_gro"), False, False),
    ):
        with closing(open_group("127.0.0.1", 0, 1, without)) as group:
            assert (group.gro, group.segment) == (gro, segment)


def test_a_kernel_that_lacks_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older kernel answers: there is no such option. The program it must have."""
    monkeypatch.setattr(sockets, "UDP_GRO", 9999)
    monkeypatch.setattr(sockets, "UDP_SEGMENT", 9998)
    with closing(open_group("127.0.0.1", 0, 2)) as group:
        assert (group.gro, group.segment) == (False, False)
    monkeypatch.setattr(sockets, "_SO_ATTACH_REUSEPORT_CBPF", 9999)
    with pytest.raises(SocketRefusedError, match=r"share one UDP port .* run zeqnode on Linux"):
        open_group("127.0.0.1", 0, 2)


@pytest.mark.parametrize(("host", "family"), [("::", socket.AF_INET6), ("127.0.0.1", socket.AF_INET)])
def test_all_sockets_are_alike(host: str, family: int) -> None:
    with closing(open_group(host, 0, 3)) as group:
        for udp in members(group):
            assert udp.family == family
            assert not udp.getblocking()
            assert not udp.get_inheritable()
            assert udp.getsockname() == group.main.getsockname()
            found = udp.getsockopt(socket.IPPROTO_IP, sockets.IP_MTU_DISCOVER)
            assert found == sockets.PMTUDISC_DO
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                assert udp.getsockopt(socket.SOL_SOCKET, option) == group.main.getsockopt(
                    socket.SOL_SOCKET, option
                )


# ---------------------------------------------------------------------------- the port


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is on the port stays there: waiting would only take time."""
    monkeypatch.setattr(sockets, "BUSY_SECONDS", 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("host", ["::", "127.0.0.1"])
def test_two_nodes_on_one_port(host: str) -> None:
    with closing(open_group(host, 0, 2)) as group:
        for other in ("::", "127.0.0.1"):
            for opened in (
                lambda where=other: open_group(where, group.port, 2),
                lambda where=other: open_socket(where, group.port),
            ):
                with pytest.raises(
                    PortInUseError, match=f"UDP port {group.port} is taken by another program"
                ):
                    opened()


@pytest.mark.usefixtures("impatient")
def test_a_node_in_another_process() -> None:
    with closing(open_group("::", 0, 2)) as group:
        code = f"from tun.sockets import open_group; open_group('::', {group.port}, 2)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert f"PortInUseError: UDP port {group.port} is taken" in done.stderr


@pytest.mark.usefixtures("impatient")
def test_another_program_on_the_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even one that would share it
        other.bind(("127.0.0.1", 0))
        for host in ("::", "127.0.0.1"):
            with pytest.raises(PortInUseError):
                open_group(host, other.getsockname()[1], 2)


def test_a_dying_node_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_group("::", 0, 1)
    port = before.port
    worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[before.workers[0].fileno()])
    before.close()

    def die(_seconds: float) -> None:  # that is, when it was refused once
        worker.communicate()

    try:
        with pytest.raises(PortInUseError):
            open_socket("::", port)
        monkeypatch.setattr(time, "sleep", die)
        open_group("::", port, 1).close()
    finally:
        worker.communicate()


def test_the_port_is_free_again_at_once() -> None:
    group = open_group("::", 0, 4)
    port = group.port
    group.close()
    with closing(open_group("::", port, 2)) as again:
        assert again.port == port


def test_a_worker_that_dies_leaves_its_place_to_the_next() -> None:
    """The node holds each socket too, so the order in the group stays, and what comes meanwhile waits."""
    with group_and_sender("127.0.0.1", 2) as (group, sender, target):
        for _ in range(2):
            worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[group.workers[0].fileno()])
            worker.communicate()
            sender.sendto(record(1, size=64), target)
            sender.sendto(record(2, size=64), target)
        assert [len(reads) for reads in taken(group)] == [0, 2, 2]


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(SocketRefusedError, match=r"cannot listen on \[192\.0\.2\.1\]:0 .* set `address`"):
        open_group("192.0.2.1", 0, 1)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def refuse(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", refuse)
    with closing(open_group("::", 0, 2)) as group:
        assert {udp.family for udp in members(group)} == {socket.AF_INET}
    with pytest.raises(SocketRefusedError, match="no IPv6; set `address`"):
        open_group("::1", 0, 2)


# ---------------------------------------------------------------------------- on a wire


def in_namespace(scenario: Callable[[], object]) -> None:
    """Runs a scenario of this file in a network namespace of its own, or skips and says why."""
    for program in ("unshare", "ip", "ethtool"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode:
        pytest.skip(f"`unshare {flags}` is not allowed here")
    result = subprocess.run(
        ["unshare", flags, sys.executable, "-Werror", __file__, scenario.__name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@contextmanager
def wire(features: str) -> Iterator[Namespace]:
    """Here wire0 with 10.1.0.1 and fd00::1, in the other namespace wire1 with 10.1.0.2 and fd00::2."""
    far = Namespace("far", {})
    far.create()

    def here(command: str) -> None:
        subprocess.run(command.split(), check=True, capture_output=True)

    # One queue: whatever comes is joined by one GRO, as with a card that goes by the four-tuple.
    one = "numtxqueues 1 numrxqueues 1"
    here(f"ip link add wire0 {one} type veth peer name wire1 {one} netns /proc/{os.getpid()}/fd/{far.fd}")

    def there(command: str) -> None:
        far.run(command.split())

    for number, run in ((1, here), (2, there)):
        run(f"ip address add 10.1.0.{number}/24 dev wire{number - 1}")
        run(f"ip address add fd00::{number}/64 dev wire{number - 1} nodad")
        run(f"ethtool -K wire{number - 1} {features}")
    there("ip link set wire1 up")
    here("ip link set wire0 up")
    far.wait_until_running(["wire1"], time.monotonic() + 10)
    yield far


def scenario_a_card_that_joins_trains() -> None:
    trains_arrive("tso off gso on tx-udp-segmentation off gro on", joined=True)


def scenario_trains_that_are_never_cut() -> None:
    trains_arrive("tso on gso on tx-udp-segmentation on gro off", joined=True)


def scenario_no_offloads() -> None:
    trains_arrive("tso off gso off tx-udp-segmentation off gro off", joined=False)


def trains_arrive(features: str, joined: bool) -> None:
    with wire(features) as far, closing(open_group("::", 0, 2)) as group:
        for near, away in (("10.1.0.1", "10.1.0.2"), ("fd00::1", "fd00::2")):
            with closing(far.call(lambda where=away: open_group(where, 0, 3))) as other:  # type: ignore[misc]
                reads = 0
                for lane in (1, 2, 3, 0, 2):
                    # Each from its own worker's socket, as nodes do; the last of a train is shorter.
                    udp = members(other)[lane]
                    sent = [*train(lane), record(lane, 40, 700)]
                    send_train(udp, sent, (near, group.port))
                    udp.sendto(record(lane, size=148, kind=MESSAGE1), (near, group.port))
                    found: list[Got] = [[], [], []]
                    deadline = time.monotonic() + 10
                    while sum(len(datagrams(each)) for each in found) < len(sent) + 1:
                        assert time.monotonic() < deadline, found
                        for each, more in zip(found, taken(group), strict=True):
                            each += more
                    place = 0 if lane == 0 else 1 + (lane - 1) % 2
                    handshake = [record(lane, size=148, kind=MESSAGE1)]
                    expected: list[list[bytes]] = [[], [], []]
                    expected[place] += sent
                    expected[0] += handshake
                    assert [datagrams(each) for each in found] == expected
                    reads += sum(map(len, found))
                assert (reads < 100) == joined, reads


@pytest.mark.parametrize(
    "scenario",
    [scenario_a_card_that_joins_trains, scenario_trains_that_are_never_cut, scenario_no_offloads],
    ids=lambda scenario: scenario.__name__.removeprefix("scenario_"),
)
def test_on_a_wire(scenario: Callable[[], object]) -> None:
    in_namespace(scenario)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
