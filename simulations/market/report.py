"""A day of the market as one value of plain parts, what was asked of it, and both as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from node.settlement.terms import MILLIONTHS
from simulations.bench.figures import Measure
from simulations.market.course import Course
from simulations.market.judge import Verdict

FORMAT: Final = 1

FIGURES: Final = {
    measure.key: measure
    for measure in (
        Measure("payee_unpaid_worst", "most of a tunnel that is unpaid, of its bound", "", 3, "less"),
        Measure("payee_lent_worst", "most that a relay lent one payer, of its bound", "", 3, "less"),
        Measure("payee_day_worst", "most that a relay lent all in a day, of its bound", "", 3, "less"),
        Measure("payer_overpaid_worst", "most that a payer overpaid one relay, of its bound", "", 3, "less"),
        Measure("forks", "chains that were forked", "", 0),
        Measure("forks_lost", "of them of which nobody holds both blocks now", "", 0, "less"),
        Measure("forks_found", "of the others found", "share", 4),
        Measure("fork_found_hours", "found after, median", "h", 2, "less"),
        Measure("proof_reach_worst", "nodes that a proof reached, worst", "share", 4),
        Measure("honest_liars", "of them honest ones, put back from a backup", "", 0, "less"),
        Measure("honest_tunnels", "tunnels between honest machines", "", 0),
        Measure("honest_served", "of what was wanted there, carried", "share", 4),
        Measure("honest_settled", "of them paid, alike in both ledgers", "share", 4),
        Measure("newcomers_served", "newcomers that had a gigabyte at once", "share", 4),
        Measure("newcomers_served_crashing", "the same, with those that are killed in it", "share", 4),
        Measure("clique_tier", "tier that payers of the clique have with anybody", "", 0, "less"),
        Measure("pairs", "pairs of half-blocks", "", 0),
        Measure("pairs_sum_worst", "the sum over all pairs, farthest from 0", "µZEQ", 0, "less"),
        Measure("ledgers_broken", "honest ledgers that do not verify", "", 0, "less"),
        Measure("kept_lost", "vouchers that were acknowledged and lost", "", 0, "less"),
    )
}

CRITERIA: Final = {
    "payee_unpaid_worst": 1.0,
    "payee_lent_worst": 1.0,
    "payee_day_worst": 1.0,
    "payer_overpaid_worst": 1.0,
    "forks_found": 1.0,
    "proof_reach_worst": 0.99,
    "honest_served": 0.95,
    "honest_settled": 1.0,
    "newcomers_served": 1.0,
    "clique_tier": 0.0,
    "pairs_sum_worst": 0.0,
    "ledgers_broken": 0.0,
    "kept_lost": 0.0,
}
"""The least that there must be where more is better, else the most."""


def meets(key: str, value: float | None) -> bool:
    """A figure that there is not meets nothing."""
    if value is None:
        return False
    limit = CRITERIA[key]
    return value >= limit if FIGURES[key].better == "more" else value <= limit


def of(course: Course, verdict: Verdict, wall_s: float) -> dict[str, Any]:
    """A course that is over."""
    figures = verdict.figures
    criteria = [
        {"key": key, "limit": limit, "value": figures[key], "met": meets(key, figures[key])}
        for key, limit in CRITERIA.items()
    ]
    return {
        "format": FORMAT,
        "plan": asdict(course.plan),
        "met": all(each["met"] for each in criteria),
        "criteria": criteria,
        "figures": figures,
        "ways": [asdict(way) for way in verdict.ways],
        "visits": len(course.visits),
        "trace": course.town.trace,
        "town": dict(sorted(course.town.counters.items())),
        "cores": dict(sorted(course.counters().items())),
        "wall_s": round(wall_s, 1),
    }


def table(report: Mapping[str, Any]) -> RenderableType:
    """Who did what and what came of it, then the figures with what was asked."""
    return Group(_ways(report), _figures(report), _remarks(report), _verdict(report))


def _ways(report: Mapping[str, Any]) -> Table:
    grid = _grid("who", "how many", "tunnels", "GB", "gained ZEQ", "at most", "of bound")
    for way in sorted(report["ways"], key=lambda way: (way["role"], way["name"])):
        counts = (f"{way[key]:,}" for key in ("machines", "tunnels"))
        sums = (f"{way[key] / MILLIONTHS:,.2f}" for key in ("gained", "most"))
        carried = f"{way['carried'] / 1e9:,.1f}"
        grid.add_row(f"{way['role']}: {way['name']}", *counts, carried, *sums, f"{way['worst']:.3f}")
    return grid


def _figures(report: Mapping[str, Any]) -> Table:
    grid = _grid("figure", "", "asked")
    for key, measure in FIGURES.items():
        value, asked = report["figures"][key], Text("")
        if key in CRITERIA:
            met = meets(key, value)
            sign = "≥" if measure.better == "more" else "≤"
            words = f"{'✔' if met else '✘'} {sign} {measure.text(CRITERIA[key])}"
            asked = Text(words, "green" if met else "bold red")
        grid.add_row(measure.title, f"{measure.text(value)} {measure.unit}".rstrip(), asked)
    return grid


def _remarks(report: Mapping[str, Any]) -> Text:
    lines = (
        "gained: of a payer, what was carried for it and never signed for; of a relay, what was signed to it "
        "for nothing; both from honest machines. at most: from one of them. of bound: the most that one of "
        "them lent it or overpaid, as a share of what that one had chosen to extend, and a window.",
        f"{report['visits']:,} requests; {', '.join(f'{n:,} {what}' for what, n in report['town'].items())}.",
        *(f"{count:,} × {what}" for what, count in report["cores"].items()),
        f"trace {report['trace']}, {report['wall_s']:,.1f} s",
    )
    return Text("\n".join(lines), "dim")


def _verdict(report: Mapping[str, Any]) -> Text:
    missed = [FIGURES[each["key"]].title for each in report["criteria"] if not each["met"]]
    if missed:
        return Text(f"✘ Not met: {'; '.join(missed)}.", "bold red")
    return Text(f"✔ All {len(report['criteria'])} criteria are met.", "bold green")


def _grid(first: str, *others: str) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    grid.add_column(first, no_wrap=True)
    for title in others:
        grid.add_column(title, justify="left" if not title else "right", no_wrap=True)
    return grid
