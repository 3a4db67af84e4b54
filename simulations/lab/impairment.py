"""What a link does to the frames on it: the numbers, checked, and what they need. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypedDict

from simulations.lab.errors import TopologyError

_RATE = re.compile(r"(\d+(?:\.\d+)?)([kmg]?)bit")
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
SLOWEST = 8_000  # bit/s; below it a full frame takes longer than a second and nothing useful works


class Changes(TypedDict, total=False):
    """The keyword arguments of `Link.set`; units as in `Impairment`."""

    rate: str | None
    loss: float
    duplicate: float
    delay_ms: float
    jitter_ms: float
    reorder: float


@dataclass(frozen=True, slots=True)
class Impairment:
    """All of it holds for each direction by itself.

    rate: "15mbit", "800kbit" or "2.5gbit"; None is no limit.
    loss, duplicate, reorder: probability per frame, 0 to 1.
    delay_ms, jitter_ms: each frame is held for a time drawn uniformly from delay ± jitter; order is kept.
    reorder: such a frame is not held at all, so it overtakes those that are; needs delay_ms.

    Raises TopologyError.
    """

    rate: str | None = None
    loss: float = 0.0
    duplicate: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    reorder: float = 0.0

    def __post_init__(self) -> None:
        for key in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, key) <= 1:
                raise TopologyError(
                    f"{key} is a probability: give a number from 0 to 1, not {getattr(self, key)}."
                )
        if not 0 <= self.delay_ms <= 60_000:
            raise TopologyError(f"delay_ms is in milliseconds, from 0 to 60000, not {self.delay_ms}.")
        if not 0 <= self.jitter_ms <= self.delay_ms:
            raise TopologyError(
                "jitter_ms lies between 0 and delay_ms: a frame cannot arrive before it was sent."
            )
        if self.reorder and not self.delay_ms:
            raise TopologyError("reorder lets frames overtake others that wait: set delay_ms above 0 too.")
        if self.rate is not None and (self.bits_per_second or 0) < SLOWEST:
            raise TopologyError(f'rate is written like "15mbit" and at least "8kbit", not {self.rate!r}.')

    @property
    def bits_per_second(self) -> int | None:
        if self.rate is None:
            return None
        match = _RATE.fullmatch(self.rate)
        return int(float(match[1]) * _SCALE[match[2]]) if match else 0

    @property
    def holds_frames(self) -> bool:
        """Needs the user-space link: a kernel without netem can lose and copy frames but not hold them."""
        return self.delay_ms > 0

    @property
    def counts_frames(self) -> bool:
        """Only true to its numbers where each datagram is a frame of its own (offload "bare")."""
        return bool(self.loss or self.duplicate or self.holds_frames)
