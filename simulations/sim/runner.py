"""One course on this machine: seen while it runs, with what it took in time and memory."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from node.errors import NotWritable
from simulations.course import Course
from simulations.population import Species
from simulations.scenario import MINUTE_US, Scenario
from simulations.sim import report
from simulations.sim.screen import Screen

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def run(scenario: Scenario, species: Species, console: Console) -> dict[str, Any]:
    """The report. Memory is the most that was resident at the end of a virtual minute."""
    from simulations.bench import machine

    gc.collect()
    base = _resident()
    began_s = time.perf_counter()
    course, screen = Course(scenario, species), Screen(console)
    most, minute = 0, 0

    def progress() -> None:
        nonlocal most, minute
        if course.world.now_us // MINUTE_US > minute:
            minute = course.world.now_us // MINUTE_US
            gc.collect()  # cores of nodes that vanished
            most = max(most, _resident() - base)
        screen.show(course)

    # A collection that Python starts by itself would look at all nodes again and again.
    gc.disable()
    try:
        with screen.live(course):
            course.run(progress)
    finally:
        gc.enable()
    cost = report.Cost(time.perf_counter() - began_s, most)
    return {
        **report.of(course, cost),
        "date": machine.now(),
        "command": machine.command(words()),
        "machine": machine.text(machine.describe()),
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


def _resident() -> int:
    """Bytes of this process's memory that are in RAM."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
