"""The course of a scenario: all join, then come the minutes that count, then what was begun may end.

    0 ── joining ── settled ─▶ begin ── minutes: churn, lookups, offers, partitions ── end ── horizon ─▶ over

It is pure: who shows a progress bar, or measures memory, stands outside (simulations/sim/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from simulations.churn import Churn
from simulations.host import Counts, Host
from simulations.population import Population, Species
from simulations.scenario import MINUTE_US, SECOND_US, Scenario
from simulations.workload import HORIZON_US, SETTLED_US, Workload
from simulations.world import World

STEP_US: Final = SECOND_US // 4
"""Of virtual time, between two calls of `progress`."""


class Course:
    """One scenario with one species of nodes. Same seed, same course."""

    def __init__(self, scenario: Scenario, species: Species) -> None:
        self.scenario = scenario
        self.species = species
        self.world = World(scenario.seed, scenario.network, self._on_events)
        self.population = Population(self.world, scenario, species)
        self.workload = Workload(self.world, self.population, species, scenario.work)
        self.churn = Churn(self.world, self.population, scenario.work.churn_ppm)
        self.population.joined = self.workload.joined
        self.population.left = self.workload.left
        self.begin_us = scenario.joining_us + SETTLED_US
        self.end_us = self.begin_us + scenario.minutes * MINUTE_US
        self.over_us = self.end_us + HORIZON_US
        self.kinds: Counter[bytes] = Counter()
        """Of the minutes that count, as `Network.kinds`."""
        self.counts: list[tuple[int, Counts]] = []
        """Of each host: how long it was there in the minutes that count, in µs, and what it carried."""
        for number in range(scenario.nodes):
            self.world.call_at(scenario.joining_us * number // scenario.nodes, self.population.join)
        self.world.call_at(self.begin_us, self._begin)
        self.world.call_at(self.end_us, self._end)
        for partition in scenario.partitions:
            self.world.call_at(self.begin_us + partition.from_us, self._cut, partition.share_ppm)
            self.world.call_at(self.begin_us + partition.to_us, self._cut, 0)

    def run(self, progress: Callable[[], None]) -> None:
        """To the end; `progress` is called again and again and must not touch the world."""
        while self.world.now_us < self.over_us:
            self.world.run(min(self.world.now_us + STEP_US, self.over_us))
            progress()

    def counters(self) -> Counter[str]:
        """What the cores of those who are there have counted."""
        total: Counter[str] = Counter()
        for host in self.world.hosts.values():
            total.update(self.species.counters(host))
        return total

    def _measured_us(self, host: Host) -> int:
        until_us = self.end_us if host.died_us is None else min(host.died_us, self.end_us)
        return max(0, until_us - max(host.born_us, self.begin_us))

    def _begin(self) -> None:
        for host in self.world.hosts.values():
            host.counts = Counts()
        self.world.network.kinds.clear()
        self.churn.start(self.end_us)
        self.workload.start(self.end_us)

    def _end(self) -> None:
        """What is sent from now on does not count."""
        self.kinds = Counter(self.world.network.kinds)
        self.counts = [(self._measured_us(host), host.counts) for host in self.population.all]
        for host in self.world.hosts.values():
            host.counts = Counts()

    def _cut(self, share_ppm: int) -> None:
        self.world.network.cut_below = share_ppm

    def _on_events(self, host: Host) -> None:
        self.species.hand_on(host, self.workload)
