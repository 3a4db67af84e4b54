"""How long an answer is waited for, by the round trips seen, and how many questions go unanswered.

    wait = mean + 4 × deviation, between 0.4 and 1.5 s     (RFC 6298's mean and deviation)

After SILENCES_SLOW in a row without an answer it is the longest again: the network may have become slower
than what was learnt of it, and then nothing would ever come in time to say so.
"""

from __future__ import annotations

from typing import Final

FIRST_US: Final = 1_500_000  # before anything is known, and the longest
LEAST_US: Final = 400_000
SILENCES_SLOW: Final = 4
SHARE_OF: Final = 32  # how much one question counts in `failing`


class Patience:
    """`failing`: of 1,000 questions lately, how many were not answered."""

    __slots__ = ("_deviation_us", "_mean_us", "_silences", "failing")

    def __init__(self) -> None:
        self.failing = 0
        self._mean_us = 0
        self._deviation_us = 0
        self._silences = 0

    def wait_us(self) -> int:
        """For the answer to what is asked now."""
        if not self._mean_us or self._silences >= SILENCES_SLOW:
            return FIRST_US
        return min(max(self._mean_us + 4 * self._deviation_us, LEAST_US), FIRST_US)

    def answered(self, round_trip_us: int) -> None:
        self._silences = 0
        self.failing -= self.failing // SHARE_OF
        if not self._mean_us:
            self._mean_us, self._deviation_us = max(round_trip_us, 1), round_trip_us // 2
            return
        off_us = round_trip_us - self._mean_us
        self._deviation_us += (abs(off_us) - self._deviation_us) // 4
        self._mean_us += off_us // 8

    def silent(self) -> None:
        self._silences += 1
        self.failing += (1000 - self.failing) // SHARE_OF
