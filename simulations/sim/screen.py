"""A run as it is seen while it goes on: a bar of virtual time on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from simulations.course import Course
from simulations.scenario import MINUTE_US, SECOND_US, Scenario

_PER_SECOND = 4  # redraws


class Screen:
    """`processes`: that run the course; this one's datagrams stand for the others'."""

    def __init__(self, console: Console, processes: int = 1) -> None:
        self._console = console
        self._processes = processes
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._drawn_s = self._began_s = 0.0
        self._minute = 0

    @contextmanager
    def live(self, scenario: Scenario) -> Iterator[None]:
        title = f"{scenario.name}: {scenario.nodes:,} nodes, {scenario.minutes} minutes, seed {scenario.seed}"
        self._began_s = self._drawn_s = time.monotonic()
        self._minute = 0
        if not self._console.is_terminal:
            self._console.print(title, soft_wrap=True, highlight=False)
            yield
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self._console, transient=True, auto_refresh=False) as self._progress:
            self._task = self._progress.add_task(title, total=None, now="")
            self._progress.refresh()
            yield
        self._progress = None

    def show(self, course: Course) -> None:
        """How far it is; may be told again and again."""
        now_us, now_s = course.world.now_us, time.monotonic()
        if self._progress is not None:
            if now_s - self._drawn_s >= 1 / _PER_SECOND:
                self._drawn_s = now_s
                self._progress.update(
                    self._task,
                    total=course.over_us,
                    completed=now_us,
                    now=self._text(course),
                    refresh=True,
                )
        elif now_us // MINUTE_US > self._minute:
            self._minute = now_us // MINUTE_US
            line = f"{now_s - self._began_s:6.1f} s  {self._text(course)}"
            self._console.print(line, soft_wrap=True, highlight=False)

    def _text(self, course: Course) -> str:
        now_s, over_s = course.world.now_us // SECOND_US, course.over_us // SECOND_US
        nodes, delivered = len(course.world.hosts), course.world.delivered * self._processes
        return f"{_clock(now_s)} of {_clock(over_s)}, {nodes:,} nodes, {delivered / 1e6:.1f} M datagrams"


def _clock(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"
