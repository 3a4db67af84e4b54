"""The TUN devices. What needs a kernel runs as a scenario in a network namespace of its own: a child started
with this file and the scenario's name."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

from tests.rights import NOBODY, maps_uid
from tun import device
from tun.device import Device, LinuxTun, MemoryTun
from tun.errors import (
    DeviceBusyError,
    DeviceError,
    DeviceGoneError,
    DeviceMissingError,
    DeviceNameError,
    DevicePermissionError,
)

ROOT = Path(__file__).resolve().parents[2]
V4 = b"\x45\0\0\x14" + bytes(16)


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


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def udp4(src: str, dst: str, port: int, payload: bytes) -> bytes:
    total = 28 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, 64, 17, 0)
    head += IPv4Address(src).packed + IPv4Address(dst).packed
    head = head[:10] + (0xFFFF - int.from_bytes(head, "big") % 0xFFFF).to_bytes(2, "big") + head[12:]
    return head + struct.pack("!HHHH", 9, port, 8 + len(payload), 0) + payload


@contextmanager
def linux_tun() -> Iterator[LinuxTun]:
    tun = LinuxTun("zeqd0")
    try:
        # No IPv6: its router solicitations would come in between.
        Path("/proc/sys/net/ipv6/conf/zeqd0/disable_ipv6").write_text("1")
        ip("address add 198.18.0.1/16 dev zeqd0")
        ip("link set zeqd0 up")
        yield tun
    finally:
        tun.close()


async def scenario_packets_pass() -> None:
    with linux_tun() as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        assert not os.get_inheritable(tun.fileno())
        assert tun.read_batch() == []
        host.bind(("198.18.0.1", 4000))
        host.settimeout(10)
        for number in range(5):
            host.sendto(b"out %d" % number, ("198.18.0.2", 4001))
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(tun)
        first = tun.read_batch(limit=3)
        rest = tun.read_batch()
        assert [packet[28:] for packet in first + rest] == [b"out %d" % number for number in range(5)]
        assert len(first) == 3
        assert tun.read_batch() == []

        packets = [udp4("198.18.0.2", "198.18.0.1", 4000, b"in %d" % number) for number in range(3)]
        assert tun.write_batch([packets[0], bytearray(packets[1]), memoryview(packets[2])]) == 0
        assert [host.recv(100) for _ in range(3)] == [b"in 0", b"in 1", b"in 2"]


async def scenario_large_packet() -> None:
    with linux_tun() as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        ip("link set zeqd0 mtu 65535")
        host.bind(("198.18.0.1", 4000))
        host.sendto(bytes(65507), ("198.18.0.2", 4001))
        assert [len(packet) for packet in tun.read_batch()] == [65535]


async def scenario_bad_packets_are_counted() -> None:
    with linux_tun() as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("198.18.0.1", 4000))
        host.settimeout(10)
        good = udp4("198.18.0.2", "198.18.0.1", 4000, b"good")
        assert tun.write_batch([b"", good, bytes(40), b"\xff" * 40, good]) == 3
        assert host.recv(100) == host.recv(100) == b"good"
        ip("link set zeqd0 down")
        assert tun.write_batch([good, good]) == 2
        ip("link set zeqd0 up")
        assert tun.write_batch([good]) == 0


async def scenario_device_goes() -> None:
    with linux_tun() as tun:
        ip("link del zeqd0")
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(tun)
        for use in (tun.read_batch, lambda: tun.write_batch([V4])):
            with pytest.raises(DeviceGoneError, match=r"zeqd0 was removed .* start the node again"):
                use()
    for use in (tun.read_batch, lambda: tun.write_batch([V4])):
        with pytest.raises(DeviceGoneError):
            use()


async def scenario_names() -> None:
    with linux_tun() as tun:
        assert tun.name == "zeqd0"
        for taken in ("zeqd0", "lo"):
            with pytest.raises(DeviceBusyError, match=rf"{taken} is in use, .* choose another name"):
                LinuxTun(taken)
    again = LinuxTun("zeqd0")  # closed above, so free
    numbered = LinuxTun("zeqd%d")
    assert (again.name, numbered.name) == ("zeqd0", "zeqd1")
    longest = LinuxTun("a" * device.NAME_BYTES)
    assert longest.name == "a" * 15
    for tun in (again, numbered, longest):
        tun.close()


async def scenario_no_right() -> None:
    with pytest.raises(DevicePermissionError, match="zeqd0 needs CAP_NET_ADMIN: start zeqnode with sudo"):
        LinuxTun("zeqd0")


@pytest.mark.parametrize(
    "scenario",
    [
        scenario_packets_pass,
        scenario_large_packet,
        scenario_bad_packets_are_counted,
        scenario_device_goes,
        scenario_names,
    ],
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
    tun: Device
    tun = memory = MemoryTun()
    try:
        assert tun.read_batch() == []
        for number in range(5):
            memory.inject(bytes([0x45, number]))
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
    tun = MemoryTun(name="mem7", on_packet=answered.append)
    assert tun.name == "mem7"
    assert tun.write_batch([V4, bytearray(b"\x60abc"), b"", bytes(20), memoryview(V4)]) == 2
    assert tun.taken == answered == [V4, b"\x60abc", V4]
    tun.close()
    tun.close()
    for use in (tun.read_batch, lambda: tun.write_batch([V4]), lambda: tun.inject(V4)):
        with pytest.raises(DeviceGoneError, match="mem7 is closed"):
            use()


if __name__ == "__main__":
    trio.run(globals()[sys.argv[1]])
