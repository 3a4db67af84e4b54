"""The host's network settings, on a real kernel: each scenario runs in a network namespace of its own, in a
child started with this file, the scenario's name and a folder. `zeqn0` is a persistent TUN, so that what is
not undone can be seen; `lan0` is another interface."""

from __future__ import annotations

import inspect
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from ipaddress import IPv4Network, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tun import interfaces as module
from tun.device import LinuxTun
from tun.errors import (
    DeviceGoneError,
    JournalError,
    NetworkError,
    NetworkPermissionError,
    RouteConflictError,
)
from tun.journal import Journal
from tun.link import Limits
from tun.network import Network, local_addresses, undo_leftovers, watch_changes
from tun.sockets import SOL_UDP, UDP_SEGMENT

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = [ip_interface("198.18.0.1/16"), ip_interface("fd5a::1/32")]
ROUTES = [ip_network("10.77.0.0/16"), ip_network("fd77::/48")]
Scenario = Callable[[Path], Coroutine[Any, Any, None]]


def in_namespace(scenario: Scenario, folder: Path, *wrapper: str) -> None:
    """Runs a scenario of a test's file in a network namespace of its own, or skips and says why."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare(1)")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/net/tun, readable and writable")
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode:
        pytest.skip(f"`unshare {flags}` is not allowed here")
    result = subprocess.run(
        [
            *("unshare", flags, *wrapper),
            *(sys.executable, "-Werror", inspect.getfile(scenario), scenario.__name__, str(folder)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def ip(command: str) -> Any:
    done = subprocess.run(["ip", "-j", *command.split()], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "[]")


def batch(commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


def mtu_of(name: str) -> str:
    return Path(f"/sys/class/net/{name}/mtu").read_text()


def interfaces() -> None:
    ip("link set lo up")
    ip("tuntap add dev zeqn0 mode tun")
    ip("link add lan0 type veth peer name lan1")
    for name in ("lan0", "lan1"):
        sysctl(f"ipv6/conf/{name}/addr_gen_mode", 1)  # no link-local of their own
        ip(f"link set {name} up")
    sysctl("ipv6/conf/zeqn0/addr_gen_mode", 1)


def state(name: str) -> tuple[int, bool, set[str], set[str]]:
    """MTU, up, addresses, and routes that are not the kernel's own."""
    (link,) = ip(f"address show dev {name}")
    addresses = {f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]}
    routes = {
        entry["dst"]
        for family in ("-4", "-6")
        for entry in ip(f"{family} route show dev {name}")
        if entry.get("protocol") != "kernel"
    }
    return link["mtu"], "UP" in link["flags"], addresses, routes


BEFORE: tuple[int, bool, set[str], set[str]] = (1500, False, set(), set())
AFTER = (1280, True, set(map(str, ADDRESSES)), set(map(str, ROUTES)))


async def settle(network: Network) -> None:
    await network.configure(ADDRESSES, 1280)
    for route in ROUTES:
        await network.add_route(route)


async def scenario_set_and_undo(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    async with Network("zeqn0", journal) as network:
        assert not journal.exists()
        await settle(network)
        assert state("zeqn0") == AFTER
        assert journal.stat().st_mode & 0o777 == 0o600
        stored = json.loads(journal.read_bytes())
        assert [kind for kind, _ in stored["changes"]] == [
            "mtu",
            "limits",
            "up",
            "address",
            "address",
            "route",
            "route",
        ]
        # Again changes nothing.
        await settle(network)
        assert json.loads(journal.read_bytes()) == stored
    assert state("zeqn0") == BEFORE
    assert os.listdir(folder) == []
    await network.close()


def limits(name: str) -> Limits:
    (link,) = ip(f"-d link show dev {name}")
    return Limits(link["gso_max_size"], link["gso_max_segs"], link["txqlen"])


async def scenario_limits_of_super_packets(folder: Path) -> None:
    interfaces()
    before = limits("zeqn0")
    assert before.txqlen == 500
    async with Network("zeqn0", folder / "network.json") as network:
        assert await network.configure(ADDRESSES, 1280) == before._replace(txqlen=1000)
        wanted = Limits(60420, 64, 1000)
        for _ in range(2):
            assert await network.configure(ADDRESSES, 1280, 60420, 64) == wanted == limits("zeqn0")
        ip("link set zeqn0 txqueuelen 5000")  # somebody wants more
        assert await network.configure(ADDRESSES, 1280, 9000) == Limits(9000, 64, 5000) == limits("zeqn0")
    assert limits("zeqn0") == before


async def scenario_limits_that_the_kernel_does_not_take(folder: Path) -> None:
    interfaces()
    before = limits("zeqn0")
    async with Network("zeqn0", folder / "network.json") as network:
        found = await network.configure(ADDRESSES, 1280, 1 << 30, 64)
        assert found == (before.gso_max_size, 64, 1000) == limits("zeqn0")
    assert limits("zeqn0") == before


async def scenario_super_packets_keep_to_the_limits(folder: Path) -> None:
    """Of UDP, since what one send hands over is known; the limit of IPv4 is another one in the kernel."""
    tun = LinuxTun("zeqn1")
    if not tun.offloads.uso:
        print("this kernel has no USO: nothing to limit")
        return
    async with Network("zeqn1", folder / "network.json") as network:
        for size, segments, sent, largest in (
            (65536, 64, 40, 40_000),  # one super-packet
            (30_000, 64, 40, 1000),  # cut by the kernel
            (60_420, 16, 40, 1000),
        ):
            await network.configure(ADDRESSES, 1404, size, segments)
            for family, target in ((socket.AF_INET, "198.18.0.2"), (socket.AF_INET6, "fd5a::2")):
                drained(tun)
                with socket.socket(family, socket.SOCK_DGRAM) as host:
                    cut = [(SOL_UDP, UDP_SEGMENT, (1000).to_bytes(2, sys.byteorder))]
                    host.sendmsg([bytes(sent * 1000)], cut, 0, (target, 4000))
                head = 10 + (28 if family == socket.AF_INET else 48)
                bodies = [len(packet) - head for packet in drained(tun) if len(packet) > 900]
                assert bodies == [largest] * (sent * 1000 // largest), (size, segments, family)
    tun.close()


def drained(tun: LinuxTun) -> list[bytes]:
    packets = []
    with suppress(BlockingIOError):
        while True:
            packets.append(os.read(tun.fds[0], 1 << 17))
    return packets


async def scenario_our_routes_are_marked(folder: Path) -> None:
    interfaces()
    async with Network("zeqn0", folder / "network.json") as network:
        await settle(network)
        (v4,) = ip("-4 -d route show 10.77.0.0/16")
        (v6,) = ip("-6 -d route show fd77::/48")
        assert (v4["protocol"], v4["dev"], v4["scope"]) == ("90", "zeqn0", "link")
        assert (v6["protocol"], v6["dev"]) == ("90", "zeqn0")


async def scenario_changes_at_runtime(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    ip("address add 10.200.0.1/24 dev zeqn0")
    async with Network("zeqn0", journal) as network:
        await settle(network)
        await network.remove_route(ROUTES[0])
        await network.remove_route(ROUTES[0])
        await network.remove_route(ip_network("10.78.0.0/16"))
        assert state("zeqn0")[3] == {str(ROUTES[1])}
        ip("route del fd77::/48 dev zeqn0")  # somebody was quicker
        await network.remove_route(ROUTES[1])
        await network.configure([ip_interface("198.18.0.1/16"), ip_interface("fd5a::2/32")], 1400)
        assert state("zeqn0")[:3] == (1400, True, {"198.18.0.1/16", "fd5a::2/32", "10.200.0.1/24"})
    assert state("zeqn0") == (1500, False, {"10.200.0.1/24"}, set())
    assert not journal.exists()


async def scenario_many_at_once(folder: Path) -> None:
    interfaces()
    routes = [IPv4Network(f"10.77.{number}.0/24") for number in range(20)]
    async with Network("zeqn0", folder / "network.json") as network:
        await network.configure(ADDRESSES, 1280)
        async with trio.open_nursery() as nursery:
            for route in routes:
                nursery.start_soon(network.add_route, route)
        assert state("zeqn0")[3] == set(map(str, routes))
        async with trio.open_nursery() as nursery:
            for route in routes[:10]:
                nursery.start_soon(network.remove_route, route)
        assert state("zeqn0")[3] == set(map(str, routes[10:]))
    assert state("zeqn0") == BEFORE


async def scenario_conflicts(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    ip("address add 192.168.1.2/24 dev lan0 metric 100")
    ip("address add fd01::2/64 dev lan0 nodad")
    async with Network("zeqn0", journal) as network:
        await network.configure(ADDRESSES, 1280)
        before = journal.read_bytes()
        for text in ("192.168.1.0/24", "fd01::/64"):
            with pytest.raises(RouteConflictError, match=rf"has the route to {text} already"):
                await network.add_route(ip_network(text))
            await network.remove_route(ip_network(text))
        for text in ("0.0.0.0/0", "::/0"):
            with pytest.raises(RouteConflictError, match="tunnel's own datagrams"):
                await network.add_route(ip_network(text))
        await network.add_route(ip_network("192.168.0.0/16"))  # wider: the LAN's own route wins there
        await network.add_route(ip_network("fd01::/48"))
        await network.remove_route(ip_network("192.168.0.0/16"))
        await network.remove_route(ip_network("fd01::/48"))
        assert journal.read_bytes() == before
    assert [entry["dev"] for entry in ip("route show 192.168.1.0/24")] == ["lan0"]


async def scenario_bad_values(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    async with Network("zeqn0", journal) as network:
        with pytest.raises(NetworkError, match="refused setting the MTU to 20"):
            await network.configure(ADDRESSES, 20)
        assert state("zeqn0") == BEFORE
        assert json.loads(journal.read_bytes())["changes"] == []
        sysctl("ipv6/conf/all/disable_ipv6", 1)
        with pytest.raises(NetworkError, match=r"address fd5a::1/32: IPv6 is probably switched off"):
            await network.configure(ADDRESSES, 1280)
    assert state("zeqn0") == BEFORE


async def scenario_device_vanishes(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    async with Network("zeqn0", journal) as network:
        await settle(network)
        ip("tuntap del dev zeqn0 mode tun")
        with pytest.raises(DeviceGoneError, match="start the node again"):
            await network.add_route(ip_network("10.78.0.0/16"))
        with pytest.raises(DeviceGoneError, match="start the node again"):
            await network.configure(ADDRESSES, 1400)
    assert not journal.exists()
    async with Network("zeqn0", journal) as network:
        with pytest.raises(DeviceGoneError, match="no interface zeqn0"):
            await network.configure(ADDRESSES, 1280)


async def scenario_undone_when_cancelled(folder: Path) -> None:
    interfaces()
    with trio.CancelScope() as scope:
        async with Network("zeqn0", folder / "network.json") as network:
            await settle(network)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert state("zeqn0") == BEFORE


async def crash(folder: Path) -> None:
    async with Network("zeqn0", folder / "network.json") as network:
        await settle(network)
        os.kill(os.getpid(), signal.SIGKILL)


async def crash_with_own_tun(folder: Path) -> None:
    tun = LinuxTun("zeqn1")
    async with Network(tun.name, folder / "network.json") as network:
        await settle(network)
        os.kill(os.getpid(), signal.SIGKILL)


def run_and_crash(scenario: Scenario, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-Werror", __file__, scenario.__name__, str(folder)], timeout=30)
    assert done.returncode == -signal.SIGKILL


async def scenario_undone_after_a_crash(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    run_and_crash(crash, folder)
    assert state("zeqn0") == AFTER
    ip("route del 10.77.0.0/16 dev zeqn0")  # gone already: no error
    assert await undo_leftovers(journal) == [
        "zeqn0: route to fd77::/48 removed",
        "zeqn0: address fd5a::1/32 removed",
        "zeqn0: address 198.18.0.1/16 removed",
        "zeqn0: link set down",
        "zeqn0: largest super-packets and queue length set back to 65536 65535 500",
        "zeqn0: MTU set back to 1500",
    ]
    assert state("zeqn0") == BEFORE
    assert not journal.exists()
    assert await undo_leftovers(journal) == []


async def scenario_a_new_start_undoes_the_crash(folder: Path) -> None:
    interfaces()
    run_and_crash(crash, folder)
    async with Network("zeqn0", folder / "network.json"):
        assert state("zeqn0") == BEFORE


async def scenario_the_tun_died_with_its_process(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    run_and_crash(crash_with_own_tun, folder)
    with pytest.raises(OSError, match="no interface"):
        socket.if_nametoindex("zeqn1")
    # Another program has taken the name meanwhile, with the very same settings: they are its own.
    ip("tuntap add dev zeqn1 mode tun")
    ip("link set zeqn1 mtu 1280 up")
    ip("address add 198.18.0.1/16 dev zeqn1")
    ip("route add 10.77.0.0/16 dev zeqn1 proto 90")
    assert await undo_leftovers(journal) == []
    assert not journal.exists()
    assert state("zeqn1")[3] == {"10.77.0.0/16"}


async def scenario_crash_before_the_change(folder: Path) -> None:
    """The journal is written first, so it may name what never came to be."""
    interfaces()
    journal = Journal(folder / "network.json", "zeqn0", socket.if_nametoindex("zeqn0"))
    journal.add("address", "198.18.0.1/16")
    journal.add("route", "10.77.0.0/16")
    ip("link set zeqn0 up")
    ip("route add 10.77.0.0/16 dev zeqn0")  # not ours: another protocol number
    assert await undo_leftovers(folder / "network.json") == []
    assert state("zeqn0")[3] == {"10.77.0.0/16"}


async def scenario_disk_full(folder: Path) -> None:
    interfaces()
    journal = folder / "network.json"
    async with Network("zeqn0", journal) as network:
        await network.configure(ADDRESSES, 1280)
        before = journal.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
        with pytest.raises(JournalError, match="nothing was changed on the network: free space"):
            await network.add_route(ROUTES[0])
        await network.configure(ADDRESSES[:1], 1280)  # taking away needs no room
        assert state("zeqn0")[2] == {str(ADDRESSES[0])}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert journal.read_bytes() == before
        assert state("zeqn0")[3] == set()
        await network.add_route(ROUTES[0])
    assert state("zeqn0") == BEFORE


async def scenario_no_right(folder: Path) -> None:
    async with Network("lo", folder / "network.json") as network:
        with pytest.raises(NetworkPermissionError, match="start zeqnode with sudo"):
            await network.configure(ADDRESSES, 1280)


async def scenario_local_addresses(folder: Path) -> None:
    interfaces()
    ip("link set zeqn0 up")
    ip("address add 198.18.0.1/16 dev zeqn0")
    ip("link add lan2 type veth peer name lan3")
    for command in (
        "192.168.1.2/24 dev lan0",
        "192.168.1.3/24 dev lan0",  # secondary in the same network
        "169.254.3.3/16 dev lan0",
        "9.9.9.9 peer 9.9.9.8 dev lan1",
        "2a00::2/64 dev lan0 nodad",
        "2a00::3/64 dev lan0 nodad preferred_lft 0",  # deprecated
        "fd01::2/64 dev lan0 nodad",
        "fe80::2/64 dev lan0 nodad",
        "192.168.9.9/24 dev lan2",  # down
        "10.9.9.9/32 dev lo",
    ):
        ip(f"address add {command}")
    found = ["9.9.9.9", "2a00::2", "192.168.1.2", "192.168.1.3", "fd01::2"]
    assert await local_addresses({"zeqn0"}) == found
    assert await local_addresses({"zeqn0", "lan0"}) == ["9.9.9.9"]
    ip("link set lan2 up")  # its other end is down: no carrier
    assert await local_addresses({"zeqn0"}) == found
    tun = LinuxTun("zeqn1")
    ip("link set zeqn1 up")
    ip("address add 198.19.0.1/16 dev zeqn1")
    assert "198.19.0.1" in await local_addresses({"zeqn0"})
    tun.close()


async def scenario_watch(folder: Path) -> None:
    interfaces()
    sender, receiver = trio.open_memory_channel[None](1000)

    async def until(present: set[str], absent: set[str]) -> None:
        """Waits for calls until the addresses are as they must be; one event may show in two steps."""
        with trio.fail_after(10):
            await receiver.receive()
            while not present <= (now := set(await local_addresses({"zeqn0"}))) or now & absent:
                await receiver.receive()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch_changes, {"zeqn0"}, lambda: sender.send_nowait(None))
        ip("address add 192.168.1.2/24 dev lan0")
        await until({"192.168.1.2"}, set())
        assert receiver.statistics().current_buffer_used == 0
        ip("link set lan1 down")
        await until(set(), {"192.168.1.2"})
        ip("link set lan1 up")
        await until({"192.168.1.2"}, set())
        ip("address add 2a00::2/64 dev lan0 nodad")
        await until({"2a00::2"}, set())
        ip("address del 2a00::2/64 dev lan0")
        await until(set(), {"2a00::2"})
        ip("route add default via 192.168.1.1")
        await until(set(), set())
        ip("route replace default via 192.168.1.254")
        await until(set(), set())
        # More events than the socket's buffer holds, and more entries than one answer; the watcher goes on.
        batch("".join(f"route add 10.98.{n // 256}.{n % 256}/32 dev lan0\n" for n in range(3000)))
        batch("".join(f"address add 10.97.{n}.1/24 dev lan1\n" for n in range(250)))
        await until({f"10.97.{n}.1" for n in range(250)}, set())
        async with Network("zeqn0", folder / "network.json") as network:
            await network.configure(ADDRESSES, 1280)
            for n in (0, 2999):
                with pytest.raises(RouteConflictError):
                    await network.add_route(ip_network(f"10.98.{n // 256}.{n % 256}"))
        ip("address del 192.168.1.2/24 dev lan0")
        await until(set(), {"192.168.1.2"})
        nursery.cancel_scope.cancel()


async def scenario_what_counts_as_a_change(folder: Path) -> None:
    interfaces()
    seen = [module._usable_now({"zeqn0"})]
    for command in ("address add 192.168.1.2/24 dev lan0", "address add 2a00::2/64 dev lan0 nodad"):
        ip(command)
        seen.append(module._usable_now({"zeqn0"}))
    deadline = trio.current_time() + 10
    # The same address again, but perhaps in another network. (The kernel counts in hundredths of a second.)
    while (last := module._usable_now({"zeqn0"})) == seen[-1]:
        assert trio.current_time() < deadline
        batch("address del 2a00::2/64 dev lan0\naddress add 2a00::2/64 dev lan0 nodad\n")
    seen.append(last)
    # The carrier goes and comes back, as soon as the kernel's link watch gets to it.
    batch("link set lan1 down\nlink set lan1 up\n")
    while len(last := module._usable_now({"zeqn0"})) < 2 or last == seen[-1]:
        assert trio.current_time() < deadline
    seen.append(last)
    assert len(set(seen)) == len(seen)

    async with Network("zeqn0", folder / "network.json") as network:
        await settle(network)
        for command in (
            "address change 192.168.1.2/24 dev lan0 valid_lft 5000 preferred_lft 5000",  # DHCP renewed
            "address add fe80::5/64 dev lan0 nodad",
            "link set lan0 mtu 1400",
        ):
            ip(command)
            assert module._usable_now({"zeqn0"}) == seen[-1], command


async def scenario_which_routes_count(folder: Path) -> None:
    interfaces()
    batch("link set zeqn0 up\naddress add 192.168.1.2/24 dev lan0\naddress add 2a00::2/64 dev lan0 nodad\n")
    own = {"zeqn0"}
    with module._netlink_socket() as events:
        events.bind((0, module._EVENT_GROUPS))
        for command, counts in (
            ("route add default via 192.168.1.1", True),
            ("route replace default via 192.168.1.254", True),
            ("route del default", True),
            ("-6 route add default via 2a00::1", True),
            ("-6 route replace default nexthop via 2a00::1 dev lan0 nexthop via 2a00::3 dev lan0", True),
            ("route add default dev zeqn0 metric 5", False),
            ("-6 route add default dev zeqn0 metric 5", False),
            ("route add default dev lan0 table 77", False),
            ("route add unreachable default metric 99", False),
            ("route add 10.99.0.0/16 via 192.168.1.1", False),
            ("route add 0.0.0.0/1 dev lan0", False),
            ("address add 192.168.2.2/24 dev lan0", False),
        ):
            ip(command)
            assert module._drain(events, own) is counts, command
        batch("".join(f"route add 10.98.{n // 256}.{n % 256}/32 dev lan0\n" for n in range(3000)))
        assert module._drain(events, own)  # overflow: anything may have happened


@pytest.mark.parametrize(
    "scenario",
    [
        scenario_set_and_undo,
        scenario_limits_of_super_packets,
        scenario_limits_that_the_kernel_does_not_take,
        scenario_super_packets_keep_to_the_limits,
        scenario_our_routes_are_marked,
        scenario_changes_at_runtime,
        scenario_many_at_once,
        scenario_conflicts,
        scenario_bad_values,
        scenario_device_vanishes,
        scenario_undone_when_cancelled,
        scenario_undone_after_a_crash,
        scenario_a_new_start_undoes_the_crash,
        scenario_the_tun_died_with_its_process,
        scenario_crash_before_the_change,
        scenario_disk_full,
        scenario_local_addresses,
        scenario_watch,
        scenario_what_counts_as_a_change,
        scenario_which_routes_count,
    ],
    ids=lambda scenario: scenario.__name__.removeprefix("scenario_"),
)
def test_on_a_kernel(scenario: Scenario, tmp_path: Path) -> None:
    in_namespace(scenario, tmp_path)


def test_without_cap_net_admin(tmp_path: Path) -> None:
    in_namespace(scenario_no_right, tmp_path, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


def stored(path: Path, **changed: object) -> None:
    content: dict[str, object] = {
        "format": 1,
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "device": "lo",
        "index": socket.if_nametoindex("lo"),
        "changes": [["mtu", "1280"]],
    }
    path.write_text(json.dumps({**content, **changed}))


@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: b"\x40\0\0\0\x18\0" + tail))
def test_odd_kernel_messages_never_raise(messages: bytes) -> None:
    assert module.changes_default_route(messages, {0}) in (True, False)


async def test_a_restart_of_the_machine_has_undone_everything(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    before = mtu_of("lo")
    stored(path, boot="another")
    assert await undo_leftovers(path) == []
    assert not path.exists()
    assert mtu_of("lo") == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 2}', b"\xff\xfe", b'{"format": 1, "boot": ""}']
)
async def test_an_unreadable_journal_stays_and_says_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"network\.json.* then remove the file"):
        await undo_leftovers(path)
    assert path.read_bytes() == content


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    async with Network("lo", tmp_path / "none" / "network.json") as network:
        with pytest.raises(JournalError, match="cannot be written"):
            await network.configure([], 1280)
        with pytest.raises(JournalError, match="cannot be written"):
            await network.add_route(IPv4Network("10.77.0.0/16"))


async def test_no_journal_is_no_error(tmp_path: Path) -> None:
    assert await undo_leftovers(tmp_path / "network.json") == []


async def test_an_error_of_the_caller_passes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Network("lo", tmp_path / "network.json"):
            _ = 1 / 0


if __name__ == "__main__":
    trio.run(globals()[sys.argv[1]], Path(sys.argv[2]))
