"""What the desk goes by that the owner has said: the offer, who may ask, what is extended to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from dht.offers import Offer
from node.config_market import Credit as CreditConfig
from node.config_market import Relay
from node.settlement.credit import Extended, by_default
from node.settlement.desk import Desk
from node.settlement.policy import Accept, Policy
from node.settlement.terms import MILLIONTHS


class Offered:
    """`offer()`: what is offered now, if anything. `charges`: there is a ledger. `named(text)`: the machine
    that the configuration means by it; `grants`: by machine_id, millionths. `guarded()`: whether strangers
    can be kept to what is opened to them."""

    def __init__(
        self,
        offer: Callable[[], Offer | None],
        settings: Callable[[], tuple[Relay, CreditConfig]],
        named: Callable[[str], bytes | None],
        charges: bool,
        grants: Mapping[bytes, int],
        guarded: Callable[[], bool],
    ) -> None:
        self._offer = offer
        self._settings = settings
        self._named = named
        self._charges = charges
        self._grants = dict(grants)
        self._guarded = guarded

    def grant(self, machine_id: bytes, amount: int | None) -> None:
        """From now on; None: as any other machine again."""
        if amount is None:
            self._grants.pop(machine_id, None)
        else:
            self._grants[machine_id] = amount

    def apply(self, desk: Desk) -> None:
        desk.policy = self.policy()
        desk.credit.extended = self.extended()

    def policy(self) -> Policy | None:
        """None while nothing is offered."""
        offer, (relay, _) = self._offer(), self._settings()
        if offer is None or not offer.active:
            return None
        named = [self._named(each) for each in relay.allow]
        return Policy(
            per_gb_zeq=offer.price_per_gb_zeq,
            per_zeqond_zeq=offer.price_per_zeqond_zeq,
            max_tunnels=offer.max_concurrent_tunnels,
            accept=Accept(relay.accept),
            allow=frozenset(filter(None, named)) if relay.allow else None,
            charges=self._charges,
            guarded=self._guarded(),
        )

    def extended(self) -> Extended:
        offer, (_, credit) = self._offer(), self._settings()
        prices = (offer.price_per_gb_zeq, offer.price_per_zeqond_zeq) if offer is not None else (0, 0)
        extended = structs.replace(by_default(*prices), granted=dict(self._grants))
        if isinstance(credit.stranger_zeq, int):
            limit = credit.stranger_zeq * MILLIONTHS
            extended = structs.replace(extended, stranger=limit, stranger_by_time=limit)
        if isinstance(credit.strangers_per_day_zeq, int):
            extended = structs.replace(extended, daily=credit.strangers_per_day_zeq * MILLIONTHS)
        return extended
