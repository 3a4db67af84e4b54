"""A report as a person reads it at the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simulations.figures import FIGURES

_KINDS = 12  # of datagrams that are shown; the report has them all


def table(report: Mapping[str, Any]) -> RenderableType:
    """Figures with what was asked of them, then where the datagrams went."""
    return Group(_figures(report), _kinds(report), _remarks(report), _verdict(report))


def _figures(report: Mapping[str, Any]) -> Table:
    limits = {each["key"]: each for each in report["criteria"]}
    grid = _grid("figure", "", "asked")
    for key, measure in FIGURES.items():
        value = report["figures"][key]
        asked = Text("")
        if key in limits:
            sign = "≥" if measure.better == "more" else "≤"
            style = "green" if limits[key]["met"] else "bold red"
            mark = "✔" if limits[key]["met"] else "✘"
            asked = Text(f"{mark} {sign} {measure.text(limits[key]['limit'])}", style)
        grid.add_row(measure.title, f"{measure.text(value)} {measure.unit}".rstrip(), asked)
    return grid


def _kinds(report: Mapping[str, Any]) -> Table:
    grid = _grid("datagrams of a node in a minute", "")
    for kind, times in list(report["kinds"].items())[:_KINDS]:
        grid.add_row(kind, f"{times:,.2f}")
    return grid


def _remarks(report: Mapping[str, Any]) -> Text:
    lookups, offers, people = report["lookups"], report["offers"], report["population"]
    network = ", ".join(f"{count:,} {why}" for why, count in report["network"].items())
    lines = (
        f"{people['joined']:,} nodes came, {people['left']:,} vanished; {people['public']:,} are public.",
        f"{lookups['started']:,} lookups: {lookups['right']:,} right, {lookups['wrong']:,} wrong, "
        f"{lookups['empty']:,} empty, {lookups['asker_left']:,} whose asker vanished, "
        f"{lookups['without_end']:,} without an end.",
        f"{offers['published']:,} offers, {offers['stillborn']:,} whose author vanished with them.",
        f"{report['delivered']:,} datagrams delivered; not: {network or 'none'}.",
        f"trace {report['trace']}",
    )
    return Text("\n".join((*_attack(report), *lines)), "dim")


def _attack(report: Mapping[str, Any]) -> list[str]:
    attack = report["attack"]
    if attack is None:
        return []
    lines = [
        f"{attack['attackers']:,} attackers in {attack['networks']:,} networks sent {attack['datagrams']:,} "
        "datagrams.",
        *(f"{times:,} × {what}" for what, times in attack["lies"].items()),
    ]
    if attack["victim"]:
        victim = attack["victim"]
        lines.append(
            f"{victim['started']:,} lookups of the besieged node: {victim['right']:,} right, "
            f"{victim['wrong']:,} wrong, {victim['empty']:,} empty."
        )
    return lines


def _verdict(report: Mapping[str, Any]) -> Text:
    missed = [FIGURES[each["key"]].title for each in report["criteria"] if not each["met"]]
    if missed:
        return Text(f"✘ Not met: {'; '.join(missed)}.", "bold red")
    return Text(f"✔ All {len(report['criteria'])} criteria are met.", "bold green")


def sizes(reports: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Table:
    """One column for each report, by its number of nodes."""
    grid = _grid("nodes", *(f"{report['scenario']['nodes']:,}" for report in reports))
    for key in keys:
        measure = FIGURES[key]
        title = f"{measure.title}, {measure.unit}" if measure.unit else measure.title
        grid.add_row(title, *(measure.text(report["figures"][key]) for report in reports))
    return grid


def _grid(first: str, *others: str) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    grid.add_column(first, no_wrap=True)
    for title in others:
        grid.add_column(title, justify="right", no_wrap=True)
    return grid
