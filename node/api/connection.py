"""One HTTP/1.1 connection, as hypercorn's trio worker has it, with what it lacks.

- A WebSocket upgrade with a byte behind it ends hypercorn's whole nursery (its issue 225). We have neither
  WebSocket nor HTTP/2: an offer to upgrade is passed over, as HTTP allows, and no such code is reached.
- It sends under a shield and without a deadline: a client that never reads would hold up the node's end.
- It reads on while an answer is given, and waits for ever where nobody takes what was read: `hang_up`.
- What it cannot parse it answers with an empty page.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

from node.api.errors import Failure

HEAD_SECONDS: Final = 10
HEAD_BYTES_MAX: Final = 16 * 1024
SEND_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 2.0

_CODES: Final = {413: "TOO_LARGE", 431: "TOO_LARGE"}


def settings() -> Config:
    """Hypercorn's own, for our connections."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn")  # no handler of its own: ours has it
    config.include_server_header = False
    config.keep_alive_timeout = HEAD_SECONDS  # for a whole head to come, and idle between two
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    return config


class Connection:
    """A stream for hypercorn."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reading = trio.CancelScope()
        self._until: float | None = None
        self.socket = stream.socket

    async def receive_some(self, most: int) -> bytes:
        """Nothing is heard any more after `hang_up`: what comes is taken in and dropped until the client
        ends or two seconds have passed, so that it reads our answer before it sees a closed connection."""
        with trio.CancelScope(deadline=math.inf if self._until is None else self._until) as self._reading:
            while True:
                data = bytes(await self._stream.receive_some(most))
                if self._until is None or not data:
                    return data
        return b""

    def hang_up(self) -> None:
        self._until = self._reading.deadline = trio.current_time() + LINGER_SECONDS

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(SEND_SECONDS) as sending:
            await self._stream.send_all(data)
        if sending.cancelled_caught:
            self.socket.close()  # and so ends who waits for more of it
            raise trio.BrokenResourceError

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Protocol(H11Protocol):
    unix_ms: Callable[[], int]
    socket: trio.socket.SocketType

    async def _check_protocol(self, event: h11.Request) -> None:
        """Not HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError  # hypercorn would go on with what it has read already
        headers = [(name, value) for name, value in request.headers if name.lower() != b"upgrade"]
        plain = h11.Request(
            method=request.method, target=request.target, headers=headers, http_version=request.http_version
        )
        await super()._create_stream(plain)

    async def _send_error_response(self, status_code: int) -> None:
        code = _CODES.get(status_code, "INVALID_REQUEST")
        failure = Failure(status_code, code, "this is not a request that HTTP/1.1 knows; send it again")
        body = failure.body(self.unix_ms())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Server(TCPServer):
    """Answers the requests of one connection until it ends. May raise what hypercorn raises."""

    def __init__(
        self, app: AppWrapper, config: Config, connection: Connection, unix_ms: Callable[[], int]
    ) -> None:
        state = ConnectionState({"connection": connection})
        # Its types say TLS; a stream of ours is what it takes where there is none.
        super().__init__(app, config, WorkerContext(None), state, cast("Any", connection))
        self._unix_ms = unix_ms

    async def run(self) -> None:
        try:
            async with TaskGroup() as group:
                self._task_group = group
                self.protocol = cast("Any", self._protocol(group))
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
                await self.idle_task.stop()  # or the group would wait for it
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # gone
        finally:
            await self._close()

    def _protocol(self, group: TaskGroup) -> _Protocol:
        made = _Protocol(
            self.app,
            self.config,
            self.context,
            group,
            ConnectionState(self.state),
            False,
            None,
            None,
            self.protocol_send,
        )
        made.unix_ms = self._unix_ms
        made.socket = self.stream.socket
        return made
