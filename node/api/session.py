"""/api/session: a cookie for a browser, in place of the token."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from node.api import models
from node.api.edge import Here, Reader, Route, documented
from node.api.faults import Unauthorized
from node.api.sessions import COOKIE, SESSION_SECONDS

router: Final = APIRouter(prefix="/api/session", route_class=Route, tags=["session"])


@router.post("", responses=documented())
async def begin_session(
    request: Request, desk: Here, caller: Reader, response: Response
) -> models.SessionBegun:
    """Begin a session with the token that is shown: its cookie does what the token may do, for twelve hours.

    The cookie is not for scripts, and goes to no other site. It ends with the token, and with the node.
    """
    if "authorization" not in request.headers:  # or a session could be prolonged for ever
        raise Unauthorized("a session is begun with a token, not with another session; send it as bearer")
    value, session = desk.sessions.begin(caller.token_id, desk.clock() // 1000)
    response.set_cookie(COOKIE, value, max_age=SESSION_SECONDS, httponly=True, samesite="strict", path="/api")
    return models.SessionBegun(may_write=caller.may_write, expires=session.expires, **desk.stamp())


@router.delete("", responses=documented())
async def end_session(
    request: Request, desk: Here, _caller: Reader, response: Response
) -> models.SessionEnded:
    """End the session of the cookie that is shown, if one is."""
    if request.state.cookie is not None:
        desk.sessions.end(request.state.cookie, desk.clock() // 1000)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/api")
    return models.SessionEnded(**desk.stamp())
