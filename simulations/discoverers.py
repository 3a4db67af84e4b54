"""Nodes of the simulated world as the product has them: dht/discovery.py, but for what they sign with.

Signatures are toys, work stamps ask for no work, and one `Records` reads for all of a process, so that what
many nodes store is one object: a signature is a pure function, and the world may remember one that it has
verified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dht.discovery import Discovery
from dht.endpoints import IPV4_BYTES, Endpoint
from dht.finding import MachineFound
from dht.locations import Location
from dht.marketplace import Listing, Market
from dht.offers import Offer
from dht.overlay import Overlay
from dht.records import Records
from simulations.dice import Entropy
from simulations.host import Core, Host
from simulations.population import Watcher
from simulations.toycrypto import ToySignatures, ToySigner, toy_machine

_LOCATION: Final = "location 0"  # as dht/presence.py names it


@dataclass(slots=True)
class Known:
    """What a node's friends know of it. `offered`: how many offers it was asked to make."""

    signer: ToySigner
    machine_id: bytes
    secret: bytes
    offered: int = 0


class _Published:
    """One more kind of event: its location lies with others for the first time."""


@dataclass(frozen=True, slots=True)
class _News:
    """One more kind of event: an offer that the market here did not know."""

    name: bytes


class _Market(Market):
    """Tells what is new in it."""

    __slots__ = ("_tell",)

    def __init__(
        self,
        records: Records,
        entropy: Callable[[int], bytes],
        counters: Counter[str],
        tell: Callable[[_News], None],
    ) -> None:
        super().__init__(records, entropy, counters)
        self._tell = tell

    def learn(self, raw: bytes, unix: int) -> Listing | None:
        listing = super().learn(raw, unix)
        if listing is not None:
            self._tell(_News(_name(listing.signer, listing.offer.since)))
        return listing


class Discoverer(Discovery):
    """`targets`: whom it looks for, by handle. `newest`: the sequence of whose location it was told last."""

    def __init__(self, host: Host, entropy: Callable[[int], bytes], records: Records, now_us: int) -> None:
        known = _known(host)
        super().__init__(
            *(toy_machine(known.signer), known.secret, entropy(32), entropy, now_us),
            families=(4, 6) if host.endpoint6 else (4,),
            signatures=SIGNATURES,
            signer_of=ToySigner,
            work=(0, 0),
            records=records,
        )
        self.targets: dict[int, Host] = {}
        self.newest: dict[int, int] = {}
        self.published = False
        events: list[Any] = self.events  # a longer union than the product's
        self.offers = _Market(records, entropy, self.counters, events.append)

    def _on_outcome(self, overlay: Overlay, outcome: Any, now_us: int, unix_us: int) -> None:
        super()._on_outcome(overlay, outcome, now_us, unix_us)
        if not self.published and self.presence.announcer.stored(_LOCATION):
            self.published = True
            events: list[Any] = self.events
            events.append(_Published())


class Discoverers:
    """The species."""

    def __init__(self) -> None:
        self.records = Records(SIGNATURES)

    def introduce(self, host: Host, entropy: Callable[[int], bytes]) -> None:
        signer = ToySigner(entropy(32))
        host.known = Known(signer, toy_machine(signer).bundle.machine_id, entropy(16))

    def make(
        self, host: Host, entropy: Entropy, known: Sequence[Endpoint], now_us: int, unix_us: int
    ) -> Core:
        core = self.core(host, entropy, now_us)
        own = [endpoint for endpoint in (host.endpoint, host.endpoint6) if endpoint]
        core.publish(own, False, now_us, unix_us)
        core.bootstrap(known, now_us)
        return core

    def befriend(self, host: Host, known: Sequence[Endpoint], now_us: int) -> None:
        _core(host).bootstrap(known, now_us)

    def core(self, host: Host, entropy: Callable[[int], bytes], now_us: int) -> Discoverer:
        """That knows nobody yet."""
        return Discoverer(host, entropy, self.records, now_us)

    def look_up(self, host: Host, target: Host, now_us: int, unix_us: int) -> int:
        core, other = _core(host), _known(target)
        handle = core.lookup_machine(other.machine_id, other.signer.public, other.secret, now_us, unix_us)
        core.targets[handle] = target
        return handle

    def name_offer(self, host: Host) -> bytes:
        known = _known(host)
        known.offered += 1
        return _name(known.signer.public, known.offered)

    def offer(self, host: Host, name: bytes, now_us: int, unix_us: int) -> None:
        known = _known(host)
        offer = Offer(known.machine_id, 60, 1, 5, ("EU", "CH"), "DE", since=known.offered)
        assert name == _name(known.signer.public, offer.since)
        _core(host).offer(offer, now_us, unix_us)

    def bury(self, core: Core) -> None:
        assert isinstance(core, Discoverer)
        parts = (*core.overlays, core.gossip, core.calls, core.presence, core)
        for overlay in core.overlays:
            overlay._questions._under_way.clear()  # each holds who asked it, and is held by that
        for part in parts:
            _take_apart(part)

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
            elif isinstance(event, _Published):
                watcher.published(host)
            elif isinstance(event, MachineFound):
                target, location = core.targets.pop(event.handle), event.location
                is_right = location is not None and _is_right(core, location, target)
                watcher.looked_up(
                    *(host, event.handle, location is not None, is_right, event.hops, event.messages)
                )


SIGNATURES: Final = ToySignatures()


def _core(host: Host) -> Discoverer:
    assert isinstance(host.core, Discoverer)
    return host.core


def _take_apart(part: object) -> None:
    """No attribute of it is left, so no cycle through it."""
    getattr(part, "__dict__", {}).clear()
    for kind in type(part).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(part, name):
                delattr(part, name)


def _known(host: Host) -> Known:
    assert isinstance(host.known, Known)
    return host.known


def _name(signer: bytes, number: int) -> bytes:
    return signer + number.to_bytes(8, "big")


def _is_right(core: Discoverer, location: Location, target: Host) -> bool:
    """Whether it is the target's, and none from before the one that this node was told already."""
    newest = core.newest.get(target.index, 0)
    core.newest[target.index] = max(newest, location.sequence)
    return location.sequence >= newest and _is_of(location, target)


def _is_of(location: Location, target: Host) -> bool:
    """Whether it names no address but the target's: its own, and what its NAT shows of it."""
    nat = target.site.nat
    return all(
        endpoint in (target.endpoint, target.endpoint6)
        or (nat is not None and len(endpoint) == IPV4_BYTES and endpoint[:-2] == nat.address)
        for endpoint in location.endpoints
    )
