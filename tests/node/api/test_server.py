"""The server under bad clients: too long, too slow, too many, upgrades; and that the node lives on."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.api import connection, gate, server
from node.api.settings import ApiSettings
from node.tokens import open_tokens
from tests.node.api.stand_in import Api, StandIn, everything, parsed, running

LIST = "/api/vpn/marketplace/list"
LIMIT = gate.BODY_BYTES_MAX
HEAD = "POST /api/vpn/marketplace/list HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """These clients wait for the end of the connection, whole answers or not."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)


async def _alive(api: Api) -> bool:
    return (await api.get("/api/status")).status == 200


async def _connected(api: Api) -> trio.SocketStream:
    return await trio.open_tcp_stream(*api.address)


# ---------------------------------------------------------------------- too long


async def test_a_body_of_just_the_limit_is_read(api: Api) -> None:
    body = json.dumps({"slug": "x" * (LIMIT - 12)}).encode()
    assert len(body) == LIMIT
    assert (await api("POST", LIST, body)).code == "INVALID_REQUEST"
    assert (await api("POST", LIST, body + b" ")).code == "TOO_LARGE"


async def test_a_body_that_is_announced_too_long_is_not_read(api: Api) -> None:
    stream = await _connected(api)
    async with stream:
        await stream.send_all(f"{HEAD}content-length: {100 * 2**20}\r\n\r\n".encode())
        with trio.fail_after(10):
            reply = parsed(await everything(stream))
    assert (reply.status, reply.code) == (413, "TOO_LARGE")
    assert reply.headers["connection"] == "close"
    assert await _alive(api)


async def test_a_hundred_megabytes_are_turned_away_early(api: Api) -> None:
    stream = await _connected(api)
    sent = 0

    async def send() -> None:
        nonlocal sent
        with suppress(trio.BrokenResourceError):
            while sent < 100 * 2**20:
                await stream.send_all(bytes(2**18))
                sent += 2**18

    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(f"{HEAD}content-length: {100 * 2**20}\r\n\r\n".encode())
        nursery.start_soon(send)
        found = b""
        with trio.fail_after(10):
            while b"TOO_LARGE" not in found:
                found += await stream.receive_some(4096)
        nursery.cancel_scope.cancel()
    assert found.startswith(b"HTTP/1.1 413")
    assert await _alive(api)


@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_chunks_are_counted_as_they_come(api: Api, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypercorn's queue is full when the answer is given; it would wait for ever that somebody takes them."""
    answer = gate.Gate._answer

    async def late(*arguments: Any, **more: Any) -> None:
        await wait_all_tasks_blocked(0.02)
        await answer(*arguments, **more)

    monkeypatch.setattr(gate.Gate, "_answer", late)
    chunk = b"%x\r\n%s\r\n" % (size, b"a" * size)
    stream = await _connected(api)
    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(f"{HEAD}transfer-encoding: chunked\r\n\r\n".encode())

        async def send() -> None:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(chunk * (2 * LIMIT // size))

        nursery.start_soon(send)
        with trio.fail_after(10):
            found = await everything(stream)
        nursery.cancel_scope.cancel()
    assert parsed(found).code == "TOO_LARGE"
    assert await _alive(api)


async def test_many_small_chunks_make_one_body(api: Api) -> None:
    body = b'{"slug": "x"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = (
        f"{HEAD}authorization: Bearer {api.write}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    reply = await api.raw(head.encode() + chunks)
    assert reply.json["error"].startswith("slug: ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
        b"\r\n\r\n\r\n",
    ],
    ids=[
        "long",
        "no host",
        "two hosts",
        "control",
        "negative",
        "two lengths",
        "coding",
        "tls",
        "blank",
    ],
)
async def test_what_is_no_request_is_told_so(api: Api, head: bytes) -> None:
    reply = await api.raw(head)
    assert reply.status in (400, 431, 501)
    assert reply.code in ("INVALID_REQUEST", "TOO_LARGE")
    assert await _alive(api)


# ---------------------------------------------------------------------- too slow


@pytest.mark.parametrize("head", [b"", b"GET /api/status HTTP/1.1\r\nhost: local"])
async def test_a_head_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    async with running(tmp_path) as api:
        stream = await _connected(api)
        async with stream:
            await stream.send_all(head)
            with trio.fail_after(10):
                assert await stream.receive_some(1024) == b""
        assert await _alive(api)


async def test_a_body_that_never_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)
    stream = await _connected(api)
    async with stream:
        await stream.send_all(f"{HEAD}content-length: 10\r\n\r\n{{".encode())
        with trio.fail_after(10):
            reply = parsed(await everything(stream))
    assert (reply.status, reply.code) == (408, "TOO_SLOW")
    assert await _alive(api)


async def test_a_client_that_goes_in_the_middle(api: Api) -> None:
    for data in (
        "GET /",
        f"{HEAD}content-length: 10\r\n\r\n{{",
        f"{HEAD}transfer-encoding: chunked\r\n\r\n5\r\nab",
    ):
        stream = await _connected(api)
        await stream.send_all(data.encode())
        await stream.aclose()
    assert await _alive(api)


async def test_a_client_that_never_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Hypercorn sends under a shield: nothing but the closed socket ends it."""
    async with running(tmp_path, reads_per_minute=10_000) as api:
        stream = await _never_reading(api)
        ends = trio.current_time()
    assert trio.current_time() - ends < connection.SEND_SECONDS / 2
    await stream.aclose()


async def test_a_client_that_never_reads_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)
    async with running(tmp_path, reads_per_minute=10_000) as api:
        stream = await _never_reading(api)
        with trio.fail_after(10):
            while not await _alive(api):
                pass  # until its place is free
        await stream.aclose()


async def _never_reading(api: Api) -> trio.SocketStream:
    """A connection that asks for more than fits between the two, and takes nothing."""
    stream = await _connected(api)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = b"GET /api/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with trio.move_on_after(1):
        await stream.send_all(request * 2000)
    await wait_all_tasks_blocked(0.1)
    return stream


async def test_requests_on_one_connection(api: Api) -> None:
    request = b"GET /api/vpn/marketplace HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    stream = await _connected(api)
    async with stream:
        await stream.send_all(request * 4 + last)
        assert (await everything(stream)).count(b"HTTP/1.1 200") == 5


# ---------------------------------------------------------------------- too many


async def test_connections_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    async with running(tmp_path) as api:
        streams = [await _connected(api) for _ in range(3)]
        reply = await api.get("/api/status")
        assert (reply.status, reply.code) == (503, "BUSY")
        await streams.pop().aclose()
        with trio.fail_after(10):
            while not await _alive(api):
                pass
        for stream in streams:
            await stream.aclose()


# ---------------------------------------------------------------------- upgrades, faults

UPGRADE = (
    b"GET /api/vpn/marketplace HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)


@pytest.mark.parametrize("trailing", [b"", b"x", b"\x81\x00", b"GET / HTTP/1.1\r\n\r\n", bytes(70_000)])
async def test_hypercorn_issue_225(api: Api, trailing: bytes) -> None:
    """An upgrade with a byte behind it ended its whole nursery, and so the node."""
    stream = await _connected(api)
    async with stream:
        await stream.send_all(UPGRADE + trailing)
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
    assert await _alive(api)


async def test_an_offer_of_http2_is_passed_over(api: Api) -> None:
    reply = await api.get(
        "/api/status", connection="upgrade, http2-settings, close", upgrade="h2c", http2_settings="AAMAAABk"
    )
    assert reply.status == 200


async def test_http2_is_not_spoken(api: Api) -> None:
    stream = await _connected(api)
    async with stream:
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 403")
    assert await _alive(api)


async def test_a_fault_in_one_connection_ends_no_other(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = await _connected(api)
    async with stream:
        await stream.send_all(b"GET /api/vpn/marketplace HTTP/1.1\r\nhost: localhost\r\n")

        async def fail(*_: object) -> None:
            raise AssertionError("as hypercorn would")

        with monkeypatch.context() as patch:
            patch.setattr(connection._Protocol, "_create_stream", fail)
            other = await _connected(api)
            async with other:
                await other.send_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
                with trio.fail_after(10):
                    assert await other.receive_some(1024) == b""
        await stream.send_all(b"connection: close\r\n\r\n")
        assert b"200" in await everything(stream)
    assert "a connection to the API ended by a fault" in caplog.text
    assert await _alive(api)


# ---------------------------------------------------------------------- sockets


async def test_a_unix_socket_answers_too(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with running(tmp_path, socket=path) as api:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        assert mode in (0o600, 0o660)
        stream = await trio.open_unix_socket(path)
        async with stream:
            head = f"GET /api/status HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {api.read}\r\n"
            await stream.send_all(f"{head}connection: close\r\n\r\n".encode())
            assert parsed(await everything(stream)).status == 200
    assert not path.exists()


async def test_a_port_that_is_taken_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_WAIT_SECONDS", 0.05)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    async with open_tokens(tmp_path / "tokens.db") as tokens, trio.open_nursery() as nursery:
        serve = partial(server.serve, ApiSettings(port=port), StandIn(), tokens)
        assert await nursery.start(serve) == []
        assert "the API is not served" in caplog.text
        taken.close()
        with trio.fail_after(10):
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    await trio.sleep(0.02)  # the node says nothing when it has the port at last
                    continue
                break
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_what_ends_the_server_starts_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_WAIT_SECONDS", 0.01)
    runs = 0
    again = trio.Event()
    real = server._Served.run

    async def run(self: server._Served, status: Any) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ExceptionGroup("", [ZeroDivisionError()])
        again.set()
        await real(self, status)

    monkeypatch.setattr(server._Served, "run", run)
    async with open_tokens(tmp_path / "tokens.db") as tokens, trio.open_nursery() as nursery:
        assert await nursery.start(partial(server.serve, ApiSettings(port=0), StandIn(), tokens)) == []
        with trio.fail_after(10):
            await again.wait()
        nursery.cancel_scope.cancel()
    assert caplog.text.count("is started again") == 2


def test_the_web_is_not_imported_before_it_is_needed() -> None:
    """FastAPI takes half a second, which neither the command line nor a node without the API pays."""
    modules = "node.app, node.cli, node.tokens, node.commands.tokens, node.api.settings, node.api.backend"
    question = f"import sys, {modules}, node.api.faults; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert not {"fastapi", "starlette", "pydantic", "hypercorn", "h11"} & set(answer.stdout.split())
