"""pyroute2 with errors for the person at the terminal; blocking, so for worker threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tun.errors import DeviceGoneError, NetworkError, NetworkPermissionError, RouteConflictError


@contextmanager
def netlink() -> Iterator[Any]:
    try:
        with IPRoute() as ip:
            yield ip
    except (NetlinkError, OSError) as error:
        raise explain(error, "talking to the kernel") from error


@contextmanager
def explained(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise explain(error, what) from error


def explain(error: NetlinkError | OSError, what: str) -> NetworkError | DeviceGoneError:
    code = error.code if isinstance(error, NetlinkError) else error.errno
    if code == errno.EPERM:
        return NetworkPermissionError(
            f"The kernel refused {what}: start zeqnode with sudo, or as a systemd service with"
            " AmbientCapabilities=CAP_NET_ADMIN."
        )
    if code == errno.EEXIST:
        return taken(what)
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


def taken(what: str) -> RouteConflictError:
    return RouteConflictError(
        f"This machine has {what} already, through another interface: look at `ip route`, and remove that one"
        " or leave the network out of the peer's allowed IPs."
    )
