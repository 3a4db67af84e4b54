"""`zeqnode bench vouchers`: how many vouchers a relay takes in a second, verified and on the disk.

Rounds of two kinds take turns, so that whatever else the machine does falls on both alike:

    bare     Ed25519 verifications of as many signatures, the keys ready, nothing kept
    kept     vouchers of as many tunnels as come in one batch: read, checked, verified, and one write to the
             disk that has reached it (SQLite, WAL, FULL), as the ledger does it

The figure is the median of kept / bare. Times are of the clock, not of the processor: waiting for the disk
is part of the price.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final, NamedTuple

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from crypto.identity import SIGNATURE_BYTES, MachineKeys
from dht.signatures import Ed25519Signatures, MachineSigner, Signatures
from node.errors import Usage
from node.ledger import Ledger
from node.settlement import vouchers
from node.settlement.blocks import Party
from node.settlement.terms import Unit, agree
from node.settlement.vouchers import Tunnel, Voucher
from simulations.bench import machine

WANTED: Final = 0.6
_LEAST_ROUNDS: Final = 5

command = App(name="vouchers")


@dataclass(frozen=True)
class Result:
    """Per second, and of one voucher in µs: `signature`, `reading` (all of the check but that), `disk`."""

    batch: int
    bare: float
    kept: float
    ratio: float
    signature_us: float
    reading_us: float
    disk_us: float


class _Everything:
    """Signatures that cost nothing: what is left of a check without them."""

    def holds(self, public: bytes, label: bytes, payload: bytes, signature: bytes) -> bool:
        return bool(public and label and payload and signature)


class _Round(NamedTuple):
    """Seconds for a batch: signatures alone, a check without them, a whole check, the write."""

    bare: float
    reading: float
    check: float
    disk: float


class _Payers:
    """One tunnel each, and their vouchers of any round."""

    def __init__(self, count: int) -> None:
        terms = agree(Unit.GB, 50, 1000)
        self._keys = [MachineKeys.generate() for _ in range(count)]
        self.payee = MachineKeys.generate()
        self.tunnels = [
            Tunnel(
                session=bytes(32),
                tunnel_id=number.to_bytes(16, "big"),
                payer=keys.machine_id,
                payee=self.payee.machine_id,
                payer_key=keys.bundle.ed25519,
                terms=terms,
            )
            for number, keys in enumerate(self._keys)
        ]

    def sign(self, sequence: int) -> list[bytes]:
        signers = map(MachineSigner, self._keys)
        return [
            vouchers.write(tunnel, sequence, sequence * 8_000_000, 0, 1, signer)
            for tunnel, signer in zip(self.tunnels, signers, strict=True)
        ]

    def verify(self, raws: list[bytes]) -> None:
        """Nothing but the signatures."""
        head = bytes([len(vouchers.LABEL)]) + vouchers.LABEL
        for keys, raw in zip(self._keys, raws, strict=True):
            keys.bundle.ed25519_key.verify(raw[-SIGNATURE_BYTES:], head + raw[:-SIGNATURE_BYTES])

    def check(
        self, raws: list[bytes], before: Sequence[Voucher | None], signatures: Signatures
    ) -> list[Voucher]:
        rows = zip(raws, self.tunnels, before, strict=True)
        return [vouchers.check(raw, tunnel, last, signatures) for raw, tunnel, last in rows]


@command.default
def bench(
    *,
    seconds: Annotated[float, Parameter(help="How long to measure, roughly.")] = 10.0,
    batch: Annotated[int, Parameter(help="Vouchers that come together.", validator=Number(gte=1))] = 256,
    folder: Annotated[
        Path, Parameter(help="On whose disk to write; a file is made there and removed.")
    ] = Path(),
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Measure how many vouchers a relay verifies and durably keeps in a second, on one core.

    Example: zeqnode bench vouchers --seconds 20 --batch 64
    """
    if not folder.is_dir():
        raise Usage(
            f"--folder {folder}: there is no such folder; name one that is there, on the disk to measure."
        )
    result = measure(seconds, batch, folder)
    if as_json:
        print(json.dumps(report(result), indent=2))
    else:
        show(result, Console())


def measure(seconds: float, batch: int, folder: Path) -> Result:
    """Rounds for roughly so long, five at least."""
    payers, signatures = _Payers(batch), Ed25519Signatures()
    party = Party(machine_id=payers.payee.machine_id, signer=MachineSigner(payers.payee))
    before: Sequence[Voucher | None] = [None] * batch
    rounds: list[_Round] = []
    with TemporaryDirectory(dir=folder, prefix="zeqnode-bench-") as place:
        ledger = Ledger.open(Path(place) / "ledger", party, signatures)
        ends_s = time.perf_counter() + seconds
        while len(rounds) < _LEAST_ROUNDS or time.perf_counter() < ends_s:
            raws = payers.sign(len(rounds) + 1)
            clock = [time.perf_counter()]
            payers.verify(raws)
            clock.append(time.perf_counter())
            payers.check(raws, before, _Everything())
            clock.append(time.perf_counter())
            before = payers.check(raws, before, signatures)
            clock.append(time.perf_counter())
            ledger.keep(raws)
            clock.append(time.perf_counter())
            rounds.append(_Round(*(after - earlier for earlier, after in pairwise(clock))))
        ledger.close()
    return _result(batch, rounds)


def _result(batch: int, rounds: list[_Round]) -> Result:
    def each_us(spent: Callable[[_Round], float]) -> float:
        return statistics.median(map(spent, rounds)) / batch * 1e6

    return Result(
        batch=batch,
        bare=batch / statistics.median(each.bare for each in rounds),
        kept=batch / statistics.median(each.check + each.disk for each in rounds),
        ratio=statistics.median(each.bare / (each.check + each.disk) for each in rounds),
        signature_us=each_us(lambda each: each.check - each.reading),
        reading_us=each_us(lambda each: each.reading),
        disk_us=each_us(lambda each: each.disk),
    )


def report(result: Result) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "batch": result.batch,
        "bare_per_second": round(result.bare),
        "kept_per_second": round(result.kept),
        "ratio": round(result.ratio, 3),
        "wanted": WANTED,
        "microseconds": {
            "signature": round(result.signature_us, 1),
            "reading": round(result.reading_us, 1),
            "disk": round(result.disk_us, 1),
        },
        "machine": machine.text(machine.describe()),
        "date": machine.now(),
    }


def show(result: Result, console: Console) -> None:
    table = Table(title=f"Vouchers, {result.batch} at a time, on one core of this machine")
    table.add_column("")
    table.add_column("per second", justify="right")
    table.add_column("µs each", justify="right")
    table.add_row("bare Ed25519 verification", f"{result.bare:,.0f}", f"{1e6 / result.bare:,.1f}")
    table.add_row("verified and on the disk", f"{result.kept:,.0f}", f"{1e6 / result.kept:,.1f}")
    table.add_section()
    for name, each_us in (
        ("  of it the signature", result.signature_us),
        ("  reading and checking", result.reading_us),
        ("  the disk", result.disk_us),
    ):
        table.add_row(name, "", f"{each_us:,.1f}")
    console.print(table)
    met = "as wanted" if result.ratio >= WANTED else "less than wanted"
    console.print(f"Kept over bare: {result.ratio:.2f} ({met}: {WANTED}), median of rounds that took turns.")
