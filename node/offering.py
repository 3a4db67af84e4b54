"""This machine's own offer as a relay: on only by its owner's word, and then until the owner takes it back.

    relay offer ─▶ kept on disk ─▶ listed, published, renewed        after a restart too
    relay withdraw ─▶ kept on disk ─▶ unlisted, a signed withdrawal  until no older offer can be about

While it is listed, a stranger who knows its machine_id finds its addresses and may ask for its keys, which is
how an offer is checked. A tunnel takes the request that node/tunnels answers, or an invitation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from dht.offers import ANY, MAX_AMOUNT, MAX_CLASSES, Offer
from dht.records import LIFE_S, SKEW_S
from node.discovery import Discovery
from node.errors import Usage
from node.logs import Log
from node.peers import unix_now
from node.store import AsyncStore, Store
from tun.core import TunnelCore

OFFER_SETTING: Final = "own offer"
WITHDRAWN_SECONDS: Final = LIFE_S + SKEW_S

_CLASS: Final = re.compile(r"[A-Z]{2}")
_AMOUNTS: Final = {"per_gb": "--per-gb", "per_zeqond": "--per-zeqond", "max_tunnels": "--max-tunnels"}

log = Log("offering")


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    """What is on disk; `changed` in unix seconds."""

    offer: Offer
    changed: int


class Offering:
    """Keeps the store, discovery and the door in step. `own` is None until the owner has said
    something; `relisted()` is called when `listed` may be another."""

    def __init__(
        self,
        machine_id: bytes,
        store: AsyncStore,
        discovery: Discovery,
        core: TunnelCore,
        relisted: Callable[[], None],
    ) -> None:
        self._machine_id = machine_id
        self._store = store
        self._discovery = discovery
        self._core = core
        self._relisted = relisted
        self.own: Offer | None = None
        self._door_kept = False

    def keep_door(self, needed: bool) -> None:
        """Whether strangers whom a tunnel let in may call, also after the offer was withdrawn."""
        if needed is not self._door_kept:
            self._door_kept = needed
            self._core.door.be_listed(needed or self.listed)

    @property
    def listed(self) -> bool:
        return self.own is not None and self.own.active

    def snapshot(self) -> dict[str, Any] | None:
        """What is offered now."""
        return described(self.own) if self.own is not None and self.own.active else None

    async def load(self) -> None:
        """What the owner said before this start; raises StorageFailed."""
        data = await self._store.call(Store.setting, OFFER_SETTING)
        if data is None:
            return
        try:
            kept = msgspec.msgpack.decode(data, type=_Kept)
        except msgspec.MsgspecError as error:
            log.warning("the offer kept on disk cannot be read, and none is made", error=error)
            return
        if kept.offer.active or unix_now() - kept.changed < WITHDRAWN_SECONDS:
            self._take(kept.offer)

    async def make(self, arguments: dict[str, Any]) -> Offer:
        """From now on, or changed. The words of the command line in; raises Usage, StorageFailed."""
        since = self.own.since if self.own is not None and self.own.active else unix_now()
        offer = from_arguments(self._machine_id, arguments, since)
        await self._keep(offer)
        log.info("offered", per_gb=offer.price_per_gb_zeq, country=offer.country or "not said")
        return offer

    async def withdraw(self) -> Offer:
        """Raises Usage where there is nothing to take back, StorageFailed."""
        if self.own is None or not self.own.active:
            raise Usage("this machine offers nothing, so there is nothing to withdraw; see zeqnode relay")
        offer = msgspec.structs.replace(self.own, active=False)
        await self._keep(offer)
        log.info("offer withdrawn")
        return offer

    async def _keep(self, offer: Offer) -> None:
        data = msgspec.msgpack.encode(_Kept(offer, unix_now()))
        await self._store.call(Store.set_setting, OFFER_SETTING, data)
        self._take(offer)

    def _take(self, offer: Offer) -> None:
        self.own = offer
        self._core.door.be_listed(offer.active or self._door_kept)
        self._discovery.offer(offer)
        self._relisted()


def from_arguments(machine_id: bytes, arguments: dict[str, Any], since: int) -> Offer:
    """Of {per_gb, per_zeqond, max_tunnels, country, accept}; raises Usage in the command line's words."""
    for key, option in _AMOUNTS.items():
        value = arguments.get(key)
        least = 1 if key == "max_tunnels" else 0
        if type(value) is not int or not least <= value <= MAX_AMOUNT:
            raise Usage(f"{option} is a whole number from {least} to {MAX_AMOUNT}, not {value}")
    country, accept = arguments.get("country", ""), arguments.get("accept", [ANY])
    if not isinstance(country, str) or (country and not _CLASS.fullmatch(country)):
        raise Usage(f"--country is a code of two capital letters, as DE or EU, not {country!r}")
    accept = accept if isinstance(accept, list) else []
    for each in accept:
        if not isinstance(each, str) or (each != ANY and not _CLASS.fullmatch(each)):
            raise Usage(f"--accept has codes of two capital letters, or ANY, not {each!r}")
    if not 0 < len(accept) <= MAX_CLASSES or len(set(accept)) != len(accept):
        raise Usage(f"--accept has one to {MAX_CLASSES} country classes, each once, as in EU,CH or ANY")
    return Offer(
        machine_id=machine_id,
        price_per_gb_zeq=arguments["per_gb"],
        price_per_zeqond_zeq=arguments["per_zeqond"],
        max_concurrent_tunnels=arguments["max_tunnels"],
        accept_country_classes=tuple(accept),
        country=country,
        since=since,
    )


def described(offer: Offer) -> dict[str, Any]:
    """For people and programs."""
    return {
        "per_gb": offer.price_per_gb_zeq,
        "per_zeqond": offer.price_per_zeqond_zeq,
        "max_tunnels": offer.max_concurrent_tunnels,
        "country": offer.country or None,
        "accept": list(offer.accept_country_classes),
        "since": offer.since,
    }
