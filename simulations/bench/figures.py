"""What is measured, and what the rounds say together: medians, and ratios taken within a round. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure is kept in `unit`s; better: whether more or less of it is."""

    key: str
    title: str
    unit: str
    digits: int
    better: str = "more"

    def text(self, value: float | None) -> str:
        """For a table; "–" where there is no figure."""
        if value is None:
            return "–"
        # a value far below one keeps two digits that say something
        small = 1 - math.floor(math.log10(abs(value))) if 0 < abs(value) < 1 else 0
        return f"{value:,.{max(self.digits, min(small, 5))}f}"


MEASURES: Final = {
    measure.key: measure
    for measure in (
        Measure("tcp", "TCP there", "Gb/s", 2),
        Measure("back", "TCP back", "Gb/s", 2),
        Measure("tcp4", "4×TCP there", "Gb/s", 2),
        Measure("back4", "4×TCP back", "Gb/s", 2),
        Measure("cpu", "CPU", "s/GB", 2, "less"),
        Measure("udp", "64 B UDP", "kpps", 1),
        Measure("ping_p50", "ping p50", "ms", 3, "less"),
        Measure("ping_p99", "ping p99", "ms", 3, "less"),
        Measure("loaded_p50", "loaded p50", "ms", 2, "less"),
        Measure("loaded_p99", "loaded p99", "ms", 2, "less"),
        Measure("memory", "memory", "MiB", 0, "less"),
        Measure("start", "first byte", "s", 2, "less"),
        Measure("one", "one stream", "Gb/s", 2),
        Measure("many", "64 streams", "Gb/s", 2),
        Measure("one_cpu", "one, hub CPU", "s/GB", 2, "less"),
        Measure("many_cpu", "64, hub CPU", "s/GB", 2, "less"),
        Measure("trickle", "trickle CPU", "% of a core", 2, "less"),
        Measure("handshake", "handshake", "s ago", 0, "less"),
        Measure("idle_cpu", "idle CPU", "% of a core", 2, "less"),
        Measure("idle_wire", "idle wire", "B/s", 0, "less"),
    )
}


@dataclass(slots=True)
class Outcome:
    """Of one contender in one round: figures by the measure's key, and why a test gave none."""

    figures: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        return {"figures": self.figures, **({"failures": self.failures} if self.failures else {})}


Round = Mapping[str, Outcome]
"""By the contender's name."""


def median(rounds: Sequence[Round], name: str, key: str) -> float | None:
    """Of the rounds in which it was measured."""
    found = [each[name].figures[key] for each in rounds if name in each and key in each[name].figures]
    return statistics.median(found) if found else None


def ratio(rounds: Sequence[Round], name: str, reference: str, key: str) -> float | None:
    """The median of the rounds' ratios: both of each come from the same minute, whatever the machine did."""
    ratios = []
    for each in rounds:
        if name in each and reference in each:
            above, below = (each[who].figures.get(key) for who in (name, reference))
            if above is not None and below:
                ratios.append(above / below)
    return statistics.median(ratios) if ratios else None


def measured(rounds: Sequence[Round]) -> list[Measure]:
    """Those that at least one contender has, in the order of MEASURES."""
    keys = {key for each in rounds for outcome in each.values() for key in outcome.figures}
    return [measure for measure in MEASURES.values() if measure.key in keys]


def failures(rounds: Sequence[Round]) -> dict[str, dict[str, str]]:
    """Contender → test → the last reason; of those that failed in some round."""
    found: dict[str, dict[str, str]] = {}
    for each in rounds:
        for name, outcome in each.items():
            if outcome.failures:
                found.setdefault(name, {}).update(outcome.failures)
    return found


def summary(rounds: Sequence[Round], names: Sequence[str], reference: str | None) -> dict[str, Any]:
    """Contender → measure → the median, and the ratio to the reference."""
    rows: dict[str, Any] = {}
    for name in names:
        rows[name] = {}
        for measure in measured(rounds):
            value = median(rounds, name, measure.key)
            if value is None:
                continue
            rows[name][measure.key] = {"median": _short(value), "unit": measure.unit}
            times = ratio(rounds, name, reference, measure.key) if reference else None
            if times is not None:
                rows[name][measure.key]["ratio"] = _short(times)
    return rows


def _short(value: float) -> float:
    """Five digits tell more than any of these measurements do."""
    return float(f"{value:.5g}")
