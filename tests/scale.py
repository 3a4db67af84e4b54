"""How long a test goes on: what `make test` has minutes for, `make soak` does many times over."""

from __future__ import annotations

import os

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
FACTOR = 10


def times(number: int) -> int:
    """The number as it is, ten times that in a soak."""
    return number * FACTOR if SOAK else number


def seconds(number: int) -> int:
    """A test's time limit; the same for what it is ten times of."""
    return number * 2 * FACTOR if SOAK else number
