"""What the demo shows: its steps' states, its screen, and the pauses that it measures."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from simulations.demo.board import Board, State, Step, StepFailed
from simulations.demo.screen import Screen
from simulations.demo.search import FILE, FORMS
from simulations.demo.story import FILE_BYTES, steps
from simulations.demo.transfer import Silences


def board() -> tuple[Board, list[str]]:
    told: list[str] = []
    made = Board(
        [Step("a", "A"), Step("b", "B"), Step("c", "C", inner=True)], lambda _, step: told.append(step.key)
    )
    return made, told


def test_steps_pass_with_their_last_text() -> None:
    made, told = board()
    for key in "abc":
        with made.step(key, "begins") as step:
            assert step.state is State.RUNNING
            assert not made.passed
            step.text = f"came of {key}"
    assert made.passed
    assert told == ["a", "b", "c"]
    assert [step["text"] for step in made.report()["steps"]] == ["came of a", "came of b", "came of c"]


def test_the_innermost_step_fails_with_the_reason_and_the_rest_waits_on() -> None:
    made, _ = board()
    with made.step("a", ""):
        pass
    made.begin("b", "")
    with pytest.raises(StepFailed), made.step("c", ""):
        raise StepFailed("no tunnel")
    made.fail_running("no tunnel")
    states = [(step.state, step.text) for step in made.steps.values()]
    assert states == [(State.PASSED, ""), (State.FAILED, "not finished"), (State.FAILED, "no tunnel")]
    assert made.failed is made.steps["c"]
    made.begin("a", "")
    made.fail_running("and this")
    assert made.failed is made.steps["c"], "the first one is the cause"
    assert not made.passed


def test_what_is_left_out_does_not_fail() -> None:
    made, _ = board()
    for key in "ab":
        with made.step(key, ""):
            pass
    made.leave_out("c", "takes too long")
    assert made.passed
    assert made.report()["steps"][2]["state"] == "left out"


def test_the_report_is_json() -> None:
    made, _ = board()
    report = json.loads(json.dumps(made.report(logs=None)))
    assert report["passed"] is False
    assert [step["state"] for step in report["steps"]] == ["waiting"] * 3


def finished() -> Board:
    made = Board(steps(FILE_BYTES), lambda _, step: None)
    made.cafe_address = "10.80.0.77"
    for step in made.steps.values():
        text = "x" * 46
        made.done(made.begin(step.key, ""), f"{text}\n{text}" if step.key in ("nodes", "join") else text)
    keys = [FILE, *(f"{name} {form}" for name in ("home", "cafe") for form in FORMS)]
    for name, count in (("no tunnel", 99_999), ("tunnel", 0)):
        made.found[name] = dict.fromkeys(keys, min(count, 99)) | {FILE: count}
        made.recorded[name] = {"frames": 1, "bytes": 118_500_000, "dropped": 0}
    return made


def test_the_screen_fits_a_terminal_of_80_by_24() -> None:
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True, color_system=None)
    lines = console.render_lines(Screen(console).render(finished()))
    shown = ["".join(segment.text for segment in line) for line in lines]
    assert len(shown) <= 24
    assert all(line[0] in "╭│╰" and line[-1] in "╮│╯" for line in shown)
    rows = [line for line in shown if "tunnel  " in line and "118.5 MB" in line]
    assert [row.split()[2:] for row in rows][-1][1:-2] == ["0"] * 8 + ["118.5"]


def test_the_transfer_is_a_bar_while_it_runs() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    made = Board(steps(FILE_BYTES), lambda _, step: None)
    made.begin("transfer", "HTTP")
    made.progress.total, made.progress.received, made.progress.rate = FILE_BYTES, 49_000_000, 13.4
    console.print(Screen(console).render(made))
    assert isinstance(console.file, io.StringIO)
    assert "49 MB  13.4 Mb/s" in console.file.getvalue()


def test_elsewhere_each_step_is_a_line() -> None:
    console = Console(file=io.StringIO(), width=40)
    screen = Screen(console)
    made = Board(steps(FILE_BYTES), screen.tell)
    with screen.live(made):
        with made.step("world", "") as step:
            step.text = "two\nlines [made] one, however long it gets"
        made.leave_out("epoch", "not now")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split("s  ", 1)[1] for line in lines] == [
        "✔ Two hosts and a wire: two, lines [made] one, however long it gets",
        "  – all keys replaced: not now",
    ]


def test_the_longest_silence_is_that_around_the_moment() -> None:
    silences = Silences(0.0)
    for now, size in ((0.01, 1), (3.0, 2), (3.02, 2), (3.04, 3), (4.0, 4), (4.01, 5)):
        silences.look(now, size)
    assert silences.longest_since(0.0, 4.02) == pytest.approx(2.99)
    assert silences.longest_since(3.02, 4.02) == pytest.approx(0.96)
    assert silences.longest_since(4.005, 4.02) == 0.0, "too short to be one"
    assert silences.longest_since(4.005, 9.01) == pytest.approx(5.0), "one that lasts"
