"""/api/vpn/marketplace: relays on offer, and this machine among them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

from fastapi import APIRouter, Query

from node.api import models
from node.api.backend import ListOffer
from node.api.edge import WRITING, Here, Route, Writer, documented

router: Final = APIRouter(prefix="/api/vpn/marketplace", route_class=Route, tags=["marketplace"])


@router.get("", responses=documented())
async def marketplace(query: Annotated[models.MarketQuery, Query()], desk: Here) -> models.Market:
    """The relays that offer themselves now, the best first; open to all.

    Only listed machines are here: an unlisted one cannot be found by strangers at all. `country` is matched
    as the seeds have it, against the classes that a relay accepts, or ANY.
    """
    found = await desk.backend.marketplace(query.country, query.max_zeq_per_gb)
    return models.Market(offers=[models.Offer(**asdict(each)) for each in found], **desk.stamp())


@router.post("/list", responses=documented(*WRITING))
async def list_machine(body: models.MarketListing, desk: Here, _caller: Writer) -> models.Listed:
    """List this machine as a relay, or change what it offers; `active` false takes it off.

    Nothing is offered before this is asked, and the same again changes nothing.
    """
    slug = desk.own(body.slug)
    classes = tuple(body.accept_country_classes)
    offer = ListOffer(**body.model_dump() | {"slug": slug, "accept_country_classes": classes})
    made = await desk.backend.list_offer(offer)
    return models.Listed(offer=models.Offer(**asdict(made)), **desk.stamp())
