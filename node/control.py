"""How the command line speaks to the running node: one request a connection, over `<state>/control.sock`.

    ▶ {"op": "ping", "peer": "home", "timeout_s": 5}⏎          at most 64 KB, within ten seconds
    ◀ {"progress": "one line for the person who waits"}⏎       any number of them
    ◀ {"item": {…}}⏎                                           any number of them, where one asked to watch
    ◀ {"ok": {…}}⏎    or    {"error": "sentence", "exit_code": 4}⏎

Root, the node's own user and members of the group zeqnode may speak; the kernel says who is there
(SO_PEERCRED and SO_PEERGROUPS in socket(7)), whatever the file's mode has become. A request that was
understood is carried out to its end also when the one who asked has gone; only watching ends then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from node.control_socket import Lines, connect, group_id, listen, may_ask, not_allowed, remove
from node.errors import NotRunning, Refused, Unreachable, Usage, UserError
from node.logs import Log

Progress: TypeAlias = Callable[[str], Awaitable[None]]
Handler: TypeAlias = Callable[[str, dict[str, Any], "Asker"], Awaitable[dict[str, Any]]]

REQUEST_BYTES_MAX: Final = 64 * 1024
REQUEST_SECONDS: Final = 10.0
CONNECTIONS_MAX: Final = 32
WATCHERS_MAX: Final = 16  # of those connections: the others stay for commands that end
SOCKET_NAME: Final = "control.sock"

_SEND_SECONDS: Final = 10.0

_log = Log("control")


async def serve(
    path: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests at `path` until cancelled, then remove the socket; raises StorageFailed.

    `handler(op, arguments, progress)` gives the answer. Its UserError goes to the one who asked; any other
    exception is logged, and the node lives on. The caller holds the state directory's lock, so that a socket
    found at `path` belongs to a dead node, and is replaced.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listen(path)))
    server = _Server(handler, group_id())
    try:
        await trio.serve_listeners(server.answer, [listener], task_status=_Started(task_status))
    finally:
        listener.socket.close()
        remove(path)


async def call(
    path: Path,
    op: str,
    *,
    on_progress: Callable[[str], None] | None = None,
    on_item: Callable[[dict[str, Any]], None] | None = None,
    timeout: float = 30.0,  # noqa: ASYNC109  a silence, not the whole
    **arguments: Any,
) -> dict[str, Any]:
    """Ask the node at `path`; its "ok", or its error as the UserError with that exit code.

    What is watched comes to `on_item`, with `timeout` infinite. Raises NotRunning if none is there, Refused
    if this user may not ask, and UserError if the node stops, or is silent for `timeout` seconds.
    """
    stream = trio.SocketStream(await connect(path))
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):  # turned away: the reason is there to be read
            await stream.send_all(_line({"op": op, **arguments}))
        lines = Lines(stream, None)
        while True:
            with trio.move_on_after(timeout) as waiting:
                line = await lines.next()
            if waiting.cancelled_caught:
                raise UserError(f"the node has not answered for {timeout:g} s; look at its log")
            if line is None:
                raise UserError("the node stopped before it answered; see whether it runs: zeqnode status")
            answer = json.loads(line)
            if "item" in answer:
                if on_item:
                    on_item(answer["item"])
            elif "progress" not in answer:
                return _result(answer)
            elif on_progress:
                on_progress(answer["progress"])


class Asker:
    """The one who asked, while the answer is made: `await asker("…")` is a line of progress."""

    def __init__(self, server: _Server, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream

    async def __call__(self, text: str) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # whoever waited has gone
            await _send(self._stream, _line({"progress": text}))

    async def watch(self, items: AsyncGenerator[dict[str, Any], None]) -> None:
        """Give each of the items as it comes, to the end of them or until the one who asked has gone.

        Raises UserError while too many are watching, and what `items` raises of that kind."""
        if self._server.watching >= WATCHERS_MAX:
            raise UserError(
                f"{WATCHERS_MAX} commands are watching this node; end one of them, then try again"
            )
        failure: UserError | None = None
        self._server.watching += 1
        try:
            async with trio.open_nursery() as nursery, contextlib.aclosing(items):
                nursery.start_soon(self._until_gone, nursery.cancel_scope)
                try:
                    async for item in items:
                        await _send(self._stream, _line({"item": item}))
                except trio.BrokenResourceError:
                    pass  # gone
                except UserError as error:  # out of the nursery as it is, and not in a group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._server.watching -= 1
        if failure is not None:
            raise failure

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(1024):
                pass
        scope.cancel()


@dataclass
class _Server:
    handler: Handler
    group: int | None
    open: int = field(default=0)
    watching: int = field(default=0)

    async def answer(self, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its end; raises nothing but Cancelled."""
        self.open += 1
        try:
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._answer(stream)
        finally:
            self.open -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            self._admit(stream)
            with trio.move_on_after(REQUEST_SECONDS) as reading:
                line = await Lines(stream, REQUEST_BYTES_MAX).next()
            if reading.cancelled_caught:
                raise Usage(f"no whole request came within {REQUEST_SECONDS:g} s; ask again")
            if line is None:
                return
            op, arguments = _request(line)
        except UserError as error:
            await _send(stream, _failure(error))
            return
        await _send(stream, await self._handled(stream, op, arguments))

    def _admit(self, stream: trio.SocketStream) -> None:
        if not may_ask(stream.socket, self.group):
            raise not_allowed()
        if self.open > CONNECTIONS_MAX:
            raise UserError(f"the node is busy with {CONNECTIONS_MAX} other commands; try again in a moment")

    async def _handled(self, stream: trio.SocketStream, op: str, arguments: dict[str, Any]) -> bytes:
        try:
            return _line({"ok": await self.handler(op, arguments, Asker(self, stream))})
        except UserError as error:
            return _failure(error)
        except Exception:
            _log.exception("a command failed by a fault of ours", op=op)
            return _failure(
                UserError("the node met a fault of its own in this command; its log has the details")
            )


@dataclass
class _Started:
    """Passes "started" on, without the listeners that nobody outside needs."""

    outer: trio.TaskStatus[None]

    def started(self, _listeners: object = None) -> None:
        self.outer.started()


def _request(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(op := request.pop("op", None), str):
        raise Usage('a request is one line of JSON, as {"op": "status"}')
    return op, request


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" not in answer:
        ok: dict[str, Any] = answer["ok"]
        return ok
    kinds = {each.exit_code: each for each in (UserError, Usage, NotRunning, Unreachable, Refused)}
    raise kinds.get(answer["exit_code"], UserError)(answer["error"])


def _failure(error: UserError) -> bytes:
    return _line({"error": str(error), "exit_code": error.exit_code})


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def _send(stream: trio.SocketStream, line: bytes) -> None:
    """Raises BrokenResourceError if the other side has gone, or does not read for ten seconds."""
    with trio.move_on_after(_SEND_SECONDS) as sending:
        await stream.send_all(line)
    if sending.cancelled_caught:
        raise trio.BrokenResourceError
