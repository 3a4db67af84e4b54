"""The host's side of the TUN, undone on exit or, after a crash, at the next start.

pyroute2 is called in a worker thread, with one socket per call. It ignores keywords that it does not know,
so every change is read back. The journal says, before each change, what to undo.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Sequence
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

import trio
from pyroute2.netlink.exceptions import NetlinkError

from tun import nft
from tun.errors import DeviceGoneError, FilterMissingError, NetworkError, RouteConflictError
from tun.guest_rules import IPAddress
from tun.interfaces import local_addresses, watch_changes
from tun.journal import Journal, journaled
from tun.link import Limits, limits_of, mtu_and_up, set_limits
from tun.netlink import explained, netlink, taken

__all__ = ["Network", "local_addresses", "undo_leftovers", "watch_changes"]

IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network
_T = TypeVar("_T")

CLOSE_SECONDS: Final = 2.0
QUEUE_PACKETS: Final = 1000  # as a network card's; a TUN's own are 500

# linux/rtnetlink.h, linux/if.h
ROUTE_PROTOCOL: Final = 90  # marks our routes; `ip route` shows "proto 90"
_MAIN_TABLE: Final = 254
_SCOPE_LINK: Final = 253
_SCOPE_GLOBAL: Final = 0

_UNDONE: Final = {
    "route": "route to {} removed",
    "address": "address {} removed",
    "mtu": "MTU set back to {}",
    "limits": "largest super-packets and queue length set back to {}",
    "up": "link set down",
}
_ALREADY_GONE: Final = frozenset({errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENOENT})


class Network:
    """Addresses, MTU, limits and routes of one TUN; an async context manager that undoes them at its end.

    Methods raise NetworkError, JournalError or DeviceGoneError; a method that raises has changed nothing
    that `close` or the journal would not undo.
    """

    def __init__(self, device_name: str, journal: Path) -> None:
        self.device = device_name
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

    async def configure(
        self, addresses: Sequence[IPInterface], mtu: int, gso_max_size: int = 0, gso_max_segs: int = 0
    ) -> Limits:
        """Sets the MTU in bytes, brings the link up, and makes `addresses` the ones that we have on it.

        Addresses that somebody else put there stay. `gso_max_size` in bytes, up to 65,536, and `gso_max_segs`
        bound the super-packets that the kernel hands over; 0 leaves them. A kernel that does not take those
        keeps what is returned. Can be called again.
        """
        return await self._run(lambda: self._configure(addresses, mtu, gso_max_size, gso_max_segs))

    async def add_route(self, network: IPNetwork) -> None:
        """Routes `network` to the TUN; nothing happens when we already do. Raises RouteConflictError also."""
        await self._run(lambda: self._add_route(network))

    async def remove_route(self, network: IPNetwork) -> None:
        """Removes a route that we made; none is no error."""
        await self._run(lambda: self._remove_route(network))

    async def set_filter(self, guests: Collection[IPAddress], ports: Collection[int]) -> None:
        """Keeps `guests` to what guest_rules says, of services to `ports`; in place of what was set before.
        Raises FilterError also."""
        await self._run(lambda: nft.set_filter(self._open_journal(), guests, ports))

    async def has_filter(self, guests: Collection[IPAddress], ports: Collection[int]) -> bool:
        """Whether the kernel still has it so. Raises FilterError."""
        return await self._run(lambda: nft.has_filter(self.device, guests, ports))

    async def try_filter(self) -> None:
        """Raises FilterError where `set_filter` would; changes nothing."""
        await self._run(lambda: nft.try_filter(self.device))

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

    async def _run(self, change: Callable[[], _T]) -> _T:
        async with self._lock:
            return await trio.to_thread.run_sync(change)

    def _open_journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._path, self.device, _index_of(self.device))
        return self._journal

    def _configure(
        self, addresses: Sequence[IPInterface], mtu: int, gso_max_size: int, gso_max_segs: int
    ) -> Limits:
        with netlink() as ip:
            journal = self._open_journal()
            index = journal.index
            old_mtu, up = mtu_and_up(ip, index, self.device)
            if old_mtu != mtu:
                with journaled(journal, "mtu", str(old_mtu)), explained(f"setting the MTU to {mtu}"):
                    ip.link("set", index=index, mtu=mtu)
            limits = self._set_limits(ip, journal, gso_max_size, gso_max_segs)  # before packets can come
            if not up:
                with journaled(journal, "up", ""), explained(f"bringing {self.device} up"):
                    ip.link("set", index=index, state="up")
            if mtu_and_up(ip, index, self.device) != (mtu, True):
                raise NetworkError(
                    f"{self.device} did not take MTU {mtu} and state up: see the kernel's log."
                )
            self._set_addresses(ip, journal, addresses)
        return limits

    def _set_limits(self, ip: Any, journal: Journal, size: int, segments: int) -> Limits:
        old = limits_of(ip, journal.index, self.device)
        queue = max(QUEUE_PACKETS, old.txqlen)
        wanted = Limits(size or old.gso_max_size, segments or old.gso_max_segs, queue)
        if old == wanted:
            return old
        with journaled(journal, "limits", " ".join(map(str, old))):
            set_limits(ip, journal.index, wanted)
        return limits_of(ip, journal.index, self.device)

    def _set_addresses(self, ip: Any, journal: Journal, addresses: Sequence[IPInterface]) -> None:
        wanted = {str(address) for address in addresses}
        for kind, value in list(journal.changes):
            if kind == "address" and value not in wanted:
                _undo_one(ip, journal, kind, value)
                journal.drop(kind, value)
        present = _addresses(ip, journal.index)
        for address in addresses:
            if address not in present:
                with journaled(journal, "address", str(address)), explained(f"the address {address}"):
                    ip.addr(
                        "add",
                        index=journal.index,
                        address=str(address.ip),
                        prefixlen=address.network.prefixlen,
                    )
        if not set(addresses) <= _addresses(ip, journal.index):
            raise NetworkError(f"{self.device} did not keep its addresses: does another program manage it?")

    def _add_route(self, network: IPNetwork) -> None:
        if network.prefixlen == 0:
            raise RouteConflictError(
                f"A route for everything ({network}) would also catch the tunnel's own datagrams:"
                " give the peer the networks that it is for."
            )
        with netlink() as ip:
            journal = self._open_journal()
            if ("route", str(network)) in journal.changes:
                return
            # Whatever its metric: the network that we stand in must not be drawn into the tunnel.
            if _routers(ip, network) - {journal.index}:
                raise taken(f"the route to {network}")
            with journaled(journal, "route", str(network)), explained(f"the route to {network}"):
                ip.route("add", **_route(network, journal.index))
            if journal.index not in _routers(ip, network):
                raise NetworkError(f"The kernel did not keep the route to {network}: see its log.")

    def _remove_route(self, network: IPNetwork) -> None:
        journal = self._journal
        if journal is None or ("route", str(network)) not in journal.changes:
            return
        with netlink() as ip:
            _undo_one(ip, journal, "route", str(network))
        journal.drop("route", str(network))


async def undo_leftovers(journal: Path) -> list[str]:
    """Undoes what a crashed run left behind and removes its journal; returns a line per thing undone.

    Raises JournalError for an unreadable journal, NetworkError when the kernel refuses (the journal stays).
    """
    return await trio.to_thread.run_sync(_undo, journal)


def _undo(path: Path) -> list[str]:
    undone = []
    journal = Journal.read(path)
    if journal is not None and _is_same_interface(journal):
        with netlink() as ip:
            for kind, value in reversed(journal.changes):
                if kind != nft.KIND and _undo_one(ip, journal, kind, value):
                    undone.append(f"{journal.device}: {_UNDONE[kind].format(value)}")
    if journal is not None:  # last, and whatever has become of the interface
        undone += [_lifted(value) for kind, value in journal.changes if kind == nft.KIND]
    path.unlink(missing_ok=True)
    return undone


def _lifted(table: str) -> str:
    try:
        return f"filter for guests {'removed' if nft.remove_filter(table) else 'gone'}: table inet {table}"
    except FilterMissingError:
        return f"filter for guests left, as nft is not installed any more: table inet {table}"


def _undo_one(ip: Any, journal: Journal, kind: str, value: str) -> bool:
    """Takes one change back; False when it is gone already."""
    try:
        with explained(f"undoing {kind} {value}".rstrip()):
            if kind == "route":
                ip.route("del", **_route(ip_network(value), journal.index))
            elif kind == "address":
                interface = ip_interface(value)
                prefixlen = interface.network.prefixlen
                ip.addr("delete", index=journal.index, address=str(interface.ip), prefixlen=prefixlen)
            elif kind == "mtu":
                ip.link("set", index=journal.index, mtu=int(value))
            elif kind == "limits":
                set_limits(ip, journal.index, Limits(*map(int, value.split())))
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
