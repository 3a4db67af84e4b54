"""Nodes of the simulated world as the product has them, but for what they sign with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from dht import locations
from dht.endpoints import Endpoint
from dht.gossip import Gossip
from dht.locations import Location, Locator
from dht.messages import DHT, GOSSIP
from dht.outcomes import Got, Moved, Put, Reachable
from dht.overlay import Overlay
from dht.records import Kind, Records
from dht.storage import Storage
from simulations.dice import Entropy
from simulations.host import Core, Host
from simulations.population import Watcher
from simulations.scenario import SECOND_US
from simulations.toycrypto import ToySignatures, ToySigner

ANNOUNCE_US: Final = 3_600 * SECOND_US
FIRST_US: Final = 8 * SECOND_US
AGAIN_US: Final = 5 * SECOND_US
ENOUGH_STORED: Final = 10


class Discoverer:
    """An overlay and a mesh behind one face; its location is published as long as it is there."""

    __slots__ = (
        *("announcing", "announce_us", "counters", "endpoint", "events", "gossip", "lookups", "outgoing"),
        *("overlay", "secret", "sequence", "signer"),
    )

    def __init__(
        self, host: Host, entropy: Entropy, known: Sequence[Endpoint], records: Records, now_us: int
    ):
        signatures = ToySignatures()
        self.signer = ToySigner(entropy(32))
        self.secret = entropy(16)
        self.overlay = Overlay(
            4, entropy(24), entropy, now_us, Storage(records, entropy), serving=host.is_public
        )
        self.gossip = Gossip(entropy, now_us, self._candidates, signatures, difficulty=0)
        self.outgoing = self.overlay.outgoing
        self.gossip.outgoing = self.outgoing
        self.counters: Counter[str] = self.overlay.counters
        self.gossip.counters = self.counters
        self.events: list[object] = self.overlay.events  # type: ignore[assignment]
        self.gossip.events = self.events  # type: ignore[assignment]
        self.lookups: dict[int, tuple[Host, Locator]] = {}
        self.sequence = 0
        self.endpoint = b""
        self.announcing = 0
        self.announce_us = now_us + FIRST_US
        self.overlay.bootstrap(known, now_us)

    def _candidates(self, count: int) -> list[Endpoint]:
        return [contact.endpoint for contact in self.overlay.contacts(count)]

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        if datagram[0] == DHT:
            self.overlay.receive(datagram, source, now_us, unix_us)
        elif datagram[0] == GOSSIP:
            self.gossip.receive(datagram, source, now_us, unix_us)

    def tick(self, now_us: int, unix_us: int) -> None:
        if self.overlay.deadline_us() <= now_us:
            self.overlay.tick(now_us, unix_us)
        if self.gossip.deadline_us() <= now_us:
            self.gossip.tick(now_us, unix_us)
        if self.announce_us <= now_us:
            self.announce_us = now_us + AGAIN_US
            if self.endpoint and self.overlay.size:
                self.announce(now_us, unix_us)

    def deadline_us(self) -> int:
        return min(self.overlay.deadline_us(), self.gossip.deadline_us(), self.announce_us)

    def locator(self, unix: int) -> Locator:
        return Locator(Kind.LOCATION, self.signer.public, self.secret, unix // 86_400, ToySigner)

    def announce(self, now_us: int, unix_us: int) -> None:
        self.announce_us = now_us + ANNOUNCE_US
        location = Location(unix_us // 1000, (self.endpoint,))
        record = locations.seal(location, self.locator(unix_us // 1_000_000), self.signer)
        self.announcing = self.overlay.put([record.raw], record.key, now_us)


class Discoverers:
    """The species of those nodes. `published` when enough others have their location."""

    def __init__(self) -> None:
        self._records = Records(ToySignatures())
        self._signatures = ToySignatures()
        self._unix_us = 0

    def make(
        self,
        host: Host,
        entropy: Entropy,
        known: Sequence[Endpoint],
        now_us: int,
        unix_us: int,  # noqa: ARG002 - of no use to cores that are told the time with every call
    ) -> Core:
        return Discoverer(host, entropy, known, self._records, now_us)

    def look_up(self, host: Host, target: Host, now_us: int, unix_us: int) -> int:
        core, theirs = _core(host), _core(target)
        locator = theirs.locator(unix_us // 1_000_000)
        handle = core.overlay.get(locator.key, now_us)
        core.lookups[handle] = (target, locator)
        self._unix_us = unix_us
        return handle

    def offer(self, host: Host, now_us: int, unix_us: int) -> bytes:
        core = _core(host)
        core.sequence += 1
        return core.gossip.publish("offer", bytes(200), core.signer, core.sequence, now_us, unix_us)

    def hand_on(self, host: Host, watcher: Watcher) -> None:
        core = _core(host)
        events = list(core.events)
        core.events.clear()
        for event in events:
            if isinstance(event, Got):
                self._got(host, core, event, watcher)
            elif isinstance(event, Put):
                if event.handle == core.announcing:
                    if event.stored >= ENOUGH_STORED:
                        watcher.published(host)
                    else:
                        core.announce_us = 0
            elif isinstance(event, Moved):
                core.endpoint = event.endpoint
            elif not isinstance(event, Reachable) and hasattr(event, "id"):
                watcher.heard(host, event.id)

    def _got(self, host: Host, core: Discoverer, event: Got, watcher: Watcher) -> None:
        asked = core.lookups.get(event.handle)
        if asked is None:
            return
        target, locator = asked
        found = locations.open_all(
            event.records, locator, locator.machine_id, self._signatures, self._unix_us // 1_000_000
        )
        if found is not None:
            del core.lookups[event.handle]
            core.overlay.cancel(event.handle)
            right = target.endpoint in found.endpoints or not target.is_public
            watcher.looked_up(host, event.handle, True, right, event.hops, event.messages)
        elif event.final:
            del core.lookups[event.handle]
            watcher.looked_up(host, event.handle, False, False, event.hops, event.messages)


def _core(host: Host) -> Discoverer:
    assert isinstance(host.core, Discoverer)
    return host.core
