"""In front of every request: it has come whole and in time, it is meant for us, and whose it is.

    body ≤ 64 KiB, in 10 s  →  Host is ours  →  Origin is ours  →  token or session  →  not too often

The body comes first because hypercorn waits for ever where an answer is given before it was taken in. What
is refused here is answered here; the endpoints find the caller in `request.state.caller`, None for nobody.

Host: a site whose name was made to point at 127.0.0.1 (DNS rebinding) is known by its name. Origin, and
Sec-Fetch-Site of the newer browsers: another site's page may send a request along with our cookie (CSRF). A
program, as curl, sends neither header.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from ipaddress import ip_address
from typing import Any, Final

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.backend import Caller
from node.api.errors import Failure, failure_of
from node.api.faults import (
    ForbiddenHost,
    ForbiddenOrigin,
    RateLimited,
    TooLarge,
    TooSlow,
    Unauthorized,
)
from node.api.limits import Limits
from node.api.sessions import COOKIE, Sessions
from node.api.settings import ApiSettings
from node.tokens import Token, Tokens

BODY_BYTES_MAX: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
READS: Final = ("GET", "HEAD", "OPTIONS")

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)
_ANONYMOUS: Final = ""
_EVERYWHERE: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class Gate:
    """An ASGI application around `app`. `clock`: Unix milliseconds."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        tokens: Tokens,
        sessions: Sessions,
        clock: Callable[[], int],
    ) -> None:
        self._app = app
        self._hosts = frozenset({"localhost", *(each.lower() for each in settings.hosts)})
        self._tokens = tokens
        self._sessions = sessions
        self._limits = Limits(settings.reads_per_minute, settings.writes_per_minute)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, _Headers(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _whole(scope, receive)
        except (TooLarge, TooSlow) as fault:
            await self._turn_away(scope, receive, send, failure_of(fault))
            return
        if body is None:
            return  # gone before it was said what is wanted
        try:
            self._admit(scope)
        except Exception as error:
            await self._answer(send, failure_of(error), last=True)
            return
        await self._app(scope, _replay(body, receive), send)

    def _admit(self, scope: Scope) -> None:
        headers = {name: value.decode("latin1") for name, value in scope["headers"]}
        host = headers.get(b"host", "").lower()
        self._check_host(host)
        _check_origin(headers, host)
        token = self._token(headers)
        self._count(token, write=scope["method"] not in READS)
        caller = Caller(token.id, token.name, token.may_write) if token is not None else None
        scope["state"] |= {"caller": caller, "cookie": _cookie(headers)}

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        if found is None or not (found[1] in self._hosts or _is_loopback(found[1])):
            raise ForbiddenHost(
                "this name is not one of the node's; use 127.0.0.1 or localhost, or add the name to `hosts` "
                "in [api] of its configuration"
            )

    def _token(self, headers: Mapping[bytes, str]) -> Token | None:
        """Raises Unauthorized for a token or session that does not hold; None where there is neither."""
        shown = headers.get(b"authorization")
        if shown is not None:
            scheme, _, text = shown.partition(" ")
            token = self._tokens.check(text.strip()) if scheme.lower() == "bearer" else None
            if token is None:
                self._count(None, write=True)
                raise Unauthorized("the token is wrong, expired or revoked; make one with: zeqnode token new")
            return token
        cookie = _cookie(headers)
        if cookie is None:
            return None
        session = self._sessions.read(cookie, self._clock() // 1000)
        token = self._tokens.by_id(session.token_id) if session is not None else None
        if token is None:
            self._count(None, write=True)
            raise Unauthorized("the session has ended; begin another with POST /api/session and a token")
        return token

    def _count(self, token: Token | None, *, write: bool) -> None:
        who = token.id if token is not None else _ANONYMOUS
        wait = self._limits.take(who, write=write, now=trio.current_time())
        if wait:
            seconds = math.ceil(wait)
            raise RateLimited(f"too many requests in a minute; try again in {seconds} s", seconds)

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send, failure: Failure) -> None:
        """The rest of the body is not wanted: answer, and end the connection when the answer has arrived."""
        await self._answer(send, failure, last=False)
        scope["state"]["connection"].hang_up()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _answer(self, send: Send, failure: Failure, *, last: bool) -> None:
        body = failure.body(self._clock())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *((name.encode(), value.encode()) for name, value in failure.headers.items()),
        ]
        if not last:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": failure.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": not last})


async def _whole(scope: Scope, receive: Receive) -> bytes | None:
    """The body; None if the client has gone. Raises TooLarge before reading more, and TooSlow."""
    too_large = TooLarge(f"a request has at most {BODY_BYTES_MAX} bytes")
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(announced) > BODY_BYTES_MAX:
        raise too_large
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)
    raise TooSlow(f"the request did not come whole within {BODY_SECONDS:g} s; send it again")


def _replay(body: bytes, receive: Receive) -> Receive:
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return rest.pop() if rest else await receive()

    return replay


class _Headers:
    """Sends on, with what every answer has."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given: Iterable[tuple[bytes, bytes]] = message.get("headers", [])
            message = {**message, "headers": [*given, *_EVERYWHERE]}
        await self._send(message)


def _check_origin(headers: Mapping[bytes, str], host: str) -> None:
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
    own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
    if not own or site.lower() not in ("none", "same-origin"):
        raise ForbiddenOrigin("a page of another site sent this request; only the node's own pages may")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _cookie(headers: Mapping[bytes, str]) -> str | None:
    """Ours; what other programs of this host have put beside it is passed over, however it looks."""
    for each in headers.get(b"cookie", "").split(";"):
        name, _, value = each.strip().partition("=")
        if name == COOKIE:
            return value
    return None
