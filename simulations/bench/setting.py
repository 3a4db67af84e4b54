"""What one run of the bench is asked to do: which wire, which traffic, how long, how often."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from simulations.bench.errors import BadRequest

Wire = Literal["veth", "nic", "bare", "home"]
Side = Literal["a", "b"]
Family = Literal[4, 6]

SIDES: Final[tuple[Side, Side]] = ("a", "b")
HOME_TEXT: Final = "100 Mb/s, 20 ms there and back, 0.5 % loss each way"
_CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@dataclass(frozen=True, slots=True)
class Setting:
    """wire: see `wiring`. loss: probability for each datagram, each way. inner: of the traffic inside the
    tunnel. seconds: of each stream, after a second of warming up. congestion: of the TCP inside."""

    wire: Wire = "nic"
    loss: float = 0.0
    inner: Family = 6
    seconds: int = 2
    rounds: int = 3
    congestion: str = "cubic"

    def __post_init__(self) -> None:
        """Raises BadRequest."""
        if self.wire not in get_args(Wire):
            raise BadRequest(f"there is no wiring {self.wire}; take one of {', '.join(get_args(Wire))}")
        if not 0 <= self.loss < 1 or not math.isfinite(self.loss):
            raise BadRequest(f"the loss is a probability from 0 to 1, as 0.001, not {self.loss:g}")
        if self.loss and self.wire != "bare":
            raise BadRequest(
                f"--loss counts datagrams, and on the wiring {self.wire} they travel many at a time; "
                "add --wiring bare"
            )
        if not 1 <= self.seconds <= 600:
            raise BadRequest(f"--seconds takes a whole number from 1 to 600, not {self.seconds}")
        if not 1 <= self.rounds <= 1000:
            raise BadRequest(f"--rounds takes a whole number from 1 to 1000, not {self.rounds}")
        try:
            known = _CONGESTION.read_text(encoding="ascii").split()
        except OSError:
            return
        if self.congestion not in known:
            raise BadRequest(
                f"this kernel's TCP has {', '.join(known)}, and no {self.congestion}; "
                f"run `sudo modprobe tcp_{self.congestion}`, or take one of those"
            )

    def text(self) -> str:
        """For people, in a line."""
        wire = f"{self.wire} ({HOME_TEXT})" if self.wire == "home" else self.wire
        loss = f", {self.loss:.2%} loss each way" if self.loss else ""
        return (
            f"wiring {wire}{loss}, IPv{self.inner} inside, TCP {self.congestion}, "
            f"{self.rounds} interleaved rounds of {self.seconds} s"
        )

    def report(self) -> dict[str, Any]:
        return {
            "wiring": self.wire,
            "loss": self.loss,
            "inner": f"IPv{self.inner}",
            "seconds": self.seconds,
            "rounds": self.rounds,
            "congestion": self.congestion,
        }
