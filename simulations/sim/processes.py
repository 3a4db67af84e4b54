"""A course in several processes: this one and its children, each with the cores of some regions.

    this process 0 ── a socket to each child, one between each two ── children 1 …
    after a round     ├ length, 4 bytes ┼ letters, msgpack ┤   to each, from each those of the round before
    at the end        child ── Share and memory ─▶ this process

Nobody is more than one round of virtual time ahead (simulations/world.py), so no more than two messages of
each are under way. A child that loses a socket ends; when this process is done with them, whatever the
reason, it waits for its children, and ends those that do not come.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
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
_Result: TypeAlias = "Connection[Any, Any]"

_ENDED: Final = (
    "one of the processes that run this world has ended: if it said nothing it was killed, mostly because "
    "memory ran out; take fewer nodes, or --processes 1"
)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Letter]).decode
_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 1 << 18


class Line:
    """A socket to another process, and what came of it that was not asked for yet. Neither side ever waits
    for the other to read: that one may be waiting for the same."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.open = True
        self._arrived = bytearray()

    def message(self) -> bytes | None:
        """The next one, where it is here as a whole."""
        end = _LENGTH_BYTES + int.from_bytes(self._arrived[:_LENGTH_BYTES], "big")
        if not _LENGTH_BYTES <= end <= len(self._arrived):
            return None
        message = bytes(self._arrived[_LENGTH_BYTES:end])
        del self._arrived[:end]
        return message

    def send(self, content: memoryview) -> memoryview:
        """What there was no room for."""
        try:
            return content[self.socket.send(content, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return content

    def read(self) -> None:
        """Wait for anything, and take it."""
        arrived = self.socket.recv(_READ_BYTES)
        self.open = bool(arrived)
        self._arrived += arrived


class Lines:
    """An Exchange; `ends`: sockets to each other process, by its number."""

    def __init__(self, number: int, count: int, ends: dict[int, socket.socket]) -> None:
        self.number, self.count = number, count
        self._lines = {other: Line(end) for other, end in ends.items()}
        self._behind = False  # they have given away letters that we did not take yet

    def swap(self, letters: list[list[Letter]]) -> list[Letter]:
        """Raises ProcessEnded."""
        try:
            for other, line in self._lines.items():
                content = _pack(letters[other])
                self._send(line, memoryview(len(content).to_bytes(_LENGTH_BYTES, "big") + content))
            return self._take()
        except (EOFError, OSError) as error:
            raise ProcessEnded(_ENDED) from error

    def end(self) -> None:
        """Raises ProcessEnded."""
        try:
            self._take()
        except (EOFError, OSError) as error:
            raise ProcessEnded(_ENDED) from error

    def _take(self) -> list[Letter]:
        arrived: list[Letter] = []
        if self._behind:
            for line in self._lines.values():
                while (message := line.message()) is None:
                    if not line.open:
                        raise EOFError
                    line.read()
                arrived += _unpack(message)
        self._behind = True
        return arrived

    def _send(self, line: Line, content: memoryview) -> None:
        while content := line.send(content):
            readable = {each.socket: each for each in self._lines.values() if each.open}
            for end in select.select(list(readable), [line.socket], [])[0]:
                readable[end].read()


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
        ends: list[dict[int, socket.socket]] = [{} for _ in range(count)]
        for one, other in combinations(range(count), 2):
            ends[one][other], ends[other][one] = socket.socketpair()
        results = [context.Pipe(duplex=False) for _ in range(1, count)]
        self.exchange = Lines(0, count, ends[0]) if count > 1 else None
        self._results: list[_Result] = [mine for mine, _ in results]
        self._own: list[socket.socket | _Result] = [*ends[0].values(), *self._results]
        self._all = [end for each in ends for end in each.values()] + [end for two in results for end in two]
        self.children = [
            context.Process(target=self._child, args=(number, ends[number], theirs), daemon=True)
            for number, (_, theirs) in enumerate(results, 1)
        ]

    def __enter__(self) -> Crew:
        for child in self.children:
            child.start()
        for end in self._all:
            if end not in self._own:
                end.close()  # the children's alone now: when one ends, who listens hears of it
        return self

    def __exit__(self, *_error: object) -> None:
        for end in self._own:
            end.close()
        for child in self.children:
            child.join(_END_S)
            if child.is_alive():
                child.kill()
                child.join()

    def shares(self) -> list[tuple[Share, list[int]]]:
        """Of each child, when its course is over: what it saw, and its memory by minutes. Raises
        ProcessEnded."""
        try:
            return [result.recv() for result in self._results]
        except (EOFError, OSError) as error:
            raise ProcessEnded(_ENDED) from error

    def _child(self, number: int, ends: dict[int, socket.socket], result: _Result) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to all; the sockets' end is ours
        for end in self._all:
            if end is not result and end not in ends.values():
                end.close()
        exchange = Lines(number, len(self.children) + 1, ends)
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
