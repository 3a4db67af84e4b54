"""What every bench does around its measurements: rights, a folder, the screen, and the figures' ways out."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, RenderableType

from simulations.bench import contenders, machine, processes, report, rounds, saving, trials
from simulations.bench.contenders import Contender
from simulations.bench.contenders.contender import not_installed
from simulations.bench.errors import BenchError
from simulations.bench.figures import Outcome
from simulations.bench.report import Run
from simulations.bench.screen import Screen
from simulations.bench.setting import Setting
from simulations.bench.table import table
from simulations.lab import userns
from simulations.lab.errors import UnavailableError

_PREFIX = "zeqnode-bench-"
_AROUND = 5  # lines of the screen beside the table
_PROGRAMS = (("iperf3", "iperf3"), ("ping", "iputils-ping"))

Json = Annotated[
    bool,
    Parameter(
        name="--json", negative="", show_default=False, help="Print all figures as JSON; the rest to stderr."
    ),
]
Save = Annotated[
    bool,
    Parameter(
        negative="", show_default=False, help="Keep figures, picture and machine in simulations/results/."
    ),
]


def run(
    bench: str,
    wanted: Sequence[type[Contender]],
    tests: Mapping[str, trials.Trial],
    setting: Setting,
    reference: str | None = None,
    *,
    as_json: bool,
    save: bool,
) -> int:
    """A whole bench of contenders; the exit code. bench: its name, "" for the one of all contenders.

    reference: to whom the others are compared; else the newest wireguard-go. Raises BenchError, LabError."""
    ready()
    console = Console(stderr=as_json)
    with favoured_in_a_folder() as (folder, scheduling):
        made = _compare(bench, wanted, tests, setting, reference, folder, console)
        content = report.of(made, bench, machine.command(words()), scheduling)
    finish(content, console, table(made), as_json=as_json, save=save)
    return 0 if any(outcome.figures for each in made.rounds for outcome in each.values()) else 1


def _compare(
    bench: str,
    wanted: Sequence[type[Contender]],
    tests: Mapping[str, trials.Trial],
    setting: Setting,
    reference: str | None,
    folder: Path,
    console: Console,
) -> Run:
    """All rounds of those who are here. Raises BenchError where nobody is."""
    reasons = {kind.name: kind.missing() for kind in wanted}
    missing = {name: reason for name, reason in reasons.items() if reason}
    kinds = [kind for kind in wanted if kind.name not in missing]
    if not kinds:
        raise BenchError("; ".join(f"{name} is {reason}" for name, reason in missing.items()))
    reference = reference or contenders.reference_of([kind.name for kind in kinds])
    so_far = Run(setting, kinds, missing, [], reference)

    def body() -> RenderableType | None:
        return table(so_far, console.height - _AROUND) if so_far.rounds else None

    def progress(name: str, test: str) -> None:
        number = min(setting.rounds, 1 + sum(len(each) == len(kinds) for each in so_far.rounds))
        screen.progress(f"round {number} of {setting.rounds} · {name} · {trials.TITLES[test]}")

    def done(found: Sequence[Mapping[str, Outcome]]) -> None:
        nonlocal so_far
        so_far = Run(setting, kinds, missing, found, reference)

    title = " ".join(word for word in ("zeqnode bench", bench) if word)
    seconds = rounds.seconds_of(kinds, tests, setting)
    screen = Screen(console, f"{title} · {setting.text()}", seconds, body)
    with screen.live():
        rounds.run(kinds, tests, setting, folder, progress, done)
    return so_far


def ready() -> None:
    """Rights and programs; after it, this process may make networks. Raises UnavailableError."""
    if reason := userns.available():
        raise UnavailableError(reason)
    for program, package in _PROGRAMS:
        if reason := not_installed(program, package):
            raise UnavailableError(f"{program} is {reason}.")
    userns.reexec_in_user_namespace()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)


@contextmanager
def favoured_in_a_folder() -> Iterator[tuple[Path, dict[str, int]]]:
    """A folder that goes with the block, and how all that is started in it is scheduled."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, processes.favoured() as scheduling:
        yield Path(folder), scheduling


def finish(
    content: dict[str, Any], console: Console, body: RenderableType, *, as_json: bool, save: bool
) -> None:
    """Table, files, JSON. Raises NotWritable."""
    console.print(body)
    console.print(f"[dim]{machine.text(content['machine'])}, {content['date']} UTC[/dim]", highlight=False)
    if save:
        for path in saving.save(content):
            console.print(f"kept: {path}", soft_wrap=True, highlight=False, markup=False)
    if as_json:
        print(json.dumps(content, indent=2, ensure_ascii=False))


def words() -> list[str]:
    """What was typed after `zeqnode`."""
    words = sys.argv[1:]
    return words[words.index("bench") :] if "bench" in words else ["bench"]


def _leave(number: int, _frame: object) -> None:
    """SIGTERM and a terminal that goes unwind the stack, as Ctrl-C does."""
    sys.exit(128 + number)
