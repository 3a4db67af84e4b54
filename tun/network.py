"""The host's side of the TUN: addresses, MTU, routes, undone on exit or, after a crash, at the next start;
and what the host's other interfaces are doing.

pyroute2 is called in a worker thread, with one socket per call. It ignores keywords that it does not know,
so every change is read back. Before each change the journal, a file in the state folder, says what to undo:

    {"format": 1, "boot": boot id, "device": "zeq0", "index": 7,
     "changes": [["mtu", "1500"], ["up", ""], ["address", "198.18.0.1/16"], ["route", "10.1.0.0/16"]]}

A TUN that dies with its process takes all of this along, and its index is never given again, so leftovers
are undone only on the same interface of the same boot: a persistent TUN.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import trio
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tun.errors import (
    DeviceGoneError,
    JournalError,
    NetworkError,
    NetworkPermissionError,
    RouteConflictError,
)

IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network

CLOSE_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 0.1

# linux/rtnetlink.h, linux/if.h, linux/if_addr.h
ROUTE_PROTOCOL: Final = 90  # marks our routes; `ip route` shows "proto 90"
_MAIN_TABLE: Final = 254
_SCOPE_LINK: Final = 253
_SCOPE_GLOBAL: Final = 0
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_IFF_WANTED: Final = _IFF_UP | _IFF_RUNNING | 0x8  # LOOPBACK, which is not
_IFA_TEMPORARY: Final = 0x01
_IFA_UNUSABLE: Final = 0x08 | 0x20 | 0x40  # DADFAILED, DEPRECATED, TENTATIVE
_EVENT_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # LINK, IPV4_IFADDR, _ROUTE, IPV6_IFADDR, _ROUTE
_ROUTE_EVENTS: Final = (24, 25)  # RTM_NEWROUTE, RTM_DELROUTE
_UNICAST: Final = 1
_RTA_OIF: Final = 4
_MESSAGE_HEAD: Final = 16
_ROUTE_HEAD: Final = struct.Struct("=IH10x xB2xB2xB4x")  # length, type; prefix length, table, kind of route
_ATTRIBUTE: Final = struct.Struct("=HHI")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_UNDONE: Final = {
    "route": "route to {} removed",
    "address": "address {} removed",
    "mtu": "MTU set back to {}",
    "up": "link set down",
}
_ALREADY_GONE: Final = frozenset({errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENOENT})


class Journal:
    """The file that says what to undo. Blocking; every `add` is on the disk when it returns.

    Raises JournalError.
    """

    def __init__(self, path: Path, device: str, index: int) -> None:
        self._path = path
        self.device = device
        self.index = index
        self.changes: list[tuple[str, str]] = []

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal at `path`; None when there is none or the machine was restarted since."""
        try:
            stored = json.loads(path.read_bytes())
            if stored["format"] != 1:
                raise ValueError("unknown format")
            journal = cls(path, stored["device"], stored["index"])
            journal.changes = [(kind, value) for kind, value in stored["changes"]]
            return journal if stored["boot"] == _boot_id() else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise JournalError(
                f"{path}, which says what network settings to undo, cannot be read ({error}):"
                " look at `ip address` and `ip route` for leftovers of zeqnode, then remove the file."
            ) from error

    def add(self, kind: str, value: str) -> None:
        self.changes.append((kind, value))
        try:
            self._write()
        except JournalError:
            self.changes.pop()
            raise

    def drop(self, kind: str, value: str) -> None:
        """Strikes a change out. Never raises: undoing what is not there is harmless."""
        self.changes.remove((kind, value))
        with suppress(JournalError):
            self._write()

    def _write(self) -> None:
        content = {
            "format": 1,
            "boot": _boot_id(),
            "device": self.device,
            "index": self.index,
            "changes": self.changes,
        }
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            with open(fresh, "wb", opener=_private) as file:
                file.write(json.dumps(content).encode())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise JournalError(
                f"{self._path} cannot be written ({error.strerror}), so nothing was changed on the network:"
                " free space there or give zeqnode the right to write."
            ) from error


class Network:
    """Addresses, MTU and routes of one TUN; an async context manager that undoes them at its end.

    Methods raise NetworkError, JournalError or DeviceGoneError; a method that raises has changed nothing
    that `close` or the journal would not undo.
    """

    def __init__(self, device_name: str, journal: Path) -> None:
        self._device = device_name
        self._path = journal
        self._journal: Journal | None = None
        self._lock = trio.Lock()

    async def __aenter__(self) -> Network:
        await undo_leftovers(self._path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def configure(self, addresses: Sequence[IPInterface], mtu: int) -> None:
        """Sets the MTU in bytes, brings the link up, and makes `addresses` the ones that we have on it.

        Addresses that somebody else put there stay. Can be called again.
        """
        await self._run(lambda: self._configure(addresses, mtu))

    async def add_route(self, network: IPNetwork) -> None:
        """Routes `network` to the TUN; nothing happens when we already do. Raises RouteConflictError also."""
        await self._run(lambda: self._add_route(network))

    async def remove_route(self, network: IPNetwork) -> None:
        """Removes a route that we made; none is no error."""
        await self._run(lambda: self._remove_route(network))

    async def close(self) -> None:
        """Undoes everything, within CLOSE_SECONDS even when cancelled; the next start undoes the rest."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
            async with self._lock:
                await trio.to_thread.run_sync(_undo, self._path, abandon_on_cancel=True)
                self._journal = None
        if scope.cancelled_caught:
            raise NetworkError(
                f"Putting the network back took over {CLOSE_SECONDS:.0f} s and was given up:"
                " the next start of zeqnode does it."
            )

    async def _run(self, change: Callable[[], None]) -> None:
        async with self._lock:
            await trio.to_thread.run_sync(change)

    def _open_journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._path, self._device, _index_of(self._device))
        return self._journal

    def _configure(self, addresses: Sequence[IPInterface], mtu: int) -> None:
        with _netlink() as ip:
            journal = self._open_journal()
            index = journal.index
            old_mtu, up = _link(ip, index, self._device)
            if old_mtu != mtu:
                with _journaled(journal, "mtu", str(old_mtu)), _explained(f"setting the MTU to {mtu}"):
                    ip.link("set", index=index, mtu=mtu)
            if not up:
                with _journaled(journal, "up", ""), _explained(f"bringing {self._device} up"):
                    ip.link("set", index=index, state="up")
            if _link(ip, index, self._device) != (mtu, True):
                raise NetworkError(
                    f"{self._device} did not take MTU {mtu} and state up: see the kernel's log."
                )
            self._set_addresses(ip, journal, addresses)

    def _set_addresses(self, ip: Any, journal: Journal, addresses: Sequence[IPInterface]) -> None:
        wanted = {str(address) for address in addresses}
        for kind, value in list(journal.changes):
            if kind == "address" and value not in wanted:
                _undo_one(ip, journal, kind, value)
                journal.drop(kind, value)
        present = _addresses(ip, journal.index)
        for address in addresses:
            if address not in present:
                with _journaled(journal, "address", str(address)), _explained(f"the address {address}"):
                    ip.addr(
                        "add",
                        index=journal.index,
                        address=str(address.ip),
                        prefixlen=address.network.prefixlen,
                    )
        if not set(addresses) <= _addresses(ip, journal.index):
            raise NetworkError(f"{self._device} did not keep its addresses: does another program manage it?")

    def _add_route(self, network: IPNetwork) -> None:
        if network.prefixlen == 0:
            raise RouteConflictError(
                f"A route for everything ({network}) would also catch the tunnel's own datagrams:"
                " give the peer the networks that it is for."
            )
        with _netlink() as ip:
            journal = self._open_journal()
            if ("route", str(network)) in journal.changes:
                return
            # Whatever its metric: the network that we stand in must not be drawn into the tunnel.
            if _routers(ip, network) - {journal.index}:
                raise _taken(f"the route to {network}")
            with _journaled(journal, "route", str(network)), _explained(f"the route to {network}"):
                ip.route("add", **_route(network, journal.index))
            if journal.index not in _routers(ip, network):
                raise NetworkError(f"The kernel did not keep the route to {network}: see its log.")

    def _remove_route(self, network: IPNetwork) -> None:
        journal = self._journal
        if journal is None or ("route", str(network)) not in journal.changes:
            return
        with _netlink() as ip:
            _undo_one(ip, journal, "route", str(network))
        journal.drop("route", str(network))


async def undo_leftovers(journal: Path) -> list[str]:
    """Undoes what a crashed run left behind and removes its journal; returns a line per thing undone.

    Raises JournalError for an unreadable journal, NetworkError when the kernel refuses (the journal stays).
    """
    return await trio.to_thread.run_sync(_undo, journal)


async def local_addresses(exclude: Collection[str]) -> list[str]:
    """Addresses under which others may reach this machine, global ones first, then private ones.

    Of interfaces that are up and have a carrier, without `exclude`; no loopback, link-local, tentative,
    deprecated or temporary (RFC 8981) addresses. Raises NetworkError.
    """

    def read() -> list[str]:
        found = {usable.address for usable in _usable_now(exclude) if not usable.temporary}
        ordered = sorted(found, key=lambda address: (not address.is_global, address.version, int(address)))
        return [str(address) for address in ordered]

    return await trio.to_thread.run_sync(read)


async def watch_changes(
    exclude: Collection[str],
    changed: Callable[[], object],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Calls `changed()` when the host's usable addresses, their carrier or a default route changed; for ever.

    Interfaces in `exclude` (our TUN) do not count, nor do refreshed lifetimes. Changes within SETTLE_SECONDS
    are one. Ready (`nursery.start`) when every later change will be seen. Raises NetworkError.
    """
    with _netlink_socket() as events:
        events.bind((0, _EVENT_GROUPS))
        before = await trio.to_thread.run_sync(_usable_now, exclude)
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(events)
            await trio.sleep(SETTLE_SECONDS)
            rerouted = _drain(events, exclude)
            now = await trio.to_thread.run_sync(_usable_now, exclude)
            if rerouted or now != before:
                before = now
                changed()


def _netlink_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError as error:
        raise NetworkError(
            f"The kernel does not report network changes to zeqnode ({error.strerror}): allow AF_NETLINK"
            " in the service's RestrictAddressFamilies."
        ) from error


def _drain(events: socket.socket, exclude: Collection[str]) -> bool:
    """Takes all waiting events; whether a default route changed, or events were lost."""
    own = {index for index, name in socket.if_nameindex() if name in exclude}
    rerouted = False
    while True:
        try:
            rerouted |= changes_default_route(events.recv(65536), own)
        except BlockingIOError:
            return rerouted
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            rerouted = True


def changes_default_route(messages: bytes, own: Collection[int]) -> bool:
    """Whether netlink messages tell of a default route in the main table, not through the interfaces `own`.

    Only the fixed heads are read, as a router's table may change thousands of times a second:
    nlmsghdr (16 bytes: length, type, …), rtmsg (12 bytes), then attributes (length, type, value, padding).
    """
    while len(messages) >= _ROUTE_HEAD.size:
        length, kind, prefixlen, table, target = _ROUTE_HEAD.unpack_from(messages)
        if length < _MESSAGE_HEAD:
            break
        default = kind in _ROUTE_EVENTS and (prefixlen, table, target) == (0, _MAIN_TABLE, _UNICAST)
        if default and _outgoing(messages[_ROUTE_HEAD.size : length]) not in own:
            return True
        messages = messages[(length + 3) & ~3 :]
    return False


def _outgoing(attributes: bytes) -> int:
    """The interface index among a route's attributes; 0 for several next hops."""
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind, value = _ATTRIBUTE.unpack_from(attributes)
        if kind == _RTA_OIF:
            return int(value)
        attributes = attributes[max(4, (length + 3) & ~3) :]
    return 0


class _Usable(NamedTuple):
    """An address that others may reach; `since` and `carrier_changes` tell a new one from the same again."""

    interface: int
    carrier_changes: int
    address: IPv4Address | IPv6Address
    temporary: bool
    since: int


def _usable(ip: Any, exclude: Collection[str]) -> list[_Usable]:
    carrier: dict[int, int] = {
        link["index"]: link.get("IFLA_CARRIER_CHANGES") or 0
        for link in ip.get_links()
        if link["flags"] & _IFF_WANTED == _IFF_UP | _IFF_RUNNING and link.get("IFLA_IFNAME") not in exclude
    }
    found = []
    for message in ip.get_addr():
        flags = message.get("IFA_FLAGS") or message["flags"]
        address = ip_address(message.get("IFA_LOCAL") or message.get("IFA_ADDRESS"))
        index = message["index"]
        if index not in carrier or flags & _IFA_UNUSABLE or address.is_link_local or address.is_loopback:
            continue
        since = message.get("IFA_CACHEINFO")["cstamp"]
        # The flag means "secondary" in IPv4.
        temporary = address.version == 6 and bool(flags & _IFA_TEMPORARY)
        found.append(_Usable(index, carrier[index], address, temporary, since))
    return found


def _usable_now(exclude: Collection[str]) -> frozenset[_Usable]:
    with _netlink() as ip:
        return frozenset(_usable(ip, exclude))


@contextmanager
def _netlink() -> Iterator[Any]:
    try:
        with IPRoute() as ip:
            yield ip
    except (NetlinkError, OSError) as error:
        raise _explain(error, "talking to the kernel") from error


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise _explain(error, what) from error


@contextmanager
def _journaled(journal: Journal, kind: str, value: str) -> Iterator[None]:
    """Writes down how to undo the change in its body, before it; strikes it out when the body fails."""
    journal.add(kind, value)
    try:
        yield
    except BaseException:
        journal.drop(kind, value)
        raise


def _explain(error: NetlinkError | OSError, what: str) -> NetworkError | DeviceGoneError:
    code = error.code if isinstance(error, NetlinkError) else error.errno
    if code == errno.EPERM:
        return NetworkPermissionError(
            f"The kernel refused {what}: start zeqnode with sudo, or as a systemd service with"
            " AmbientCapabilities=CAP_NET_ADMIN."
        )
    if code == errno.EEXIST:
        return _taken(what)
    if code in (errno.ENODEV, errno.ENETDOWN, errno.ENXIO):
        return DeviceGoneError(
            f"The kernel refused {what}: the TUN interface is gone or down; start the node again."
        )
    if code in (errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return NetworkError(
            f"The kernel refused {what}: IPv6 is probably switched off here; allow it with"
            " `sudo sysctl net.ipv6.conf.all.disable_ipv6=0`."
        )
    return NetworkError(
        f"The kernel refused {what} ({os.strerror(code or 0)}): check the value in the configuration."
    )


def _taken(what: str) -> RouteConflictError:
    return RouteConflictError(
        f"This machine has {what} already, through another interface: look at `ip route`, and remove that one"
        " or leave the network out of the peer's allowed IPs."
    )


def _undo(path: Path) -> list[str]:
    undone = []
    journal = Journal.read(path)
    if journal is not None and _is_same_interface(journal):
        with _netlink() as ip:
            for kind, value in reversed(journal.changes):
                if _undo_one(ip, journal, kind, value):
                    undone.append(f"{journal.device}: {_UNDONE[kind].format(value)}")
    path.unlink(missing_ok=True)
    return undone


def _undo_one(ip: Any, journal: Journal, kind: str, value: str) -> bool:
    """Takes one change back; False when it is gone already."""
    try:
        with _explained(f"undoing {kind} {value}".rstrip()):
            if kind == "route":
                ip.route("del", **_route(ip_network(value), journal.index))
            elif kind == "address":
                interface = ip_interface(value)
                prefixlen = interface.network.prefixlen
                ip.addr("delete", index=journal.index, address=str(interface.ip), prefixlen=prefixlen)
            elif kind == "mtu":
                ip.link("set", index=journal.index, mtu=int(value))
            elif kind == "up":
                ip.link("set", index=journal.index, state="down")
    except (NetworkError, DeviceGoneError) as error:
        if isinstance(error.__cause__, NetlinkError) and error.__cause__.code in _ALREADY_GONE:
            return False
        raise
    return True


def _is_same_interface(journal: Journal) -> bool:
    try:
        return socket.if_nametoindex(journal.device) == journal.index
    except OSError:
        return False


def _index_of(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError as error:
        raise DeviceGoneError(f"There is no interface {device} any more: start the node again.") from error


def _link(ip: Any, index: int, device: str) -> tuple[int, bool]:
    """(MTU in bytes, up)"""
    with _explained(f"reading the state of {device}"):
        (message,) = ip.link("get", index=index)
    return message.get("IFLA_MTU"), bool(message["flags"] & _IFF_UP)


def _addresses(ip: Any, index: int) -> set[IPInterface]:
    return {
        ip_interface((message.get("IFA_LOCAL") or message.get("IFA_ADDRESS"), message["prefixlen"]))
        for message in ip.get_addr(index=index)
        if message["index"] == index
    }


def _route(network: IPNetwork, index: int) -> dict[str, object]:
    return {
        "dst": str(network),
        "oif": index,
        "family": socket.AF_INET if network.version == 4 else socket.AF_INET6,
        "table": _MAIN_TABLE,
        "proto": ROUTE_PROTOCOL,
        "scope": _SCOPE_LINK if network.version == 4 else _SCOPE_GLOBAL,
    }


def _routers(ip: Any, network: IPNetwork) -> set[int]:
    """Indices of the interfaces that the main table routes exactly this network to."""
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return {
        message.get("RTA_OIF") or 0
        for message in ip.get_routes(family=family, table=_MAIN_TABLE)
        if message["dst_len"] == network.prefixlen
        and ip_address(message.get("RTA_DST") or 0) == network.network_address
    }


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
