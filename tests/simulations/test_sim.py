"""Whole courses: one seed is one course, cuts and NATs do what they say, and a run as a person sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from node.errors import NotWritable
from simulations import scenario
from simulations.course import Course
from simulations.figures import histogram, mean, meets, quantile
from simulations.scenario import SECOND_US
from simulations.sim import cli, page, report, runner, table
from simulations.svg import Chart, Line, chart
from simulations.toycrypto import ToySignatures, ToySigner
from simulations.workload import SETTLED_US
from tests.toys import Toys

ROOT = Path(__file__).parents[2]
ROUGH = """
about = "a bit of everything"
nodes = 60
minutes = 4
joining_seconds = 10
[network]
loss = 0.01
duplicate = 0.01
reorder = 0.05
clock_skew_seconds = 600
[nats]
full_cone = 0.1
symmetric = 0.1
hosts = 2
hairpin = true
[[partitions]]
at_minute = 1
minutes = 1
share = 0.4
[work]
churn_per_minute = 0.1
lookup_minutes = 1
offers_per_minute = 20
[criteria]
lookups_right = 0.1
lookups_wrong = 0
"""


def course(text: str = ROUGH, seed: int = 1) -> Course:
    made = Course(scenario.parse(text, "test.toml").changed(None, None, seed), Toys())
    made.run(lambda: None)
    made.finish()
    return made


def reported(made: Course) -> dict[str, Any]:
    return report.of(made, report.Cost(1.0, 4096))


def test_one_seed_is_one_course_and_another_seed_another() -> None:
    first, again, other = course(), course(), course(seed=2)
    assert first.world.trace == again.world.trace
    assert reported(first) == reported(again)
    assert first.world.trace != other.world.trace


def test_a_course_does_not_hang_on_how_python_hashes() -> None:
    script = "from tests.simulations.test_sim import course\nprint(course().world.trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert traces == {course().world.trace}


def test_progress_sees_the_world_go_on_and_changes_nothing() -> None:
    made, times = Course(scenario.parse(ROUGH, "test.toml"), Toys()), list[int]()
    made.run(lambda: times.append(made.world.now_us))
    assert times == sorted(set(times))
    assert times[-1] == made.over_us
    assert made.world.trace == course().world.trace


def test_churn_goes_at_its_rate_and_keeps_the_number() -> None:
    text = "nodes = 300\nminutes = 10\n[work]\nchurn_per_minute = 0.05\nlookup_minutes = 0\n"
    made = course(text)
    assert len(made.world.hosts) == 300
    assert len(made.population.all) == 300 + made.churn.left
    assert 120 <= made.churn.left <= 180, "150 are due"
    died = sum(host.died_us is not None for host in made.population.all)
    assert died == made.churn.left


def test_every_lookup_is_accounted_for() -> None:
    lookups = course().workload.lookups
    ended = lookups.right + lookups.wrong + lookups.empty + lookups.asker_left
    assert 150 < ended <= lookups.started < 350
    assert len(lookups.times_ms) == lookups.right == sum(lookups.hops.values())


def test_a_cut_shows_in_lookups_and_offers_only_while_it_lasts() -> None:
    text = (
        "nodes = 100\nminutes = 6\n[[partitions]]\nat_minute = 2\nminutes = 2\nshare = 0.5\n"
        "[work]\nlookup_minutes = 1\noffers_per_minute = 20\n"
    )
    made = course(text)
    begin_s, spreads = made.begin_us // SECOND_US, made.workload.spreads
    cut = [spread for spread in spreads if 120 < spread.at_s - begin_s < 238]
    whole = [spread for spread in spreads if not 118 < spread.at_s - begin_s < 242]
    assert len(cut) > 30
    assert all(spread.reached == spread.subscribed == 99 for spread in whole)
    assert all(spread.reached < 80 for spread in cut)
    assert made.world.network.counters["cut off"] > 0
    unanswered = made.workload.lookups.started - made.workload.lookups.right
    assert 50 < unanswered < 150, "half of a third of 600"


def test_nobody_finds_who_is_behind_a_symmetric_nat_by_the_address_inside() -> None:
    text = "nodes = 50\nminutes = 2\n[nats]\nsymmetric = 0.5\n[work]\nlookup_minutes = 1\n"
    made = course(text)
    public = sum(host.is_public for host in made.population.all)
    assert 15 < public < 35
    share = made.workload.lookups.right / made.workload.lookups.started
    assert abs(share - public / 50) < 0.2


def test_households_share_an_address() -> None:
    text = "nodes = 40\nminutes = 1\n[nats]\nrestricted = 0.8\nhosts = 3\n[work]\nlookup_minutes = 0\n"
    hidden = [host for host in course(text).population.all if not host.is_public]
    sites = {id(host.site): host.site for host in hidden}
    assert {len(site.hosts) for site in list(sites.values())[:-1]} == {3}
    assert len({(id(host.site), host.endpoint) for host in hidden}) == len(hidden)


def test_who_came_late_does_not_count_for_an_offer() -> None:
    made = course("nodes = 20\nminutes = 2\n[work]\nchurn_per_minute = 1.0\noffers_per_minute = 30\n")
    for spread in made.workload.spreads:
        settled = [
            host
            for host in made.population.all
            if host.born_us + SETTLED_US <= (spread.at_s + 1) * 1_000_000
            and (host.died_us is None or host.died_us > spread.at_s * 1_000_000)
        ]
        assert spread.subscribed <= len(settled)


# ---------------------------------------------------------------------------------- reports


def test_a_report_is_plain_json_with_every_figure_and_a_verdict() -> None:
    made = reported(course())
    assert json.loads(runner.as_json(made)) == made
    assert made["met"]
    assert [each["key"] for each in made["criteria"]] == ["lookups_right", "lookups_wrong"]
    assert made["figures"]["memory_per_node_kib"] == pytest.approx(4 / 60, rel=1e-3)
    assert made["offers"]["curve"][0] == [0, 0.0]
    shares = [share for _, share in made["offers"]["curve"]]
    assert shares == sorted(shares)
    assert "DHT Ping" in made["kinds"]
    assert "gossip Push" in made["kinds"]


def test_what_was_missed_is_said() -> None:
    made = reported(course(ROUGH.replace("lookups_right = 0.1", "lookups_right = 1\nmean_hops = 0.5")))
    assert not made["met"]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table.table(made))
    console.file.close()
    shown = console.export_text()
    assert "✘ Not met: lookups that found theirs; hops of a lookup, mean." in shown
    assert "✘ ≤ 0.50" in shown


def test_the_page_needs_no_other_file_and_its_pictures_are_svg() -> None:
    made = reported(course()) | {"machine": "a <machine>", "date": "today", "command": "zeqnode sim run test"}
    text = page.page(made)
    assert "a &lt;machine&gt;" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("<svg") == len(page.charts(made)) == 5
    for drawn in page.charts(made):
        ElementTree.fromstring(chart(drawn))
    ElementTree.fromstring(chart(Chart("nothing", "x", "y", [Line([], "name")])))
    assert page.sizes_page([made, made]).count("<svg") == 3


def test_an_empty_course_has_a_report_too() -> None:
    made = reported(course("nodes = 2\nminutes = 1\n[work]\nlookup_minutes = 0\n[criteria]\nmean_hops = 5\n"))
    assert made["figures"]["mean_hops"] is None
    assert not made["met"]
    Console(width=100, quiet=True).print(table.table(made))
    assert page.page(made)


def test_sums() -> None:
    assert [quantile([1, 2, 3, 4], part) for part in (0, 25, 26, 50, 99, 100)] == [1, 1, 2, 2, 4, 4]
    assert quantile([], 50) is None
    assert mean({2: 1, 4: 3}) == 3.5
    assert mean({}) is None
    assert histogram([7, 1, 12, 3], 5) == {0: 2, 5: 1, 10: 1}
    assert meets("mean_hops", 5, 5)
    assert not meets("mean_hops", 5.1, 5)
    assert meets("lookups_right", 0.995, 0.995)
    assert not meets("lookups_right", None, 0)


def test_toy_signatures_hold_for_what_was_signed_alone() -> None:
    signer, signatures = ToySigner(bytes(32)), ToySignatures()
    signed = signer.sign(b"label", b"payload")
    assert len(signer.public) == 32
    assert len(signed) == 64
    assert signatures.holds(signer.public, b"label", b"payload", signed)
    assert not signatures.holds(signer.public, b"labe", b"lpayload", signed)
    assert not signatures.holds(signer.public, b"label", b"other", signed)
    assert not signatures.holds(ToySigner(bytes([1] * 32)).public, b"label", b"payload", signed)
    assert not signatures.holds(b"", b"label", b"payload", signed)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable, match="give --save a folder of your own"):
        runner.save(tmp_path / "file" / "folder", {"report.json": "{}"})


# ---------------------------------------------------------------------------------- the command


def sim(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", "sim", *words],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_list_shows_every_scenario_with_a_line(tmp_path: Path) -> None:
    rows = json.loads(sim("list", "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in rows] == [path.stem for path in scenario.shipped()]
    shown = sim("list", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(row["name"] in shown.stdout for row in rows)


def test_run_prints_json_keeps_a_report_and_ends_with_the_verdict(tmp_path: Path) -> None:
    text = "nodes = 30\nminutes = 1\njoining_seconds = 10\n[work]\noffers_per_minute = 6\n[criteria]\n"
    (tmp_path / "good.toml").write_text(f"{text}lookups_wrong = 0\n")
    (tmp_path / "bad.toml").write_text(f"{text}mean_hops = 0\nwall_s = 0\n")
    good = sim("run", "good.toml", "--json", "--save", "kept", "--seed", "5", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    found = json.loads(good.stdout)
    assert found["scenario"]["seed"] == 5
    assert found["command"] == "zeqnode sim run good.toml --json --save kept --seed 5"
    assert "1:00 of 2:10" in good.stderr
    assert json.loads((tmp_path / "kept" / "report.json").read_text()) == found
    assert (tmp_path / "kept" / "report.html").read_text().startswith("<!doctype html>")
    bad = sim("run", "bad.toml", cwd=tmp_path)
    assert bad.returncode == 1, bad.stderr
    assert "✘ Not met" in bad.stdout


def test_scale_compares_sizes(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text("nodes = 30\nminutes = 1\njoining_seconds = 10\n")
    done = sim("scale", "--sizes", "40,20", "--file", "tiny.toml", "--save", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "messages of a lookup" in done.stdout
    kept = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert [each["scenario"]["nodes"] for each in kept] == [20, 40]
    assert (tmp_path / "kept" / "report.html").read_text().count("<svg") == 3


@pytest.mark.parametrize(
    ("few", "many", "is_little", "words"),
    [
        (10.0, 16.0, True, "grow 1.60 × from 100 to 1,000 nodes"),
        (10.0, 16.1, False, "grow 1.61 ×"),
        (0.0, 8.0, False, "take larger --sizes"),
    ],
)
def test_growth_is_judged_in_words(few: float, many: float, is_little: bool, words: str) -> None:
    reports = [
        {"scenario": {"nodes": nodes}, "figures": {"messages_per_lookup": messages}}
        for nodes, messages in ((100, few), (1000, many), (500, 9.0))
    ]
    [(found, said)] = cli._growth(reports)
    assert found is is_little
    assert words in said


def test_only_the_largest_step_is_judged() -> None:
    reports = [
        {"scenario": {"nodes": nodes}, "figures": {"messages_per_lookup": messages}}
        for nodes, messages in ((100, 7.0), (1000, 12.9), (10_000, 19.1))
    ]
    first, second = cli._growth(reports)
    assert first == (None, "messages of a lookup grow 1.84 × from 100 to 1,000 nodes.")
    assert second == (
        True,
        "messages of a lookup grow 1.48 × from 1,000 to 10,000 nodes; at most 1.6 × is asked for.",
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "nothing"], "take one of eclipse"),
        (["run", "small", "--nodes", "0"], "nodes must lie between"),
        (["scale", "--sizes", "many"], "give numbers with commas between"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = sim(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
