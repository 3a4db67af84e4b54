"""UDP addresses as the cores of discovery see them: packed, so small, comparable and cheap to send.

    endpoint   IPv4: ├ address 4 ┼ port 2 ┤       IPv6: ├ address 16 ┼ port 2 ┤

tun/addresses.py has the sockets' form; who stands between the two (the shell) converts. A network is what
counts as one party for limits: the /24 of an IPv4 address, the /48 of an IPv6 one.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

Endpoint: TypeAlias = bytes

IPV4_BYTES: Final = 6
IPV6_BYTES: Final = 18
_MAPPED: Final = "::ffff:"


class Scope(IntEnum):
    """How far an address means the same machine; a node may name to others only what is as wide as itself."""

    HOST = 0  # loopback
    LINK = 1
    SITE = 2  # private, ULA, CGNAT
    GLOBAL = 3


def pack(host: str, port: int) -> Endpoint:
    """Of an IP address as text (IPv4 may be mapped, as dual-stack sockets have it). Raises ValueError."""
    plain = host.removeprefix(_MAPPED) if "." in host else host.partition("%")[0]
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port")
    return ip_address(plain).packed + port.to_bytes(2, "big")


def unpack(endpoint: Endpoint) -> tuple[str, int]:
    """(host, port), plain: "192.0.2.1" or "2001:db8::1"."""
    return str(_ip(endpoint[:-2])), int.from_bytes(endpoint[-2:], "big")


def text(endpoint: Endpoint) -> str:
    """192.0.2.1:51777 or [2001:db8::1]:51777."""
    host, port = unpack(endpoint)
    return f"[{host}]:{port}" if len(endpoint) == IPV6_BYTES else f"{host}:{port}"


def parse(value: str) -> Endpoint:
    """The reverse of `text`. Raises ValueError for anything but an IP address and a port."""
    host, _, port = value.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"{value!r} has no port")
    return pack(host.removeprefix("[").removesuffix("]"), int(port))


@lru_cache(maxsize=16_384)
def network(endpoint: Endpoint) -> bytes:
    """The /24 (3 bytes) or /48 (6 bytes) that it lies in; mostly one object for all who keep it."""
    return endpoint[:3] if len(endpoint) == IPV4_BYTES else endpoint[:6]


def scope(endpoint: Endpoint) -> Scope:
    return _nature(endpoint[:-2])[0]


@lru_cache(maxsize=4096)
def _nature(packed: bytes) -> tuple[Scope, bool]:
    """Its scope, and whether it is a unicast address."""
    ip = _ip(packed)
    return _scope(ip), _unicast(ip)


def _scope(ip: IPv4Address | IPv6Address) -> Scope:
    if ip.is_loopback:
        return Scope.HOST
    if ip.is_link_local:
        return Scope.LINK
    return Scope.GLOBAL if ip.is_global else Scope.SITE


def usable(endpoint: Endpoint) -> bool:
    """Whether a datagram may be sent there at all: a unicast address and a port."""
    if len(endpoint) not in (IPV4_BYTES, IPV6_BYTES) or endpoint[-2:] == b"\0\0":
        return False
    return _nature(endpoint[:-2])[1]


def _unicast(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return False  # the same machine under a second name
    reserved = ip.is_reserved if isinstance(ip, IPv4Address) else False
    return not (ip.is_multicast or ip.is_unspecified or reserved)


def _ip(packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
