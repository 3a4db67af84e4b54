"""Who may come in: tokens, sessions, hosts, origins, rates, and what the document says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.api.sessions import COOKIE, SESSION_SECONDS
from tests.node.api.stand_in import NOW_MS, OWN, RELAY, Api, running

LIST = "/api/vpn/marketplace/list"
OFFER = {
    "slug": OWN,
    "price_per_gb_zeq": 50,
    "price_per_zeqond_zeq": 1,
    "max_concurrent_tunnels": 8,
    "accept_country_classes": ["ANY"],
    "active": True,
}
OPEN = ["/api/vpn/marketplace", "/api/openapi.json", f"/api/keyex/{OWN}/pubkey"]


async def _begun(api: Api, token: str = "") -> str:
    reply = await api.post("/api/session", token=token)
    value, *attributes = reply.headers["set-cookie"].split("; ")
    assert value.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/api", f"Max-Age={SESSION_SECONDS}"} == set(attributes)
    return value


async def _status(api: Api, **headers: str) -> tuple[int, str]:
    reply = await api.get("/api/status", token=None, **headers)
    return reply.status, "" if reply.status == 200 else reply.code


async def test_every_endpoint_but_the_open_ones_needs_a_token(api: Api) -> None:
    document = (await api.get("/api/openapi.json")).json
    tried = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            filled = path.replace("{slug}", OWN).replace("{tunnel_id}", "0" * 36).replace("{purpose}", "x")
            reply = await api(method.upper(), filled, {} if "requestBody" in operation else None, token=None)
            if filled in OPEN:
                assert reply.status == 200
                assert "security" not in operation
            else:
                assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
                assert reply.headers["www-authenticate"] == "Bearer"
                assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyCookie": []}]
            assert reply.headers["x-content-type-options"] == "nosniff"
            tried += 1
    assert tried == 16


@pytest.mark.parametrize("path", ["/api/status", *OPEN])
async def test_a_wrong_token_opens_not_even_what_is_open(api: Api, path: str) -> None:
    _, other = await api.tokens.new("other", "write", 1)
    await api.tokens.revoke("other")
    for value in (f"Bearer {other}", f"Basic {api.write}", "Bearer", f"Bearer {api.write}x", api.write, ""):
        reply = await api.get(path, token=None, authorization=value)
        assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
    for value in (f"bearer {api.write}", f"Bearer   {api.write} "):
        assert (await api.get(path, token=None, authorization=value)).status == 200


async def test_a_token_to_read_with_changes_nothing(api: Api) -> None:
    reply = await api.post(LIST, OFFER, token=api.read)
    assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
    assert api.node.offers.keys() == {RELAY}
    cookie = await _begun(api, api.read)
    reply = await api.post(LIST, OFFER, token=None, cookie=cookie)
    assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")


# ---------------------------------------------------------------------- sessions


async def test_a_session_does_what_its_token_may(api: Api) -> None:
    reply = await api.post("/api/session")
    assert reply.json["may_write"] is True
    assert reply.json["expires"] == NOW_MS // 1000 + SESSION_SECONDS
    cookie = await _begun(api)
    assert (await api.post(LIST, OFFER, token=None, cookie=f'other=a;b; {cookie}; more="')).status == 200
    assert await _status(api, cookie=cookie) == (200, "")
    assert await _status(api, cookie=cookie[:-1]) == (401, "UNAUTHORIZED")
    assert await _status(api, cookie=f"{COOKIE}=") == (401, "UNAUTHORIZED")
    assert await _status(api, cookie="something=else") == (401, "UNAUTHORIZED")


async def test_a_session_ends_when_it_is_ended_or_its_token_is_revoked(api: Api) -> None:
    cookie, other = await _begun(api), await _begun(api)
    reply = await api("DELETE", "/api/session", token=None, cookie=cookie)
    assert reply.json["ok"] is True
    assert f'{COOKIE}=""' in reply.headers["set-cookie"]
    assert await _status(api, cookie=cookie) == (401, "UNAUTHORIZED")
    assert await _status(api, cookie=other) == (200, "")
    await api.tokens.revoke("writer")
    assert await _status(api, cookie=other) == (401, "UNAUTHORIZED")


async def test_a_session_cannot_prolong_itself(api: Api) -> None:
    reply = await api.post("/api/session", token=None, cookie=await _begun(api))
    assert (reply.status, reply.code) == (401, "UNAUTHORIZED")


# ---------------------------------------------------------------------- other sites


@pytest.mark.parametrize(
    "origin",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
    ids=str,
)
async def test_a_page_of_another_site_does_nothing_with_our_cookie(api: Api, origin: dict[str, str]) -> None:
    cookie = await _begun(api)
    for method, path in (
        ("POST", LIST),
        ("DELETE", "/api/session"),
        ("GET", "/api/status"),
        ("GET", "/nothing"),
    ):
        body = OFFER if method == "POST" else None
        reply = await api(method, path, body, token=None, cookie=cookie, **origin)
        assert (reply.status, reply.code) == (403, "FORBIDDEN_ORIGIN")
    assert api.node.offers.keys() == {RELAY}
    assert await _status(api, cookie=cookie) == (200, "")


async def test_our_own_page_and_programs_may(api: Api) -> None:
    cookie = await _begun(api)
    here = f"127.0.0.1:{api.address[1]}"
    for headers in (
        {"origin": f"http://{here}", "sec_fetch_site": "same-origin"},
        {"origin": f"HTTP://{here}"},
        {"sec_fetch_site": "none"},
        {},
    ):
        assert (await api.post(LIST, OFFER, token=None, cookie=cookie, **headers)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "2130706433",
        "localhost:x",
        "a b",
        "",
        "[::1",
    ],
)
async def test_a_name_that_was_made_to_point_here_is_not_ours(api: Api, host: str) -> None:
    for path in ("/api/vpn/marketplace", "/api/openapi.json", "/nothing"):
        reply = await api.get(path, host=host)
        assert (reply.status, reply.code) in [(403, "FORBIDDEN_HOST"), (400, "INVALID_REQUEST")]


async def test_names_that_are_ours(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=("Node.Home.Example",)) as api:
        for host in (
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.1.2.3:7777",
            "[::1]:7777",
            "node.home.example:8",
        ):
            assert (await api.get("/api/status", host=host)).status == 200
        origin = {"host": "node.home.example", "origin": "https://node.home.example"}
        assert (await api.get("/api/status", **origin)).status == 200


# ---------------------------------------------------------------------- rates


async def test_sixty_writes_and_240_reads_a_minute_for_each_token(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        read = [await api.get("/api/status") for _ in range(241)]
        assert [each.status for each in read] == [200] * 240 + [429]
        assert read[-1].code == "RATE_LIMITED"
        assert 1 <= int(read[-1].headers["retry-after"]) <= 60
        write = [await api.post(LIST, OFFER) for _ in range(61)]
        assert [each.status for each in write] == [200] * 60 + [429]
        assert (await api.get("/api/status", token=api.read)).status == 200
        assert (await api.get("/api/vpn/marketplace", token=None)).status == 200


async def test_a_session_is_no_second_token(tmp_path: Path) -> None:
    async with running(tmp_path, reads_per_minute=3) as api:
        cookie = await _begun(api)
        assert [await _status(api, cookie=cookie) for _ in range(3)] == [(200, "")] * 3
        assert await _status(api, cookie=cookie) == (429, "RATE_LIMITED")
        assert (await api.get("/api/status")).status == 429


async def test_guessing_tokens_is_limited(tmp_path: Path) -> None:
    async with running(tmp_path, writes_per_minute=3) as api:
        guesses = [await api.get("/api/status", token="zsm_" + "A" * 43) for _ in range(4)]
        assert [each.status for each in guesses] == [401] * 3 + [429]
        assert (await api.get("/api/status")).status == 200


# ---------------------------------------------------------------------- paths


async def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    for path in (
        "/",
        "/api",
        "/api/vpn/tunnel",
        "/api/status/",
        "/docs",
        "/redoc",
        "//api/status",
        "/api/../etc",
    ):
        reply = await api.get(path)
        assert (reply.status, reply.code) == (404, "NOT_FOUND")
    for method in ("PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"):
        reply = await api(method, "/api/status")
        assert reply.status == 405
        assert reply.headers["allow"] == "GET"
    assert (await api("PATCH", "/api/session")).headers["allow"] == "DELETE, POST"
    assert (await api("PATCH", "/api/openapi.json")).headers["allow"] == "GET"


@pytest.mark.parametrize(
    "body",
    [b'{"slug": "a", "slug": "b"}', b'{"active": NaN}', b"[" * 9_000, b'{"slug": "\xff"}', b"", b"null"],
)
async def test_json_has_one_meaning(api: Api, body: bytes) -> None:
    reply = await api("POST", LIST, body)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert not reply.json["error"].startswith("slug")
    assert "value" not in reply.json["error"]


async def test_only_json_is_a_body(api: Api) -> None:
    body = b"slug=ZEQ07000000001"
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""):
        reply = await api("POST", LIST, body, content_type=kind)
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    reply = await api("POST", LIST, b'{"slug": 1}', content_type="text/plain")
    assert "content-type: application/json" in reply.json["error"]
    assert (await api("POST", LIST)).code == "INVALID_REQUEST"
