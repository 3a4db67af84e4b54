"""The filter for guests on a real kernel: each scenario in a network namespace of its own, in a child started
with this file, the scenario's name and a folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.tun.test_device import udp4
from tests.tun.test_network import in_namespace, ip, sysctl
from tun import nft
from tun.device import LinuxTun
from tun.errors import FilterError, FilterMissingError
from tun.guests import Guests
from tun.network import Network, undo_leftovers

A, B = b"a" * 32, b"b" * 32
A4, A6, B4 = map(ip_address, ("198.18.0.5", "fd5a::5", "198.18.0.6"))
TABLE = "zeqnode_zeqn0"


def tables() -> list[str]:
    done = subprocess.run(["nft", "-j", "list", "tables"], check=True, capture_output=True, text=True)
    return [each["table"]["name"] for each in json.loads(done.stdout)["nftables"] if "table" in each]


def listed(name: str) -> list[Any]:
    command = ["nft", "-j", "list", "set", "inet", TABLE, name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[Any] = json.loads(done.stdout)["nftables"][1]["set"].get("elem", [])
    return found


def changes(folder: Path) -> list[list[str]]:
    found: list[list[str]] = json.loads((folder / "network.json").read_bytes())["changes"]
    return found


@asynccontextmanager
async def tun_and_guests(folder: Path, ports: tuple[int, ...] = ()) -> AsyncIterator[tuple[LinuxTun, Guests]]:
    tun = LinuxTun("zeqn0")
    try:
        async with Network("zeqn0", folder / "network.json") as network:
            ip("link set lo up")
            ip("link set zeqn0 up")
            ip("address add 198.18.0.1/16 dev zeqn0")
            guests = Guests(network, ports)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guests.run)
                yield tun, guests
                nursery.cancel_scope.cancel()
    finally:
        tun.close()


async def scenario_guests_come_and_go(folder: Path) -> None:
    async with tun_and_guests(folder, (53, 8000)) as (_, guests):
        assert await guests.check() == ""
        await guests.open_ports((53, 8000))
        await guests.remove(A)
        assert tables() == [], "a look changes nothing, nor does what is for nobody"
        await guests.add(A, A6, A4)
        assert tables() == [TABLE]
        assert (listed("guests4"), listed("guests6"), listed("ports")) == ([str(A4)], [str(A6)], [53, 8000])
        assert ["guests", TABLE] in changes(folder)
        await guests.add(B, B4)
        await guests.open_ports([22])
        assert (listed("guests4"), listed("ports")) == ([str(A4), str(B4)], [22])
        await guests.remove(A)
        await guests.remove(A)
        assert (listed("guests4"), listed("guests6")) == ([str(B4)], [])
        await guests.remove(B)
        assert (tables(), changes(folder)) == ([], [])
        await guests.add(A, A4)
    assert tables() == []
    assert os.listdir(folder) == []


async def crash(folder: Path) -> None:
    async with tun_and_guests(folder) as (_, guests):
        await guests.add(A, A4)
        os.kill(os.getpid(), signal.SIGKILL)


def run_and_crash(folder: Path) -> None:
    words = [sys.executable, "-Werror", __file__, crash.__name__, str(folder)]
    assert subprocess.run(words, timeout=30).returncode == -signal.SIGKILL


def tracked() -> int:
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def by_hand(command: str) -> None:
    subprocess.run(["nft", command], check=True)


async def scenario_a_crash_leaves_it_closed(folder: Path) -> None:
    run_and_crash(folder)
    by_hand("add table inet zeqnode_zeqn1")
    assert "zeqn0" not in [each["ifname"] for each in ip("link show")]
    assert sorted(tables()) == [TABLE, "zeqnode_zeqn1"]
    lines = await undo_leftovers(folder / "network.json")
    assert lines == [f"filter for guests removed: table inet {TABLE}"]
    assert tables() == ["zeqnode_zeqn1"], "another node's"
    assert os.listdir(folder) == []


async def scenario_what_others_remove_is_put_back(folder: Path) -> None:
    async with tun_and_guests(folder) as (_, guests):
        seen, receiver = trio.open_memory_channel[bool](100)
        guests.changed = lambda: seen.send_nowait(guests.holds)
        await guests.add(A, A4)
        for command in (
            "flush ruleset",
            f"delete table inet {TABLE}",
            f"flush chain inet {TABLE} input",
            f"delete element inet {TABLE} guests4 {{ {A4} }}",
            f"add element inet {TABLE} ports {{ 22 }}",
        ):
            by_hand(command)
            with trio.fail_after(10):
                assert [await receiver.receive(), await receiver.receive()] == [False, True], command
            assert (listed("guests4"), listed("ports")) == ([str(A4)], [])
        by_hand("add table inet others")
        await guests.add(B, B4)
        await guests.remove(A)
        assert receiver.statistics().current_buffer_used == 0, "what we and others do is no alarm"


async def scenario_what_cannot_be_put_back_is_tried_again(folder: Path) -> None:
    async with tun_and_guests(folder) as (_, guests):
        seen, receiver = trio.open_memory_channel[bool](100)
        guests.changed = lambda: seen.send_nowait(guests.holds)
        await guests.add(A, A4)
        hide_nft()
        await guests.open_ports([22])
        assert await receiver.receive() is False
        assert not guests.holds
        assert "install nftables" in guests.why
        with pytest.raises(FilterMissingError):
            await guests.add(B, B4)
        show_nft()
        with trio.fail_after(10):
            assert await receiver.receive() is True
        assert (guests.why, listed("ports"), listed("guests4")) == ("", [22], [str(A4)])


def hide_nft() -> None:
    os.environ["PATH"] = vars(nft)["_SBIN"] = "/nowhere"


def show_nft() -> None:
    os.environ["PATH"], vars(nft)["_SBIN"] = PATH, SBIN


PATH, SBIN = os.environ.get("PATH", os.defpath), nft._SBIN


async def scenario_without_nft(folder: Path) -> None:
    hide_nft()
    async with tun_and_guests_without_ip(folder) as guests:
        assert "sudo apt install nftables" in await guests.check()
        with pytest.raises(FilterMissingError, match="sudo apt install nftables"):
            await guests.add(A, A4)
        assert changes(folder) == []
        show_nft()
        assert "sudo apt install nftables" in await guests.check(), "it asks not more often than it should"
        await guests.add(A, A4)
        assert guests.why == ""
        hide_nft()
    assert os.listdir(folder) == []
    show_nft()
    assert tables() == [TABLE], "closed, as nothing can open it"


@asynccontextmanager
async def tun_and_guests_without_ip(folder: Path) -> AsyncIterator[Guests]:
    tun = LinuxTun("zeqn0")
    async with Network("zeqn0", folder / "network.json") as network:
        yield Guests(network, ())
    tun.close()


async def scenario_refused(folder: Path) -> None:
    guests = Guests(Network("lo", folder / "network.json"), ())
    assert "CAP_NET_ADMIN" in await guests.check()
    with pytest.raises(FilterError, match="CAP_NET_ADMIN"):
        await guests.add(A, A4)


async def scenario_nothing_of_a_guest_is_forwarded(folder: Path) -> None:
    """And an ICMP error about a packet of ours gets to it."""
    async with tun_and_guests(folder, (9,)) as (tun, guests):
        ip("link add lan0 type veth peer name lan1")
        for name in ("lan0", "lan1"):
            ip(f"link set {name} up")
        ip("address add 10.9.0.1/24 dev lan0")
        ip("neighbour add 10.9.0.2 dev lan0 lladdr 02:00:00:00:00:02")
        sysctl("ipv4/ip_forward", 1)
        await guests.add(A, A4)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008) as wire:  # ETH_P_IP, in network order
            wire.bind(("lan1", 0x0800))
            wire.settimeout(5)
            for source in (str(A4), str(B4)):
                tun.write_batch([udp4(source, "10.9.0.2", 9, source.encode())])
            assert wire.recv(2000)[28:] == str(B4).encode(), "only who is no guest"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect((str(A4), 9))
            sock.send(b"to a closed port")
            tun.write_batch([unreachable(str(A4), "198.18.0.1", sent(tun, A4.packed))])
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)


async def scenario_guests_do_not_fill_the_list_of_connections(folder: Path) -> None:
    async with tun_and_guests(folder, (8000,)) as (tun, guests):
        await guests.add(A, A4)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("198.18.0.1", 8000))
            sock.settimeout(5)
            for number in range(1, 301):
                packet = bytearray(udp4(str(A4), "198.18.0.1", 8000, b"asked"))
                packet[20:22] = number.to_bytes(2, "big")  # the source port
                tun.write_batch([packet])
                data, asker = sock.recvfrom(100)
                assert asker == (str(A4), number)
                sock.sendto(data, asker)
        assert tracked() < 10


def sent(tun: LinuxTun, destination: bytes) -> bytes:
    """The next packet that our host sends to there, without the virtio header; others are passed over."""
    while True:
        packet = os.read(tun.fds[0], 1 << 16)[10:]
        if packet[0] >> 4 == 4 and packet[16:20] == destination:
            return packet


def unreachable(source: str, destination: str, quoted: bytes) -> bytes:
    """ICMP port unreachable."""
    body = bytearray(b"\x03\x03\0\0\0\0\0\0" + quoted[:28])
    body[2:4] = checksum(body)
    head = bytearray(b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + b"\0\0\0\0\x40\x01\0\0")
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    head[10:12] = checksum(head)
    return bytes(head + body)


def checksum(data: bytes | bytearray) -> bytes:
    """Of an even number of bytes, RFC 1071."""
    return (0xFFFF - int.from_bytes(data, "big") % 0xFFFF).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("scenario", "wrapper"),
    [
        (scenario_guests_come_and_go, ()),
        (scenario_a_crash_leaves_it_closed, ()),
        (scenario_what_others_remove_is_put_back, ()),
        (scenario_what_cannot_be_put_back_is_tried_again, ()),
        (scenario_without_nft, ()),
        (scenario_refused, ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")),
        (scenario_nothing_of_a_guest_is_forwarded, ()),
        (scenario_guests_do_not_fill_the_list_of_connections, ()),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_on_a_real_kernel(scenario: Any, wrapper: tuple[str, ...], tmp_path: Path) -> None:
    in_namespace(scenario, tmp_path, *wrapper)


if __name__ == "__main__":
    trio.run(globals()[sys.argv[1]], Path(sys.argv[2]))
