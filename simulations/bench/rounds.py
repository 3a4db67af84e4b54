"""The rounds: A B C, A B C, … so that whatever else the machine does falls on all contenders alike."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from node.errors import UserError
from simulations.bench import traffic, trials
from simulations.bench.contenders import Contender
from simulations.bench.figures import Outcome
from simulations.bench.setting import Setting
from simulations.bench.wiring import Pair, wired

START: Final = "start"
# Of one contender, who has no figure then; the others go on. ValueError: a program that said something else.
_FAILURES: Final = (UserError, OSError, ValueError, subprocess.SubprocessError)
SETUP_SECONDS: Final = 1.5  # that hosts, start and stop take, roughly

Progress = Callable[[str, str], None]
"""Told what is going on: (contender, test); called many times a second."""


def run(
    kinds: Sequence[type[Contender]],
    tests: Mapping[str, trials.Trial],
    setting: Setting,
    folder: Path,
    progress: Progress,
    done: Callable[[Sequence[Mapping[str, Outcome]]], None],
) -> None:
    """All rounds; `done` is given what there is whenever a contender has had its turn."""
    rounds: list[dict[str, Outcome]] = []
    prepared: dict[type[Contender], Contender] = {}
    for _ in range(setting.rounds):
        outcomes: dict[str, Outcome] = {}
        rounds.append(outcomes)
        for kind in kinds:
            outcomes[kind.name] = outcome = Outcome()
            progress(kind.name, START)
            with wired(setting) as pair:
                try:
                    if kind not in prepared:
                        prepared[kind] = _prepared(kind, folder, setting, pair)
                    _turn(prepared[kind], tests, setting, pair, outcome, progress)
                except _FAILURES as error:
                    outcome.failures[START] = _sentence(error, folder)
            done(rounds)


def seconds_of(
    kinds: Sequence[type[Contender]], tests: Mapping[str, trials.Trial], setting: Setting
) -> float:
    """How long all rounds take, roughly."""
    settle = sum(kind.settle + kind.patience for kind in kinds)
    each = SETUP_SECONDS + trials.seconds_of(tests, setting)
    return setting.rounds * (len(kinds) * each + settle)


def _prepared(kind: type[Contender], folder: Path, setting: Setting, pair: Pair) -> Contender:
    # A new one whenever it is tried, of a short name: sockets lie in it.
    contender = kind(Path(tempfile.mkdtemp(prefix="", dir=folder)), setting.inner)
    contender.prepare(pair)
    return contender


def _turn(
    contender: Contender,
    tests: Mapping[str, trials.Trial],
    setting: Setting,
    pair: Pair,
    outcome: Outcome,
    progress: Progress,
) -> None:
    def tick_of(test: str) -> traffic.Tick:
        return lambda: progress(contender.name, test)

    try:
        began = time.monotonic()
        contender.start(pair)
        trials.first_byte(pair, contender, tick_of(START))
        outcome.figures[START] = time.monotonic() - began
        traffic.rest(contender.settle, tick_of(START))
        for test, trial in tests.items():
            bout = trials.Bout(contender, pair, setting, outcome, tick_of(test))
            try:
                trial(bout)
            except _FAILURES as error:
                outcome.failures[test] = _sentence(error, contender.folder)
    finally:
        contender.stop()


def _sentence(error: BaseException, folder: Path) -> str:
    """In one line, and without the folder, which is gone when somebody reads it."""
    return " ".join(str(error).replace(f"{folder}/", "").split())[:500]
