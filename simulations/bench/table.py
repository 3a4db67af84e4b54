"""The figures as tables for the terminal: a row for each contender, beside a figure its ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simulations.bench import figures
from simulations.bench.figures import Measure
from simulations.bench.report import Run

# What stands side by side: four figures and a name fit into 80 columns.
_GROUPS: Final = (
    ("tcp", "back", "tcp4", "back4"),
    ("one", "many", "one_cpu", "many_cpu"),
    ("cpu", "udp", "memory", "start"),
    ("ping_p50", "ping_p99", "loaded_p50", "loaded_p99"),
    ("idle_cpu", "idle_wire", "trickle", "handshake"),
)
_OURS: Final = "zeqnode"


def table(run: Run, lines: int | None = None) -> RenderableType:
    """Medians of the rounds so far. lines: how many there is room for; then the last groups are left out.

    A ratio that is good for the contender is green, a bad one red."""
    measures = {measure.key: measure for measure in figures.measured(run.rounds)}
    groups = [[measures[key] for key in group if key in measures] for group in _GROUPS]
    grids = [_grid(run, group) for group in groups if group]
    if lines is not None:
        return Group(*grids[: max(1, lines // (len(run.names) + 5))])
    return Group(*grids, *_remarks(run))


def _grid(run: Run, measures: Sequence[Measure]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    grid.add_column(f"× {run.reference}" if run.reference else "", style="bold", no_wrap=True, min_width=19)
    for measure in measures:
        grid.add_column(f"{measure.title}\n{measure.unit}", justify="right", min_width=12)
    for name in run.names:
        cells = (_cell(run, name, measure) for measure in measures)
        grid.add_row(Text(name, "bold cyan" if name.startswith(_OURS) else "bold"), *cells)
    grid.add_row()
    return grid


def _cell(run: Run, name: str, measure: Measure) -> Text:
    value = figures.median(run.rounds, name, measure.key)
    cell = Text(measure.text(value))
    times = figures.ratio(run.rounds, name, run.reference, measure.key) if run.reference else None
    if value is None or times is None or name == run.reference:
        return cell
    is_good = times >= 1 if measure.better == "more" else times <= 1
    return cell.append(f" {_short(times)}×", "green" if is_good else "red")


def _short(times: float) -> str:
    return f"{times:.2f}" if times < 10 else f"{times:,.0f}"


def _remarks(run: Run) -> list[Text]:
    """Notes, what failed and what is missing: nothing is left out in silence."""
    lines = [Text(f"{kind.name}: {kind.note}", "dim") for kind in run.kinds if kind.note]
    for name, tests in figures.failures(run.rounds).items():
        lines += [Text(f"{name}, {test}: {why}", "red") for test, why in tests.items()]
    lines += [Text(f"{name} is missing: {why}", "yellow") for name, why in run.missing.items()]
    return lines
