"""Endpoints as people write them, and name servers that do not answer."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.resolve import LOOKUP_SECONDS, resolve
from tun.addresses import MAPPED


class Silent(trio.abc.HostnameResolver):
    """A name server that never answers."""

    async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
        await trio.sleep_forever()
        raise AssertionError

    async def getnameinfo(self, *_: object, **__: object) -> tuple[str, str]:
        raise AssertionError


async def test_in_order_and_without_doubles() -> None:
    endpoints = ["[2001:db8::1]:7", "192.0.2.1:7", "[2001:db8::1]:7", "nonsense", "192.0.2.1:8"]
    mapped = MAPPED + "192.0.2.1"
    assert await resolve(endpoints) == [("2001:db8::1", 7), (mapped, 7), (mapped, 8)]


async def test_many_names_without_an_answer_cost_the_time_of_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    trio.socket.set_custom_hostname_resolver(Silent())
    before = trio.current_time()
    found = await resolve([*(f"slow{n}.example:7" for n in range(8)), "192.0.2.1:7"])
    assert found == [(MAPPED + "192.0.2.1", 7)]
    assert trio.current_time() - before == pytest.approx(LOOKUP_SECONDS)
