"""The market among cheaters: honest machines lose no more than they chose to, and a judge that can say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from node.settlement import blocks
from node.settlement.credit import Credit
from node.settlement.meters import Payee
from node.settlement.payer import PayerSide
from simulations.market import report
from simulations.market.cli import cheaters
from simulations.market.course import Course, Plan
from simulations.market.judge import Verdict, judge

ROOT = Path(__file__).parents[2]
TINY = Plan(payers=20, relays=10, identities=0)


def day(plan: Plan) -> tuple[Course, Verdict]:
    course = Course(plan)
    course.run(lambda: None)
    return course, judge(course)


def missed(verdict: Verdict) -> set[str]:
    return {key for key in report.CRITERIA if not report.meets(key, verdict.figures[key])}


def test_among_all_ways_of_cheating_no_honest_machine_loses_more_than_it_chose_to() -> None:
    _, verdict = day(Plan(payers=20, relays=10, identities=12))
    assert missed(verdict) == set()
    ways = {(way.role, way.name): way for way in verdict.ways}
    assert len(ways) == 11 + 8 - 1  # pads comes with more relays
    assert all(way.tunnels for way in ways.values())
    assert verdict.figures["forks"]
    assert verdict.figures["pairs"]
    assert ways["payer", "stops paying"].gained > 0
    assert ways["relay", "forwards nothing"].gained > 0


def test_one_seed_is_one_day_however_python_hashes() -> None:
    script = (
        "from simulations.market.course import Course, Plan\n"
        "course = Course(Plan(10, 10, 0))\ncourse.run(lambda: None)\nprint(course.town.trace)"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    here, other = (day(Plan(10, 10, 0, seed))[0].town.trace for seed in (1, 2))
    assert there == here != other


def _no_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Payee, "may_forward", lambda _payee: True)


def _no_credit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Credit, "used", lambda *_arguments: None)


def _never_blind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PayerSide, "_is_blind", lambda *_arguments: False)


def _no_forks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "contradict", lambda _one, _other: False)


@pytest.mark.parametrize(
    ("break_it", "shown_by"),
    [
        (_no_window, "payee_unpaid_worst"),
        (_no_credit, "payee_lent_worst"),
        (_never_blind, "payer_overpaid_worst"),
        (_no_forks, "forks_found"),
    ],
)
def test_what_is_broken_in_a_core_is_seen(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], shown_by: str
) -> None:
    break_it(monkeypatch)
    _, verdict = day(TINY)
    assert shown_by in missed(verdict)


def test_the_command_says_it_in_a_report_and_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"payers": 20, "relays": 10, "identities": 2}
    monkeypatch.setitem(report.CRITERIA, "payee_lent_worst", 0.0)  # nobody lends anything
    assert cheaters(**plan, as_json=True) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["plan"] == {**plan, "seed": 1}
    assert [each["key"] for each in found["criteria"] if not each["met"]] == ["payee_lent_worst"]
    assert "✘ Not met: most that a relay lent one payer" in printed.err
