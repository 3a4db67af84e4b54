"""/api/vpn/tunnel…: tunnels are asked for, accepted, ended and listed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Query

from crypto.pulse import PULSE_HZ
from node.api import faults, models
from node.api.backend import TunnelRequest
from node.api.edge import WRITING, Here, Reader, Route, Writer, documented
from node.api.faults import Unsupported
from node.tunnels.keys import purpose
from node.tunnels.shown import identifier

router: Final = APIRouter(prefix="/api/vpn", route_class=Route, tags=["tunnels"])

_REQUEST: Final = (
    *WRITING,
    faults.InvalidTarget,
    faults.InvalidPricingUnit,
    faults.InvalidLifespan,
    faults.Unsupported,
    faults.InsufficientBalance,
    faults.TargetNotFound,
    faults.TargetNotRelay,
    faults.TargetFull,
    faults.SlugUnpinned,
    faults.InvalidState,
    faults.Unreachable,
)
_CHANGE: Final = (*WRITING, faults.NotParty, faults.NotFound, faults.InvalidState, faults.Unreachable)


@router.post("/tunnel/handshake-request", responses=documented(*_REQUEST))
async def request_tunnel(body: models.HandshakeRequest, desk: Here, _caller: Writer) -> models.Requested:
    """Ask a relay for a tunnel.

    The request goes sealed to the relay or its homes, which answers by its policy: `state` is pending until
    then, and /api/events and /api/vpn/tunnels tell what came of it. A slug is a name that several machines
    may bear: one that is not pinned is answered with SLUG_UNPINNED and the claims, and is then given with the
    beginning of the fingerprint. `cover_traffic` and `multi_hop` are not built yet: true is UNSUPPORTED.

    `min_required_zeq` is 100 × the rate for either unit. It is a floor of the credit that the relay extends,
    not a price; `balance_zeq` is that credit and what this node has earned there.
    """
    if body.cover_traffic or body.multi_hop:
        raise Unsupported("cover_traffic and multi_hop are not built yet; ask without them")
    asked = TunnelRequest(
        requester_slug=desk.own(body.requester_slug),
        target_slug=body.target_slug,
        requested_lifespan_zeqonds=body.requested_lifespan_zeqonds,
        pricing_unit=body.pricing_unit,
    )
    made = await desk.backend.request_tunnel(asked)
    return models.Requested(**_named(asdict(made)), pulse_hz=PULSE_HZ, **desk.stamp())


@router.post("/tunnel/handshake-accept", responses=documented(*_CHANGE))
async def accept_tunnel(body: models.HandshakeAccept, desk: Here, _caller: Writer) -> models.Accepted:
    """Accept a tunnel that waits for this machine's owner.

    No key follows from a mesh-wide secret, and none is fetched from the other side: what is parked under
    `key_purpose_id` is an exporter secret of the handshake between the two machines, in each one's own vault,
    and no key of the traffic follows from it.
    """
    slug = desk.own(body.accepter_slug)
    made = await desk.backend.accept(UUID(body.tunnel_id).bytes, slug)
    url = f"/api/zsc/get/{quote(purpose(made.tunnel_id), safe='')}"
    return models.Accepted(**_named(asdict(made)), encrypted_key_fetch_url=url, **desk.stamp())


@router.post("/tunnel/{tunnel_id}/terminate", responses=documented(*_CHANGE))
async def terminate_tunnel(
    tunnel_id: models.TunnelId, body: models.Terminate, desk: Here, _caller: Writer
) -> models.Terminated:
    """End a tunnel, from either side; ending it again gives the same answer.

    The figures of the request are a claim. Both sides meter, and what the payer has signed stands: a tunnel
    that ends in agreement costs ⌈bytes / 10⁹⌉ × price, or zeqonds × price; another is paid pro rata.
    """
    slug = desk.own(body.terminator_slug)
    made = await desk.backend.terminate(
        UUID(tunnel_id).bytes, slug, body.cumulative_bytes, body.cumulative_zeqonds
    )
    values = asdict(made)
    return models.Terminated(**values | {"tunnel_id": identifier(made.tunnel_id)}, **desk.stamp())


@router.get("/tunnels", responses=documented(faults.NotOwner))
async def list_tunnels(
    query: Annotated[models.TunnelsQuery, Query()], desk: Here, _caller: Reader
) -> models.Tunnels:
    """The last hundred tunnels of this machine, the newest first."""
    slug = desk.own(query.slug)
    found = await desk.backend.tunnels(slug)
    rows = [models.Tunnel(**_named(asdict(each))) for each in found]
    return models.Tunnels(slug=slug, tunnels=rows, **desk.stamp())


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """With the tunnel's id as text, and its secret's name."""
    tunnel_id = values.pop("tunnel_id")
    return {"tunnel_id": identifier(tunnel_id), "key_purpose_id": purpose(tunnel_id), **values}
