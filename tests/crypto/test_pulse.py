from __future__ import annotations

import ast
import tokenize
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import pulse

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("crypto", "dht", "node", "simulations", "tests", "tun")
CONSTANTS = {pulse.F_H, pulse.TAU_ZQ, pulse.ALPHA_K, pulse.PULSE_HZ, pulse.ZEQOND_MS}


@pytest.mark.parametrize(
    ("unix_ms", "zeqond", "phase"),
    [
        (0, 0, 0.0),
        (1, 0, 0.0013),
        (776, 0, 0.9987),
        (-1, -1, 0.9987),
        (1_782_141_101_307, 2_293_617_891, 0.0),  # 2026-06-22T15:11:41.307Z, the seeds' example
        (1_782_141_101_627, 2_293_617_891, 0.4118),
        (1_782_141_102_083, 2_293_617_891, 0.9987),
    ],
)
def test_zeqond_and_phase_vectors(unix_ms: int, zeqond: int, phase: float) -> None:
    assert (pulse.zeqond(unix_ms), pulse.phase(unix_ms)) == (zeqond, phase)


@given(st.integers(-(2**60), 2**60))
def test_phase_is_the_nearest_of_ten_thousand_steps(unix_ms: int) -> None:
    exact = Fraction(unix_ms, pulse.ZEQOND_MS) - pulse.zeqond(unix_ms)
    assert 0 <= exact < 1
    assert pulse.phase(unix_ms) == round(exact * 10_000) / 10_000


def test_the_constants_stand_in_no_other_module() -> None:
    found = []
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        if path in (ROOT / "crypto" / "pulse.py", Path(__file__)):
            continue
        with tokenize.open(path) as file:
            numbers = [
                token for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.NUMBER
            ]
        found += [
            f"{path}:{token.start[0]}" for token in numbers if ast.literal_eval(token.string) in CONSTANTS
        ]
    assert found == []
