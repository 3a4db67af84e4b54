"""What the nodes of a simulated world are asked to do, and what came of it: lookups and offers.

A lookup is for a record whose publisher is alive and has published. An offer counts for the nodes that were
in the world SETTLED_US before it and are still there HORIZON_US after it.

Where several processes run a world, each draws all of the work, does what is its hosts', and watches those;
`part` and `absorb` bring together what they saw.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from simulations.dice import Dice
from simulations.figures import quantile
from simulations.host import Host
from simulations.population import Population, Species
from simulations.scenario import MINUTE_US, SECOND_US, Work
from simulations.world import World

SETTLED_US: Final = 30 * SECOND_US
"""A newcomer's time to find its place: after it, it is asked for lookups and counts for offers."""
HORIZON_US: Final = 30 * SECOND_US
DRAWS: Final = 100
IN_TIME_MS: Final = 5_000
CURVE_MS: Final = 50
"""The width of a step of the coverage curve."""


@dataclass(slots=True)
class Lookups:
    """Each that was started is right, wrong, empty, without its asker by now, or not at its end yet."""

    started: int = 0
    right: int = 0
    wrong: int = 0
    empty: int = 0
    asker_left: int = 0
    hops: Counter[int] = field(default_factory=Counter)
    messages: Counter[int] = field(default_factory=Counter)
    times_ms: list[int] = field(default_factory=list)

    def absorb(self, other: Lookups) -> None:
        """Another process's."""
        self.started += other.started
        self.right += other.right
        self.wrong += other.wrong
        self.empty += other.empty
        self.asker_left += other.asker_left
        self.hops += other.hops
        self.messages += other.messages
        self.times_ms += other.times_ms


@dataclass(frozen=True, slots=True)
class Spread:
    """How an offer got around: of `subscribed` nodes `reached` heard it in time. None: never so many."""

    at_s: int
    subscribed: int
    reached: int
    t50_ms: int | None
    t90_ms: int | None
    t99_ms: int | None


@dataclass(slots=True)
class _Offer:
    """`heard_us`: by a host's index, when."""

    author: Host
    since_us: int
    heard_us: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Reach:
    """How far an offer came in one process's part. `heard`: of nodes at all; `delays_ms`: of those that were
    `subscribed`, a two-byte number each. `orphaned`: its author has vanished."""

    at_s: int
    orphaned: bool
    heard: int
    subscribed: int
    delays_ms: array[int]


@dataclass(slots=True)
class Part:
    """What one process saw."""

    lookups: Lookups
    reaches: list[Reach]


class Workload:
    """A Watcher of the nodes, and who gives them something to do."""

    def __init__(self, world: World, population: Population, species: Species, work: Work) -> None:
        self.lookups = Lookups()
        self.of_victim = Lookups()
        """Those of `victim`, which stand in no other sum."""
        self.victim: int | None = None
        """The index of the host that attackers besiege, if there is one."""
        self.spreads: list[Spread] = []
        self.curve: Counter[int] = Counter()
        """Steps of CURVE_MS → nodes that heard an offer within that step, over all offers."""
        self.delays_ms: list[int] = []
        """From an offer's making to its coming to a node, of all pairs in which it came."""
        self.subscribed = 0
        """Nodes that should have heard one, over all offers."""
        self.stillborn = 0
        """Offers that nobody heard because the author vanished; they count nowhere else."""
        self._world = world
        self._population = population
        self._species = species
        self._work = work
        self._dice = Dice(world.seed, "work")
        self._asked_us: dict[int, dict[int, int]] = {}  # host → handle → since
        self._offers: dict[bytes, _Offer] = {}
        self._reaches: list[Reach] = []
        self._findable: set[int] = set()  # indexes of those that have published
        self._until_us = 0
        world.told = self._findable.add

    # ------------------------------------------------------------------ giving work

    def start(self, until_us: int) -> None:
        """From now to then."""
        self._until_us = until_us
        for host in [each for each in self._world.hosts.values() if not each.hostile]:
            self._first_lookup(host, self._world.now_us)
        if self._work.offers_per_minute:
            self._world.call_at(self._next_offer_us(), self._offer)

    def joined(self, host: Host) -> None:
        self._first_lookup(host, self._world.now_us + SETTLED_US)

    def left(self, host: Host) -> None:
        self._lookups(host).asker_left += len(self._asked_us.pop(host.index, ()))

    def _first_lookup(self, host: Host, from_us: int) -> None:
        """At any time of the first period."""
        if self._work.lookup_us and self._until_us:
            self._world.call_at(from_us + self._dice.below(self._work.lookup_us), self._look_up, host)

    def _look_up(self, host: Host) -> None:
        world = self._world
        if host.died_us is not None or world.now_us > self._until_us:
            return
        world.call_at(world.now_us + self._work.lookup_us, self._look_up, host)
        self.ask(host)

    def ask(self, host: Host) -> None:
        """Have it look somebody up, now."""
        world = self._world
        target = self._somebody(host)
        if target is None:
            return
        if not world.runs(host):
            return
        handle = self._species.look_up(host, target, world.now_us, world.unix_us(host))
        self._lookups(host).started += 1
        self._asked_us.setdefault(host.index, {})[handle] = world.now_us
        world.settle(host)

    def _lookups(self, host: Host) -> Lookups:
        return self.of_victim if host.index == self.victim else self.lookups

    def _next_offer_us(self) -> int:
        """A gap drawn evenly from half to one and a half times the mean."""
        mean_us = MINUTE_US // self._work.offers_per_minute
        return self._world.now_us + mean_us // 2 + self._dice.below(mean_us)

    def _offer(self) -> None:
        world = self._world
        if world.now_us > self._until_us:
            return
        world.call_at(self._next_offer_us(), self._offer)
        author = self._somebody()
        if author is None:
            return
        name = self._species.name_offer(author)
        self._offers[name] = _Offer(author, world.now_us)
        world.call_at(world.now_us + HORIZON_US, self._sum_up, name)
        if world.runs(author):
            self._species.offer(author, name, world.now_us, world.unix_us(author))
            world.settle(author)

    def _somebody(self, but: Host | None = None) -> Host | None:
        """Of those that have published; None where they are too few to be met."""
        for _ in range(DRAWS):
            host = self._population.present.draw(self._dice)
            if host is not but and host.index in self._findable:
                return host
        return None

    # ------------------------------------------------------------------ watching

    def published(self, host: Host) -> None:
        self._world.tell(host)

    def looked_up(self, host: Host, handle: int, found: bool, right: bool, hops: int, messages: int) -> None:
        since_us = self._asked_us.get(host.index, {}).pop(handle, None)
        if since_us is None:
            return
        lookups = self._lookups(host)
        lookups.messages[messages] += 1
        if not found:
            lookups.empty += 1
        elif not right:
            lookups.wrong += 1
        else:
            lookups.right += 1
            lookups.hops[hops] += 1
            lookups.times_ms.append((self._world.now_us - since_us) // 1_000)

    def heard(self, host: Host, offer: bytes) -> None:
        known = self._offers.get(offer)
        if known is not None and host is not known.author:
            known.heard_us.setdefault(host.index, self._world.now_us)

    def _sum_up(self, name: bytes) -> None:
        """An offer has had its time."""
        offer = self._offers.pop(name)
        subscribed = [
            host.index
            for host in self._world.hosts.values()
            if host.born_us + SETTLED_US <= offer.since_us
            and host is not offer.author
            and not host.hostile
            and self._world.runs(host)
        ]
        heard_us = [offer.heard_us[index] for index in subscribed if index in offer.heard_us]
        self._reaches.append(
            Reach(
                at_s=offer.since_us // SECOND_US,
                orphaned=offer.author.died_us is not None,
                heard=len(offer.heard_us),
                subscribed=len(subscribed),
                delays_ms=array("H", [(time_us - offer.since_us) // 1_000 for time_us in heard_us]),
            )
        )

    # ------------------------------------------------------------------ bringing together

    def part(self) -> Part:
        """What was seen here."""
        return Part(self.lookups, self._reaches)

    def absorb(self, part: Part) -> None:
        """What another process saw."""
        self.lookups.absorb(part.lookups)
        for reach, other in zip(self._reaches, part.reaches, strict=True):
            reach.heard += other.heard
            reach.subscribed += other.subscribed
            reach.delays_ms += other.delays_ms

    def finish(self) -> None:
        """All parts are here: how far each offer came."""
        for reach in self._reaches:
            if reach.orphaned and not reach.heard:
                self.stillborn += 1
            else:
                self._finish(reach)

    def _finish(self, reach: Reach) -> None:
        delays_ms = sorted(reach.delays_ms)
        for delay_ms in delays_ms:
            self.curve[delay_ms // CURVE_MS] += 1
        self.subscribed += reach.subscribed
        self.delays_ms += delays_ms
        never = [HORIZON_US] * (reach.subscribed - len(delays_ms))
        t50, t90, t99 = (quantile(delays_ms + never, part) for part in (50, 90, 99))
        self.spreads.append(
            Spread(
                at_s=reach.at_s,
                subscribed=reach.subscribed,
                reached=sum(delay_ms <= IN_TIME_MS for delay_ms in delays_ms),
                t50_ms=_heard(t50),
                t90_ms=_heard(t90),
                t99_ms=_heard(t99),
            )
        )


def _heard(delay_ms: int | None) -> int | None:
    return None if delay_ms is None or delay_ms >= HORIZON_US else delay_ms
