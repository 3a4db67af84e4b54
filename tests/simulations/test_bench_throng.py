"""A node with several peers opposite the crowd that stands in for them: every member gets its session and
carries traffic as itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.bench import throng, trials
from simulations.bench.contenders.ours import ask
from simulations.bench.errors import Unmeasured
from simulations.bench.figures import Outcome
from simulations.bench.setting import Setting
from simulations.bench.throng import Throng
from simulations.bench.trials import Bout
from simulations.bench.wiring import Pair, wired
from simulations.lab import userns

pytestmark = pytest.mark.lab


class Few(Throng):
    name = "a few peers"
    count = 5


@pytest.fixture(autouse=True)
def possible() -> None:
    if reason := userns.available():
        pytest.skip(reason)


def bout(pair: Pair, few: Few) -> Bout:
    return Bout(few, pair, Setting(seconds=2), Outcome(), lambda: None)


def test_all_members_are_connected_and_carry_traffic_as_themselves(tmp_path: Path) -> None:
    few = Few(tmp_path, 6)
    with wired(Setting()) as pair:
        few.prepare(pair)
        few.start(pair)
        trials.first_byte(pair, few, lambda: None)
        measured = bout(pair, few)
        throng.one_active(measured)
        throng.all_active(measured)
        status = ask(tmp_path / "hub", "status")
        few.stop()
    assert measured.outcome.figures["one"] > 0
    assert measured.outcome.figures["many"] > 0
    assert [peer["state"] for peer in status["peers"]] == ["connected"] * few.count
    assert all(peer["received_bytes"] > 100_000 for peer in status["peers"])


def test_a_hub_that_is_gone_is_no_figure(tmp_path: Path) -> None:
    few = Few(tmp_path, 6)
    with wired(Setting()) as pair:
        few.prepare(pair)
        few.start(pair)
        few.stop()
        few.pids = {"a": [], "b": []}
        with pytest.raises(Unmeasured):
            throng.one_active(bout(pair, few))
