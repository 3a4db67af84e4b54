"""Serving the API: its sockets, how many may be connected, and that no fault in it reaches the node."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.typing import AppWrapper

from node import control_socket
from node.api.app import build
from node.api.backend import Backend
from node.api.connection import Connection, Server, settings
from node.api.errors import Failure
from node.api.faults import Busy
from node.api.settings import ApiSettings
from node.errors import StorageFailed
from node.logs import Log
from node.tokens import Tokens

CONNECTIONS_MAX: Final = 64
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
_BUSY_SECONDS: Final = 1.0

_log = Log("api")


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


async def serve(
    config: ApiSettings,
    backend: Backend,
    tokens: Tokens,
    clock: Callable[[], int] = unix_ms,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Until cancelled. `started` gets what is served, as "127.0.0.1:7777" and the socket's path; nothing
    where a port is taken, which is logged and tried again, for as long as it takes. Raises only Cancelled."""
    # Starlette and hypercorn both type ASGI, each in its own way.
    app = ASGIWrapper(cast("Any", build(config, backend, tokens, clock)))
    status = _Once(task_status)
    wait = FIRST_WAIT_SECONDS
    while True:
        began = trio.current_time()
        try:
            await _Served(config, app, clock).run(status)
        except* (OSError, StorageFailed) as group:
            _log.warning(
                "the API is not served; see to its port and socket in [api] of the configuration",
                error=group.exceptions[0],
                again_s=wait,
            )
        except* Exception:
            _log.exception("the API ended by a fault and is started again", again_s=wait)
        status.started([])
        if trio.current_time() - began > LONGEST_WAIT_SECONDS:
            wait = FIRST_WAIT_SECONDS
        await trio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


class _Served:
    """One time of serving, from binding to closing."""

    def __init__(self, config: ApiSettings, app: AppWrapper, clock: Callable[[], int]) -> None:
        self._config = config
        self._app = app
        self._clock = clock
        self._hypercorn = settings()
        self._open: set[trio.SocketStream] = set()

    async def run(self, status: _Once) -> None:
        listeners = await self._listen()
        try:
            async with trio.open_nursery() as connections:
                status.started([_name(each) for each in listeners])
                try:
                    await trio.serve_listeners(self._answer, listeners, handler_nursery=connections)
                finally:
                    for stream in self._open:
                        stream.socket.close()  # hypercorn sends under a shield
        finally:
            for listener in listeners:
                listener.socket.close()
            if self._config.socket is not None:
                control_socket.remove(self._config.socket)

    async def _listen(self) -> list[trio.SocketListener]:
        config = self._config
        listeners = await trio.open_tcp_listeners(config.port, host=config.address)
        if config.socket is not None:
            try:
                server = control_socket.listen(config.socket)
            except StorageFailed:
                for each in listeners:
                    each.socket.close()
                raise
            listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(server)))
        return listeners

    async def _answer(self, stream: trio.SocketStream) -> None:
        """One connection; raises nothing but Cancelled."""
        if len(self._open) >= CONNECTIONS_MAX:
            await self._busy(stream)
            return
        self._open.add(stream)
        try:
            await Server(self._app, self._hypercorn, Connection(stream), self._clock).run()
        except* Exception:
            _log.exception("a connection to the API ended by a fault")
        finally:
            self._open.discard(stream)

    async def _busy(self, stream: trio.SocketStream) -> None:
        failure = Failure(Busy.status, Busy.code, f"{CONNECTIONS_MAX} connections are open; close some")
        body = failure.body(self._clock())
        head = (
            f"HTTP/1.1 {Busy.status} Busy\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        with trio.move_on_after(_BUSY_SECONDS), suppress(trio.BrokenResourceError):
            await stream.send_all(head.encode() + body)
            await stream.send_eof()
            while await stream.receive_some(1024):
                pass  # to its end, or our answer would be lost with a reset


class _Once:
    """`started` of the first time of serving only."""

    def __init__(self, outer: trio.TaskStatus[list[str]]) -> None:
        self._outer: trio.TaskStatus[list[str]] | None = outer

    def started(self, served: list[str]) -> None:
        if self._outer is not None:
            self._outer.started(served)
            self._outer = None


def _name(listener: trio.SocketListener) -> str:
    name = listener.socket.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
