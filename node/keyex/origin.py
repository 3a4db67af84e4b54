"""The seeds' `peer_origin`: a URL of the other machine's server. Here no machine has one, so it is compared.

    https://192.0.2.7, https://[2001:db8::7]:51777   an address: one of those at which the machine is known
    https://ZEQ07000000001.zeq                       a slug: the machine's own
    https://zeqond.com                               any other name: passed over, as nothing could prove it

Nothing is ever connected to, nor looked up, because of an origin: or whoever may call the API could have this
machine ask any server that it can reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from node.keyex.errors import BadRequest, OriginMismatch

ORIGIN_CHARS: Final = 255


def check_origin(origin: str, slug: str, hosts: Iterable[str]) -> None:
    """`hosts`: IP addresses of the machine of that slug. Raises BadRequest, OriginMismatch."""
    host = _host(origin)
    if not (_is_at(host, hosts) if _is_address(host) else _may_be(host, slug.lower())):
        raise OriginMismatch(
            f"{slug} is not known to be at {host}; `zeqnode lookup {slug}` shows where it is"
        )


def _is_at(host: str, hosts: Iterable[str]) -> bool:
    return ip_address(host) in [ip_address(each) for each in hosts]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _may_be(host: str, slug: str) -> bool:
    """Names of the mesh are held against the machine's; what others mean is not known here."""
    of_the_mesh = host.endswith(".zeq") or host.startswith("zeq07")
    return not of_the_mesh or host.removesuffix(".zeq") == slug


def _host(origin: str) -> str:
    """In small letters. Raises BadRequest."""
    with suppress(ValueError):
        parts = urlsplit(origin)
        host, _ = parts.hostname, parts.port  # a port that is none is a ValueError
        if (
            host
            and parts.scheme in ("https", "http")
            and len(origin) <= ORIGIN_CHARS
            and origin.isprintable()
        ):
            return host.rstrip(".")
    raise BadRequest("peer_origin is the URL of a machine, such as https://192.0.2.7")
