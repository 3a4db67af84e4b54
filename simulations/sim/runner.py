"""One course on this machine: seen while it runs, with what it took in time and memory."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from node.errors import NotWritable
from simulations.course import Course
from simulations.scenario import Scenario
from simulations.sim import processes, report
from simulations.sim.screen import Screen


def run(
    scenario: Scenario, species: processes.MakeSpecies, console: Console, count: int | None = None
) -> dict[str, Any]:
    """The report. `count`: by how many processes; None: as many as are of use. Memory is the most that was
    resident at the end of a virtual minute, in all of them."""
    from simulations.bench import machine

    count = processes.suited(scenario, count)
    began_s = time.perf_counter()
    with processes.Crew(scenario, species, count) as crew:
        screen = Screen(console, count)
        with screen.live(scenario):
            meter = processes.Meter()  # the screen is no part of what a course takes
            course = Course(scenario, species(), crew.exchange)
            processes.run(course, meter, lambda: screen.show(course))
        for share, memory in crew.shares():
            course.absorb(share)
            meter.add(memory)
    course.finish()
    cost = report.Cost(time.perf_counter() - began_s, meter.most)
    return {
        **report.of(course, cost),
        "date": machine.now(),
        "command": machine.command(words()),
        "machine": machine.text(machine.describe()),
        "processes": count,
    }


def save(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Into a folder, which is made where it is not there. Raises NotWritable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotWritable(
            f"the report cannot be written to {folder} ({error.strerror}): give --save a folder of your own"
        ) from None
    return [folder / name for name in files]


def as_json(content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def words() -> list[str]:
    """What was typed after `zeqnode`."""
    typed = sys.argv[1:]
    return typed[typed.index("sim") :] if "sim" in typed else ["sim"]
