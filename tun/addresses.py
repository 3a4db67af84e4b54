"""UDP addresses as the cores see them: (host text, port), as `socket.recvfrom` gives them.

The node's socket is dual-stack, so an IPv4 source arrives as ::ffff:192.0.2.1 and is kept so; only text for
people and for the wire is written the plain way.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = tuple[str, int]
Target = tuple[str, int] | tuple[str, int, int, int]
"""As sendto and sendmsg take it."""

MAPPED = "::ffff:"


def packed(address: Address) -> bytes:
    """IP (4 or 16 bytes) ‖ port u16: what cookies and retry tokens are bound to."""
    return _packed_ip(address[0]) + address[1].to_bytes(2, "big")


def network_of(address: Address) -> bytes:
    """The /24 of an IPv4 address (3 bytes), the /48 of an IPv6 one (6 bytes): one party, for limits."""
    ip = _packed_ip(address[0])
    return ip[:3] if len(ip) == 4 else ip[:6]


def source_of(address: Address) -> bytes:
    """What one rate limit covers: an IPv4 address (4 bytes), an IPv6 /64 (8 bytes)."""
    return _packed_ip(address[0])[:8]


def text(address: Address) -> str:
    """192.0.2.1:51777 or [2001:db8::1]:51777."""
    ip = _ip(address[0])
    return f"{ip}:{address[1]}" if ip.version == 4 else f"[{ip}]:{address[1]}"


def parse(value: str) -> Address:
    """The reverse of `text`; raises ValueError for anything but an IP address and a port."""
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} has no port from 1 to 65535")
    return of_ip(ip_address(host.removeprefix("[").removesuffix("]")), int(port))


def of_source(where: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """What recvmsg says, as a dual-stack socket has it: IPv4 mapped, a link-local with its link."""
    host = where[0]
    if ":" not in host:
        return MAPPED + host, where[1]
    if len(where) == 4 and where[3] and "%" not in host:
        return f"{host}%{where[3]}", where[1]
    return host, where[1]


def target(address: Address, ipv4: bool) -> Target:
    """For a dual-stack socket, or one of IPv4 only, in a form that is not looked up for each datagram."""
    host, port = address
    if ipv4:
        return host.removeprefix(MAPPED), port
    plain, _, link = host.partition("%")
    return (plain, port, 0, int(link)) if link.isdecimal() else (host, port)


def of_ip(ip: IPv4Address | IPv6Address, port: int) -> Address:
    """The form in which the dual-stack socket names this address."""
    return (MAPPED + str(ip) if ip.version == 4 else str(ip), port)


@lru_cache(maxsize=1024)
def _packed_ip(host: str) -> bytes:
    """4 or 16 bytes; kept, because a flood asks for the same ones again and again."""
    return _ip(host).packed


def _ip(host: str) -> IPv4Address | IPv6Address:
    return IPv4Address(host[len(MAPPED) :]) if host.startswith(MAPPED) and "." in host else ip_address(host)
