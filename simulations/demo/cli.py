"""`zeqnode demo`: where it starts, how it ends, and that nothing is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from node.errors import UserError
from simulations.demo import world
from simulations.demo.board import Board, State
from simulations.demo.screen import Screen
from simulations.demo.story import FILE_BYTES, QUICK_FILE_BYTES, Story, steps
from simulations.lab import reaper, userns
from simulations.lab.errors import UnavailableError
from simulations.lab.lab import Lab

_INTERRUPTED = "interrupted"
_PREFIX = "zeqnode-demo-"
_ROOM = 50_000_000  # bytes beside the file, its copy and the recording of both

command = App(name="demo", help_format="plaintext")


@command.default
def demo(
    *,
    quick: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="A smaller file, and no wait for an epoch change."),
    ] = False,
    as_json: Annotated[
        bool,
        Parameter(
            name="--json", negative="", show_default=False, help="Print a report as JSON; the rest to stderr."
        ),
    ] = False,
) -> int:
    """Watch two machines meet, move a file through their tunnel, roam and recover.

    Two hosts in network namespaces, real nodes, and a wire of 15 Mb/s that is
    recorded. A 100 MB file goes through the tunnel; meanwhile one node is killed
    and comes back, its host changes its address, and all keys are replaced. Then
    the recording is searched for the file and for both identities. It takes
    about 80 seconds and removes all that it made. Root is not needed where users
    may open /dev/net/tun.

    For example:

        sudo zeqnode demo
        zeqnode demo --quick
        sudo zeqnode demo --json > report.json
    """
    if reason := userns.available() or world.missing_programs():
        raise UnavailableError(reason)
    userns.reexec_in_user_namespace()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    size = QUICK_FILE_BYTES if quick else FILE_BYTES
    return _run(size, Console(stderr=as_json), as_json=as_json)


def _run(size: int, console: Console, *, as_json: bool) -> int:
    """The exit code."""
    screen = Screen(console)
    board = Board(steps(size), screen.tell)
    lab = Lab.from_toml(world.TOPOLOGY)
    logs: Path | None = None
    failure: BaseException | None = None
    _sweep_dead()
    folder = _folder(lab.marker, 3 * size + _ROOM)
    with screen.live(board):
        try:
            Story(board, lab, Path(folder.name), size).tell()
        except BaseException as error:  # Ctrl-C as well: it is raised again when all is removed
            failure = error
            board.fail_running(str(error) if isinstance(error, Exception) else _INTERRUPTED)
            if isinstance(error, Exception):
                logs = _keep_logs(Path(folder.name))
        finally:
            with _undisturbed():
                _clean(board, lab, folder)
    if as_json:
        print(json.dumps(board.report(logs=logs and str(logs)), indent=2))
    _sum_up(board, console, logs)
    if failure is not None and not isinstance(failure, UserError):
        raise failure
    return 0 if board.passed else 1


def _sweep_dead() -> None:
    """Folders of demos that were ended by SIGKILL; what they started, the laboratory has ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        marker = path.name.removeprefix(_PREFIX).partition("-")[0]
        is_ours = path.lstat().st_uid == os.geteuid() and re.fullmatch(r"\d+\.\d+\.\d+", marker)
        if is_ours and not reaper.owner_lives(marker):
            shutil.rmtree(path, ignore_errors=True)


def _folder(marker: str, needed: int) -> tempfile.TemporaryDirectory[str]:
    """For everything that the demo writes; raises UserError where there is not enough room."""
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"the demo needs {needed / 1e6:.0f} MB in {place} and {free / 1e6:.0f} MB are free: make room, "
            "or set TMPDIR to a folder that has it"
        )
    return tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{marker}-")


def _clean(board: Board, lab: Lab, folder: tempfile.TemporaryDirectory[str]) -> None:
    """Everything goes, whatever happened; then a look whether it went."""
    step = board.begin("clean", "nodes, namespaces and files")
    lab.close()
    folder.cleanup()
    left = [
        f"process {member.pid} ({member.command})"
        for member in reaper.members()
        if member.marker == lab.marker
    ]
    if left:
        board.fail_running(f"still there: {', '.join(left)}")
    else:
        board.done(step, "no process, namespace or file is left")


def _keep_logs(folder: Path) -> Path:
    """What the nodes, curl and the web server said, out of the folder that is about to go."""
    kept = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}logs-"))
    for log in folder.glob("*.log"):
        shutil.copy(log, kept)
    return kept


def _sum_up(board: Board, console: Console, logs: Path | None) -> None:
    """The last line."""
    left_out = sum(step.state is State.LEFT_OUT for step in board.steps.values())
    if board.passed:
        besides = f", {left_out} left out" if left_out else ""
        line = f"✔ All {len(board.steps) - left_out} steps passed{besides}, in {board.seconds:.0f} s."
    else:
        at, why = (board.failed.title, board.failed.text) if board.failed else ("the start", _INTERRUPTED)
        line = f"✘ Stopped after {board.seconds:.0f} s at “{at}”: {why}."
        line += f" The logs are in {logs}" if logs else ""
    console.print(
        line,
        style="bold green" if board.passed else "bold red",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C has had its effect: cleaning up is not to be stopped half-way."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    """SIGTERM and a terminal that goes unwind the stack, as Ctrl-C does."""
    sys.exit(128 + number)
