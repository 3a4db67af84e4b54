"""Asking for a tunnel: which relay, at what price, what it answers, and until records flow.

target ─▶ its offer ─▶ request, sealed ─▶ read there? ─▶ pending ─┬─ accepted ─▶ called ─▶ begun
                                                                  └─ refused, with a code
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from crypto.identity import slug
from crypto.pulse import ZEQOND_MS
from dht.marketplace import Listing
from dht.offers import ANY, Offer
from node.context import Context
from node.discovery import Discovery
from node.errors import Usage
from node.settlement.life import Code, Role, Row, State
from node.settlement.terms import Unit
from node.settlement.wire import MAX_ENDPOINTS, MAX_HOMES, Request
from node.tunnels.errors import BadTarget, BadUnit, Silent, TargetRefused, WrongState
from node.tunnels.service import Service
from node.tunnels.targets import Target, Targets
from tun.engine import boot_us

SENT_SECONDS: Final = 12.0
ANSWER_SECONDS: Final = 8.0
BEGUN_SECONDS: Final = 30.0

Progress: TypeAlias = Callable[[str], Awaitable[None]]


async def silent(_text: str) -> None:
    """For who does not want to hear of progress."""


class Connecting:
    """For the command line and the API."""

    def __init__(self, context: Context, discovery: Discovery, service: Service, targets: Targets) -> None:
        self._context = context
        self._discovery = discovery
        self._service = service
        self._targets = targets

    async def request(
        self,
        text: str,
        unit: Unit,
        lifespan: int,
        budget: int | None = None,
        progress: Progress = silent,
    ) -> tuple[Row, int]:
        """The pending tunnel, or what has become of it by now, and how many machines have read the request.
        `lifespan`: zeqonds, in [10, 86,400]; `budget`: millionths. Raises a UserError with a code."""
        await progress(f"looking for {text}")
        target = await self._targets.find(text)
        if target.machine_id == self._context.keys.machine_id:
            raise BadTarget("that is this machine itself; name another one")
        self._refuse_second(target)
        await self._service.guarding.require(target.machine_id)
        to = await self._targets.recipient(target)
        offer = await self._offer(target, to.bundle.ed25519)
        price = self._price(offer, unit, target.name)
        self._service.post.recipients[target.machine_id] = to
        draft = self._draft(unit, price, lifespan)
        await progress(f"asking {target.name} for a tunnel at {price} ZEQ a {_UNITS[unit]}")
        row = self._service.desk.request(to.bundle.to_bytes(), draft, boot_us(), budget)
        self._service.poke()
        notified = 0
        with trio.move_on_after(SENT_SECONDS):
            notified = await self._service.post.sent(row.tunnel_id)
        if not notified:
            self._service.desk.undelivered(row.tunnel_id, boot_us())
            self._service.poke()
            raise Silent(
                f"{target.name} does not take the request; it may be off now: try again, or another one: "
                "zeqnode market"
            )
        return row, notified

    async def answered(self, row: Row) -> Row:
        """The tunnel once it was answered at all (accepted, refused, or said to wait), or after 8 s."""
        with trio.move_on_after(ANSWER_SECONDS):
            async with self._service.watch() as changes:
                while self._now(row).state is State.PENDING and row.tunnel_id not in self._service.answered:
                    await changes.receive()
        return self._now(row)

    async def begun(self, row: Row) -> Row:
        """The tunnel once records can flow. Raises TargetRefused, Silent."""
        name = slug(row.partner)
        seconds = BEGUN_SECONDS
        with trio.move_on_after(seconds):
            async with self._service.watch() as changes:
                while True:
                    now = self._now(row)
                    if now.state is State.TERMINATED and now.code is Code.UNGUARDED:
                        await self._service.guarding.require(row.partner)
                    if now.state is not State.PENDING and now.code is not Code.NONE:
                        raise TargetRefused(name, now.code)
                    if now.began_at:
                        return now
                    await changes.receive()
        now = self._now(row)
        if now.state is State.PENDING:
            return now
        why = self._context.peers.why_not(row.partner)
        raise Silent(f"{name} agreed, and there is no session with it yet: {why}")

    # ------------------------------------------------------------------ inside

    def _now(self, row: Row) -> Row:
        return self._service.newest(row)

    def _refuse_second(self, target: Target) -> None:
        for row in self._service.desk.rows():
            if row.partner == target.machine_id and row.role is Role.PAYER and not row.ended:
                raise WrongState(
                    f"there is a tunnel to {target.name} already, {row.state}; end it first with: "
                    f"zeqnode disconnect {target.name}"
                )

    async def _offer(self, target: Target, signer: bytes) -> Offer:
        """Its own, signed by its own key. Raises TargetRefused."""
        for fresh in (False, True):
            if fresh:
                await self._discovery.refresh_market(ANY)
            for listing in self._discovery.market(ANY, None):
                if _is_of(listing, target.machine_id, signer):
                    return listing.offer
        raise TargetRefused(target.name, Code.NOT_RELAY)

    def _price(self, offer: Offer, unit: Unit, name: str) -> int:
        price = offer.price_per_gb_zeq if unit is Unit.GB else offer.price_per_zeqond_zeq
        if unit is Unit.ZEQOND and not price:
            raise BadUnit(f"{name} sells by the gigabyte only; say --per gb")
        if price and self._service.books is None:
            raise Usage(
                f"{name} wants {price} ZEQ a {_UNITS[unit]}, and this node keeps no ledger to pay from; "
                "run it without --ledger off"
            )
        return price

    def _draft(self, unit: Unit, price: int, lifespan: int) -> Request:
        endpoints, homes = self._discovery.places()
        return Request(
            tunnel_id=os.urandom(16),
            pricing_unit=unit,
            price_zeq=price,
            lifespan_zeqonds=lifespan,
            reply_secret=self._service.post.secret(),
            endpoints=tuple(endpoints[:MAX_ENDPOINTS]),
            homes=tuple(homes[:MAX_HOMES]),
        )


def _is_of(listing: Listing, machine_id: bytes, signer: bytes) -> bool:
    return listing.offer.machine_id == machine_id and listing.signer == signer


_UNITS: Final = {Unit.GB: "gigabyte", Unit.ZEQOND: f"zeqond ({ZEQOND_MS / 1000:g} s)"}
