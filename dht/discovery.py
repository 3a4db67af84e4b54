"""Discovery of one node: overlays, mesh, calls, tags and market together, behind one face.

    datagram ─ first byte ─┬ 0xD0 ─▶ the overlay of its address family
                           ├ 0xD1 ─▶ gossip ─▶ tags, market
                           └ 0xD2 ─▶ calls ─▶ tags
    ourselves ─▶ dht/presence.py: location (sealed), and where listed bundle, slug and offer
    questions ─▶ dht/finding.py     serve or ask ─▶ dht/standing.py; who cannot be reached lodges with homes

Bytes and the time in; datagrams, events and a deadline out, as every core. The shell empties `outgoing`
and `events`. Nothing of a machine that is not listed can be found without its lookup secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from crypto.identity import KeyBundle
from dht import glance
from dht.calls import Called, Calls, HomesChanged, Machine, Recipient, Sent
from dht.core import Core, taken, whose
from dht.endpoints import Endpoint
from dht.finding import Answered, Finder
from dht.friends import Friends
from dht.gossip import Gossip
from dht.locations import listed_secret
from dht.marketplace import Listing, Market, Probe
from dht.offers import ANY, Offer
from dht.outcomes import Got, Moved, Put, Reachable
from dht.overlay import Overlay
from dht.presence import Presence
from dht.records import Record, Records
from dht.signatures import Ed25519Signatures, SeedSigner, Signatures, Signer
from dht.standing import Standings
from dht.storage import Storage
from dht.tags import Notified, Tagged, Tags

OFFER_TOPIC: Final = "market.offer"
CANDIDATES: Final = 16  # for homes
SWEEP_US: Final = 60_000_000

Event = Answered | Sent | Tagged | Notified

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, list[bytes], bytes, int]).decode


class Discovery:
    """`lookup_secret`: 16 bytes that only invited machines know. `lodging`: 32 secret bytes, the same over
    restarts. `public`: serve others, or not, or None to find out. `homes`: with how many to lodge,
    0 to 3, while others cannot call us. `records`: one that others read with too. Times: microseconds,
    monotonic and Unix."""

    def __init__(
        self,
        machine: Machine,
        lookup_secret: bytes,
        lodging: bytes,
        entropy: Callable[[int], bytes],
        now_us: int,
        *,
        families: tuple[int, ...] = (4, 6),
        public: bool | None = None,
        homes: int = 3,
        signatures: Signatures | None = None,
        signer_of: Callable[[bytes], Signer] = SeedSigner,
        work: tuple[int, int] = (12, 14),
        records: Records | None = None,
    ) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Event] = []
        self.counters = counters = Counter[str]()  # everybody's here
        signatures = signatures or Ed25519Signatures()
        self._machine = machine
        self._machine_id = machine.bundle.machine_id
        self._secret = lookup_secret
        records = records or Records(signatures)
        self._storages = tuple(Storage(records, entropy, counters) for _ in families)
        self.overlays = tuple(
            Overlay(
                *(family, entropy(24), entropy, now_us, storage, self.outgoing),
                serving=public is not False,
                counters=counters,
            )
            for family, storage in zip(families, self._storages, strict=True)
        )
        self._standings = Standings(self.overlays, public, now_us)
        self._friends = friends = Friends(self.overlays, self._neighbours, entropy)
        self.gossip = Gossip(
            *(entropy, now_us, friends.candidates, signatures),
            difficulty=work[0],
            known=friends.known,
            counters=counters,
        )
        self.calls = Calls(
            *(machine, (lookup_secret,), lodging, entropy, now_us),
            signatures=signatures,
            signer_of=signer_of,
            homes=homes,
            counters=counters,
        )
        self.calls.serve(public is not False)
        self._cores: tuple[Core, ...] = (*self.overlays, self.gossip, self.calls)
        self.gossip.outgoing = self.calls.outgoing = self.outgoing  # the overlays have it already
        self._whose = whose(*(overlay.endpoint_bytes for overlay in self.overlays))
        self.tags = Tags(self.calls, self._to_mesh, machine.signer.public)
        self.offers = Market(records, entropy, counters)
        self.presence = Presence(
            *(machine, lookup_secret, self.overlays, lambda: self.calls.homes),
            *(self._to_market, entropy, signer_of, work[1]),
        )
        self._finder = Finder(self.overlays, self.offers, records, signatures, signer_of, self.events.append)
        self._handle = 0
        self._calling: dict[int, int] = {}  # handle of a call -> ours
        self._swept_us = now_us
        self._dues: list[int] = []  # of each core, and of ourselves; empty: to be asked for anew

    # ------------------------------------------------------------------ ourselves

    def bootstrap(self, known: Sequence[Endpoint], now_us: int, *, named: bool = True) -> None:
        """Other nodes may be there, as our owner knows: of an invitation, of a peer, of the configuration."""
        self._dues = []
        if named:
            self._friends.add(known)
        for overlay in self.overlays:
            overlay.bootstrap(known, now_us, named=named)

    def publish(self, own: Sequence[Endpoint], listed: bool, now_us: int, unix_us: int) -> None:
        """We are at these addresses; `listed`: strangers who know our machine_id may find us."""
        self.calls.listen((self._secret, listed_secret(self._machine_id)) if listed else (self._secret,))
        if self._standings.owns(own):
            for overlay in self.overlays:
                overlay.network_changed(now_us)
        self._settle(now_us, unix_us)
        self.presence.at(own, listed, now_us)
        self._collect(now_us, unix_us)

    def offer(self, offer: Offer, now_us: int, unix_us: int) -> None:
        """Publish this in the market, in place of our last; `publish` us as listed too."""
        self.presence.offer(offer, now_us, unix_us)
        self._collect(now_us, unix_us)

    def withdraw(self, offer: Offer, now_us: int, unix_us: int) -> None:
        """Say that this is no offer any more, for as long as it may be remembered."""
        self.presence.withdraw(offer, now_us, unix_us)
        self._collect(now_us, unix_us)

    def answer_to(self, secrets: tuple[bytes, ...]) -> None:
        """Take events under these lookup secrets too, in place of those said before. Raises LocalFault."""
        self.calls.answer_to(secrets)

    def places(self) -> tuple[tuple[Endpoint, ...], tuple[tuple[Endpoint, bytes], ...]]:
        """Where an answer may be sent to us: our own endpoints, and (endpoint, handle 16) of our homes."""
        return self.presence.endpoints(), self.calls.homes

    # ------------------------------------------------------------------ questions

    def lookup_machine(
        self, machine_id: bytes, ed25519: bytes | None, lookup_secret: bytes, now_us: int, unix_us: int
    ) -> int:
        """A handle: MachineFound says where it is. `ed25519`: its key, where it is known."""
        self._handle += 1
        self._finder.machine(self._handle, machine_id, ed25519, lookup_secret, now_us, unix_us // 1_000_000)
        self._collect(now_us, unix_us)
        return self._handle

    def lookup_slug(self, slug: str, now_us: int, unix_us: int) -> int:
        """A handle: SlugFound names all that claim it."""
        self._handle += 1
        self._finder.slug(self._handle, slug, now_us)
        self._collect(now_us, unix_us)
        return self._handle

    def refresh_market(self, country: str, now_us: int, unix_us: int) -> int:
        """A handle: MarketRefreshed when the offers of this country class have been read."""
        self._handle += 1
        self._finder.market(self._handle, country, now_us)
        self._collect(now_us, unix_us)
        return self._handle

    def market(self, country: str, max_per_gb: int | None, unix_us: int) -> list[Listing]:
        return self.offers.listings(unix_us // 1_000_000, country or ANY, max_per_gb)

    def checked(self, signer: bytes, probe: Probe) -> None:
        self.offers.check(signer, probe)

    def proven(self, bundle: KeyBundle) -> None:
        self.offers.prove(bundle)

    def send_event(self, to: Recipient, tag: str, body: bytes, now_us: int, unix_us: int) -> int:
        """A handle: Sent says what became of it. Raises LocalFault, BadPublicKey as Calls.send."""
        self._handle += 1
        self._calling[self.calls.send(to, tag, body, now_us, unix_us)] = self._handle
        self._collect(now_us, unix_us)
        return self._handle

    def subscribe(self, pattern: str) -> int:
        """A number for `unsubscribe`. Raises LocalFault."""
        return self.tags.subscribe(pattern)

    def unsubscribe(self, number: int) -> None:
        self.tags.unsubscribe(number)

    def publish_tag(self, tag: str, body: bytes, now_us: int, unix_us: int) -> int:
        """To the mesh; how many subscriptions here wanted it. Raises LocalFault."""
        notified = self.tags.publish(tag, body, now_us, unix_us)
        self._collect(now_us, unix_us)
        return notified

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        number = self._whose.get((datagram[0], len(source))) if datagram else None
        if number is None:
            self.counters["datagram of no protocol of ours"] += 1
            return
        core = self._cores[number]
        core.receive(datagram, source, now_us, unix_us)
        if core.events:
            self._collect(now_us, unix_us)
        elif self._dues:
            self._dues[number] = core.deadline_us()

    def tick(self, now_us: int, unix_us: int) -> None:
        dues = self._dues or self._ask_dues()
        for number, core in enumerate(self._cores):
            if dues[number] <= now_us:
                core.tick(now_us, unix_us)
                dues[number] = core.deadline_us()
        own = dues[-1] <= now_us
        if own:
            self._standings.tick(now_us)
            self.presence.announcer.tick(now_us, unix_us)
            if now_us - self._swept_us >= SWEEP_US:
                self._swept_us = now_us
                self._sweep(now_us, unix_us // 1_000_000)
        if own or any(core.events for core in self._cores):
            self._collect(now_us, unix_us)

    def deadline_us(self) -> int:
        return min(self._dues or self._ask_dues())

    def _ask_dues(self) -> list[int]:
        own = min(self._standings.due_us, self.presence.announcer.due_us, self._swept_us + SWEEP_US)
        self._dues = [*(core.deadline_us() for core in self._cores), own]
        return self._dues

    def _sweep(self, now_us: int, unix: int) -> None:
        self.offers.expire(unix)
        for storage in self._storages:
            storage.expire(unix)
        self._lodge(now_us)

    def _collect(self, now_us: int, unix_us: int) -> None:
        """Again until nobody has anything left to say: one's event may be another's datagram."""
        self._dues = []
        while any(core.events for core in self._cores):
            for overlay in self.overlays:
                for outcome in taken(overlay.events):
                    self._on_outcome(overlay, outcome, now_us, unix_us)
            for bulletin in taken(self.gossip.events):
                if bulletin.topic == OFFER_TOPIC:
                    self.offers.learn(bulletin.body, unix_us // 1_000_000)
                else:
                    self.tags.heard(bulletin.topic, bulletin.author, bulletin.body, bulletin.zeqond)
            for event in taken(self.calls.events):
                self._on_call(event, now_us)
        told = taken(self.tags.events)
        self.events += told

    def _on_outcome(self, overlay: Overlay, outcome: Any, now_us: int, unix_us: int) -> None:
        standing = self._standings.of(overlay)
        match outcome:
            case Got():
                self._finder.got(overlay, outcome, now_us, unix_us // 1_000_000)
            case Put(handle, stored, _):
                self.presence.announcer.done(overlay, handle, stored, now_us)
            case Moved():
                standing.moved(now_us)
                self._settle(now_us, unix_us)
                self.presence.announce(now_us)
            case Reachable():
                standing.told(outcome, now_us)
                self._settle(now_us, unix_us)

    def _on_call(self, event: Called | Sent | HomesChanged, now_us: int) -> None:
        match event:
            case Called():
                self.tags.called(event)
            case Sent():
                self.tags.sent(event)
                handle = self._calling.pop(event.handle, None)
                if handle is not None:
                    self.events.append(replace(event, handle=handle))
            case HomesChanged(_, wanted):
                if wanted:
                    self._lodge(now_us)
                self.presence.announce(now_us)

    def _settle(self, now_us: int, unix_us: int) -> None:
        self._standings.settle()
        self.calls.serve(self._standings.serving)
        if self._standings.unreachable:
            self._lodge(now_us)
        elif self.calls.homes:
            self.calls.leave(unix_us)
            self.presence.announce(now_us)

    def _lodge(self, now_us: int) -> None:
        if self._standings.unreachable:
            self.calls.lodge(self._neighbours(CANDIDATES), now_us)

    def _neighbours(self, count: int) -> list[Endpoint]:
        """Of mixed overlays, so of mixed networks."""
        each = max(1, count // len(self.overlays))
        return [one.endpoint for overlay in self.overlays for one in overlay.contacts(each)]

    def _to_market(self, record: Record, now_us: int, unix_us: int) -> None:
        """Our own offer: to the market here, and by gossip to all others."""
        self.offers.learn(record.raw, unix_us // 1_000_000)
        self._to_mesh(OFFER_TOPIC, record.raw, now_us, unix_us)

    def _to_mesh(self, topic: str, body: bytes, now_us: int, unix_us: int) -> bytes:
        sequence = self.presence.next(unix_us)
        return self.gossip.publish(topic, body, self._machine.signer, sequence, now_us, unix_us)

    def save(self) -> bytes:
        """msgpack [version 1, tables, events taken, last sequence]."""
        return _pack(
            (1, [overlay.save() for overlay in self.overlays], self.calls.save(), self.presence.last)
        )

    def load(self, data: bytes, now_us: int) -> None:
        """Raises ValueError for what `save` did not give."""
        self._dues = []
        version, tables, events, sequence = _unpack(data)
        if version != 1:
            raise ValueError(f"version {version} is not known")
        self.calls.load(events)
        self.presence.go_on_from(sequence)
        for table in tables:
            for overlay in self.overlays:
                overlay.load(table, now_us)

    def status(self, now_us: int) -> dict[str, Any]:
        """What `zeqnode status` and `zeqnode peers` show; times in seconds."""
        stored = {"records": sum(map(len, self._storages)), "offers": len(self.offers)}
        return glance.discovery(self.overlays, self.gossip.links, self.calls, self.counters, now_us) | stored
