"""Tunnels and the marketplace over HTTP, as the seeds show them, and every code with which they refuse."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from crypto.pulse import PULSE_HZ, phase, zeqond
from node.api.backend import TUNNELS_MAX
from node.errors import Refused, StorageFailed, Unreachable, Usage
from node.tunnels.shown import identifier
from tests.node.api.stand_in import DEAR, FULL, NOW_MS, OWN, PLAIN, RELAY, RIVALS, Api

REQUEST = {
    "requester_slug": OWN,
    "target_slug": RELAY,
    "requested_lifespan_zeqonds": 1000,
    "cover_traffic": False,
    "multi_hop": False,
    "pricing_unit": "gb",
}
OFFER = {
    "slug": OWN,
    "price_per_gb_zeq": 50,
    "price_per_zeqond_zeq": 1,
    "max_concurrent_tunnels": 8,
    "accept_country_classes": ["EU", "ANY"],
    "active": True,
}
ASK, ACCEPT = "/api/vpn/tunnel/handshake-request", "/api/vpn/tunnel/handshake-accept"
LIST = "/api/vpn/marketplace/list"
NO_LIFESPANS: list[object] = [9, 86_401, 0, -10, 2**63, -(2**63), 1000.0, 0.5, True, "1000", None, [1000], {}]
TIME = {"zeqond": zeqond(NOW_MS), "phase": phase(NOW_MS)}


def ending(tunnel_id: str) -> str:
    return f"/api/vpn/tunnel/{tunnel_id}/terminate"


async def test_a_request_is_answered_as_in_the_seeds(api: Api) -> None:
    reply = await api.post(ASK, REQUEST)
    assert reply.status == 200
    tunnel_id = reply.json["tunnel_id"]
    assert str(UUID(tunnel_id)) == tunnel_id
    assert reply.json == {
        "ok": True,
        "tunnel_id": tunnel_id,
        "state": "pending",
        "key_purpose_id": f"vpn.tunnel.{tunnel_id}.key",
        "rate_zeq_per_unit": 50,
        "min_required_zeq": 5000,
        "balance_zeq": 12345,
        "subscribers_notified": 3,
        "pulse_hz": PULSE_HZ,
        **TIME,
    }


async def test_an_acceptance_is_answered_as_in_the_seeds_and_its_key_can_be_fetched(api: Api) -> None:
    tunnel_id = identifier(api.node.asked())
    reply = await api.post(ACCEPT, {"tunnel_id": tunnel_id, "accepter_slug": OWN})
    url = f"/api/zsc/get/vpn.tunnel.{tunnel_id}.key"
    assert reply.json == {
        "ok": True,
        "tunnel_id": tunnel_id,
        "state": "active",
        "key_purpose_id": f"vpn.tunnel.{tunnel_id}.key",
        "started_at_zeqond": api.node.zeqond,
        "encrypted_key_fetch_url": url,
        **TIME,
    }
    assert (await api.get(url)).status == 200
    again = await api.post(ACCEPT, {"tunnel_id": tunnel_id, "accepter_slug": OWN})
    assert (again.status, again.code) == (409, "INVALID_STATE")


async def test_ending_twice_gives_one_answer(api: Api) -> None:
    tunnel_id = (await api.post(ASK, REQUEST)).json["tunnel_id"]
    body = {"terminator_slug": OWN, "cumulative_bytes": 734003200, "cumulative_zeqonds": 472}
    reply = await api.post(ending(tunnel_id), body)
    assert reply.json == {
        "ok": True,
        "tunnel_id": tunnel_id,
        "state": "terminated",
        "cumulative_bytes": 734003200,
        "cumulative_zeqonds": 472,
        "total_zeq_charged": 50,
        "charged_millionths": 50_000_000,
        "ended_at_zeqond": api.node.zeqond,
        **TIME,
    }
    api.node.zeqond += 9
    assert (await api.post(ending(tunnel_id), body | {"cumulative_bytes": 0})).json == reply.json


async def test_the_newest_hundred_tunnels_come_first(api: Api) -> None:
    ids = [identifier(api.node.asked()) for _ in range(TUNNELS_MAX + 3)]
    for token in (api.write, api.read):
        reply = await api.get(f"/api/vpn/tunnels?slug={OWN}", token=token)
        assert reply.json.keys() == {"ok", "slug", "tunnels", "zeqond", "phase"}
        assert [each["tunnel_id"] for each in reply.json["tunnels"]] == ids[:2:-1]
    newest = reply.json["tunnels"][0]
    assert newest.pop("peer_fingerprint").count("-") == 12
    assert newest == {
        "tunnel_id": ids[-1],
        "state": "pending",
        "requester_slug": RELAY,
        "accepter_slug": OWN,
        "pricing_unit": "gb",
        "rate_zeq_per_unit": 50,
        "requested_lifespan_zeqonds": 1000,
        "key_purpose_id": f"vpn.tunnel.{ids[-1]}.key",
        "created_at_zeqond": api.node.zeqond,
        "started_at_zeqond": None,
        "ended_at_zeqond": None,
        "cumulative_bytes": 0,
        "cumulative_zeqonds": 0,
        "charged_millionths": 0,
        "code": "",
    }


async def test_a_rival_slug_is_told_apart_by_the_fingerprint(api: Api) -> None:
    reply = await api.post(ASK, REQUEST | {"target_slug": RIVALS})
    assert (reply.status, reply.code) == (409, "SLUG_UNPINNED")
    claims = reply.json["claims"]
    assert [each["slug"] for each in claims] == [RIVALS, RIVALS]
    for beginning in (claims[0]["fingerprint"][:19], claims[1]["fingerprint"]):
        reply = await api.post(ASK, REQUEST | {"target_slug": f"{RIVALS}~{beginning}"})
        assert reply.status == 200


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"target_slug": OWN}, 400, "INVALID_TARGET"),
        ({"target_slug": "ZEQ0700000000"}, 400, "INVALID_TARGET"),
        ({"target_slug": RELAY + "\n"}, 400, "INVALID_TARGET"),
        ({"target_slug": "ZEQ0700000000٣"}, 400, "INVALID_TARGET"),
        ({"target_slug": RELAY + "~abcd"}, 400, "INVALID_TARGET"),
        ({"target_slug": RELAY + "~ABCD-efgh-ijkl-mnop"}, 400, "INVALID_TARGET"),
        ({"target_slug": None}, 400, "INVALID_TARGET"),
        ({"target_slug": [RELAY]}, 400, "INVALID_TARGET"),
        ({"pricing_unit": "mb"}, 400, "INVALID_PRICING_UNIT"),
        ({"pricing_unit": "GB"}, 400, "INVALID_PRICING_UNIT"),
        ({"pricing_unit": 1}, 400, "INVALID_PRICING_UNIT"),
        *(({"requested_lifespan_zeqonds": value}, 400, "INVALID_LIFESPAN") for value in NO_LIFESPANS),
        ({"cover_traffic": True}, 400, "UNSUPPORTED"),
        ({"multi_hop": True}, 400, "UNSUPPORTED"),
        *(({"multi_hop": value}, 400, "INVALID_REQUEST") for value in (0, 1, "false", None)),
        ({"requester_slug": 7}, 400, "INVALID_REQUEST"),
        ({"surprise": 1}, 400, "INVALID_REQUEST"),
        ({"\ud800": 1}, 400, "INVALID_REQUEST"),
        ({"requester_slug": RELAY}, 403, "NOT_OWNER"),
        ({"target_slug": "ZEQ07999999999"}, 404, "TARGET_NOT_FOUND"),
        ({"target_slug": PLAIN}, 409, "TARGET_NOT_RELAY"),
        ({"target_slug": FULL}, 409, "TARGET_FULL"),
        ({"target_slug": DEAR}, 402, "INSUFFICIENT_BALANCE"),
    ],
    ids=str,
)
async def test_what_no_tunnel_comes_of(api: Api, change: dict[str, Any], status: int, code: str) -> None:
    reply = await api.post(ASK, REQUEST | change)
    assert (reply.status, reply.code) == (status, code)
    assert reply.json["zeqond"] == TIME["zeqond"]
    assert not api.node.rows


@pytest.mark.parametrize("lifespan", [10, 86_400])
@pytest.mark.parametrize("unit", ["gb", "zeqond"])
async def test_both_ends_of_a_lifespan_are_taken(api: Api, lifespan: int, unit: str) -> None:
    body = {"requested_lifespan_zeqonds": lifespan, "pricing_unit": unit}
    assert (await api.post(ASK, REQUEST | body)).status == 200


async def test_flags_may_be_left_out(api: Api) -> None:
    body = {name: value for name, value in REQUEST.items() if type(value) is not bool}
    assert (await api.post(ASK, body)).status == 200


@pytest.mark.parametrize("value", [-1, 2**53, 2**63, 1.0, True, "1", None], ids=str)
@pytest.mark.parametrize("field", ["cumulative_bytes", "cumulative_zeqonds"])
async def test_figures_are_whole_numbers(api: Api, field: str, value: object) -> None:
    tunnel_id = identifier(api.node.asked())
    body = {"terminator_slug": OWN, "cumulative_bytes": 1, "cumulative_zeqonds": 1, field: value}
    reply = await api.post(ending(tunnel_id), body)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert reply.json["error"].startswith(f"{field}: ")
    assert not api.node.ended


async def test_other_peoples_tunnels(api: Api) -> None:
    figures = {"cumulative_bytes": 1, "cumulative_zeqonds": 1}
    theirs = identifier(api.node.asked())
    ours = (await api.post(ASK, REQUEST)).json["tunnel_id"]
    nobodys = identifier(bytes(16))
    replies = [
        await api.post(ending(theirs), figures | {"terminator_slug": RELAY}),
        await api.post(ACCEPT, {"tunnel_id": theirs, "accepter_slug": RELAY}),
        await api.post(ACCEPT, {"tunnel_id": ours, "accepter_slug": OWN}),
        await api.post(ending(nobodys), figures | {"terminator_slug": OWN}),
        await api.post(ACCEPT, {"tunnel_id": nobodys, "accepter_slug": OWN}),
        await api.post(ACCEPT, {"tunnel_id": nobodys.upper()[:-1], "accepter_slug": OWN}),
        await api.post(ending("..%2f.."), figures | {"terminator_slug": OWN}),
        await api.post(ending("8F7E6D5C1A2B4C3D8E9F0A1B2C3D4E5F"), figures | {"terminator_slug": OWN}),
        await api.get(f"/api/vpn/tunnels?slug={RELAY}"),
        await api.get("/api/vpn/tunnels?slug="),
        await api.get("/api/vpn/tunnels"),
        await api.get(f"/api/vpn/tunnels?slug={OWN}&slug={OWN}"),
    ]
    assert [(each.status, each.code) for each in replies] == [
        (403, "NOT_OWNER"),
        (403, "NOT_OWNER"),
        (403, "NOT_PARTY"),
        (404, "NOT_FOUND"),
        (404, "NOT_FOUND"),
        (400, "INVALID_REQUEST"),
        (404, "NOT_FOUND"),
        (400, "INVALID_REQUEST"),
        (403, "NOT_OWNER"),
        (400, "INVALID_REQUEST"),
        (400, "INVALID_REQUEST"),
        (400, "INVALID_REQUEST"),
    ]


class Odd(Exception):
    """As another part of the node raises it: with a status and a code of its own."""

    status, code = 409, "ODD"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unreachable("no home of it answers"), 504, "UNREACHABLE"),
        (Refused("not on its list"), 409, "INVALID_STATE"),
        (Usage("cannot be meant"), 400, "INVALID_REQUEST"),
        (StorageFailed("no space is left"), 500, "INTERNAL"),
        (Odd("odd"), 409, "ODD"),
        (ExceptionGroup("", [ExceptionGroup("", [Odd("odd")])]), 409, "ODD"),
        (ZeroDivisionError("secret detail"), 500, "INTERNAL"),
    ],
    ids=str,
)
async def test_what_the_node_raises_becomes_an_answer(
    api: Api, error: Exception, status: int, code: str
) -> None:
    api.node.fail = error
    reply = await api.post(ASK, REQUEST)
    assert (reply.status, reply.code) == (status, code)
    assert "secret" not in reply.json["error"]
    api.node.fail = None
    assert (await api.post(ASK, REQUEST)).status == 200


async def test_the_marketplace_is_open_to_all_and_filtered(api: Api) -> None:
    async def shown(query: str = "") -> list[str]:
        reply = await api.get(f"/api/vpn/marketplace{query}", token=None)
        assert reply.json.keys() == {"ok", "offers", "zeqond", "phase"}
        return [each["slug"] for each in reply.json["offers"]]

    assert await shown() == [RELAY]
    reply = await api.post(LIST, OFFER | {"price_per_gb_zeq": 60, "accept_country_classes": ["US"]})
    assert reply.json["ok"] is True
    assert reply.json["offer"]["price_per_gb_zeq"] == 60
    assert await shown() == [RELAY, OWN]
    assert await shown("?country=US") == [OWN]
    assert await shown("?max_zeq_per_gb=50&country=EU") == [RELAY]
    assert await shown("?max_zeq_per_gb=0") == []
    assert (await api.post(LIST, OFFER | {"active": False})).json["offer"]["active"] is False
    assert await shown() == [RELAY]


@pytest.mark.parametrize(
    "query",
    [
        "country=eu",
        "country=",
        "country=EUR",
        "country=E%00",
        "country=null",
        "max_zeq_per_gb=-1",
        "max_zeq_per_gb=1.0",
        "max_zeq_per_gb=%201",
        "max_zeq_per_gb=1_0",
        "max_zeq_per_gb=1e3",
        "max_zeq_per_gb=",
        "max_zeq_per_gb=1000000001",
        "max_zeq_per_gb=9223372036854775808",
        "max_zeq_per_gb=%D9%A1",
        "country=EU&country=US",
        "price=1",
    ],
)
async def test_filters_that_mean_nothing(api: Api, query: str) -> None:
    reply = await api.get(f"/api/vpn/marketplace?{query}", token=None)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "change",
    [
        {"price_per_gb_zeq": -1},
        {"price_per_gb_zeq": 10**9 + 1},
        {"price_per_zeqond_zeq": 0.5},
        {"max_concurrent_tunnels": True},
        {"max_concurrent_tunnels": 0},
        {"accept_country_classes": []},
        {"accept_country_classes": ["EU"] * 2},
        {"accept_country_classes": [f"A{chr(65 + at)}" for at in range(17)]},
        {"accept_country_classes": "EU"},
        {"accept_country_classes": ["Eu"]},
        {"active": 1},
        {"country": "Germany"},
    ],
    ids=str,
)
async def test_offers_that_cannot_be_made(api: Api, change: dict[str, Any]) -> None:
    reply = await api.post(LIST, OFFER | change)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert api.node.offers.keys() == {RELAY}


async def test_only_the_own_machine_is_listed(api: Api) -> None:
    reply = await api.post(LIST, OFFER | {"slug": RELAY})
    assert (reply.status, reply.code) == (403, "NOT_OWNER")
