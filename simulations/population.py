"""Who lives in a simulated world: a host for each node, its place, NAT, core, and whom it knows first.

A `Species` makes the cores of one kind of node and does for the workload what a person would do with one;
what comes of it, it tells a `Watcher`. So the world and the workload know no core's class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from dht.endpoints import Endpoint
from simulations.dice import MILLION, Dice, Entropy
from simulations.host import Core, Host, Site
from simulations.nats import FIRST_PORT, PORTS, Kind, Nat
from simulations.places import PORT, Places
from simulations.scenario import Scenario
from simulations.world import World

INTRODUCTIONS: Final = 3
"""Public nodes that a newcomer knows, as it would from an invitation."""

Item = TypeVar("Item")


class Watcher(Protocol):
    """Who is told what became of a host's doings."""

    def published(self, host: Host) -> None:
        """Its own record lies with others now: it can be looked up."""

    def looked_up(self, host: Host, handle: int, found: bool, right: bool, hops: int, messages: int) -> None:
        """A lookup has ended; `hops`: as deep as the answer lay."""

    def heard(self, host: Host, offer: bytes) -> None:
        """An offer, by the name that `offer` gave it, reached it for the first time."""


class Species(Protocol):
    """One kind of node. What it says of a host that another process runs it says without its core."""

    def introduce(self, host: Host, entropy: Entropy) -> None:
        """Note in `host.known` what its friends know of it. Called before `make`, with the same entropy."""

    def make(
        self, host: Host, entropy: Entropy, known: Sequence[Endpoint], now_us: int, unix_us: int
    ) -> Core:
        """A core that sets out to join, starting with whom it knows."""

    def befriend(self, host: Host, known: Sequence[Endpoint], now_us: int) -> None:
        """It has invited somebody, who is there."""

    def look_up(self, host: Host, target: Host, now_us: int, unix_us: int) -> int:
        """Have it look for another one's record: a handle, unique for this host."""

    def name_offer(self, host: Host) -> bytes:
        """By which `heard` will tell of the offer that it publishes next."""

    def offer(self, host: Host, name: bytes, now_us: int, unix_us: int) -> None:
        """Have it publish the offer that was named."""

    def bury(self, core: Core) -> None:
        """It has vanished: free what it held. Python's collector would have to look at all nodes for it."""

    def counters(self, host: Host) -> Mapping[str, int]:
        """What its core has counted."""

    def hand_on(self, host: Host, watcher: Watcher) -> None:
        """Empty the core's events and tell the watcher what they mean."""


class Pool(Generic[Item]):
    """A bag to draw from: adding, removing and drawing cost the same whatever its size. Keys are unique."""

    def __init__(self) -> None:
        self._items: list[tuple[int, Item]] = []
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: int) -> bool:
        return key in self._places

    def add(self, key: int, item: Item) -> None:
        if key not in self._places:
            self._places[key] = len(self._items)
            self._items.append((key, item))

    def discard(self, key: int) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        last = self._items.pop()
        if place < len(self._items):
            self._items[place] = last
            self._places[last[0]] = place

    def at(self, place: int) -> Item:
        """0 to its size - 1, in no order."""
        return self._items[place][1]

    def items(self) -> Iterator[Item]:
        return (item for _, item in self._items)

    def draw(self, dice: Dice) -> Item:
        return dice.one_of(self._items)[1]


class Population:
    """Those who come and go. `joined` and `left` are called with each, after it came and after it went."""

    def __init__(self, world: World, scenario: Scenario, species: Species) -> None:
        self.all: list[Host] = []
        """Everybody who ever came, in order."""
        self.present: Pool[Host] = Pool()
        self.joined: Callable[[Host], None] = _nothing
        self.left: Callable[[Host], None] = _nothing
        self.hostile: Pool[Host] = Pool()
        """Attackers, who are among those that a newcomer knows first."""
        self.places = Places(Dice(world.seed, "places"))
        self._public: Pool[Endpoint] = Pool()
        self._by_endpoint: dict[Endpoint, Host] = {}  # of them
        self._world = world
        self._scenario = scenario
        self._species = species
        self._dice = Dice(world.seed, "population")
        self._open: dict[Kind, Site] = {}  # NATs with room inside
        self._inside: dict[Kind, int] = {}

    def join(self) -> None:
        """One more, now."""
        world = self._world
        host = self._host(len(self.all))
        known = self.introductions()
        entropy = Entropy(world.seed, host.index)
        self.all.append(host)
        self.present.add(host.index, host)
        if host.is_public:
            self._public.add(host.index, host.endpoint)
            self._by_endpoint[host.endpoint] = host
        self._species.introduce(host, entropy)
        core = None
        if world.runs(host):
            core = self._species.make(host, entropy, known, world.now_us, world.unix_us(host))
        world.add(host, core)
        self.joined(host)
        if known:
            inviter = self._by_endpoint.get(known[0])
            if inviter is not None and host.is_public and world.runs(inviter):
                self._species.befriend(inviter, [host.endpoint], world.now_us)
                world.settle(inviter)

    def leave(self, host: Host) -> None:
        """It vanishes, and its core with it."""
        self._world.remove(host)
        self.present.discard(host.index)
        self._public.discard(host.index)
        if self._world.runs(host):
            self._species.bury(host.core)
            del host.core
        host.known = None
        self._by_endpoint.pop(host.endpoint, None)
        self.left(host)

    def admit(self, host: Host, core: Core) -> None:
        """An attacker, now."""
        self.hostile.add(host.index, host)
        self._world.add(host, core)

    def dismiss(self, host: Host) -> None:
        """An attacker vanishes."""
        self._world.remove(host)
        self.hostile.discard(host.index)

    def introductions(self) -> list[Endpoint]:
        """Of different nodes where there are as many. The first is honest: whoever invites is one's friend,
        and among liars alone nobody could be helped. The others are drawn from all."""
        if len(self._public) == 0:
            return []
        drawn = [self._public.draw(self._dice)]
        drawn += [self._anybody() for _ in range(4 * INTRODUCTIONS - 1)]
        return list(dict.fromkeys(drawn))[:INTRODUCTIONS]

    def _anybody(self) -> Endpoint:
        if len(self.hostile):
            lot = self._dice.below(len(self._public) + len(self.hostile))
            if lot < len(self.hostile):
                return self.hostile.draw(self._dice).endpoint
        return self._public.draw(self._dice)

    def _host(self, index: int) -> Host:
        scenario, dice = self._scenario, self._dice
        skew_us = dice.between(-scenario.skew_us, scenario.skew_us)
        endpoint6 = self.places.endpoint6() if dice.happens(scenario.ipv6_ppm) else b""
        kind = self._kind() if index else None  # somebody must be there whom others can reach
        if kind is None:
            return Host(index, self._site(), self.places.address() + PORT, endpoint6, skew_us)
        site = self._open.get(kind)
        if site is None:
            site = self._open[kind] = self._site(kind)
            self._inside[kind] = 0
        self._inside[kind] += 1
        inside = bytes([192, 168, 1, self._inside[kind]]) + PORT
        if self._inside[kind] == scenario.nats.hosts:
            del self._open[kind]
        return Host(index, site, inside, endpoint6, skew_us)

    def _kind(self) -> Kind | None:
        """Of the NAT that it is behind, if any."""
        lot = self._dice.below(MILLION)
        for kind, share in self._scenario.nats.shares:
            if lot < share:
                return kind
            lot -= share
        return None

    def _site(self, kind: Kind | None = None) -> Site:
        nat = None
        if kind is not None:
            nats, first = self._scenario.nats, FIRST_PORT + self._dice.below(PORTS)
            nat = Nat(kind, self.places.address(), nats.timeout_us, hairpin=nats.hairpin, first=first)
        region, access_us = self.places.region(), self.places.access_us()
        return Site(region, access_us, self._dice.below(MILLION), nat)


def _nothing(_host: Host) -> None:
    pass
