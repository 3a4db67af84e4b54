"""Questions that take several lookups: where a machine is, who claims a slug, what is offered.

machine, its Ed25519 key known   LOCATION of the day, in every overlay ─▶ the first good one ends it
machine, only its id known       BUNDLE first, and then as above
slug                             all claims, from every overlay
market                           eight shards of each class that fits ─▶ the market learns what comes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from crypto.identity import KeyBundle
from dht import locations, offers, records, slugs
from dht.locations import Location, Locator
from dht.marketplace import Market
from dht.offers import ANY, EU
from dht.outcomes import Got
from dht.overlay import Overlay
from dht.records import Kind, Records
from dht.signatures import Signatures, Signer

REMEMBERED: Final = 256  # machines whose last location is known: an older one is not taken for it

Handles: TypeAlias = Callable[[], int]


@dataclass(frozen=True, slots=True)
class MachineFound:
    """`location`: the newest that the machine has signed, or None. `hops`: how deep it lay. `messages`: all
    datagrams of the lookups."""

    handle: int
    location: Location | None
    hops: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True)
class SlugFound:
    handle: int
    claims: tuple[KeyBundle, ...]


@dataclass(frozen=True, slots=True)
class MarketRefreshed:
    handle: int


Answered: TypeAlias = MachineFound | SlugFound | MarketRefreshed


@dataclass(slots=True, eq=False)
class _Search:
    """`opens`: what is done with the records of one lookup; True when they are enough. `ends`: what at the
    end, with the search, which it would else have to hold: a cycle that only Python's collector frees."""

    opens: Callable[[list[bytes], int], bool]
    ends: Callable[[_Search, int, int], None]
    gets: dict[tuple[int, int], Overlay] = field(default_factory=dict)
    hops: int = 0
    messages: dict[tuple[int, int], int] = field(default_factory=dict)  # of each get, as far as it has told


class Finder:
    """`events` gets what was found. `signer_of` as dht/locations.py has it. Times: microseconds."""

    __slots__ = (
        *("_events", "_last", "_market", "_overlays", "_reader", "_searches", "_signatures"),
        "_signer_of",
    )

    def __init__(
        self,
        overlays: tuple[Overlay, ...],
        market: Market,
        reader: Records,
        signatures: Signatures,
        signer_of: Callable[[bytes], Signer],
        events: Callable[[Answered], None],
    ) -> None:
        self._overlays = overlays
        self._market = market
        self._reader = reader
        self._signatures = signatures
        self._signer_of = signer_of
        self._events = events
        self._searches: dict[tuple[int, int], _Search] = {}  # by overlay and handle
        self._last: dict[bytes, Location] = {}

    # ------------------------------------------------------------------ what can be asked

    def machine(
        self, handle: int, machine_id: bytes, ed25519: bytes | None, secret: bytes, now_us: int, unix: int
    ) -> None:
        """Ends with MachineFound; `secret`: its lookup secret, 16 bytes."""
        if ed25519 is None:
            self._bundle(handle, machine_id, secret, now_us, unix)
            return
        locators = self._locators(Kind.LOCATION, machine_id, secret, unix)

        def opens(raws: list[bytes], at: int) -> bool:
            known = self._last[machine_id].sequence - 1 if machine_id in self._last else -1
            best: Location | None = None
            for locator in locators:
                found = locations.open_all(raws, locator, ed25519, self._signatures, at, known)
                if found is not None:
                    best, known = found, found.sequence
            if best is not None:
                found_now[:] = [best]
                self._remember(machine_id, best)
            return best is not None

        found_now: list[Location] = []

        def ends(search: _Search, _now: int, _at: int) -> None:
            location = found_now[0] if found_now else None
            self._events(MachineFound(handle, location, search.hops, sum(search.messages.values())))

        self._start(_Search(opens, ends), [locator.key for locator in locators], now_us)

    def _bundle(self, handle: int, machine_id: bytes, secret: bytes, now_us: int, unix: int) -> None:
        locators = self._locators(Kind.BUNDLE, machine_id, secret, unix)
        found: list[KeyBundle] = []

        def opens(raws: list[bytes], _at: int) -> bool:
            bundles = [locations.open_bundle(raws, locator) for locator in locators]
            found.extend(bundle for bundle in bundles if bundle is not None)
            return bool(found)

        def ends(_search: _Search, now: int, at: int) -> None:
            if found:
                self.machine(handle, machine_id, found[0].ed25519, secret, now, at)
            else:
                self._events(MachineFound(handle, None))

        self._start(_Search(opens, ends), [locator.key for locator in locators], now_us)

    def slug(self, handle: int, slug: str, now_us: int) -> None:
        """Ends with SlugFound: whoever claims it, once."""
        found: dict[bytes, KeyBundle] = {}

        def opens(raws: list[bytes], at: int) -> bool:
            found.update((one.machine_id, one) for one in slugs.claims(raws, slug, self._reader, at))
            return False

        def ends(_search: _Search, _now: int, _at: int) -> None:
            self._events(SlugFound(handle, tuple(found[one] for one in sorted(found))))

        self._start(_Search(opens, ends), [records.slug_key(slug)], now_us)

    def market(self, handle: int, country: str, now_us: int) -> None:
        """Ends with MarketRefreshed; the market has learnt what there is."""
        classes = dict.fromkeys([country, *(["EU"] if country in EU else []), ANY])

        def opens(raws: list[bytes], at: int) -> bool:
            for raw in raws:
                self._market.learn(raw, at)
            return False

        search = _Search(opens, lambda *_: self._events(MarketRefreshed(handle)))
        self._start(search, [key for name in classes for key in offers.keys(name)], now_us)

    # ------------------------------------------------------------------ what comes

    def got(self, overlay: Overlay, outcome: Got, now_us: int, unix: int) -> None:
        """Others' handles are passed over."""
        search = self._searches.get((id(overlay), outcome.handle))
        if search is None:
            return
        search.hops = outcome.hops
        search.messages[id(overlay), outcome.handle] = outcome.messages
        if outcome.records and search.opens(outcome.records, unix):
            self._end(search, now_us, unix)
        elif outcome.final:
            del self._searches[id(overlay), outcome.handle]
            del search.gets[id(overlay), outcome.handle]
            if not search.gets:
                search.ends(search, now_us, unix)

    def _start(self, search: _Search, keys: list[bytes], now_us: int) -> None:
        # Where somebody is known; else where there may be, or what we store ourselves.
        used = [overlay for overlay in self._overlays if overlay.size] or self._overlays
        for overlay in used:
            for key in keys:
                name = id(overlay), overlay.get(key, now_us)
                search.gets[name] = overlay
                self._searches[name] = search

    def _end(self, search: _Search, now_us: int, unix: int) -> None:
        for name, overlay in search.gets.items():
            del self._searches[name]
            overlay.cancel(name[1])
        search.ends(search, now_us, unix)

    def _locators(self, kind: Kind, machine_id: bytes, secret: bytes, unix: int) -> list[Locator]:
        days = locations.days_to_read(unix)
        return [Locator(kind, machine_id, secret, day, self._signer_of) for day in days]

    def _remember(self, machine_id: bytes, location: Location) -> None:
        self._last.pop(machine_id, None)
        self._last[machine_id] = location
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]
