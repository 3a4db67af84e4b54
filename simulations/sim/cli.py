"""`zeqnode sim`: worlds of thousands of nodes on this machine, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from node.errors import Usage
from simulations import scenario
from simulations.market.cli import cheaters

command = App(
    name="sim",
    help="Thousands of nodes in a simulated world, in virtual time. The same seed gives the same course on "
    "every machine.",
    help_format="plaintext",
)

Json = Annotated[
    bool,
    Parameter(
        name="--json", negative="", show_default=False, help="Print the report as JSON; the rest to stderr."
    ),
]
Processes = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1, lte=8),
        show_default=False,
        help="How many share the work; by itself one for each core. The course is the same.",
    ),
]
Save = Annotated[Path | None, Parameter(show_default=False)]
_MOST_GROWTH: Final = 1.6
_SCALE_KEYS: Final = (
    "lookups_right",
    "mean_hops",
    "messages_per_lookup",
    "memory_per_node_kib",
    "bytes_per_node_second",
    "wall_s",
)


@command.command
def run(
    file: str,
    *,
    seed: int | None = None,
    nodes: int | None = None,
    minutes: int | None = None,
    processes: Processes = None,
    as_json: Json = False,
    save: Save = None,
) -> int:
    """Run a scenario and say whether its criteria are met.

    The exit code is 0 when they are, 1 when not.

    For example:

        zeqnode sim run small
        zeqnode sim run market --seed 7 --save market-7
        zeqnode sim run mine.toml --nodes 300 --json > report.json

    Parameters
    ----------
    file
        A path, or the name of a scenario that comes with zeqnode: see `zeqnode sim list`.
    seed
        Instead of the file's; another seed is another course.
    nodes
        Instead of the file's.
    minutes
        Of virtual time, instead of the file's.
    save
        A folder for report.json and report.html; it is made where it is not there.
    """
    from simulations.discoverers import Discoverers
    from simulations.sim import page, runner, table

    chosen = scenario.load(file).changed(nodes, minutes, seed)
    console = Console(stderr=as_json)
    report = runner.run(chosen, Discoverers, console, processes)
    console.print(table.table(report))
    _keep(console, save, {"report.json": runner.as_json(report), "report.html": page.page(report)})
    if as_json:
        print(runner.as_json(report), end="")
    return 0 if report["met"] else 1


@command.command
def scale(
    *,
    sizes: Annotated[str, Parameter(help="Numbers of nodes, with commas between.")] = "100,1000,10000",
    file: str = "market",
    minutes: int | None = None,
    processes: Processes = None,
    as_json: Json = False,
    save: Save = None,
) -> int:
    """Measure how cost grows with the number of nodes: hops, messages, memory.

    The same scenario with fewer and more nodes. The exit code is 0 when the most
    nodes take no more than 1.6 times the messages per lookup that a tenth of them
    take. With the sizes that it has by itself it takes about a quarter of an hour.

    For example:

        zeqnode sim scale --sizes 100,1000 --minutes 5
        zeqnode sim scale --save scale

    Parameters
    ----------
    file
        The scenario, as of `zeqnode sim run`.
    minutes
        Of virtual time, instead of the file's.
    save
        A folder for report.json and report.html; it is made where it is not there.
    """
    from simulations.discoverers import Discoverers
    from simulations.sim import page, runner, table
    from simulations.sim.processes import apart

    try:
        numbers = sorted({int(size) for size in sizes.split(",")})
    except ValueError:
        raise Usage(f"--sizes {sizes}: give numbers with commas between, like 100,1000.") from None
    chosen = [scenario.load(file).changed(number, minutes, None) for number in numbers]
    console = Console(stderr=as_json)
    reports = [apart(runner.run, each, Discoverers, console, processes) for each in chosen]
    console.print(table.sizes(reports, _SCALE_KEYS))
    growth = _growth(reports)
    for is_little, words in growth:
        console.print(words if is_little is None else f"{'✔' if is_little else '✘'} {words}")
    _keep(console, save, {"report.json": runner.as_json(reports), "report.html": page.sizes_page(reports)})
    if as_json:
        print(runner.as_json(reports), end="")
    return 1 if any(is_little is False for is_little, _ in growth) else 0


@command.command(name="list")
def list_(*, as_json: Json = False) -> None:
    """Show the scenarios that come with zeqnode.

    For example:

        zeqnode sim list
    """
    from simulations.sim import runner

    found = [scenario.load(path.stem) for path in scenario.shipped()]
    keys = ("name", "nodes", "minutes", "about")
    rows = [{key: getattr(each, key) for key in keys} for each in found]
    if as_json:
        print(runner.as_json(rows), end="")
        return
    table = Table("scenario", "nodes", "minutes", "what it shows")
    for row in rows:
        table.add_row(str(row["name"]), f"{row['nodes']:,}", str(row["minutes"]), str(row["about"]))
    Console().print(table)


command.command(cheaters)


def _growth(reports: list[dict[str, Any]]) -> list[tuple[bool | None, str]]:
    """Of each pair in which one has ten times the nodes of the other, in words. Of the largest: whether it is
    little. Few nodes all know each other, so from them on the first step is always a large one."""
    by_nodes = {report["scenario"]["nodes"]: report["figures"]["messages_per_lookup"] for report in reports}
    found: list[tuple[bool | None, str]] = []
    for nodes, few in by_nodes.items():
        many = by_nodes.get(10 * nodes)
        sizes = f"from {nodes:,} to {10 * nodes:,} nodes"
        if few and many:
            words = f"messages of a lookup grow {many / few:.2f} × {sizes}"
            if 10 * nodes == max(by_nodes):
                is_little = many <= _MOST_GROWTH * few
                found.append((is_little, f"{words}; at most {_MOST_GROWTH} × is asked for."))
            else:
                found.append((None, f"{words}."))
        elif 10 * nodes in by_nodes:
            found.append((False, f"no lookup of the one took messages {sizes}: take larger --sizes."))
    return found


def _keep(console: Console, folder: Path | None, files: dict[str, str]) -> None:
    from simulations.sim import runner

    if folder is not None:
        for path in runner.save(folder, files):
            console.print(f"kept: {path}", soft_wrap=True, highlight=False, markup=False)
