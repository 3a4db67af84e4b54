"""Coming and going: sessions without memory, at a rate, as many nodes at the end as at the beginning."""

from __future__ import annotations

from typing import Final

from simulations.dice import MILLION, Dice
from simulations.population import Population
from simulations.scenario import MINUTE_US
from simulations.world import World

_FINE: Final = 1 << 16


class Churn:
    """`ppm`: of a million nodes, those that vanish in a minute.

    Whoever goes is drawn from all, so a session's rest is as long as a new one; in integers, where the
    logarithm of an exponential law would round differently on another machine."""

    def __init__(self, world: World, population: Population, ppm: int) -> None:
        self.left = 0
        self._world = world
        self._population = population
        self._ppm = ppm
        self._dice = Dice(world.seed, "churn")
        self._until_us = 0

    def start(self, until_us: int) -> None:
        """From now to then."""
        self._until_us = until_us
        if self._ppm:
            self._world.call_at(self._next_us(), self._change)

    def _next_us(self) -> int:
        """A gap drawn evenly from none to twice the mean."""
        mean_us = MINUTE_US * MILLION // (self._ppm * len(self._population.present))
        return self._world.now_us + (self._dice.below(_FINE) * 2 * mean_us) // _FINE

    def _change(self) -> None:
        """One goes and another one comes."""
        if self._world.now_us > self._until_us:
            return
        self._population.leave(self._population.present.draw(self._dice))
        self._population.join()
        self.left += 1
        self._world.call_at(self._next_us(), self._change)
