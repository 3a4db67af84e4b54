"""/api/status, /api/protocol/pohc and /api/events."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from crypto.pulse import PULSE_HZ
from node.api import faults, models
from node.api.edge import Here, Reader, Route, documented
from node.api.stream import MEDIA_TYPE, EventStream

router: Final = APIRouter(prefix="/api", route_class=Route, tags=["node"])


@router.get("/status", responses=documented())
async def status(desk: Here, _caller: Reader) -> models.Status:
    """Which machine this is, and which version it runs."""
    slug = min(desk.backend.own_slugs())
    return models.Status(slug=slug, version=version("zeqnode"), pulse_hz=PULSE_HZ, **desk.stamp())


@router.get("/protocol/pohc", responses=documented(faults.TargetNotFound, faults.SlugUnpinned))
async def pohc(query: Annotated[models.PohcQuery, Query()], desk: Here, _caller: Reader) -> models.Pohc:
    """A machine's tier of trust, and how it was computed.

    Only receipts count whose signers this node has dealt with itself, so machines that sign for each other
    gain nothing, and every node may come to another tier. It is advice.
    """
    found = await desk.backend.pohc(query.slug)
    return models.Pohc(**asdict(found), **desk.stamp())


@router.get(
    "/events",
    response_class=Response,
    responses=documented()
    | {
        200: {
            "description": "Server-sent events: a kind, and a JSON object with `zeqond` and `phase`.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        }
    },
)
async def events(desk: Here, caller: Reader) -> EventStream:
    """What happens from now on, live, until either side ends it; a comment every 15 s shows that it lives."""
    return desk.streams.open(desk.backend.events(), lambda: desk.tokens.by_id(caller.token_id) is not None)
