"""The HulyaPulse constants, and the two ways in which this mesh tells a time: zeqond and phase.

Every number here stands once in the whole tree; tests/crypto/test_pulse.py searches the other modules
for literals of them. All arithmetic is on integers, so that two machines never differ in a last bit.

    unix_ms ─┬─ zeqond = ⌊unix_ms / 777⌋
             └─ phase  = (unix_ms mod 777) / 777, to four decimals
"""

from __future__ import annotations

from typing import Final

F_H: Final = 1.287
"""HulyaPulse frequency, Hz (nominal)."""

TAU_ZQ: Final = 0.777
"""Length of a zeqond, seconds."""

ALPHA_K: Final = 0.00129
"""Coupling α of the seeds' kernel, without a unit."""

PULSE_HZ: Final = 1.2870016419610952
"""HulyaPulse frequency, Hz, as the API reports it; no derivation of it is published."""

ZEQOND_MS: Final = 777
"""Length of a zeqond, milliseconds."""

_PHASE_STEPS: Final = 10_000


def zeqond(unix_ms: int) -> int:
    """Number of whole zeqonds since 1970-01-01T00:00Z; times before that are negative."""
    return unix_ms // ZEQOND_MS


def phase(unix_ms: int) -> float:
    """How far into its zeqond a time lies: 0.0 to 0.9987, the nearest multiple of 0.0001.

    A tie cannot occur, because 777 is odd.
    """
    return ((unix_ms % ZEQOND_MS) * _PHASE_STEPS + ZEQOND_MS // 2) // ZEQOND_MS / _PHASE_STEPS
