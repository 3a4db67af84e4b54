"""One interface's own settings, through pyroute2; blocking, so for worker threads."""

from __future__ import annotations

import errno
from typing import Any, Final, NamedTuple

from pyroute2.netlink.exceptions import NetlinkError

from tun.netlink import explain, explained

_IFF_UP: Final = 0x1  # linux/if.h
_NOT_TAKEN: Final = frozenset({errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP})


class Limits(NamedTuple):
    """What the kernel keeps to when it hands packets to an interface; 0 where it does not say.

    The names are pyroute2's. gso_max_size up to 65,536 holds for IPv4 too, where a kernel has two limits.
    """

    gso_max_size: int  # bytes of a super-packet with its headers
    gso_max_segs: int  # segments in one
    txqlen: int  # packets that may wait in each queue of a TUN


def mtu_and_up(ip: Any, index: int, device: str) -> tuple[int, bool]:
    """(MTU in bytes, up). Raises NetworkError, DeviceGoneError."""
    message = _state(ip, index, device)
    return message.get("IFLA_MTU"), bool(message["flags"] & _IFF_UP)


def limits_of(ip: Any, index: int, device: str) -> Limits:
    """Raises NetworkError, DeviceGoneError."""
    message = _state(ip, index, device)
    return Limits(*(message.get(f"IFLA_{name.upper()}") or 0 for name in Limits._fields))


def set_limits(ip: Any, index: int, wanted: Limits) -> None:
    """One by one, since a kernel that does not take one refuses them together: that one stays as it is.

    Raises NetworkError, DeviceGoneError where it is not the value that is refused.
    """
    for name, value in wanted._asdict().items():
        try:
            ip.link("set", index=index, **{name: value})
        except NetlinkError as error:
            if error.code not in _NOT_TAKEN:
                raise explain(error, f"setting {name} to {value}") from error


def _state(ip: Any, index: int, device: str) -> Any:
    with explained(f"reading the state of {device}"):
        (message,) = ip.link("get", index=index)
    return message
