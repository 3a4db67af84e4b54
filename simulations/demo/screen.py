"""The demo as it is seen: one live screen on a terminal, a line for each step elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from simulations.demo.board import Board, Progress, State, Step
from simulations.demo.search import FILE, FORMS
from simulations.demo.world import HOME_ADDRESS, MEGABITS

_MARKS = {
    State.WAITING: Text("·", "dim"),
    State.PASSED: Text("✔", "bold green"),
    State.FAILED: Text("✘", "bold red"),
    State.LEFT_OUT: Text("–", "yellow"),
}
_PER_SECOND = 8
_WIDTH = 100
_STYLES = {State.WAITING: "dim", State.RUNNING: "bold", State.FAILED: "red", State.LEFT_OUT: "yellow"}


class Screen:
    """Pass `tell` to the board; on a terminal, `live` shows it for as long as its block lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style="cyan")

    def tell(self, board: Board, step: Step) -> None:
        """A step ended: a line of its own where nothing is live."""
        if not self._console.is_terminal:
            mark = ("  " if step.inner else "") + _MARKS[step.state].plain
            line = f"{board.seconds:5.1f} s  {mark} {step.title}: {step.text.replace(chr(10), ', ')}"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def live(self, board: Board) -> AbstractContextManager[object]:
        if not self._console.is_terminal:
            return nullcontext()
        return Live(
            get_renderable=lambda: self.render(board), console=self._console, refresh_per_second=_PER_SECOND
        )

    def render(self, board: Board) -> RenderableType:
        parts: list[RenderableType] = [_world(board), self._steps(board)]
        if board.found:
            parts.append(_found(board))
        title = f"[bold]zeqnode demo[/] · two machines, one tunnel · {board.seconds:.0f} s"
        width = min(self._console.width, _WIDTH)
        return Panel(Group(*parts), title=title, title_align="left", border_style="cyan", width=width)

    def _steps(self, board: Board) -> Table:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for step in board.steps.values():
            running = step.state is State.RUNNING
            style = _STYLES.get(step.state, "")
            title = Text(("  " if step.inner else "") + step.title, style)
            moving = running and step.key == "transfer" and board.progress.total
            text = _bar(board.progress) if moving else Text(step.text, style)
            table.add_row(self._spinner if running else _MARKS[step.state], title, text)
        return table


def _world(board: Board) -> RenderableType:
    cafe = f" café {board.cafe_address} " if board.cafe_address else " café "
    wire = Rule(f"the wire, {MEGABITS} Mb/s", characters="═", style="yellow")
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(Text(f" home {HOME_ADDRESS} ", "reverse"), wire, Text(cafe, "reverse"))
    return grid


def _bar(progress: Progress) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    figures = f"{progress.received / 1e6:.0f} MB  {progress.rate:4.1f} Mb/s"
    grid.add_row(ProgressBar(progress.total, progress.received), figures)
    return grid


def _found(board: Board) -> RenderableType:
    """How often each thing was found, in each recording, and how much there was to search."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    table.add_column("Found on\nthe wire", style="bold")
    table.add_column("the\nfile", justify="right")
    for name in ("home", "café"):
        table.add_column(f"{name}\n{' '.join(FORMS)}", justify="right")
    table.add_column("\nrecorded", justify="right")
    for recording, found in board.found.items():
        cells = [
            " ".join(f"{found[f'{name} {form}']:>{len(form)}}" for form in FORMS) for name in ("home", "cafe")
        ]
        table.add_row(
            recording, f"{found[FILE]:,}", *cells, f"{board.recorded[recording]['bytes'] / 1e6:.1f} MB"
        )
    return table
