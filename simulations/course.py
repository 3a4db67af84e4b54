"""The course of a scenario: all join, then come the minutes that count, then what was begun may end.

    0 ── joining ── settled ─▶ begin ── minutes: churn, lookups, offers, partitions ── end ── horizon ─▶ over

It is pure: who shows a progress bar, measures memory, or runs parts of it in several processes stands outside
(simulations/sim/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simulations.attack import attack
from simulations.churn import Churn
from simulations.host import Counts, Host
from simulations.population import Population, Species
from simulations.scenario import MINUTE_US, SECOND_US, Scenario
from simulations.workload import HORIZON_US, SETTLED_US, Part, Workload
from simulations.world import Exchange, World

STEP_US: Final = SECOND_US // 4
"""Of virtual time, between two calls of `progress`."""


@dataclass(slots=True)
class Share:
    """What one of several processes has at the end."""

    trace: str
    delivered: int
    work: Part
    kinds: Counter[bytes]
    network: Counter[str]
    cores: Counter[str]
    counts: list[tuple[int, Counts]]


class Course:
    """One scenario with one species of nodes. Same seed, same course. `exchange`: with the processes that run
    the rest of it."""

    def __init__(self, scenario: Scenario, species: Species, exchange: Exchange | None = None) -> None:
        self.scenario = scenario
        self.species = species
        self.world = World(scenario.seed, scenario.network, self._on_events, exchange)
        self.population = Population(self.world, scenario, species)
        self.workload = Workload(self.world, self.population, species, scenario.work)
        self.churn = Churn(self.world, self.population, scenario.work.churn_ppm)
        self.population.joined = self.workload.joined
        self.population.left = self.workload.left
        self.attack = attack(scenario, self.world, self.population, self.workload, species)
        self.begin_us = scenario.joining_us + SETTLED_US
        self.end_us = self.begin_us + scenario.minutes * MINUTE_US
        self.over_us = self.end_us + HORIZON_US
        self.kinds: Counter[bytes] = Counter()
        """Of the minutes that count, as `Network.kinds`."""
        self.hostile = 0
        """Datagrams that attackers sent in those minutes."""
        self.counts: list[tuple[int, Counts]] = []
        """Of each host: how long it was there in the minutes that count, in µs, and what it carried."""
        self.cores: Counter[str] = Counter()
        """What the cores of those who are there at the end have counted."""
        if self.attack is not None:
            self.attack.prepare(scenario.joining_us)
        for number in range(scenario.nodes):
            self.world.call_at(scenario.joining_us * number // scenario.nodes, self.population.join)
        self.world.call_at(self.begin_us, self._begin)
        self.world.call_at(self.end_us, self._end)
        for partition in scenario.partitions:
            self.world.call_at(self.begin_us + partition.from_us, self._cut, partition.share_ppm)
            self.world.call_at(self.begin_us + partition.to_us, self._cut, 0)

    def run(self, progress: Callable[[], None]) -> None:
        """To the end; `progress` is called again and again and must not touch the world. What other processes
        have is to be absorbed then, and the course finished."""
        while self.world.now_us < self.over_us:
            self.world.run(min(self.world.now_us + STEP_US, self.over_us))
            progress()
        self.world.end()
        for host in self._hosts():
            self.cores.update(self.species.counters(host))

    def share(self) -> Share:
        """This process's."""
        world = self.world
        counted = world.network.counters
        return Share(
            world.trace, world.delivered, self.workload.part(), self.kinds, counted, self.cores, self.counts
        )

    def absorb(self, share: Share) -> None:
        """Another process's."""
        self.world.absorb(share.trace, share.delivered)
        self.workload.absorb(share.work)
        self.kinds += share.kinds
        self.world.network.counters += share.network
        self.cores += share.cores
        self.counts += share.counts

    def finish(self) -> None:
        """Every share is here."""
        self.workload.finish()

    def _hosts(self) -> list[Host]:
        """The honest that are there, and whose cores are in this process."""
        runs = self.world.runs
        return [host for host in self.world.hosts.values() if runs(host) and not host.hostile]

    def _measured_us(self, host: Host) -> int:
        until_us = self.end_us if host.died_us is None else min(host.died_us, self.end_us)
        return max(0, until_us - max(host.born_us, self.begin_us))

    def _begin(self) -> None:
        for host in self.world.hosts.values():
            host.counts = Counts()
        self.world.network.kinds.clear()
        self.world.network.hostile = 0
        self.churn.start(self.end_us)
        self.workload.start(self.end_us)
        if self.attack is not None:
            self.attack.start(self.end_us)

    def _end(self) -> None:
        """What is sent from now on does not count."""
        self.kinds = Counter(self.world.network.kinds)
        self.hostile = self.world.network.hostile
        runs = self.world.runs
        self.counts = [(self._measured_us(host), host.counts) for host in self.population.all if runs(host)]
        for host in self.world.hosts.values():
            host.counts = Counts()

    def _cut(self, share_ppm: int) -> None:
        self.world.network.cut_below = share_ppm

    def _on_events(self, host: Host) -> None:
        if host.hostile:
            host.core.events.clear()
        else:
            self.species.hand_on(host, self.workload)
