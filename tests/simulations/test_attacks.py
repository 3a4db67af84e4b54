"""Attackers in the world: each kind at work in a small one, and what nodes that do not check believe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dht import contacts, locations
from dht.contacts import Contact
from dht.finding import MachineFound
from dht.locations import Location, Locator
from dht.messages import Find, Nodes, decode_dht, encode_dht
from simulations import scenario
from simulations.attackers import FIRST_INDEX, Liar
from simulations.course import Course
from simulations.discoverers import Discoverer, Discoverers
from simulations.eclipsers import VICTIM_INDEX
from simulations.errors import ScenarioError
from simulations.scenario import SECOND_US
from simulations.sim import page, report, table
from tests.toys import Toys

ROOT = Path(__file__).parents[2]
POISON = """
nodes = 64
minutes = 2
joining_seconds = 20
[network]
loss = 0.01
[work]
lookup_minutes = 1
[attackers]
kind = "poison"
share = 0.2
"""
LEAST = POISON.replace("nodes = 64", "nodes = 16").replace("minutes = 2", "minutes = 1")
ECLIPSE = POISON.replace("poison", "eclipse").replace("share = 0.2", "share = 0.1")
SYBILS = """
nodes = 8
minutes = 1
joining_seconds = 5
[work]
lookup_minutes = 0
offers_per_minute = 30
[attackers]
kind = "sybils"
per_node = 20
per_network = 4
joining_seconds = 5
"""


def course(text: str, seed: int = 1) -> Course:
    made = Course(scenario.parse(text, "test.toml").changed(None, None, seed), Discoverers())
    made.run(lambda: None)
    made.finish()
    return made


def reported(made: Course) -> dict[str, Any]:
    return report.of(made, report.Cost(1.0, 4096))


@pytest.fixture(scope="module")
def poisoned() -> Course:
    return course(POISON)


def test_poisoners_tell_every_lie_and_no_forged_record_is_accepted(poisoned: Course) -> None:
    made = reported(poisoned)
    assert made["figures"]["lookups_wrong"] == 0
    assert made["figures"]["lookups_right"] >= 0.99
    assert made["lookups"]["started"] > 100
    assert made["attack"]["attackers"] == 16
    lies = made["attack"]["lies"]
    for what in ("signed by another", "expired", "a bit turned", "another machine", "no meaning"):
        assert any(what in lie and times > 0 for lie, times in lies.items()), what
    assert lies["names ghosts"] > 0
    assert lies["names nodes under false ids"] > 0
    assert lies["kept, it says, and drops"] > 0


def test_attackers_stand_in_no_sum(poisoned: Course) -> None:
    hostile = [host for host in poisoned.world.hosts.values() if host.hostile]
    assert len(hostile) == 16
    assert all(host.index > FIRST_INDEX for host in hostile)
    assert len(poisoned.counts) == len(poisoned.population.all) == 64
    assert poisoned.hostile > 0
    assert reported(poisoned)["population"]["public"] == 64


def test_a_node_that_does_not_check_is_told_wrong_and_the_report_shows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The inner signature of a location, which alone tells the machine from others who know its secret."""
    opened = locations.open_all

    def trusting(raws: Any, locator: Locator, _key: bytes, _signatures: Any, unix: int, known: int) -> Any:
        return opened(raws, locator, b"", _Everything(), unix, known)

    monkeypatch.setattr(locations, "open_all", trusting)
    made = reported(course(POISON + "[criteria]\nlookups_wrong = 0\n"))
    assert made["figures"]["lookups_wrong"] > 0
    assert not made["met"]
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table.table(made))
    console.file.close()
    shown = console.export_text()
    assert "✘ Not met: lookups that found something false." in shown
    assert "16 attackers in" in shown


class _Everything:
    """Signatures that all hold."""

    def holds(self, public: bytes, label: bytes, payload: bytes, signature: bytes) -> bool:
        return True


def test_a_location_older_than_the_last_one_is_wrong(poisoned: Course) -> None:
    """Whoever handed it out: the asker had been told of a newer one."""
    species = Discoverers()
    told: list[bool] = []

    class Watcher:
        def looked_up(
            self, host: Any, handle: int, found: bool, right: bool, hops: int, messages: int
        ) -> None:
            told.append(right)

        def heard(self, host: Any, offer: bytes) -> None:
            raise AssertionError

        def published(self, host: Any) -> None:
            raise AssertionError

    asker, target = list(poisoned.population.present.items())[:2]
    assert isinstance(asker.core, Discoverer)
    for number, sequence in enumerate((5, 7, 6, 7)):
        asker.core.targets[-number] = target
        location = Location(sequence, (target.endpoint,))
        asker.core.events.append(MachineFound(-number, location))
    species.hand_on(asker, Watcher())
    assert told == [True, True, False, True]


def test_eclipsers_are_around_the_victim_and_it_finds_all_the_same() -> None:
    made = course(ECLIPSE)
    victim = made.workload.of_victim
    assert victim.started >= 15
    assert victim.right / victim.started >= 0.95
    assert victim.wrong == 0
    host = made.world.hosts[VICTIM_INDEX]
    assert isinstance(host.core, Discoverer)
    where = host.core.overlays[0].where
    nodes = [each for each in made.world.hosts.values() if each is not host]
    nodes.sort(key=lambda each: _distance(each.core, where.long_id))
    assert made.attack is not None
    assert sum(each.hostile for each in nodes[: made.attack.count]) >= made.attack.count - 2
    assert reported(made)["figures"]["victim_lookups_right"] == victim.right / victim.started
    assert made.workload.lookups.started > 0


def _distance(core: Any, long_id: int) -> int:
    where = core.overlays[0].where
    return int(where.long_id ^ long_id)


def test_an_eclipser_names_nobody_but_its_own_to_whoever_asks() -> None:
    made = course(ECLIPSE.replace("minutes = 2", "minutes = 1"))
    liars = [host for host in made.world.hosts.values() if isinstance(host.core, Liar)]
    endpoints = {host.endpoint for host in liars}
    core = liars[0].core
    core.outgoing.clear()
    question = encode_dht(Find(bytes(8), b"", b"", bytes(32), bytes(300)))
    core.receive(question, bytes([60, 1, 1, 1, 0, 9]), made.world.now_us, 0)
    [(answer, _)] = core.outgoing
    message = decode_dht(answer[1:])
    assert isinstance(message, Nodes)
    named: list[Contact] = contacts.split(message.contacts, 30)
    assert named
    assert {contact.endpoint for contact in named} <= endpoints


def test_forged_values_come_in_pages_that_fit_together(poisoned: Course) -> None:
    """Else they would be refused for their form, and nothing in them would be looked at."""
    liar = next(host.core for host in poisoned.world.hosts.values() if isinstance(host.core, Liar))
    for huge in (False, True):
        values = liar.circle.forged(bytes(32), 1_800_000_000, huge)  # type: ignore[attr-defined]
        assert values == liar.circle.forged(bytes(32), 1_800_000_030, huge)  # type: ignore[attr-defined]
        assert len(values) <= 0xFFFF


def test_sybils_take_places_and_swallow_and_offers_still_arrive() -> None:
    made = reported(course(SYBILS))
    assert made["attack"]["attackers"] == 160
    assert made["attack"]["networks"] == 40
    lies = made["attack"]["lies"]
    assert lies["places taken"] > 100
    assert lies["bulletins promised"] > 0
    assert lies["bulletins swallowed"] > 0
    assert made["offers"]["published"] > 20
    assert made["figures"]["delivery_p99_s"] is not None
    assert made["figures"]["delivery_p99_s"] <= 5
    assert "What the attackers did" in page.page(made)


@pytest.mark.parametrize("text", [POISON, ECLIPSE, SYBILS], ids=["poison", "eclipse", "sybils"])
def test_one_seed_is_one_course_of_attackers_too(text: str) -> None:
    small = text.replace("nodes = 64", "nodes = 24").replace("minutes = 2", "minutes = 1")
    first, again, other = course(small), course(small), course(small, seed=2)
    assert first.world.trace == again.world.trace
    assert reported(first) == reported(again)
    assert first.world.trace != other.world.trace


def test_attackers_do_not_hang_on_how_python_hashes() -> None:
    script = "from tests.simulations.test_attacks import LEAST, course\nprint(course(LEAST).world.trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1


def test_toys_are_not_attacked() -> None:
    with pytest.raises(ScenarioError, match="attack nodes of the product alone"):
        Course(scenario.parse(POISON, "test.toml"), Toys())


def test_no_scenario_of_attackers_takes_long_to_begin() -> None:
    """The shipped ones: as many attackers as they say, before a second of virtual time has gone by."""
    for name, count in (("eclipse", 21), ("poison", 60), ("sybils", 1_000)):
        made = Course(scenario.load(name), Discoverers())
        assert made.attack is not None
        assert made.attack.count == count
        made.world.run(SECOND_US)
