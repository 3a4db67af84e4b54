"""The bench measures what the node really does: a whole handshake, and records that open."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from rich.console import Console

from crypto.handshake import Answer, Initiator, Opening, Responder
from crypto.identity import KeyBundle
from crypto.kem import PrivateHybrid, RealPrimitives
from crypto.session import Session
from simulations import bench


class CountedKeys:
    """Real keys that count what is asked of them."""

    def __init__(self, keys: PrivateHybrid, counts: dict[str, int]) -> None:
        self._keys = keys
        self._counts = counts
        self.x25519_public = keys.x25519_public
        self.kem_public = keys.kem_public

    def exchange(self, x25519_public: bytes) -> bytes:
        self._counts[bench.EXCHANGE] += 1
        return self._keys.exchange(x25519_public)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        self._counts[bench.DECAPSULATE] += 1
        return self._keys.decapsulate(ciphertext)


class CountedPrimitives(RealPrimitives):
    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def ephemeral(self) -> PrivateHybrid:
        return CountedKeys(super().ephemeral(), self._counts)

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        self._counts[bench.ENCAPSULATE] += 1
        return super().encapsulate(kem_public)


def _bundle(keys: PrivateHybrid) -> KeyBundle:
    return KeyBundle.from_bytes(bytes(32) + keys.x25519_public + keys.kem_public)


def test_the_table_of_the_handshakes_primitives_is_what_a_handshake_uses() -> None:
    counts = {bench.EXCHANGE: 0, bench.ENCAPSULATE: 0, bench.DECAPSULATE: 0}
    primitives = CountedPrimitives(counts)
    ours, theirs = primitives.ephemeral(), primitives.ephemeral()
    initiator = Initiator(ours, _bundle(ours), _bundle(theirs), primitives)
    responder = Responder(initiator.message1(Opening(1, 0)), theirs, _bundle(theirs))
    message2, _ = responder.message2(Answer(64), primitives)
    initiator.read_message2(message2)
    expected: Mapping[str, int] = bench.HANDSHAKE_PRIMITIVES
    assert counts == {name: expected[name] for name in counts}


def test_the_measured_handshake_ends_in_one_session_on_both_sides() -> None:
    ours, theirs = bench.handshake()()
    iv, ciphertext = Session(ours, 0).open_lane().seal(b"packet", 1)
    assert Session(theirs, 0).open(iv, ciphertext, 1) == b"packet"


def test_json_and_table_show_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    bench.bench(seconds=0.2, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in printed["operations"]] == list(bench.operations())
    assert all(row["per_second"] > 0 for row in printed["operations"])
    assert printed["handshake_over_primitives"] > 1

    console = Console(record=True, width=100)
    bench.show(bench.measure(0.2), console)
    text = console.export_text()
    assert all(name in text for name in bench.operations())
