"""`zeqnode bench crypto`: what the cryptography costs on this machine, handshakes and records included.

Every operation is timed in short rounds that take turns, so that whatever else the machine does falls on all
of them alike; of each the cheapest round counts. Times are CPU time of one core.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from simulations.bench.operations import (
    AEAD,
    ANSWERED,
    ANSWERED_KEYS,
    ANSWERED_PRIMITIVES,
    HANDSHAKE,
    HANDSHAKE_PRIMITIVES,
    OPEN,
    RECORD_BYTES,
    SEAL,
    Prepare,
    operations,
)

ROUNDS = 10

command = App(name="crypto")


@dataclass(frozen=True)
class Result:
    """`seconds`: CPU time of one operation, by its name."""

    seconds: Mapping[str, float]

    @property
    def handshake_over_primitives(self) -> float:
        """The handshake's cost over the sum of the primitives that its pattern needs; 1: no overhead."""
        return self.seconds[HANDSHAKE] / self._sum(HANDSHAKE_PRIMITIVES)

    @property
    def answered_over_primitives(self) -> float:
        """What the responder pays over the sum of all primitives in the protocol's name."""
        return self.seconds[ANSWERED] / self._sum(ANSWERED_PRIMITIVES)

    @property
    def answered_over_key_primitives(self) -> float:
        """The same over X25519 and ML-KEM alone: hashes and AES count as overhead."""
        return self.seconds[ANSWERED] / self._sum(ANSWERED_KEYS)

    @property
    def seal_over_aead(self) -> float:
        return self.seconds[SEAL] / self.seconds[AEAD]

    def _sum(self, primitives: Mapping[str, int]) -> float:
        return sum(count * self.seconds[name] for name, count in primitives.items())


@command.default
def bench(
    *,
    seconds: Annotated[float, Parameter(help="How long to measure, roughly.")] = 5.0,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Measure what the cryptography costs on this machine, on one core.

    Example: zeqnode bench crypto --seconds 20
    """
    result = measure(seconds)
    if as_json:
        print(json.dumps(report(result), indent=2))
    else:
        show(result, Console())


def measure(seconds: float) -> Result:
    """Spend roughly `seconds` in ROUNDS rounds over all operations."""
    prepared = operations()
    share = seconds / ROUNDS / len(prepared)
    counts = {name: _count_for(prepare, share) for name, prepare in prepared.items()}
    best = dict.fromkeys(prepared, float("inf"))
    for _ in range(ROUNDS):
        for name, prepare in prepared.items():
            best[name] = min(best[name], _timed(prepare, counts[name]) / counts[name])
    return Result(best)


def _timed(prepare: Prepare, count: int) -> float:
    work = prepare(count)
    before = time.process_time()
    work()
    return time.process_time() - before


def _count_for(prepare: Prepare, share: float) -> int:
    """How many operations take about `share` seconds, by trying ever more of them."""
    count = 1
    while (took := _timed(prepare, count)) < share / 4:
        count *= 4
    return max(1, round(count * share / took)) if took else count


def report(result: Result) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cryptography": cryptography.__version__,
        "openssl": backend.openssl_version_text(),
        "operations": [
            {"name": name, "microseconds": round(each * 1e6, 3), "per_second": round(1 / each)}
            for name, each in result.seconds.items()
        ],
        "handshake_over_primitives": round(result.handshake_over_primitives, 3),
        "answered_over_primitives": round(result.answered_over_primitives, 3),
        "answered_over_key_primitives": round(result.answered_over_key_primitives, 3),
        "seal_over_aead": round(result.seal_over_aead, 3),
    }


def show(result: Result, console: Console) -> None:
    table = Table(title="On one core of this machine")
    table.add_column("operation")
    table.add_column("µs each", justify="right")
    table.add_column("per second", justify="right")
    table.add_column("Mb/s", justify="right")
    for name, each in result.seconds.items():
        rate = f"{RECORD_BYTES * 8 / each / 1e6:,.0f}" if name in (AEAD, SEAL, OPEN) else ""
        table.add_row(name, f"{each * 1e6:,.1f}", f"{1 / each:,.0f}", rate)
    console.print(table)
    console.print(
        f"A handshake costs {result.handshake_over_primitives:.2f} × the sum of its primitives, "
        f"an answered one {result.answered_over_primitives:.2f} × (of X25519 and ML-KEM alone "
        f"{result.answered_over_key_primitives:.2f} ×), "
        f"a sealed record {result.seal_over_aead:.2f} × its AES-256-GCM."
    )
    console.print(f"[dim]Python {platform.python_version()}, {backend.openssl_version_text()}[/dim]")
