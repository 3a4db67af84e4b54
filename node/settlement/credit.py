"""What a payee extends to whom, and how much of it is used: no grant, each payee's own decision.

    exposure    of one payer: what was carried for it and is worth, less what it has carried for us
    limit       by the owner's word for this machine; else for friends, or strangers, by the unit asked for
    today       new exposure of all strangers together since midnight UTC, bounded by `daily`
    left        the least of limit − exposure and, for strangers, daily − today

Everything in millionths of a ZEQ. What counts is the worth pro rata, not the seeds' rounded sum that a tunnel
may have ended with: the rest of a gigabyte that was paid for and not used is no risk, and would shut a
newcomer out after its first try.

    balance_zeq = min_required_zeq + ⌊left⌋        min_required_zeq = 100 units at the rate asked for

The seeds refuse whoever has less than 100 units; a newcomer has nothing anywhere. So that line is nominal,
and extended to all; what decides is the exposure alone: balance ≥ required just where something is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from node.settlement.terms import MAX_AMOUNT, MILLIONTHS, Unit

REQUIRED_UNITS: Final = 100
DAY_S: Final = 86_400
STRANGER_GB: Final = 1
STRANGER_ZEQONDS: Final = 1_000
STRANGERS_PER_DAY: Final = 20


class Extended(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner extends, in millionths: to a stranger that pays by the gigabyte, or by time; to all
    strangers in a day. `granted`: by machine_id, before all else."""

    stranger: int
    stranger_by_time: int
    daily: int
    friend: int = MAX_AMOUNT
    granted: Mapping[bytes, int] = {}


def by_default(per_gb_zeq: int, per_zeqond_zeq: int) -> Extended:
    """For an offer: a stranger may use a gigabyte, or 1,000 zeqonds, and twenty such strangers come a day."""
    stranger = STRANGER_GB * per_gb_zeq * MILLIONTHS
    by_time = STRANGER_ZEQONDS * per_zeqond_zeq * MILLIONTHS
    daily = STRANGERS_PER_DAY * max(stranger, by_time)
    return Extended(stranger=stranger, stranger_by_time=by_time, daily=daily)


def required_zeq(rate_zeq: int) -> int:
    """The seeds' `min_required_zeq`."""
    return REQUIRED_UNITS * rate_zeq


class Credit:
    """`exposures`: by machine_id, at the start; `today`: what strangers used so far on unix day `day`.
    `is_friend(machine_id)`: let in by the owner, not by a tunnel."""

    def __init__(
        self,
        extended: Extended,
        exposures: Mapping[bytes, int],
        today: int,
        day: int,
        is_friend: Callable[[bytes], bool],
    ) -> None:
        self.extended = extended
        self._exposures = dict(exposures)
        self._today = today
        self._day = day
        self.is_friend = is_friend

    def limit(self, machine_id: bytes, unit: Unit) -> int:
        granted = self.extended.granted.get(machine_id)
        if granted is not None:
            return granted
        if self.is_friend(machine_id):
            return self.extended.friend
        return self.extended.stranger if unit is Unit.GB else self.extended.stranger_by_time

    def exposure(self, machine_id: bytes) -> int:
        """Below 0: we owe it."""
        return self._exposures.get(machine_id, 0)

    def left(self, machine_id: bytes, day: int, unit: Unit) -> int:
        """May be below 0; never so far from it that it cannot be written down."""
        left = self.limit(machine_id, unit) - self.exposure(machine_id)
        if self._is_stranger(machine_id):
            left = min(left, self.extended.daily - self.today(day))
        return max(-MAX_AMOUNT, min(left, MAX_AMOUNT))

    def today(self, day: int) -> int:
        """New exposure of strangers on that unix day."""
        return self._today if day == self._day else 0

    def used(self, machine_id: bytes, more: int, day: int) -> None:
        """It has used so much more; below 0: it has carried so much for us."""
        self._exposures[machine_id] = self.exposure(machine_id) + more
        if more > 0 and self._is_stranger(machine_id):
            self._today, self._day = self.today(day) + more, day

    def balance_zeq(self, machine_id: bytes, rate_zeq: int, day: int, unit: Unit) -> int:
        """The seeds' figure, whole ZEQ, rounded down."""
        return required_zeq(rate_zeq) + self.left(machine_id, day, unit) // MILLIONTHS

    def _is_stranger(self, machine_id: bytes) -> bool:
        return machine_id not in self.extended.granted and not self.is_friend(machine_id)
