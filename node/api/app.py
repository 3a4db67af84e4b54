"""The ASGI application: the endpoints, behind the gate."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from node.api import keys, market, protocol, session, tunnels
from node.api.backend import Backend
from node.api.edge import Desk
from node.api.errors import failure_of
from node.api.faults import MethodNotAllowed
from node.api.gate import Gate
from node.api.sessions import KEY_BYTES, Sessions
from node.api.settings import ApiSettings
from node.api.stream import Streams
from node.tokens import Tokens

DOCUMENT: Final = "/api/openapi.json"
_ROUTERS: Final = tuple(each.router for each in (tunnels, market, keys, protocol, session))
_ABOUT: Final = """\
The API of one node, on its own machine. A token (`zeqnode token new`) or a session opens it; the marketplace,
a machine's published key and this document are open to all who reach the port.

Every answer has `zeqond` and `phase`; every error is `{error, code, zeqond, phase}`. Each token may ask 240
times in a minute, and write 60 times.
"""


def build(settings: ApiSettings, backend: Backend, tokens: Tokens, clock: Callable[[], int]) -> Gate:
    """`clock`: Unix milliseconds. Sessions begin anew with every application."""
    sessions = Sessions(os.urandom(KEY_BYTES))
    app = FastAPI(
        title="zeqnode",
        version="1",
        description=_ABOUT,
        openapi_url=DOCUMENT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.desk = Desk(backend, tokens, sessions, Streams(clock), clock)
    for router in _ROUTERS:
        app.include_router(router)
    for kind in (HTTPException, Exception):
        app.add_exception_handler(kind, _unrouted)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return Gate(app, settings, tokens, sessions, clock)


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without the 422 that FastAPI would give and we never do."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            made["components"]["schemas"].pop(name, None)
        app.openapi_schema = made
    return app.openapi_schema


async def _unrouted(request: Request, error: Exception) -> Response:
    """For paths and methods that are not there, and faults outside of the endpoints."""
    failure = failure_of(error)
    headers = dict(failure.headers)
    if failure.status == MethodNotAllowed.status:
        headers["allow"] = ", ".join(_methods(request.scope["path"]) or ("GET",))
    body = failure.body(request.app.state.desk.clock())
    return Response(body, failure.status, headers, "application/json")


def _methods(path: str) -> list[str]:
    """Of all endpoints on a path; Starlette tells those of the first one only."""
    routes = (route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute))
    found = (route.methods or () for route in routes if route.path_regex.match(path))
    return sorted({method for methods in found for method in methods})
