"""What the host's other interfaces are doing: addresses for invitations, and changes that mean roaming."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, NamedTuple, NoReturn

import trio

from tun.errors import NetworkError
from tun.netlink import netlink

SETTLE_SECONDS: Final = 0.1

# linux/rtnetlink.h, linux/if.h, linux/if_addr.h
_MAIN_TABLE: Final = 254
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
    with netlink() as ip:
        return frozenset(_usable(ip, exclude))
