"""A course in several processes: this one and its children, each with the cores of some regions.

    this process 0 ── a pipe to each child, one between each two ── children 1 …
    each pair     next_us, letters ▶   ◀ next_us, letters       msgpack; the lower number speaks first
    at the end    child ── Share and memory ─▶ this process

In a course all are at the same window of virtual time (simulations/world.py), so nobody ever waits for more
than one message of each. A child that loses its pipe ends; when this process is done with them, whatever the
reason, it waits for its children, and ends those that do not come.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import combinations
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from node.errors import UserError
from simulations.course import Course, Share
from simulations.errors import ProcessEnded, ScenarioError
from simulations.places import REGIONS
from simulations.population import Species
from simulations.scenario import MINUTE_US, Scenario
from simulations.world import Letter

LEAST_NODES: Final = 250  # for each process: fewer, and they mostly wait for each other
_END_S: Final = 10.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Result = TypeVar("Result")
MakeSpecies: TypeAlias = Callable[[], Species]
Line: TypeAlias = "Connection[Any, Any]"

_ENDED: Final = (
    "one of the processes that run this world has ended: if it said nothing it was killed, mostly because "
    "memory ran out; take fewer nodes, or --processes 1"
)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, list[Letter]]).decode


class Pipes:
    """An Exchange; `lines`: to each other process, by its number."""

    def __init__(self, number: int, count: int, lines: dict[int, Line]) -> None:
        self.number, self.count = number, count
        self._lines = sorted(lines.items())
        self.lines = list(lines.values())

    def swap(self, next_us: int, letters: list[list[Letter]]) -> tuple[int, list[Letter]]:
        """Raises ProcessEnded."""
        arrived: list[Letter] = []
        soonest_us = next_us
        try:
            # Pairs in one order for all, so that no two wait for each other with full pipes.
            for other, line in self._lines:
                if self.number < other:
                    line.send_bytes(_pack((next_us, letters[other])))
                their_us, theirs = _unpack(line.recv_bytes())
                if self.number > other:
                    line.send_bytes(_pack((next_us, letters[other])))
                soonest_us = min(soonest_us, their_us)
                arrived += theirs
        except (EOFError, OSError) as error:
            raise ProcessEnded(_ENDED) from error
        return soonest_us, arrived


class Meter:
    """What a course takes in memory here: resident at the end of each of its minutes, above what was there
    before it was made."""

    def __init__(self) -> None:
        gc.collect()
        self.bytes: list[int] = []
        self._base = _resident()

    def look(self, course: Course) -> None:
        """Again and again."""
        if course.world.now_us // MINUTE_US > len(self.bytes):
            self.bytes.append(_resident() - self._base)

    def add(self, other: list[int]) -> None:
        """Another process's, of the same minutes."""
        self.bytes = [here + there for here, there in zip(self.bytes, other, strict=True)]

    @property
    def most(self) -> int:
        return max(self.bytes, default=0)


class Crew:
    """The children, from entering to leaving. `exchange`: None where there are none."""

    def __init__(self, scenario: Scenario, species: MakeSpecies, count: int) -> None:
        self._scenario, self._species = scenario, species
        # Forked, as nothing runs here yet: a spawned one comes with a process of multiprocessing's own.
        context = get_context("fork")
        lines: list[dict[int, Line]] = [{} for _ in range(count)]
        for one, other in combinations(range(count), 2):
            lines[one][other], lines[other][one] = context.Pipe()
        results = [context.Pipe(duplex=False) for _ in range(1, count)]
        self.exchange = Pipes(0, count, lines[0]) if count > 1 else None
        self._own: list[Line] = [*lines[0].values(), *(mine for mine, _ in results)]
        self._results: list[Line] = [mine for mine, _ in results]
        self._all = [line for each in lines for line in each.values()]
        self._all += [line for ends in results for line in ends]
        self.children = [
            context.Process(
                target=self._child, args=(Pipes(number, count, lines[number]), theirs), daemon=True
            )
            for number, (_, theirs) in enumerate(results, 1)
        ]

    def __enter__(self) -> Crew:
        for child in self.children:
            child.start()
        for line in self._all:
            if line not in self._own:
                line.close()  # the children's alone now: when one ends, who listens hears of it
        return self

    def __exit__(self, *_error: object) -> None:
        for line in self._own:
            line.close()
        for child in self.children:
            child.join(_END_S)
            if child.is_alive():
                child.kill()
                child.join()

    def shares(self) -> list[tuple[Share, list[int]]]:
        """Of each child, when its course is over: what it saw, and its memory by minutes. Raises
        ProcessEnded."""
        try:
            return [line.recv() for line in self._results]
        except (EOFError, OSError) as error:
            raise ProcessEnded(_ENDED) from error

    def _child(self, exchange: Pipes, result: Line) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to all; the pipes' end is ours
        for line in self._all:
            if line is not result and line not in exchange.lines:
                line.close()
        meter = Meter()
        course = Course(self._scenario, self._species(), exchange)
        with suppress(ProcessEnded):
            run(course, meter, lambda: None)
            result.send((course.share(), meter.bytes))


def apart(call: Callable[..., Result], *arguments: Any) -> Result:
    """What the call gives, in a process of its own: nothing of it stays in the memory of this one, where it
    would be there for the next. Raises ProcessEnded, and UserErrors of the call."""
    context = get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def work() -> None:
        mine.close()
        try:
            theirs.send((call(*arguments), None))
        except UserError as error:
            theirs.send((None, error))

    child = context.Process(target=work)
    child.start()
    theirs.close()
    try:
        result, error = mine.recv()
    except EOFError as ended:
        raise ProcessEnded(_ENDED) from ended
    finally:
        mine.close()
        child.join(_END_S)
        if child.is_alive():
            child.kill()
            child.join()
    if error is not None:
        raise error
    found: Result = result
    return found


def suited(scenario: Scenario, wanted: int | None) -> int:
    """By how many processes a scenario is run; by itself one on each core that we may use. Raises
    ScenarioError."""
    if scenario.attackers is None:
        return wanted or max(
            1, min(len(os.sched_getaffinity(0)), scenario.nodes // LEAST_NODES, len(REGIONS))
        )
    if wanted not in (None, 1):
        raise ScenarioError(
            f"{scenario.name}: attackers know all that is, so one process runs them: leave out --processes."
        )
    return 1


def run(course: Course, meter: Meter, progress: Callable[[], None]) -> None:
    """To its end, without Python's own collections: they would look at all nodes again and again."""

    def both() -> None:
        meter.look(course)
        progress()

    gc.disable()
    try:
        course.run(both)
    finally:
        gc.enable()


def _resident() -> int:
    """Bytes of this process's own memory that are in RAM. Without what is mapped of files: that is program
    code, which a forked child has to map anew, so that it would seem to be the world's."""
    resident, of_files = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    return (int(resident) - int(of_files)) * _PAGE_BYTES
