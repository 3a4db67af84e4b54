"""A day of the market: who is in it, what each means to do, and the course of it all. Pure but for SQLite.

    of ten payers  one each: honest, crashes, restored; stops, late, replays, lower, two, forks, clique
    of ten relays  four honest; one each: crashes, restored; over-meters or pads, nothing, leaves, clique
    a crowd        the identities of one cheater, who come one after another to three honest relays

Errands lie in the first 20 hours, so that what they began can end.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from node.settlement.policy import Policy
from simulations.dice import Dice
from simulations.market import payees, payers
from simulations.market.customers import Customer, Errand, Visit
from simulations.market.faults import Crashing, Restored
from simulations.market.machine import Machine
from simulations.market.town import HOUR_US, MINUTE_US, SECOND_US, START_US, Town
from simulations.market.watch import Watch

MB: Final = 1_000_000
GB: Final = 1_000 * MB
HOURS: Final = 23  # one Unix day, and not the next
ERRANDS_US: Final = 20 * HOUR_US
FORKS_US: Final = 10 * HOUR_US
TARGETS: Final = 3  # of the crowd
PER_GB_ZEQ: Final = 50
MAX_TUNNELS: Final = 16
STEP_US: Final = MINUTE_US  # between two calls of `progress`

_PAYERS: Final[tuple[type[Machine], ...]] = (
    *(Machine, Crashing, Restored),
    *(payers.Stops, payers.Late, payers.Replays, payers.Lower, payers.Two, payers.Forks, payers.Clique),
)
_RELAYS: Final[tuple[type[Machine], ...]] = (
    *(Machine, Machine, Machine, Machine, Crashing, Restored),
    *(payees.OverMeters, payees.Nothing, payees.Leaves, payees.CliqueRelay),
)
_THIEVES: Final = (payers.Stops, payers.Replays, payers.Lower)


@dataclass(frozen=True)
class Plan:
    """How large the market is. `identities`: of the one cheater that has many."""

    payers: int = 1_000
    relays: int = 100
    identities: int = 1_000
    seed: int = 1


class Course:
    """Same plan, same course."""

    hours = HOURS

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.town = Town(plan.seed)
        self.watch = Watch(self.town)
        self.visits: list[Visit] = []
        self.over_us = START_US + HOURS * HOUR_US
        self._dice = Dice(plan.seed, "market")
        self.relays = [self._relay(number) for number in range(plan.relays)]
        self.payers = [self._payer(number) for number in range(plan.payers)]
        self.crowd: list[Machine] = []
        sound = [relay for relay in self.relays if type(relay) is Machine]
        self.targets = sound[:TARGETS]
        machines = [*self.relays, *self.payers]
        self.watch.settle_in([each for each in machines if each.way != "forks"])
        payers.conspire([each for each in machines if each.way == "clique"])
        self._plan_restores()
        for number, payer in enumerate(self.payers):
            customer = self._customer(payer)
            for errand in self._errands(payer, number, sound):
                customer.run(errand)
        self._plan_crowd()

    def run(self, progress: Callable[[], None]) -> None:
        """To the end; `progress` is called again and again."""
        gc.collect()
        gc.freeze()  # the machines stay: the collector need not look at them each time
        try:
            while self.town.now_us < self.over_us:
                self.town.run(min(self.town.now_us + STEP_US, self.over_us))
                progress()
        finally:
            gc.unfreeze()

    @property
    def minute(self) -> int:
        """Of the day."""
        return (self.town.now_us - START_US) // MINUTE_US

    @property
    def machines(self) -> list[Machine]:
        return [*self.relays, *self.payers, *self.crowd]

    def counters(self) -> Counter[str]:
        """Of all cores and shells, by what it was."""
        total: Counter[str] = Counter()
        for machine in self.machines:
            total.update(machine.counters)
            total.update(machine.desk.counters)
        return total

    # ------------------------------------------------------------------ who is there

    def _relay(self, number: int) -> Machine:
        kind = _RELAYS[number % len(_RELAYS)]
        if kind is payees.OverMeters and number // len(_RELAYS) % 2:
            kind = payees.Pads
        by_time = self._dice.below(5) == 0
        policy = Policy(per_gb_zeq=PER_GB_ZEQ, per_zeqond_zeq=int(by_time), max_tunnels=MAX_TUNNELS)
        return kind(self.town, self.watch, f"relay {number}", policy)

    def _payer(self, number: int) -> Machine:
        return _PAYERS[number % len(_PAYERS)](self.town, self.watch, f"payer {number}")

    def _customer(self, payer: Machine) -> Customer:
        dice = Dice(self.plan.seed, f"customer {payer.name}")
        return Customer(self.town, payer, self.relays, self.visits, dice)

    def _plan_restores(self) -> None:
        for machine in self.machines:
            if isinstance(machine, Restored):
                copied_us = START_US + self._dice.between(4 * HOUR_US, 8 * HOUR_US)
                machine.plan(copied_us, copied_us + self._dice.between(3 * HOUR_US, 8 * HOUR_US))

    # ------------------------------------------------------------------ what they mean to do

    def _errands(self, payer: Machine, number: int, sound: list[Machine]) -> list[Errand]:
        if payer.sound:
            first = self._errand(GB, ERRANDS_US, newcomer=True)
            if number == 0:  # one newcomer at least, before it has been anywhere, to whom no crowd goes
                first = replace(first, at_us=START_US, relay=sound[-1])
            return [first, *(self._errand(self._size(100, 300), ERRANDS_US) for _ in range(2))]
        if isinstance(payer, _THIEVES):
            victim = self._dice.one_of(sound)
            again = [self._errand(100 * MB, ERRANDS_US, victim) for _ in range(3)]
            return [*again, *(self._errand(100 * MB, ERRANDS_US) for _ in range(3))]
        if isinstance(payer, payers.Forks):
            return [self._errand(self._size(20, 40), FORKS_US) for _ in range(4)]
        if isinstance(payer, payers.Clique):
            size = 1_500 * MB if number % 50 == 9 else 60 * MB
            return [self._errand(size, ERRANDS_US, self._dice.one_of(sound))]
        return [self._errand(self._size(40, 80), ERRANDS_US) for _ in range(3)]

    def _errand(
        self, want: int, within_us: int, relay: Machine | None = None, newcomer: bool = False
    ) -> Errand:
        at_us = START_US + MINUTE_US + self._dice.below(within_us)
        rate = MB * self._dice.between(2, 12)
        return Errand(at_us, want, rate, self._dice.between(5, 40), relay, newcomer)

    def _size(self, low: int, high: int) -> int:
        return MB * self._dice.between(low, high)

    def _plan_crowd(self) -> None:
        """Those who take come first, then those who sign."""
        count = self.plan.identities
        for number in range(count):
            at_us = START_US + 2 * HOUR_US + number * 12 * HOUR_US // count
            self.town.call_at(at_us, self._one_of_crowd, number)

    def _one_of_crowd(self, number: int) -> None:
        takes = 2 * number < self.plan.identities
        kind: type[Machine] = payers.TakesWindow if takes else payers.Signs
        machine = kind(self.town, self.watch, f"identity {number}")
        self.crowd.append(machine)
        relay = self.targets[number % len(self.targets)]
        errand = Errand(self.town.now_us + SECOND_US, GB, 10 * MB, 10, relay)
        self._customer(machine).run(errand)
