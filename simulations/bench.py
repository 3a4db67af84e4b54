"""`zeqnode bench`: what the cryptography costs on this machine, the handshake and the records included.

Every operation is timed in short rounds that take turns, so that whatever else the machine does falls on all
of them alike; of each the cheapest round counts. Times are CPU time of one core.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from crypto.handshake import Answer, Established, Initiator, Opening, Responder
from crypto.identity import KeyBundle
from crypto.kem import PrivateHybrid, RealPrimitives
from crypto.session import Session

RECORD_BYTES = 1400
ROUNDS = 10

KEYGEN_KEM = "ML-KEM-768 key generation"
ENCAPSULATE = "ML-KEM-768 encapsulation"
DECAPSULATE = "ML-KEM-768 decapsulation"
KEYGEN_X25519 = "X25519 key generation"
EXCHANGE = "X25519 exchange"
HANDSHAKE = "handshake, both sides"
AEAD = f"AES-256-GCM alone, {RECORD_BYTES:,} B"
SEAL = f"record sealed, {RECORD_BYTES:,} B"
OPEN = f"record opened, {RECORD_BYTES:,} B"

# The tokens of ZeqKeyEx (crypto/handshake.py). Each end makes one e and computes es, ss, ee and se; only the
# initiator makes an ekem pair; skem, ekem and skem again are each encapsulated once and decapsulated once.
HANDSHAKE_PRIMITIVES = {KEYGEN_X25519: 2, KEYGEN_KEM: 1, EXCHANGE: 8, ENCAPSULATE: 3, DECAPSULATE: 3}

Prepare = Callable[[int], Callable[[], None]]
"""Given a count, makes ready what need not be timed and returns what is to be: that many operations."""

command = App(name="bench")


@dataclass(frozen=True)
class Result:
    """`seconds`: CPU time of one operation, by its name."""

    seconds: Mapping[str, float]

    @property
    def handshake_over_primitives(self) -> float:
        """The handshake's cost over the sum of the primitives that its pattern needs; 1: no overhead."""
        primitives = sum(count * self.seconds[name] for name, count in HANDSHAKE_PRIMITIVES.items())
        return self.seconds[HANDSHAKE] / primitives

    @property
    def seal_over_aead(self) -> float:
        return self.seconds[SEAL] / self.seconds[AEAD]


@command.default
def bench(
    *,
    seconds: Annotated[float, Parameter(help="How long to measure, roughly.")] = 5.0,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Measure what the cryptography costs on this machine, on one core.

    Example: zeqnode bench --seconds 20
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


def operations() -> dict[str, Prepare]:
    kem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    kem_public, x25519_public = kem.public_key(), X25519PrivateKey.generate().public_key()
    _, ciphertext = kem_public.encapsulate()
    aead, iv, packet = AESGCM(os.urandom(32)), os.urandom(12), os.urandom(RECORD_BYTES)
    shake = handshake()
    return {
        KEYGEN_KEM: _repeated(MLKEM768PrivateKey.generate),
        ENCAPSULATE: _repeated(kem_public.encapsulate),
        DECAPSULATE: _repeated(lambda: kem.decapsulate(ciphertext)),
        KEYGEN_X25519: _repeated(X25519PrivateKey.generate),
        EXCHANGE: _repeated(lambda: x25519.exchange(x25519_public)),
        HANDSHAKE: _repeated(shake),
        AEAD: _repeated(lambda: aead.encrypt(iv, packet, None)),
        SEAL: _sealing(shake, packet),
        OPEN: _opening(shake, packet),
    }


def _repeated(operation: Callable[[], object]) -> Prepare:
    def prepare(count: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                operation()

        return work

    return prepare


def handshake() -> Callable[[], tuple[Established, Established]]:
    """One whole handshake between two machines made here: (the initiator's outcome, the responder's)."""
    primitives = RealPrimitives()
    calling, called = primitives.ephemeral(), primitives.ephemeral()
    caller, callee = _bundle(calling), _bundle(called)

    def shake() -> tuple[Established, Established]:
        initiator = Initiator(calling, caller, callee, primitives)
        message1 = initiator.message1(Opening(clock_us=1, base_index=0))
        message2, responders = Responder(message1, called, callee).message2(Answer(base_index=64), primitives)
        initiators, _ = initiator.read_message2(message2)
        return initiators, responders

    return shake


def _bundle(keys: PrivateHybrid) -> KeyBundle:
    signing = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return KeyBundle.from_bytes(signing + keys.x25519_public + keys.kem_public)


def _sealing(shake: Callable[[], tuple[Established, Established]], packet: bytes) -> Prepare:
    def prepare(count: int) -> Callable[[], None]:
        lane = Session(shake()[0], 0).open_lane()

        def work() -> None:
            for _ in range(count):
                lane.seal(packet, 1)

        return work

    return prepare


def _opening(shake: Callable[[], tuple[Established, Established]], packet: bytes) -> Prepare:
    def prepare(count: int) -> Callable[[], None]:
        ours, theirs = shake()
        lane, session = Session(ours, 0).open_lane(), Session(theirs, 0)
        records = [lane.seal(packet, 1) for _ in range(count)]

        def work() -> None:
            for iv, ciphertext in records:
                session.open(iv, ciphertext, 1)

        return work

    return prepare


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
        f"a sealed record {result.seal_over_aead:.2f} × its AES-256-GCM."
    )
    console.print(f"[dim]Python {platform.python_version()}, {backend.openssl_version_text()}[/dim]")
