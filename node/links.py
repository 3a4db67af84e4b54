"""Between the addresses of the socket (tun/addresses.py) and those of discovery (dht/endpoints.py).

    ("::ffff:192.0.2.1", 51777)   ◀─▶   ├ 192.0.2.1 ┼ 51777 ┤      6 bytes
    ("fe80::1%2", 51777)          ◀─▶   ├ fe80::1   ┼ 51777 ┤      18 bytes; the link, 2, is kept apart

A link-local address means a machine only together with the link that it was heard on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from dht import endpoints
from dht.endpoints import IPV4_BYTES, Endpoint, Scope
from tun.addresses import MAPPED, Address

LINKS_MAX: Final = 256


class Links:
    """Converts both ways, and remembers on which link a link-local address was last heard."""

    def __init__(self) -> None:
        self._heard: OrderedDict[Endpoint, str] = OrderedDict()

    def endpoint(self, address: Address) -> Endpoint | None:
        """6 or 18 bytes; None for what nothing can be sent to, such as port 0."""
        host, port = address
        found = _packed(host, port)
        if found is not None and "%" in host:
            self._heard[found] = host.partition("%")[2]
            self._heard.move_to_end(found)
            if len(self._heard) > LINKS_MAX:
                self._heard.popitem(last=False)
        return found

    def address(self, endpoint: Endpoint) -> Address | None:
        """None for a link-local address that nobody was heard at, and for what is no unicast address."""
        host, port = _plain(endpoint)
        if not host or endpoints.scope(endpoint) is not Scope.LINK or len(endpoint) == IPV4_BYTES:
            return (host, port) if host else None
        link = self._heard.get(endpoint)
        return (f"{host}%{link}", port) if link is not None else None

    def endpoints(self, addresses: Iterable[Address]) -> list[Endpoint]:
        """Of those that have one, in order, without doubles."""
        found = (self.endpoint(address) for address in addresses)
        return list(dict.fromkeys(each for each in found if each is not None))

    def addresses(self, found: Iterable[Endpoint]) -> list[Address]:
        """Of those that have one, in order, without doubles."""
        addresses = (self.address(endpoint) for endpoint in found)
        return list(dict.fromkeys(each for each in addresses if each is not None))


@lru_cache(maxsize=4096)
def _packed(host: str, port: int) -> Endpoint | None:
    try:
        found = endpoints.pack(host, port)
    except ValueError:
        return None
    return found if endpoints.usable(found) else None


@lru_cache(maxsize=4096)
def _plain(endpoint: Endpoint) -> Address:
    """With an empty host for what cannot be sent to."""
    if not endpoints.usable(endpoint):
        return "", 0
    if len(endpoint) == IPV4_BYTES:
        host, port = endpoints.unpack(endpoint)
        return MAPPED + host, port
    return str(IPv6Address(endpoint[:16])), int.from_bytes(endpoint[16:], "big")
