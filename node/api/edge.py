"""What the endpoints share: the caller, the node, and how an error becomes an answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import Response

from node.api import faults, models, strict
from node.api.backend import Backend, Caller
from node.api.errors import failure_of, stamp
from node.api.faults import ApiFault, InsufficientScope, InvalidRequest, NotOwner, Unauthorized
from node.api.sessions import COOKIE, Sessions
from node.api.stream import Streams
from node.tokens import Tokens

_BEARER: Final = HTTPBearer(auto_error=False, description="A token of `zeqnode token new`.")
_COOKIE: Final = APIKeyCookie(name=COOKIE, auto_error=False, description="From POST /api/session.")

# What the gate and every endpoint may answer.
_EVERYWHERE: Final[tuple[type[ApiFault], ...]] = (
    faults.InvalidRequest,
    faults.Unauthorized,
    faults.ForbiddenHost,
    faults.ForbiddenOrigin,
    faults.TooSlow,
    faults.TooLarge,
    faults.RateLimited,
    faults.Internal,
    faults.Busy,
)
WRITING: Final[tuple[type[ApiFault], ...]] = (faults.NotOwner, faults.InsufficientScope)


def documented(*more: type[ApiFault]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the errors of an endpoint: these, and those that all have."""
    found: dict[int | str, dict[str, Any]] = {}
    for fault in (*_EVERYWHERE, *more):
        codes = found.setdefault(fault.status, {"model": models.Error, "description": ""})
        codes["description"] = ", ".join(filter(None, (codes["description"], f"`{fault.code}`")))
    return found


@dataclass(frozen=True)
class Desk:
    """`clock`: Unix milliseconds."""

    backend: Backend
    tokens: Tokens
    sessions: Sessions
    streams: Streams
    clock: Callable[[], int]

    def stamp(self) -> dict[str, Any]:
        return stamp(self.clock())

    def own(self, slug: str) -> str:
        """The slug, if it is this node's; raises NotOwner."""
        if slug not in self.backend.own_slugs():
            own = ", ".join(sorted(self.backend.own_slugs()))
            raise NotOwner(f"{slug} is not this machine; here it is {own}")
        return slug


class Route(APIRoute):
    """Every error of an endpoint becomes an answer here, also those of the program."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if len(request.query_params.multi_items()) != len(request.query_params):
                    raise InvalidRequest("a parameter is given twice; give each of them once")
                if self.body_field is not None:
                    strict.check(await request.body())
                return await inner(request)
            except Exception as error:
                failure = failure_of(error)
                body = failure.body(request.app.state.desk.clock())
                return Response(body, failure.status, dict(failure.headers), "application/json")

        return handle


async def desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


async def reader(
    request: Request,
    _token: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    _session: Annotated[str | None, Security(_COOKIE)],
) -> Caller:
    """Whom the gate found. Raises Unauthorized where it found nobody."""
    caller: Caller | None = request.state.caller
    if caller is None:
        raise Unauthorized("this needs a token: make one with `zeqnode token new`, send it as bearer")
    return caller


async def writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Raises InsufficientScope."""
    if not caller.may_write:
        raise InsufficientScope("this token may only read; make one with: zeqnode token new --scope write")
    return caller


Here = Annotated[Desk, Depends(desk)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
