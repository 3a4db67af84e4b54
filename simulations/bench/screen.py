"""The bench as it is seen while it runs: live on a terminal, a line for each test elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_PER_SECOND = 3  # redraws: the machine is busy with what is measured


class Screen:
    """body: what stands above the progress; asked for again at each redraw. seconds: an estimate of all."""

    def __init__(
        self, console: Console, title: str, seconds: float, body: Callable[[], RenderableType | None]
    ) -> None:
        self._console = console
        self._title = title
        self._seconds = seconds
        self._body = body
        self._began = time.monotonic()
        self._since = self._began
        self._now = ""
        self._spinner = Spinner("dots", style="cyan")

    def live(self) -> AbstractContextManager[object]:
        if not self._console.is_terminal:
            minutes = self._seconds / 60
            self._console.print(f"{self._title}; about {minutes:.1f} min", soft_wrap=True, highlight=False)
            return nullcontext()
        return Live(get_renderable=self._render, console=self._console, refresh_per_second=_PER_SECOND)

    def progress(self, text: str) -> None:
        """What is going on now; may be told again and again."""
        if text == self._now:
            return
        self._now, self._since = text, time.monotonic()
        if not self._console.is_terminal:
            line = f"{self._since - self._began:6.1f} s  {text}"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _render(self) -> RenderableType:
        elapsed = time.monotonic() - self._began
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=1)
        line.add_column(ratio=1, no_wrap=True)
        line.add_column(width=30)
        line.add_column(no_wrap=True, justify="right")
        now = Text(f"{self._now}, {time.monotonic() - self._since:.0f} s")
        bar = ProgressBar(max(self._seconds, elapsed), elapsed)
        line.add_row(self._spinner, now, bar, f"{_clock(elapsed)} of ~{_clock(self._seconds)}")
        body = self._body()
        parts = [line] if body is None else [body, line]
        return Panel(Group(*parts), title=self._title, title_align="left", border_style="cyan")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
