"""The tunnels of the API, as the seeds show them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.node.api.stand_in import OWN, RELAY, Api, running


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as served:
        yield served


REQUEST = {
    "requester_slug": OWN,
    "target_slug": RELAY,
    "requested_lifespan_zeqonds": 1000,
    "cover_traffic": False,
    "multi_hop": False,
    "pricing_unit": "gb",
}


async def test_a_request_is_answered_as_the_seeds_show_it(api: Api) -> None:
    reply = await api.post("/api/vpn/tunnel/handshake-request", REQUEST)
    print(reply)
    assert reply.status == 200
