"""What a node publishes of itself: where it is, and if it is listed its keys, its slug and its offer.

    always   LOCATION under the lookup secret, which only invited machines know
    listed   LOCATION and BUNDLE under the secret that everybody can work out, a claim of its slug
    offer    one record a country class in the DHT, one in gossip; withdrawn: the same as tombstones

Two days' records are not published at one time, so that nothing says that they are one machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from dht import endpoints, locations, offers, slugs
from dht.announcing import Announcer
from dht.calls import Machine
from dht.endpoints import Endpoint, Scope
from dht.locations import Location, Locator, listed_secret
from dht.offers import Offer
from dht.overlay import Overlay
from dht.records import Kind, Record
from dht.signatures import Signer

NEXT_DAY_US: Final = 420_000_000


class _Sealed:
    """Records under the day's locator key, `number` days from the first. An object, as closures take five
    times the memory, and a node of a simulated world has these, too."""

    __slots__ = ("_make", "_number", "_secret")

    def __init__(self, make: Callable[[bytes, int, int], list[Record]], secret: bytes, number: int) -> None:
        self._make = make
        self._secret = secret
        self._number = number

    def __call__(self, unix_us: int) -> list[Record]:
        return self._make(self._secret, self._number, unix_us)


class Presence:
    """`homes()`: through whom we are called. `to_market(record, now_us, unix_us)`: gossip's way.
    `bits`: work for an offer's stamp. Times: microseconds."""

    __slots__ = (
        *("_homes", "_listed", "_machine", "_machine_id", "_offer", "_offer_bits", "_overlays"),
        *("_own", "_secret", "_signer_of", "_to_market", "announcer", "last"),
    )

    def __init__(
        self,
        machine: Machine,
        secret: bytes,
        overlays: tuple[Overlay, ...],
        homes: Callable[[], tuple[tuple[Endpoint, bytes], ...]],
        to_market: Callable[[Record, int, int], None],
        entropy: Callable[[int], bytes],
        signer_of: Callable[[bytes], Signer],
        bits: int,
    ) -> None:
        self.announcer = Announcer(overlays, entropy)
        self._machine = machine
        self._machine_id = machine.bundle.machine_id
        self._secret = secret
        self._overlays = overlays
        self._homes = homes
        self._to_market = to_market
        self._signer_of = signer_of
        self._offer_bits = bits
        self._own: tuple[Endpoint, ...] = ()
        self._listed = False
        self._offer: Offer | None = None
        self.last = 0  # sequence of what was published

    def at(self, own: Sequence[Endpoint], listed: bool, now_us: int) -> None:
        """We are at these addresses, and strangers may find us there or not."""
        self._own = tuple(dict.fromkeys(own))
        self._listed = listed
        self.announce(now_us)

    def offer(self, offer: Offer, now_us: int, unix_us: int) -> None:
        """In place of our last one."""
        old = self._offer
        if old is not None and offers.classes(old) != offers.classes(offer):
            self._tell(offers.withdraw(old, self.next(unix_us), self._machine.signer, 0), now_us, unix_us)
        self._offer = offer
        self.announcer.set("offer", self._offers, now_us, apart_us=0)
        self._gossip_offer(now_us, unix_us)

    def withdraw(self, offer: Offer, now_us: int, unix_us: int) -> None:
        """Say that this is no offer any more, for as long as it may be remembered."""
        self._offer = msgspec.structs.replace(offer, active=False)
        self.announcer.set("offer", self._offers, now_us, apart_us=0)
        self._gossip_offer(now_us, unix_us)

    def announce(self, now_us: int) -> None:
        secrets = {"": self._secret} | ({"listed ": listed_secret(self._machine_id)} if self._listed else {})
        for name, secret in secrets.items():
            for number in (0, 1):
                later_us = number * NEXT_DAY_US
                location = _Sealed(self._location, secret, number)
                self.announcer.set(f"{name}location {number}", location, now_us, later_us)
                if name:
                    bundle = _Sealed(self._bundle, secret, number)
                    self.announcer.set(f"{name}bundle {number}", bundle, now_us, later_us)
        if self._listed:
            self.announcer.set("slug", self._claim, now_us)
        else:
            for name in ("location 0", "location 1", "bundle 0", "bundle 1"):
                self.announcer.drop(f"listed {name}")
            self.announcer.drop("slug")

    def _locator(self, kind: Kind, secret: bytes, number: int, unix_us: int) -> Locator | None:
        days = locations.days_to_write(unix_us // 1_000_000)
        if number >= len(days):
            return None
        return Locator(kind, self._machine_id, secret, days[number], self._signer_of)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where others may reach us, as a location says it: eight at most, those that others see first."""
        seen = [overlay.endpoint for overlay in self._overlays if overlay.endpoint is not None]
        global_ = [one for one in self._own if endpoints.usable(one) and _is_global(one)]
        # What others say of us is not needed where we know a global address of ours, and two of them may
        # have agreed on a lie.
        seen = [one for one in seen if one in self._own or not any(len(one) == len(g) for g in global_)]
        where = [one for one in dict.fromkeys([*seen, *self._own]) if endpoints.usable(one)]
        return tuple(where[: locations.MAX_ENDPOINTS])

    def _location(self, secret: bytes, number: int, unix_us: int) -> list[Record]:
        locator = self._locator(Kind.LOCATION, secret, number, unix_us)
        if locator is None:
            return []
        location = Location(self.next(unix_us), self.endpoints(), self._homes())
        return [locations.seal(location, locator, self._machine.signer)]

    def _bundle(self, secret: bytes, number: int, unix_us: int) -> list[Record]:
        locator = self._locator(Kind.BUNDLE, secret, number, unix_us)
        if locator is None:
            return []
        return [locations.seal_bundle(self._machine.bundle, locator, self.next(unix_us))]

    def _claim(self, unix_us: int) -> list[Record]:
        return [slugs.make(self._machine.bundle, self.next(unix_us), self._machine.signer)]

    def _offers(self, unix_us: int) -> list[Record]:
        if self._offer is None:
            return []
        return offers.make(self._offer, self.next(unix_us), self._machine.signer, self._offer_bits)

    def _gossip_offer(self, now_us: int, unix_us: int) -> None:
        self._tell(self._offers(unix_us), now_us, unix_us)

    def _tell(self, made: list[Record], now_us: int, unix_us: int) -> None:
        self._to_market(made[-1], now_us, unix_us)

    def next(self, unix_us: int) -> int:
        """A sequence, Unix ms, higher than every one before."""
        self.last = max(unix_us // 1000, self.last + 1)
        return self.last

    def go_on_from(self, last: int) -> None:
        """An earlier run has used sequences up to this one; the clock may have gone back since."""
        self.last = max(self.last, last)


def _is_global(endpoint: Endpoint) -> bool:
    return endpoints.scope(endpoint) is Scope.GLOBAL
