"""From "host:port" as people and invitations write it to UDP addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

import trio

from tun.addresses import Address, of_ip, parse

LOOKUP_SECONDS = 5


async def resolve(endpoints: Iterable[str]) -> list[Address]:
    """Every address of every endpoint, in order, without doubles; names that do not resolve give none.

    All are looked up at once: a peer may have named many that no name server answers for."""
    found: dict[str, list[Address]] = {}

    async def look_up(endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        if port.isdecimal():
            found[endpoint] = await _lookup(host.strip("[]"), int(port))

    wanted = list(dict.fromkeys(endpoints))
    async with trio.open_nursery() as nursery:
        for endpoint in wanted:
            nursery.start_soon(look_up, endpoint)
    return list(dict.fromkeys(address for endpoint in wanted for address in found.get(endpoint, [])))


def numeric(endpoints: Iterable[str]) -> list[Address]:
    """Those that need no looking up."""
    found = []
    for endpoint in endpoints:
        with suppress(ValueError):
            found.append(parse(endpoint))
    return list(dict.fromkeys(found))


async def _lookup(host: str, port: int) -> list[Address]:
    try:
        return [of_ip(ip_address(host), port)]
    except ValueError:
        pass
    with trio.move_on_after(LOOKUP_SECONDS):
        try:
            answers = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError:
            return []
        return [of_ip(ip_address(str(answer[4][0]).partition("%")[0]), port) for answer in answers]
    return []
