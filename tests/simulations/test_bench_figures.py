"""What the bench makes of its rounds: medians, ratios within a round, the table, the picture, the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from node.errors import NotWritable
from simulations.bench import figures, picture, report, saving
from simulations.bench.contenders.ours import Zeqnode
from simulations.bench.contenders.plain import Plain
from simulations.bench.contenders.wireguard import WireGuardGo
from simulations.bench.figures import MEASURES, Outcome
from simulations.bench.report import Run
from simulations.bench.setting import Setting
from simulations.bench.table import table

OURS, THEIRS, BARE = Zeqnode.name, WireGuardGo.name, Plain.name


def rounds(*pairs: tuple[float, float]) -> list[dict[str, Outcome]]:
    return [{OURS: Outcome({"tcp": ours}), THEIRS: Outcome({"tcp": theirs})} for ours, theirs in pairs]


def run(found: list[dict[str, Outcome]]) -> Run:
    return Run(Setting(rounds=len(found)), [Plain, Zeqnode, WireGuardGo], {"tinc": "not here"}, found, THEIRS)


def content() -> dict[str, Any]:
    found = rounds((4, 2), (6, 2), (1, 1))
    found[1][OURS].failures["udp"] = "the reason <&>"
    return report.of(run(found), "", "zeqnode bench --only a", {"nice": -15})


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_of_the_medians() -> None:
    """A machine that was ten times slower in one round was so for both."""
    found = rounds((20, 10), (2, 1), (30, 10))
    assert figures.ratio(found, OURS, THEIRS, "tcp") == 2
    assert figures.median(found, OURS, "tcp") == 20


def test_rounds_in_which_one_failed_have_no_ratio() -> None:
    found = rounds((4, 2), (8, 2))
    found[1][THEIRS] = Outcome({}, {"tcp": "no end"})
    assert figures.ratio(found, OURS, THEIRS, "tcp") == 2
    assert figures.median(found, OURS, "tcp") == 6
    assert figures.failures(found) == {THEIRS: {"tcp": "no end"}}


def test_nothing_measured_is_no_figure_and_no_ratio() -> None:
    assert figures.median([], OURS, "tcp") is None
    assert figures.ratio(rounds((1, 0)), OURS, THEIRS, "tcp") is None
    assert figures.summary([{OURS: Outcome()}], [OURS], None) == {OURS: {}}


def test_the_summary_has_medians_units_and_ratios() -> None:
    row = figures.summary(rounds((4, 2), (6, 2)), [OURS, THEIRS], THEIRS)
    assert row[OURS]["tcp"] == {"median": 5, "unit": "Gb/s", "ratio": 2.5}
    assert row[THEIRS]["tcp"]["ratio"] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.00"),
        (3.14159, "3.14"),
        (12345.6, "12,345.60"),
        (0.0104, "0.010"),
        (0.00098, "0.00098"),
    ],
)
def test_small_figures_keep_two_digits(value: float | None, text: str) -> None:
    assert MEASURES["tcp"].text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_figure_has_a_text(value: float) -> None:
    assert MEASURES["tcp"].text(value)


def test_the_table_names_contenders_failures_and_who_is_missing() -> None:
    found = rounds((4, 2), (6, 2))
    found[0][OURS].failures["udp"] = "iperf3: it said so"
    console = Console(record=True, width=80)
    console.print(table(run(found)))
    text = console.export_text()
    assert "5.00 2.50×" in text
    assert "zeqnode, udp: iperf3: it said so" in text
    assert "tinc is missing: not here" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_a_small_screen_gets_the_first_figures() -> None:
    found = [{OURS: Outcome(dict.fromkeys(MEASURES, 1.0)), THEIRS: Outcome(dict.fromkeys(MEASURES, 1.0))}]
    console = Console(record=True, width=80)
    console.print(table(run(found), lines=10))
    text = console.export_text()
    assert "TCP there" in text
    assert "memory" not in text


def test_the_picture_is_well_formed_and_needs_nothing_else() -> None:
    drawn = picture.svg(content())
    tree = ElementTree.fromstring(drawn)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert "4.00 · 2.00 ×" in texts
    assert "not measured" in texts  # the bare wire
    assert "href" not in drawn
    assert "url(" not in drawn


def test_bars_of_the_bare_wire_do_not_leave_the_picture() -> None:
    given_ = content()
    given_["summary"][BARE] = {"tcp": {"median": 4000.0, "unit": "Gb/s", "ratio": 2000.0}}
    tree = ElementTree.fromstring(picture.svg(given_))
    width = float(tree.get("width") or 0)
    bars = [bar for bar in tree.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    assert bars
    assert all(float(bar.get("x") or 0) + float(bar.get("width") or 0) < width for bar in bars)


def test_results_are_kept_as_json_and_picture_without_name_or_path_of_the_machine(tmp_path: Path) -> None:
    given_ = content()
    given_["date"] = "2026-01-31 12:34"
    files = saving.save(given_, tmp_path / "results")
    assert [file.name for file in files] == ["2026-01-31-1234-nic.json", "2026-01-31-1234-nic.svg"]
    kept = json.loads(files[0].read_text())
    assert kept == given_
    assert {"cpu", "cores", "kernel", "python", "openssl", "iperf3"} <= set(kept["machine"])
    assert str(Path.home()) not in files[0].read_text()


def test_the_name_says_what_was_set() -> None:
    given_ = content()
    given_.update(date="2026-01-31 12:34", bench="rekey")
    given_["setting"].update(wiring="bare", loss=0.001, congestion="bbr")
    assert saving.name_of(given_) == "2026-01-31-1234-rekey-bare-loss-0.001-bbr"


def test_results_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="--json"):
        saving.save(content(), tmp_path / "file")
