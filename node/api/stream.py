"""Server-sent events, as browsers and curl take them (the HTML standard, "Server-sent events").

event: vpn.tunnel.accepted⏎
data: {"tunnel_id": "…", "zeqond": 2293617891, "phase": 0.4117}⏎⏎
: alive⏎⏎                                                    every 15 s, or proxies would end it
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.backend import Happening
from node.api.errors import failure_of, stamp
from node.api.faults import Busy

MEDIA_TYPE: Final = "text/event-stream"
STREAMS_MAX: Final = 16  # of the connections: the others stay for requests that end
ALIVE_SECONDS: Final = 15.0


class Streams:
    """Those that are open. `clock`: Unix milliseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.running = 0

    def open(self, events: AsyncGenerator[Happening, None], allowed: Callable[[], bool]) -> EventStream:
        """An answer that ends when `allowed()` is not so any more. Raises Busy."""
        if self.running >= STREAMS_MAX:
            raise Busy(f"{STREAMS_MAX} programs are listening already; end one of them")
        return EventStream(self, events, allowed)


class EventStream(Response):
    media_type = MEDIA_TYPE

    def __init__(
        self, streams: Streams, events: AsyncGenerator[Happening, None], allowed: Callable[[], bool]
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._streams = streams
        self._events = events
        self._allowed = allowed

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        ended = False
        self._streams.running += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._send_all(send)
                ended = True
                nursery.cancel_scope.cancel()
            if ended:  # outside, since hypercorn tells that the client is gone while it sends this
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._streams.running -= 1

    async def _send_all(self, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            sending, coming = trio.open_memory_channel[bytes](0)
            nursery.start_soon(self._listen, sending)
            while True:
                part = b": alive\n\n"
                with trio.move_on_after(ALIVE_SECONDS):
                    try:
                        part = await coming.receive()
                    except trio.EndOfChannel:
                        break
                if not self._allowed():
                    break
                await send({"type": "http.response.body", "body": part, "more_body": True})
            nursery.cancel_scope.cancel()

    async def _listen(self, sending: trio.MemorySendChannel[bytes]) -> None:
        async with sending, aclosing(self._events) as events:
            try:
                async for each in events:
                    await sending.send(self._part(each.kind, dict(each.fields)))
            except Exception as error:
                failure = failure_of(error)
                await sending.send(self._part("error", {"error": failure.sentence, "code": failure.code}))

    def _part(self, kind: str, fields: dict[str, str | int | bool | None]) -> bytes:
        """JSON has no line end in it, and a kind with one would begin another field."""
        data = json.dumps({**fields, **stamp(self._streams.clock())})
        return f"event: {''.join(kind.split())}\ndata: {data}\n\n".encode()


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
