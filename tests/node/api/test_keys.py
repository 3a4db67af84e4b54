"""Key exchange, the vault, trust, status and live events over HTTP."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from crypto.keyex import commitment
from crypto.pulse import PULSE_HZ, phase, zeqond
from node.api.backend import Happening
from node.api.stream import STREAMS_MAX
from tests.node.api.stand_in import NOW_MS, OWN, RELAY, SECRET, Api, machine

CIPHER_TEXT = bytes(range(256)) * 4 + bytes(64)
TEXT = b64encode(CIPHER_TEXT).decode()
TIME = {"zeqond": zeqond(NOW_MS), "phase": phase(NOW_MS)}
INITIATE, RESPOND = "/api/ssl/peer-seed/keyex/initiate", "/api/ssl/peer-seed/keyex/respond"


async def test_a_published_key_is_open_to_all(api: Api) -> None:
    reply = await api.get(f"/api/keyex/{RELAY}/pubkey", token=None)
    key = await api.node.keyex_pubkey(RELAY)
    assert reply.json == {
        "public_key": b64encode(key.public_key).decode(),
        "fingerprint": key.fingerprint,
        "machine_id": machine(RELAY).hex(),
        "alg": "ML-KEM-768",
        **TIME,
    }
    pinned = await api.get(f"/api/keyex/{RELAY}~abcd-efgh-ijkl-mnop/pubkey", token=None)
    assert pinned.json == reply.json


async def test_a_handshake_gives_the_key_confirmation(api: Api) -> None:
    reply = await api.post(f"/api/keyex/{OWN}/handshake", {"cipher_text": TEXT})
    answer = await api.node.keyex_handshake(OWN, CIPHER_TEXT)
    assert reply.json == {
        "key_confirmation": b64encode(answer.key_confirmation).decode(),
        "machine_id": machine(OWN).hex(),
        "alg": "ML-KEM-768",
        **TIME,
    }
    unknown = await api.post("/api/keyex/ZEQ07999999999/handshake", {"cipher_text": TEXT})
    assert (unknown.status, unknown.code) == (404, "TARGET_NOT_FOUND")


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-4],
        TEXT + "AAAA",
        TEXT[:-1],
        TEXT[:-2] + "B=",  # the same bytes in another spelling
        TEXT[:-2] + "==",
        "-" + TEXT[1:],
        TEXT[:-1] + "\n",
        7,
        None,
    ],
    ids=[
        "empty",
        "short",
        "long",
        "unpadded",
        "loose-bits",
        "padding",
        "url-alphabet",
        "line-end",
        "number",
        "null",
    ],
)
async def test_a_cipher_text_is_1088_bytes_in_one_spelling(api: Api, text: object) -> None:
    assert b64decode(TEXT) == CIPHER_TEXT
    for path in (f"/api/keyex/{OWN}/handshake", RESPOND):
        body = {"cipher_text": text}
        if path == RESPOND:
            body |= {"local_machine": OWN, "peer_machine": RELAY}
        reply = await api.post(path, body)
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


async def test_a_mode_b_seed_is_begun_with_a_pinned_key_and_ends_with_equal_commitments(api: Api) -> None:
    key = await api.node.keyex_pubkey(RELAY)
    body = {
        "local_machine": OWN,
        "peer_origin": "https://zeqond.com",
        "peer_machine": RELAY,
        "expected_fingerprint": key.fingerprint.upper(),
    }
    begun = (await api.post(INITIATE, body)).json
    cipher_text = b64decode(begun["cipher_text"])
    assert begun == {
        "cipher_text": begun["cipher_text"],
        "seed_commitment": commitment(cipher_text),
        "peer_machine_id": machine(RELAY).hex(),
        "fingerprint": key.fingerprint,
        **TIME,
    }
    answered = await api.post(
        RESPOND, {"local_machine": OWN, "peer_machine": RELAY, "cipher_text": begun["cipher_text"]}
    )
    assert answered.json == {
        "seed_commitment": begun["seed_commitment"],
        "peer_machine_id": machine(RELAY).hex(),
        **TIME,
    }
    wrong = await api.post(INITIATE, body | {"expected_fingerprint": "0" * 64})
    assert (wrong.status, wrong.code) == (409, "fingerprint_mismatch")
    for change in ({"local_machine": RELAY}, {"expected_fingerprint": "0"}, {"peer_origin": "file:///etc"}):
        refused = await api.post(INITIATE, body | change)
        assert refused.status in (400, 403)


async def test_a_secret_is_for_those_whom_its_permissions_name(api: Api) -> None:
    api.node.secrets |= {"mine": SECRET, "theirs": SECRET, "mit ümlaut …": SECRET}
    api.node.readers["theirs"] = "somebody"
    reply = await api.get("/api/zsc/get/mine")
    assert reply.json == {"ok": True, "purpose": "mine", "secret": b64encode(SECRET).decode(), **TIME}
    assert reply.headers["cache-control"] == "no-store"
    assert (await api.get("/api/zsc/get/mit%20%C3%BCmlaut%20%E2%80%A6")).json["secret"] == reply.json[
        "secret"
    ]
    replies = [
        await api.get("/api/zsc/get/theirs"),
        await api.get("/api/zsc/get/nothing"),
        await api.get("/api/zsc/get/mine", token=api.read),
        await api.get("/api/zsc/get/mine", token=None),
        await api.get("/api/zsc/get/" + "%C3%BC" * 128),
        await api.get("/api/zsc/get/" + "a" * 256),
        await api.get("/api/zsc/get/"),
    ]
    assert [(each.status, each.code) for each in replies] == [
        (403, "NOT_PERMITTED"),
        (404, "NOT_FOUND"),
        (403, "INSUFFICIENT_SCOPE"),
        (401, "UNAUTHORIZED"),
        (400, "INVALID_REQUEST"),
        (400, "INVALID_REQUEST"),
        (404, "NOT_FOUND"),
    ]


async def test_trust_and_status(api: Api) -> None:
    own = (await api.get("/api/protocol/pohc")).json
    assert own == {
        "ok": True,
        "slug": OWN,
        "tier": 1,
        "score": 12,
        "how": "3 receipts of 2 partners",
        "inputs": {"receipts": 3},
        **TIME,
    }
    assert (await api.get(f"/api/protocol/pohc?slug={RELAY}", token=api.read)).json == own | {"slug": RELAY}
    status = (await api.get("/api/status", token=api.read)).json
    assert status.pop("version")
    assert status == {"ok": True, "slug": OWN, "pulse_hz": PULSE_HZ, **TIME}


# ---------------------------------------------------------------------- live events


async def test_events_come_live_and_end_with_the_source(api: Api) -> None:
    api.node.happenings = [
        Happening("vpn.tunnel.accepted", {"tunnel_id": "x", "news": True}),
        Happening("with\nline: ends", {"text": "a\nb"}),
    ]
    reply = await api.get("/api/events", token=api.read)
    assert reply.headers["content-type"].startswith("text/event-stream")
    first, second, end = reply.body.decode().split("\n\n")
    assert first.partition("\n")[0] == "event: vpn.tunnel.accepted"
    data = json.loads(first.partition("\ndata: ")[2])
    assert data == {"tunnel_id": "x", "news": True, **TIME}
    assert second.partition("\n")[0] == "event: withline:ends"
    assert json.loads(second.partition("\ndata: ")[2])["text"] == "a\nb"
    assert end == ""
    api.node.fail = ZeroDivisionError("inside")
    reply = await api.get("/api/events")
    assert '"code": "INTERNAL"' in reply.body.decode().split("\n\n")[2]


async def _listening(api: Api, token: str) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(*api.address)
    request = f"GET /api/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
    await stream.send_all(request.encode())
    return stream


async def _head(stream: trio.SocketStream) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        found += await stream.receive_some(1024)
    return found


async def test_a_listener_that_goes_makes_room_for_another(api: Api) -> None:
    api.node.forever = True
    streams = [await _listening(api, api.write) for _ in range(STREAMS_MAX)]
    for stream in streams:
        assert (await _head(stream)).startswith(b"HTTP/1.1 200")
    full = await api.get("/api/events")
    assert (full.status, full.code) == (503, "BUSY")
    await streams.pop().aclose()
    with trio.fail_after(10):
        while True:  # until the server has noticed
            stream = await _listening(api, api.write)
            head = await _head(stream)
            streams.append(stream)
            if head.startswith(b"HTTP/1.1 200"):
                break
            await wait_all_tasks_blocked()
    for stream in streams:
        await stream.aclose()


async def test_listening_ends_with_the_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api.stream.ALIVE_SECONDS", 0.05)
    api.node.forever = True
    token, text = await api.tokens.new("brief", "read", 1)
    stream = await _listening(api, text)
    with trio.fail_after(10):
        heard = await _head(stream)
        while b": alive" not in heard:
            heard += await stream.receive_some(1024)
        await api.tokens.revoke(token.id)
        while not heard.endswith(b"0\r\n\r\n"):
            heard += await stream.receive_some(1024)
    await stream.aclose()


async def test_nothing_is_told_to_a_token_that_was_revoked(api: Api) -> None:
    """What happened next, within the fifteen seconds between two signs of life, was told all the same."""
    api.node.happenings, api.node.late = [Happening("vpn.tunnel.accepted", {"tunnel_id": "x"})], True
    token, text = await api.tokens.new("brief", "read", 1)
    stream = await _listening(api, text)
    with trio.fail_after(10):
        heard = await _head(stream)
        await wait_all_tasks_blocked()
        await api.tokens.revoke(token.id)
        api.node.happens.set()
        while not heard.endswith(b"0\r\n\r\n"):
            heard += await stream.receive_some(1024)
    assert b"accepted" not in heard
    await stream.aclose()
