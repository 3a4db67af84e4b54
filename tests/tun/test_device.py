"""The TUN devices. What needs a kernel runs as a scenario in a network namespace of its own: a child started
with this file and the scenario's name."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

from tests.rights import NOBODY, maps_uid
from tun import device
from tun.device import Device, LinuxTun, MemoryTun, TunOffloads, open_tun
from tun.errors import (
    DeviceBusyError,
    DeviceError,
    DeviceGoneError,
    DeviceMissingError,
    DeviceNameError,
    DevicePermissionError,
)
from tun.frames import VIRTIO_BYTES
from tun.sockets import SOL_UDP, UDP_SEGMENT

ROOT = Path(__file__).resolve().parents[2]
V4 = b"\x45\0\0\x14" + bytes(16)
WITHOUT: tuple[tuple[str, ...], ...] = ((), ("tso",), ("vnet_hdr",))


def in_namespace(scenario: Callable[[], object], *wrapper: str) -> None:
    """Runs a scenario of this file in a network namespace of its own, or skips and says why."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare(1)")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/net/tun, readable and writable")
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode:
        pytest.skip(f"`unshare {flags}` is not allowed here")
    result = subprocess.run(
        ["unshare", flags, *wrapper, sys.executable, "-Werror", __file__, scenario.__name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def ip(command: str) -> str:
    return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


def udp4(src: str, dst: str, port: int, payload: bytes) -> bytes:
    total = 28 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, 64, 17, 0)
    head += IPv4Address(src).packed + IPv4Address(dst).packed
    head = head[:10] + (0xFFFF - int.from_bytes(head, "big") % 0xFFFF).to_bytes(2, "big") + head[12:]
    return head + struct.pack("!HHHH", 9, port, 8 + len(payload), 0) + payload


@contextmanager
def linux_tun(queues: int = 1, without: Collection[str] = ()) -> Iterator[LinuxTun]:
    tun = LinuxTun("zeqd0", queues, without)
    try:
        # No IPv6: its router solicitations would come in between.
        Path("/proc/sys/net/ipv6/conf/zeqd0/disable_ipv6").write_text("1")
        ip("address add 198.18.0.1/16 dev zeqd0")
        ip("link set zeqd0 mtu 1404 up")
        yield tun
    finally:
        tun.close()


@contextmanager
def host_socket(port: int = 4000) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("198.18.0.1", port))
        host.settimeout(10)
        yield host


def drained(fd: int) -> list[bytes]:
    packets = []
    with suppress(BlockingIOError):
        while True:
            packets.append(os.read(fd, 1 << 17))
    return packets


def is_checksummed(datagram: bytes) -> bool:
    """Whether an IPv4 UDP packet's checksum holds: with the pseudo-header all words add up to 0 mod 65535."""
    length = len(datagram) - 20
    text = datagram[12:] + bytes(length % 2) + struct.pack("!HH", 17, length)
    return int.from_bytes(text, "big") % 65535 == 0


async def scenario_packets_pass() -> None:
    for without in WITHOUT:
        with linux_tun(without=without) as tun, host_socket() as host:
            (fd,) = tun.fds
            assert not os.get_inheritable(fd)
            assert drained(fd) == []
            for number in range(5):
                host.sendto(b"out %d" % number, ("198.18.0.2", 4001))
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(fd)
            header = VIRTIO_BYTES if tun.offloads.vnet_hdr else 0
            packets = drained(fd)
            assert [packet[header + 28 :] for packet in packets] == [b"out %d" % each for each in range(5)]
            for packet in packets:
                flags, kind, _, size, start, offset = struct.unpack("<BBHHHH", packet[:header] or bytes(10))
                assert (kind, size) == (0, 0)
                assert (flags, start, offset) == ((1, 20, 6) if tun.offloads.tso else (0, 0, 0))
                assert is_checksummed(packet[header:]) != tun.offloads.tso

            packets = [udp4("198.18.0.2", "198.18.0.1", 4000, b"in %d" % number) for number in range(3)]
            assert tun.write_batch([packets[0], bytearray(packets[1]), memoryview(packets[2])]) == 0
            assert [host.recv(100) for _ in range(3)] == [b"in 0", b"in 1", b"in 2"]


async def scenario_offloads() -> None:
    """What each fallback leaves, told by what the kernel then hands over: 40 datagrams sent as one."""
    best = LinuxTun("zeqd0")
    best.close()
    if not best.offloads.uso:
        print("this kernel has no USO: only what it has can be told")
        return
    for without, offloads, counts in (
        ((), TunOffloads(True, True, True), [1]),
        (("uso", "udp_gro"), TunOffloads(True, True, False), [40]),
        (("tso",), TunOffloads(True, False, False), [40]),
        (("vnet_hdr",), TunOffloads(False, False, False), [40]),
        (("uso", "tso", "vnet_hdr"), TunOffloads(False, False, False), [40]),
    ):
        for queues in (1, 3):
            with linux_tun(queues, without) as tun, host_socket() as host:
                assert tun.offloads == offloads
                cut = [(SOL_UDP, UDP_SEGMENT, (1000).to_bytes(2, sys.byteorder))]
                host.sendmsg([bytes(40_000)], cut, 0, ("198.18.0.2", 4001))
                assert [n for fd in tun.fds if (n := len(drained(fd)))] == counts


async def scenario_queues() -> None:
    """A flow comes out of one queue; all queues see some of many flows; all write."""
    with linux_tun(4) as tun:
        assert len(tun.fds) == 4
        with ExitStack() as stack:
            hosts = [stack.enter_context(host_socket(5000 + each)) for each in range(64)]
            for host in hosts * 3:
                host.sendto(b"x", ("198.18.0.2", 4001))
            got = [[packet[30:32] for packet in drained(fd)] for fd in tun.fds]
            assert all(got)
            assert sum(map(len, got)) == 192
            assert sum(len(set(ports)) for ports in got) == 64  # no flow in two of them
            for fd in tun.fds:
                os.write(fd, bytes(VIRTIO_BYTES) + udp4("198.18.0.2", "198.18.0.1", 5000, b"in"))
                assert hosts[0].recv(100) == b"in"
            assert tun.write_batch([udp4("198.18.0.2", "198.18.0.1", 5000, b"slow")]) == 0
            assert hosts[0].recv(100) == b"slow"
    with pytest.raises(DeviceError, match=r"no more than 256 queues: set queues = 256 in \[engine\]"):
        LinuxTun("zeqd0", 300)
    assert "zeqd0" not in [name for _, name in socket.if_nameindex()]


async def scenario_large_packet() -> None:
    with linux_tun() as tun, host_socket() as host:
        ip("link set zeqd0 mtu 65535")
        host.sendto(bytes(65507), ("198.18.0.2", 4001))
        assert [len(packet) for packet in drained(tun.fds[0])] == [VIRTIO_BYTES + 65535]


async def scenario_bad_packets_are_counted() -> None:
    for without in WITHOUT:
        with linux_tun(without=without) as tun, host_socket() as host:
            good = udp4("198.18.0.2", "198.18.0.1", 4000, b"good")
            assert tun.write_batch([b"", good, bytes(40), b"\xff" * 40, good]) == 3
            assert host.recv(100) == host.recv(100) == b"good"
            ip("link set zeqd0 down")
            assert tun.write_batch([good, good]) == 2
            ip("link set zeqd0 up")
            assert tun.write_batch([good]) == 0


async def scenario_device_goes() -> None:
    with linux_tun(2) as tun:
        ip("link del zeqd0")
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(tun.fds[0])
        with pytest.raises(DeviceGoneError, match=r"zeqd0 was removed .* start the node again"):
            tun.write_batch([V4])
    with pytest.raises(DeviceGoneError):
        tun.write_batch([V4])
    assert tun.fds == []


async def scenario_names() -> None:
    with linux_tun() as tun:
        assert tun.name == "zeqd0"
        for taken in ("zeqd0", "lo"):
            for queues in (1, 2):
                with pytest.raises(DeviceBusyError, match=rf"{taken} is in use, .* choose another name"):
                    LinuxTun(taken, queues)
    again = LinuxTun("zeqd0")  # closed above, so free
    numbered = LinuxTun("zeqd%d", 2)
    assert (again.name, numbered.name) == ("zeqd0", "zeqd1")
    longest = LinuxTun("a" * device.NAME_BYTES)
    assert longest.name == "a" * 15
    for tun in (again, numbered, longest):
        tun.close()


async def scenario_the_queues_of_another_node_are_not_joined() -> None:
    with linux_tun(2):
        for queues in (1, 2, 4):
            with pytest.raises(DeviceBusyError, match="zeqd0 is in use"):
                LinuxTun("zeqd0", queues)
        (link,) = json.loads(ip("-j -d link show zeqd0"))
        assert link["linkinfo"]["info_data"]["numqueues"] == 2


async def scenario_a_lasting_interface() -> None:
    """One that the administrator made is taken, with what its last user set put right."""
    ip("tuntap add dev zeqd0 mode tun")
    LinuxTun("zeqd0").close()
    with linux_tun(without=["vnet_hdr"]) as tun, host_socket() as host:
        host.sendto(b"out", ("198.18.0.2", 4001))
        assert [is_checksummed(packet) for packet in drained(tun.fds[0])] == [True]
    for queues in (1, 2):
        with pytest.raises(DeviceBusyError) if queues > 1 else nullcontext():
            LinuxTun("zeqd0", queues).close()


async def scenario_a_dying_node_is_waited_for() -> None:
    for queues in (1, 2):
        before = LinuxTun("zeqd0", queues)
        worker = holder(before.fds)
        before.close()
        started = time.monotonic()
        with pytest.raises(DeviceBusyError):
            open_tun("zeqd0", queues)
        assert 0.9 < time.monotonic() - started < 10

        def die(seconds: float, worker: subprocess.Popen[bytes] = worker) -> None:
            worker.communicate()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", die)  # that is, when it was refused once
            after = open_tun("zeqd0", queues)
        assert after.name == "zeqd0"
        after.close()


def holder(fds: list[int]) -> subprocess.Popen[bytes]:
    """A process that has these descriptors until its input ends."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=fds)


async def scenario_no_right() -> None:
    with pytest.raises(DevicePermissionError, match="zeqd0 needs CAP_NET_ADMIN: start zeqnode with sudo"):
        LinuxTun("zeqd0")


@pytest.mark.parametrize(
    "scenario",
    [
        scenario_packets_pass,
        scenario_offloads,
        scenario_queues,
        scenario_large_packet,
        scenario_bad_packets_are_counted,
        scenario_device_goes,
        scenario_names,
        scenario_the_queues_of_another_node_are_not_joined,
        scenario_a_lasting_interface,
        scenario_a_dying_node_is_waited_for,
    ],
    ids=lambda scenario: scenario.__name__.removeprefix("scenario_"),
)
def test_linux_tun(scenario: Callable[[], object]) -> None:
    in_namespace(scenario)


def test_without_cap_net_admin() -> None:
    in_namespace(scenario_no_right, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "tab\t", "x" * 16, "é" * 8])
def test_names_that_the_kernel_refuses(name: str) -> None:
    with pytest.raises(DeviceNameError, match=r"choose 1 to 15 letters"):
        LinuxTun(name)


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "TUN_PATH", tmp_path / "tun")
    with pytest.raises(DeviceMissingError, match="modprobe tun"):
        LinuxTun("zeqd0")


def test_closed_to_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "tun"
    path.touch(mode=0)
    monkeypatch.setattr(device, "TUN_PATH", path)
    user = os.geteuid()
    if user == 0:
        if not maps_uid(NOBODY):
            pytest.skip("a user namespace with one user: root, who may open anything of its own")
        os.seteuid(NOBODY)
    try:
        with pytest.raises(DevicePermissionError, match="closed to this user: start zeqnode as root"):
            LinuxTun("zeqd0")
    finally:
        os.seteuid(user)


def test_not_a_tun_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "tun"
    path.touch()
    monkeypatch.setattr(device, "TUN_PATH", path)
    with pytest.raises(DeviceError, match="zeqd0 cannot be made"):
        LinuxTun("zeqd0")


async def test_memory_tun_reads_what_was_injected() -> None:
    tun = MemoryTun()
    try:
        assert tun.read_batch() == []
        for number in range(5):
            tun.inject(bytes([0x45, number]))
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(tun)
            assert len(tun.read_batch(limit=3)) == 3
            await trio.lowlevel.wait_readable(tun)  # two wait still
        assert tun.read_batch() == [b"\x45\x03", b"\x45\x04"]
        assert tun.read_batch() == []
        with trio.move_on_after(0) as scope:
            await trio.lowlevel.wait_readable(tun)
        assert scope.cancelled_caught
    finally:
        tun.close()


async def test_memory_tun_wakes_its_reader() -> None:
    tun = MemoryTun()
    got: list[bytes] = []

    async def reader() -> None:
        await trio.lowlevel.wait_readable(tun)
        got.extend(tun.read_batch())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            tun.inject(V4)
    assert got == [V4]
    tun.close()


def test_memory_tun_takes_packets() -> None:
    answered: list[bytes] = []
    memory = MemoryTun(name="mem7", on_packet=answered.append)
    tun: Device = memory
    assert tun.name == "mem7"
    assert tun.write_batch([V4, bytearray(b"\x60abc"), b"", bytes(20), memoryview(V4)]) == 2
    assert memory.taken == answered == [V4, b"\x60abc", V4]
    tun.close()
    tun.close()
    for use in (memory.read_batch, lambda: tun.write_batch([V4]), lambda: memory.inject(V4)):
        with pytest.raises(DeviceGoneError, match="mem7 is closed"):
            use()


if __name__ == "__main__":
    trio.run(globals()[sys.argv[1]])
