"""What befalls machines that cheat nobody: killed at the worst moments, put back from a backup."""

from __future__ import annotations

from typing import Final

from node.settlement import actions
from node.settlement.policy import Policy
from simulations.dice import Dice
from simulations.market.machine import Machine
from simulations.market.town import SECOND_US, Town
from simulations.market.watch import Watch

_EACH: Final = 60  # vouchers kept: before one is on the disk, and after one, it dies
_DOWN_US: Final = 40 * SECOND_US


class Crashing(Machine):
    """Between a voucher and the store, now before, now after it is on the disk; and up again soon."""

    way = "crashes"

    def __init__(self, town: Town, watch: Watch, name: str, policy: Policy | None = None) -> None:
        self._fate = Dice(town.seed, f"fate of {name}")
        self.crashes = 0
        super().__init__(town, watch, name, policy)

    def keep(self, action: actions.Keep) -> None:
        lot = self._fate.below(_EACH)
        if lot != 0:
            super().keep(action)
        if lot <= 1:
            self._die()

    def _die(self) -> None:
        self.crashes += 1
        self.kill()
        self.town.call_in(SECOND_US + self._fate.below(_DOWN_US), self.start)


class Restored(Machine):
    """It goes back to a copy of its disk that is hours old, once."""

    way = "restored"

    def plan(self, copied_us: int, restored_us: int) -> None:
        """At these times."""
        self.town.call_at(copied_us, self._copy)
        self.town.call_at(restored_us, self._put_back)

    def _copy(self) -> None:
        self._backup = self.disk.backup()

    def _put_back(self) -> None:
        self.kill()
        self.disk.restore(self._backup)
        self.witnessed.clear()
        self.town.call_in(_DOWN_US, self.start)
