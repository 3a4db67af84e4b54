"""`kill -9` at any moment leaves a state directory that opens, with all that was acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scale import seconds, times

ROOT = Path(__file__).resolve().parents[2]


def drive(*arguments: str) -> Any:
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("crash_driver.py")), *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds(90))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(seconds(120))
def test_killed_200_times_at_random_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    rounds = times(200)
    counts = drive("rounds", str(tmp_path), "20261120", str(rounds))
    assert counts["rounds"] == rounds
    assert counts["acks"] > rounds
    assert counts["without_identity"] > 0


def test_killed_at_every_step_of_creation_there_is_no_identity_or_a_whole_one(tmp_path: Path) -> None:
    counts = drive("points", str(tmp_path))
    assert counts["points"] > 20
    assert 0 < counts["without_identity"] < counts["points"]
