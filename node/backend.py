"""The running node as the API wants it (node/api/backend.py): tunnels, market, key exchange, vault, tiers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

import trio

from crypto.identity import fingerprint, slug
from crypto.keyex import Published
from dht.marketplace import Listing
from dht.offers import ANY
from node.api.backend import (
    Accepted,
    Caller,
    Happening,
    KeyexAnswer,
    KeyexKey,
    ListOffer,
    OfferInfo,
    Pohc,
    Requested,
    SslInitiated,
    SslResponded,
    State,
    Terminated,
    TunnelInfo,
    TunnelRequest,
)
from node.api.faults import Claim, NotFound, NotPermitted, SlugUnpinned
from node.discovery import Discovery
from node.keyex import errors as keyex_errors
from node.keyex.directory import Directory
from node.keyex.peer_seed import PeerSeeds
from node.keyex.service import KeyExchange
from node.offering import Offering
from node.settlement import tiers
from node.settlement.credit import required_zeq
from node.settlement.life import Code, Role, Row
from node.settlement.terms import MILLIONTHS, Unit
from node.tunnels.connecting import Connecting
from node.tunnels.errors import NotParty, TargetRefused
from node.tunnels.operations import TunnelOperations
from node.tunnels.service import Service
from node.tunnels.shown import identifier, zeq
from node.vault.errors import BadPurpose
from node.vault.errors import NotPermitted as VaultNotPermitted
from node.vault.secrets import Secrets

FRESH_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Parts:
    """Of the node, whose machine_id has 32 bytes and whose Ed25519 key 32."""

    machine_id: bytes
    key: bytes
    discovery: Discovery
    offering: Offering
    service: Service
    connecting: Connecting
    tunnels: TunnelOperations
    directory: Directory
    exchange: KeyExchange
    seeds: PeerSeeds
    secrets: Secrets


class NodeBackend:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._slug = slug(parts.machine_id)
        self._asked: dict[str, float] = {}  # by country class: when the mesh was asked for its offers

    def own_slugs(self) -> frozenset[str]:
        return frozenset({self._slug})

    # ------------------------------------------------------------------ tunnels

    async def request_tunnel(self, request: TunnelRequest) -> Requested:
        connecting, lifespan = self._parts.connecting, request.requested_lifespan_zeqonds
        with _pinned():
            row, notified = await connecting.request(
                request.target_slug, Unit(request.pricing_unit), lifespan
            )
        now = await connecting.answered(row)
        if now.code not in (Code.NONE, Code.TERMINATED):
            raise TargetRefused(request.target_slug, now.code)
        rate = row.agreed.price_zeq
        answer = self._parts.service.answered.get(row.tunnel_id)
        return Requested(
            tunnel_id=row.tunnel_id,
            state=State.PENDING,
            rate_zeq_per_unit=rate,
            min_required_zeq=answer.min_required_zeq if answer is not None else required_zeq(rate),
            balance_zeq=answer.balance_zeq if answer is not None else required_zeq(rate),
            subscribers_notified=notified,
        )

    async def accept(self, tunnel_id: bytes, accepter_slug: str) -> Accepted:
        row = await self._parts.tunnels.find(identifier(tunnel_id))
        if row.role is not Role.PAYEE:
            raise NotParty(f"{accepter_slug} has asked for this tunnel; the other side accepts it")
        row = await self._parts.tunnels.decide(row, True)
        return Accepted(tunnel_id=tunnel_id, state=State(str(row.state)), started_at_zeqond=row.started_at)

    async def terminate(
        self, tunnel_id: bytes, _terminator_slug: str, _bytes: int, _zeqonds: int
    ) -> Terminated:
        row = await self._parts.tunnels.find(identifier(tunnel_id))
        row = await self._parts.tunnels.terminate(row)
        return Terminated(
            tunnel_id=tunnel_id,
            state=State(str(row.state)),
            cumulative_bytes=row.carried,
            cumulative_zeqonds=row.zeqonds,
            total_zeq_charged=-(-row.amount // MILLIONTHS),
            charged_millionths=row.amount,
            ended_at_zeqond=row.ended_at,
        )

    async def tunnels(self, slug: str) -> list[TunnelInfo]:
        return [_tunnel(row, slug) for row in await self._parts.tunnels.rows()]

    # ------------------------------------------------------------------ the market

    async def marketplace(self, country: str | None, max_zeq_per_gb: int | None) -> list[OfferInfo]:
        discovery, wanted = self._parts.discovery, country or ANY
        now = trio.current_time()
        if now - self._asked.get(wanted, float("-inf")) >= FRESH_SECONDS:
            self._asked[wanted] = now
            await discovery.refresh_market(wanted)
        return [await self._offer(each) for each in discovery.market(wanted, max_zeq_per_gb)]

    async def list_offer(self, offer: ListOffer) -> OfferInfo:
        offering = self._parts.offering
        if offer.active or offering.listed:
            arguments = {
                "per_gb": offer.price_per_gb_zeq,
                "per_zeqond": offer.price_per_zeqond_zeq,
                "max_tunnels": offer.max_concurrent_tunnels,
                "accept": list(offer.accept_country_classes),
                "country": offer.country,
            }
            await offering.make(arguments) if offer.active else await offering.withdraw()
        self._parts.service.refresh()
        return OfferInfo(
            slug=self._slug,
            fingerprint=fingerprint(self._parts.machine_id),
            price_per_gb_zeq=offer.price_per_gb_zeq,
            price_per_zeqond_zeq=offer.price_per_zeqond_zeq,
            max_concurrent_tunnels=offer.max_concurrent_tunnels,
            accept_country_classes=offer.accept_country_classes,
            country=offer.country,
            active=offer.active,
            proven=True,
        )

    async def _offer(self, listing: Listing) -> OfferInfo:
        offer, checked = listing.offer, listing.checked
        return OfferInfo(
            slug=slug(offer.machine_id),
            fingerprint=fingerprint(offer.machine_id),
            price_per_gb_zeq=offer.price_per_gb_zeq,
            price_per_zeqond_zeq=offer.price_per_zeqond_zeq,
            max_concurrent_tunnels=offer.max_concurrent_tunnels,
            accept_country_classes=offer.accept_country_classes,
            country=offer.country,
            active=offer.active,
            proven=listing.proven or offer.machine_id == self._parts.machine_id,
            reachable=checked.reachable if checked is not None else None,
            rtt_ms=round(checked.rtt_us / 1000, 1) if checked is not None and checked.rtt_us else None,
            tier=(await self._standing(listing.signer)).tier,
        )

    # ------------------------------------------------------------------ keys

    async def keyex_pubkey(self, slug: str) -> KeyexKey:
        with _pinned():
            found: Published = await self._parts.exchange.pubkey(slug)
        return KeyexKey(public_key=found.public, fingerprint=found.fingerprint, machine_id=found.machine_id)

    async def keyex_handshake(self, slug: str, cipher_text: bytes) -> KeyexAnswer:
        with _pinned():
            made = await self._parts.exchange.handshake(slug, cipher_text)
        return KeyexAnswer(key_confirmation=made.confirmation, machine_id=made.machine_id)

    async def ssl_initiate(
        self, local_machine: str, peer_origin: str, peer_machine: str, expected_fingerprint: str
    ) -> SslInitiated:
        with _pinned():
            made = await self._parts.seeds.initiate(
                local_machine, peer_origin, peer_machine, expected_fingerprint
            )
        return SslInitiated(**asdict(made))

    async def ssl_respond(self, local_machine: str, peer_machine: str, cipher_text: bytes) -> SslResponded:
        with _pinned():
            made = await self._parts.seeds.respond(local_machine, peer_machine, cipher_text)
        return SslResponded(**asdict(made))

    async def secret(self, purpose: str, _caller: Caller) -> bytes:
        """Tokens are the owner's, so what the owner may have."""
        secrets = self._parts.secrets
        try:
            return await secrets.get(purpose, by=secrets.owner)
        except VaultNotPermitted as error:
            raise NotPermitted(str(error)) from error
        except BadPurpose as error:  # nothing can be there under such a name
            raise NotFound(str(error)) from error

    # ------------------------------------------------------------------ tiers, events

    async def pohc(self, slug: str | None) -> Pohc:
        if slug is None or slug == self._slug:
            name, key = self._slug, self._parts.key
        else:
            with _pinned():
                bundle = await self._parts.directory.named(slug)
            name, key = slug.partition("~")[0], bundle.ed25519
        standing = await self._standing(key)
        return Pohc(
            slug=name, tier=standing.tier, score=standing.score, how=_how(standing), inputs=_inputs(standing)
        )

    async def _standing(self, key: bytes) -> tiers.Standing:
        books = self._parts.service.books
        if books is None:
            return tiers.reckon(self._parts.key, key, [], frozenset())
        return await books.standing(key)

    async def events(self) -> AsyncGenerator[Happening, None]:
        async with self._parts.service.watch() as changes:
            async for row in changes:
                yield Happening(f"vpn.tunnel.{row.state}", _told(row))


def _tunnel(row: Row, own: str) -> TunnelInfo:
    partner, terms = slug(row.partner), row.agreed
    asked_by_us = row.role is Role.PAYER
    return TunnelInfo(
        tunnel_id=row.tunnel_id,
        state=State(str(row.state)),
        requester_slug=own if asked_by_us else partner,
        accepter_slug=partner if asked_by_us else own,
        peer_fingerprint=fingerprint(row.partner),
        pricing_unit=str(terms.pricing_unit),
        rate_zeq_per_unit=terms.price_zeq,
        requested_lifespan_zeqonds=terms.lifespan_zeqonds,
        created_at_zeqond=row.asked_at,
        started_at_zeqond=row.started_at or None,
        ended_at_zeqond=row.ended_at or None,
        cumulative_bytes=row.carried,
        cumulative_zeqonds=row.zeqonds,
        charged_millionths=row.amount,
        code=str(row.code),
    )


def _told(row: Row) -> dict[str, str | int | bool | None]:
    return {
        "tunnel_id": identifier(row.tunnel_id),
        "state": str(row.state),
        "role": str(row.role),
        "partner": slug(row.partner),
        "carrying": bool(row.began_at) and not row.ended,
        "code": str(row.code) or None,
        "charged_millionths": row.amount,
    }


def _how(standing: tiers.Standing) -> str:
    if standing.lies:
        return "two of its blocks with one number prove that it lies, so it has no tier"
    return (
        f"{standing.name}: {zeq(standing.direct)} ZEQ carried for this machine, and "
        f"{zeq(standing.score - standing.direct)} for {len(standing.witnesses)} machines that have carried "
        "for this one, each counted up to what it carried; nobody else's word counts"
    )


def _inputs(standing: tiers.Standing) -> dict[str, int]:
    """Millionths of a ZEQ, but for the count of witnesses."""
    return {
        "direct_millionths": standing.direct,
        "witnesses": len(standing.witnesses),
        "witnessed_millionths": standing.score - standing.direct,
    }


@contextmanager
def _pinned() -> Iterator[None]:
    """What the key exchange says of a name with several claims, as the API's fault."""
    try:
        yield
    except keyex_errors.SlugUnpinned as error:
        claims = tuple(Claim(each.fingerprint, each.slug) for each in error.claims)
        raise SlugUnpinned(str(error), claims) from error
