"""The figures of a run that a scenario may ask something of, and sums that stay integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from simulations.bench.figures import Measure

FIGURES: Final = {
    measure.key: measure
    for measure in (
        Measure("lookups_right", "lookups that found theirs", "share", 4),
        Measure("lookups_wrong", "lookups that found something false", "", 0, "less"),
        Measure("victim_lookups_right", "lookups of the besieged node that found theirs", "share", 4),
        Measure("mean_hops", "hops of a lookup, mean", "", 2, "less"),
        Measure("lookup_p50_s", "time of a lookup, median", "s", 2, "less"),
        Measure("lookup_p99_s", "time of a lookup, p99", "s", 2, "less"),
        Measure("messages_per_lookup", "messages of a lookup, mean", "", 1, "less"),
        Measure("offers_covered", "offers that reached 99 % of the nodes within 5 s", "share", 4),
        Measure("offer_coverage", "nodes that an offer reached within 5 s, mean", "share", 4),
        Measure("offer_t50_s", "an offer reaches half of the nodes after, mean", "s", 2, "less"),
        Measure("offer_t90_s", "an offer reaches 90 % after, mean", "s", 2, "less"),
        Measure("offer_t99_s", "an offer reaches 99 % after, mean", "s", 2, "less"),
        Measure("offer_t99_worst_s", "the slowest offer reaches 99 % after", "s", 2, "less"),
        Measure("delivery_p99_s", "an offer reaches a node after, p99 of all", "s", 2, "less"),
        Measure("datagrams_per_node_minute", "datagrams sent by a node in a minute, mean", "", 0, "less"),
        Measure("bytes_per_node_second", "bytes sent by a node in a second, mean", "B/s", 0, "less"),
        Measure("load_p99", "datagrams of a node in a minute, both ways, p99", "", 0, "less"),
        Measure("memory_per_node_kib", "memory of a node", "KiB", 1, "less"),
        Measure("wall_s", "time on this machine", "s", 1, "less"),
        Measure("datagrams_per_wall_second", "datagrams delivered in a second of this machine", "", 0),
    )
}
"""By key. A criterion is the least that there must be where more is better, else the most."""


def meets(key: str, value: float | None, limit: float) -> bool:
    """A figure that there is not meets nothing."""
    if value is None:
        return False
    return value >= limit if FIGURES[key].better == "more" else value <= limit


def quantile(ordered: Sequence[int], part: int, whole: int = 100) -> int | None:
    """The least value that `part` of `whole` of the ordered values do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * part // whole) - 1)]


def mean(counted: Mapping[int, int]) -> float | None:
    """Of values that come so often."""
    total = sum(counted.values())
    return sum(value * times for value, times in counted.items()) / total if total else None


def histogram(values: Iterable[int], width: int) -> dict[int, int]:
    """The lower end of each bin of that width → how many, in order, empty ones left out."""
    bins: dict[int, int] = {}
    for value in values:
        start = value // width * width
        bins[start] = bins.get(start, 0) + 1
    return dict(sorted(bins.items()))
