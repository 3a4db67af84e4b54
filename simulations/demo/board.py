"""What the demo has done and is doing: its steps, the transfer and the counts. Shown by `screen`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from node.errors import UserError


class StepFailed(UserError):
    """Something did not come out as it should; the text says what was seen."""


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    LEFT_OUT = "left out"


@dataclass
class Step:
    """`text` says what is going on or what came of it; `inner` steps happen during the one before them."""

    key: str
    title: str
    inner: bool = False
    state: State = State.WAITING
    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    _began: float = 0.0

    def report(self) -> dict[str, Any]:
        return {
            "step": self.key,
            "title": self.title,
            "state": self.state.value,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "text": self.text,
            "figures": self.figures,
        }


@dataclass
class Progress:
    """Of the transfer: bytes, and Mb/s of the last two seconds."""

    received: int = 0
    total: int = 0
    rate: float = 0.0


class Board:
    """`tell` is called whenever a step ends. Steps begin in any order; one that failed ends the demo."""

    def __init__(self, steps: Sequence[Step], tell: Callable[[Board, Step], None]) -> None:
        self.steps = {step.key: step for step in steps}
        self.progress = Progress()
        self.cafe_address = ""
        self.recorded: dict[str, dict[str, int]] = {}  # recording → frames, bytes, dropped
        self.found: dict[str, dict[str, int]] = {}  # recording → what was searched → how often
        self.failed: Step | None = None  # the first that did
        self._tell = tell
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def passed(self) -> bool:
        return all(step.state in (State.PASSED, State.LEFT_OUT) for step in self.steps.values())

    def begin(self, key: str, text: str) -> Step:
        step = self.steps[key]
        step.state, step.text, step._began = State.RUNNING, text, time.monotonic()
        return step

    def done(self, step: Step, text: str) -> None:
        self._end(step, State.PASSED, text)

    def leave_out(self, key: str, why: str) -> None:
        self._end(self.begin(key, why), State.LEFT_OUT, why)

    def fail_running(self, reason: str) -> None:
        """The innermost running step is the one that went wrong; the others around it did not end."""
        running = [step for step in self.steps.values() if step.state is State.RUNNING]
        self.failed = self.failed or (running[-1] if running else None)
        for number, step in enumerate(reversed(running)):
            self._end(step, State.FAILED, reason if number == 0 else "not finished")

    @contextmanager
    def step(self, key: str, text: str) -> Iterator[Step]:
        """Passed, with its last text, when the block ends; left running where the block raises."""
        step = self.begin(key, text)
        yield step
        self.done(step, step.text)

    def report(self, **more: Any) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            **more,
            "steps": [step.report() for step in self.steps.values()],
            "recorded": self.recorded,
            "found": self.found,
        }

    def _end(self, step: Step, state: State, text: str) -> None:
        step.state, step.text, step.seconds = state, text, time.monotonic() - step._began
        self._tell(self, step)
