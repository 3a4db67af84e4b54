"""`zeqnode sim cheaters`: a day of the market among those that cheat."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from simulations.market.course import Course

_PER_SECOND: Final = 4  # redraws


def cheaters(
    *,
    payers: Annotated[int, Parameter(validator=Number(gte=20, lte=10_000))] = 1_000,
    relays: Annotated[int, Parameter(validator=Number(gte=10, lte=1_000))] = 100,
    identities: Annotated[int, Parameter(validator=Number(gte=0, lte=10_000))] = 1_000,
    seed: Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))] = 1,
    as_json: Annotated[
        bool,
        Parameter(
            name="--json",
            negative="",
            show_default=False,
            help="Print the report as JSON; the rest to stderr.",
        ),
    ] = False,
) -> int:
    """A day in a market where a tenth of the machines cheat in each way that there is.

    The settlement is the product's, with its ledgers; signatures, packets and time
    are the simulation's. The exit code is 0 when no honest machine lost more than
    it had chosen to extend, every fork was found and proven to all, and honest
    machines served, paid and settled; 1 when not. With the numbers that it has by
    itself it takes some minutes.

    For example:

        zeqnode sim cheaters
        zeqnode sim cheaters --payers 60 --relays 10 --identities 60 --seed 7
        zeqnode sim cheaters --json > report.json

    Parameters
    ----------
    payers
        Three of ten are honest, of which one crashes and one is put back from a backup.
    relays
        Six of ten are honest, likewise.
    identities
        Of one more cheater, who comes as somebody new each time.
    seed
        Another seed is another day.
    """
    from simulations.market import report
    from simulations.market.course import Course, Plan
    from simulations.market.judge import judge

    console = Console(stderr=as_json)
    began_s = time.perf_counter()
    course = Course(Plan(payers, relays, identities, seed))
    _run(course, console)
    found = report.of(course, judge(course), time.perf_counter() - began_s)
    console.print(report.table(found))
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    return 0 if found["met"] else 1


def _run(course: Course, console: Console) -> None:
    """With a bar of virtual time on a terminal, a line an hour elsewhere."""
    plan = course.plan
    title = f"cheaters: {plan.payers:,} payers, {plan.relays:,} relays, seed {plan.seed}"
    if not console.is_terminal:
        console.print(title, soft_wrap=True, highlight=False)
        course.run(lambda: _line(course, console))
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=_PER_SECOND) as progress:
        task = progress.add_task(title, total=course.hours * 60, now="")
        course.run(lambda: progress.update(task, completed=course.minute, now=_now(course)))


def _line(course: Course, console: Console) -> None:
    if course.minute % 60 == 0:
        console.print(_now(course), soft_wrap=True, highlight=False)


def _now(course: Course) -> str:
    hour, minute = divmod(course.minute, 60)
    return f"{hour:02d}:{minute:02d} of {course.hours}:00, {len(course.visits):,} requests"
