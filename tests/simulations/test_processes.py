"""A course that several processes run is the course that one runs."""

from __future__ import annotations

import os
import signal
from io import StringIO
from socket import socket, socketpair
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from simulations import scenario
from simulations.discoverers import Discoverers
from simulations.errors import ProcessEnded, ScenarioError
from simulations.sim import processes, runner
from simulations.world import Letter
from tests.simulations.test_sim import ROUGH
from tests.toys import Toys

MEASURED = ("wall_s", "memory_per_node_kib", "datagrams_per_wall_second")
WHOLE = """
nodes = 40
minutes = 1
joining_seconds = 10
[network]
loss = 0.01
duplicate = 0.01
ipv6 = 0.5
[nats]
port_restricted = 0.3
[work]
churn_per_minute = 0.2
lookup_minutes = 1
offers_per_minute = 20
"""


def run(text: str, species: processes.MakeSpecies, count: int) -> dict[str, Any]:
    made = runner.run(scenario.parse(text, "test.toml"), species, Console(file=StringIO()), count)
    for key in MEASURED:
        assert made["figures"].pop(key) is not None
    assert made.pop("processes") == count
    made["criteria"] = [each for each in made["criteria"] if each["key"] not in MEASURED]
    return {key: value for key, value in made.items() if key != "date"}


@pytest.mark.parametrize(("text", "species"), [(ROUGH, Toys), (WHOLE, Discoverers)], ids=["toys", "nodes"])
def test_the_course_is_the_same_whoever_runs_it(text: str, species: processes.MakeSpecies) -> None:
    alone = run(text, species, 1)
    assert run(text, species, 2) == alone
    assert run(text, species, 3) == alone
    assert alone["lookups"]["right"] > 10
    assert alone["offers"]["spreads"]


class Doomed(Toys):
    """In a child, killed like a process that takes too much memory."""

    def __init__(self) -> None:
        self._left = 200 if os.getpid() != PARENT else 1 << 62

    def hand_on(self, *arguments: Any) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        super().hand_on(*arguments)


PARENT = int(os.environ.setdefault("ZEQNODE_TEST_PARENT", str(os.getpid())))


def test_a_process_that_is_killed_ends_the_run_with_a_sentence() -> None:
    with pytest.raises(ProcessEnded, match="take fewer nodes, or --processes 1"):
        run(ROUGH, Doomed, 3)


def test_who_gives_up_leaves_no_process_behind() -> None:
    made = scenario.parse(ROUGH, "test.toml")

    with processes.Crew(made, Toys, 3) as crew:
        children = crew.children
        assert all(child.is_alive() for child in children)
    assert [child.exitcode for child in children] == [0, 0]


def test_small_worlds_and_attackers_are_run_by_one_process() -> None:
    made = scenario.parse("nodes = 500\nminutes = 1\n", "test.toml")
    assert processes.suited(made.changed(2 * processes.LEAST_NODES - 1, None, None), None) == 1
    assert processes.suited(made.changed(100_000, None, None), None) == min(8, len(os.sched_getaffinity(0)))
    assert processes.suited(made, 3) == 3
    attacked = scenario.load("poison")
    assert processes.suited(attacked, None) == processes.suited(attacked, 1) == 1
    with pytest.raises(ScenarioError, match="one process runs them"):
        processes.suited(attacked, 2)


def test_what_is_run_apart_gives_its_result_or_its_error() -> None:
    def fail() -> int:
        raise ScenarioError("as it says")

    assert processes.apart(divmod, 7, 2) == (3, 1)
    with pytest.raises(ScenarioError, match="as it says"):
        processes.apart(fail)
    with pytest.raises(ProcessEnded):
        processes.apart(os._exit, 3)


def test_two_who_have_more_to_say_than_a_socket_holds_do_not_wait_for_each_other() -> None:
    one, other = socketpair()
    much = [(number, number, bytes(60_000), b"source", b"destination") for number in range(100)]
    taken: dict[int, list[Letter]] = {}

    def speak(number: int, end: socket) -> None:
        lines = processes.Lines(number, 2, {1 - number: end})
        assert lines.swap([much, much]) == [], "of the round before, and there was none"
        taken[number] = lines.swap([[], []])
        lines.end()

    with one, other:
        speakers = [Thread(target=speak, args=each, daemon=True) for each in ((0, one), (1, other))]
        for speaker in speakers:
            speaker.start()
        for speaker in speakers:
            speaker.join(20)
    assert taken == {0: much, 1: much}


def test_who_is_alone_all_of_a_sudden_says_so() -> None:
    one, other = socketpair()
    lines = processes.Lines(0, 2, {1: one})
    with one:
        assert lines.swap([[], []]) == []
        other.close()
        with pytest.raises(ProcessEnded, match="take fewer nodes"):
            lines.end()
        with pytest.raises(ProcessEnded, match="take fewer nodes"):
            lines.swap([[], []])
