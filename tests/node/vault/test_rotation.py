"""`kill -9` at any moment of a change of the vault's key leaves one key that opens everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scale import seconds, times

ROOT = Path(__file__).resolve().parents[3]


def drive(*arguments: str) -> Any:
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("rotation_driver.py")), *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds(90))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(seconds(120))
def test_killed_at_every_step_of_a_change_one_key_opens_all(tmp_path: Path) -> None:
    counts = drive("points", str(tmp_path))
    assert counts["points"] > 200
    assert 0 < counts["new"] < counts["old"]


def test_killed_at_every_step_of_its_making_the_vault_is_made_by_the_next_start(tmp_path: Path) -> None:
    assert drive("creation", str(tmp_path))["points"] > 20


@pytest.mark.timeout(seconds(120))
def test_killed_at_random_one_key_opens_all(tmp_path: Path) -> None:
    rounds = times(60)
    counts = drive("rounds", str(tmp_path), "20261127", str(rounds))
    assert counts["rounds"] == rounds
    assert counts["changes"] > 0
