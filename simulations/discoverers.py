"""Nodes of the simulated world as the product has them: dht/discovery.py, but for what they sign with.

Signatures are toys, work stamps ask for no work, and one `Records` reads for all, so that what many nodes
store is one object: a signature is a pure function, and the world may remember one that it has verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dht.discovery import Discovery
from dht.endpoints import IPV4_BYTES, Endpoint
from dht.finding import MachineFound
from dht.locations import Location
from dht.marketplace import Listing, Market
from dht.offers import Offer
from dht.records import Records
from simulations.dice import Entropy
from simulations.host import Core, Host
from simulations.population import Watcher
from simulations.toycrypto import ToySignatures, ToySigner, toy_machine

_LOCATION: Final = "location 0"  # as dht/presence.py names it


@dataclass(frozen=True, slots=True)
class _News:
    """One more kind of event: an offer that the market here did not know."""

    name: bytes


class _Market(Market):
    """Tells what is new in it."""

    __slots__ = ("_tell",)

    def __init__(self, records: Records, entropy: Entropy, tell: Callable[[_News], None]) -> None:
        super().__init__(records, entropy)
        self._tell = tell

    def learn(self, raw: bytes, unix: int) -> Listing | None:
        listing = super().learn(raw, unix)
        if listing is not None:
            self._tell(_News(_name(listing.signer, listing.offer)))
        return listing


class _Discoverer(Discovery):
    """`targets`: whom it looks for, by handle."""

    def __init__(self, host: Host, entropy: Entropy, records: Records, now_us: int) -> None:
        signer = ToySigner(entropy(32))
        machine = toy_machine(signer)
        secret, lodging = entropy(16), entropy(32)
        super().__init__(
            *(machine, secret, lodging, entropy, now_us),
            families=(4, 6) if host.endpoint6 else (4,),
            signatures=_SIGNATURES,
            signer_of=ToySigner,
            work=(0, 0),
            records=records,
        )
        self.public = signer.public
        self.machine_id = machine.bundle.machine_id
        self.secret = secret
        self.targets: dict[int, Host] = {}
        self.offered = 0
        events: list[Any] = self.events  # a longer union than the product's
        self.offers = _Market(records, entropy, events.append)


class Discoverers:
    """The species."""

    def __init__(self) -> None:
        self._records = Records(_SIGNATURES)

    def make(
        self, host: Host, entropy: Entropy, known: Sequence[Endpoint], now_us: int, unix_us: int
    ) -> Core:
        core = _Discoverer(host, entropy, self._records, now_us)
        own = [endpoint for endpoint in (host.endpoint, host.endpoint6) if endpoint]
        core.publish(own, False, now_us, unix_us)
        core.bootstrap(known, now_us)
        return core

    def is_published(self, host: Host) -> bool:
        return _core(host).presence.announcer.stored(_LOCATION) > 0

    def look_up(self, host: Host, target: Host, now_us: int, unix_us: int) -> int:
        core, other = _core(host), _core(target)
        handle = core.lookup_machine(other.machine_id, other.public, other.secret, now_us, unix_us)
        core.targets[handle] = target
        return handle

    def offer(self, host: Host, now_us: int, unix_us: int) -> bytes:
        core = _core(host)
        core.offered += 1
        offer = Offer(core.machine_id, 60, 1, 5, ("EU", "CH"), "DE", since=core.offered)
        core.offer(offer, now_us, unix_us)
        return _name(core.public, offer)

    def counters(self, host: Host) -> Mapping[str, int]:
        counted: dict[str, int] = _core(host).status(0)["counters"]
        return counted

    def hand_on(self, host: Host, watcher: Watcher) -> None:
        core = _core(host)
        events: list[Any] = core.events.copy()
        core.events.clear()
        for event in events:
            if isinstance(event, _News):
                watcher.heard(host, event.name)
            elif isinstance(event, MachineFound):
                target, location = core.targets.pop(event.handle), event.location
                is_right = location is not None and _is_of(location, target)
                watcher.looked_up(
                    *(host, event.handle, location is not None, is_right, event.hops, event.messages)
                )


_SIGNATURES: Final = ToySignatures()


def _core(host: Host) -> _Discoverer:
    assert isinstance(host.core, _Discoverer)
    return host.core


def _name(signer: bytes, offer: Offer) -> bytes:
    return signer + offer.since.to_bytes(8, "big")


def _is_of(location: Location, target: Host) -> bool:
    """Whether it names no address but the target's: its own, and what its NAT shows of it."""
    nat = target.site.nat
    return all(
        endpoint in (target.endpoint, target.endpoint6)
        or (nat is not None and len(endpoint) == IPV4_BYTES and endpoint[:-2] == nat.address)
        for endpoint in location.endpoints
    )
