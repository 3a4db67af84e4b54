"""The bench measures what the node really does: a whole handshake, and records that open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from itertools import product
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console

from crypto import handshake, kem, symmetric
from crypto.handshake import Answer, Initiator, Opening, Responder
from crypto.identity import KeyBundle
from crypto.kem import PrivateHybrid, RealPrimitives
from crypto.session import Session
from simulations.bench import crypto as bench
from simulations.bench import flood, operations


class CountedKeys:
    """Real keys that count what is asked of them."""

    def __init__(self, keys: PrivateHybrid, counts: dict[str, int]) -> None:
        self._keys = keys
        self._counts = counts
        self.x25519_public = keys.x25519_public
        self.kem_public = keys.kem_public

    def exchange(self, x25519_public: bytes) -> bytes:
        self._counts[operations.EXCHANGE] += 1
        return self._keys.exchange(x25519_public)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        self._counts[operations.DECAPSULATE] += 1
        return self._keys.decapsulate(ciphertext)


class CountedPrimitives(RealPrimitives):
    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def ephemeral(self) -> PrivateHybrid:
        return CountedKeys(super().ephemeral(), self._counts)

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        self._counts[operations.ENCAPSULATE] += 1
        return super().encapsulate(kem_public)


def _bundle(keys: PrivateHybrid) -> KeyBundle:
    return KeyBundle.from_bytes(bytes(32) + keys.x25519_public + keys.kem_public)


def test_the_table_of_the_handshakes_primitives_is_what_a_handshake_uses() -> None:
    counts = {operations.EXCHANGE: 0, operations.ENCAPSULATE: 0, operations.DECAPSULATE: 0}
    primitives = CountedPrimitives(counts)
    ours, theirs = primitives.ephemeral(), primitives.ephemeral()
    initiator = Initiator(ours, _bundle(ours), _bundle(theirs), primitives)
    responder = Responder(initiator.message1(Opening(1, 0)), theirs, _bundle(theirs))
    message2, _ = responder.message2(Answer(64), primitives)
    initiator.read_message2(message2)
    expected: Mapping[str, int] = operations.HANDSHAKE_PRIMITIVES
    assert counts == {name: expected[name] for name in counts}


def test_the_table_of_what_answering_takes_is_what_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys([*operations.ANSWERED_PRIMITIVES, operations.KEYGEN_X25519], 0)
    primitives = CountedPrimitives(counts)
    ours, theirs = primitives.ephemeral(), primitives.ephemeral()
    message1 = Initiator(ours, _bundle(ours), _bundle(theirs), primitives).message1(Opening(1, 0))
    callee = _bundle(theirs)
    Responder(message1, theirs, callee)  # so that what is worked out once is
    hashed, sealed = [], []

    def counted_hmac(key: bytes, data: bytes) -> bytes:
        counts[operations.HMAC] += 1
        return kem.hmac_sha256(key, data)

    class Hashlib:
        @staticmethod
        def sha256(data: bytes) -> Any:
            hashed.append(len(data) - operations.HASH_HEAD_BYTES)
            return sha256(data)

    class CountedAEAD:
        def __init__(self, key: bytes) -> None:
            self._real = AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            sealed.append(len(data))
            return self._real.encrypt(nonce, data, associated)

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            sealed.append(len(data) - 16)
            return self._real.decrypt(nonce, data, associated)

    monkeypatch.setattr(symmetric, "hmac_sha256", counted_hmac)
    monkeypatch.setattr(symmetric, "sha256", Hashlib.sha256)
    monkeypatch.setattr(symmetric, "AESGCM", CountedAEAD)
    monkeypatch.setattr(handshake, "expand", lambda key, *_: counted_hmac(key, b""))
    monkeypatch.setattr(handshake, "mesh_psk", lambda secret, *_: counted_hmac(secret, b""))
    counts.update(dict.fromkeys(counts, 0))
    Responder(message1, theirs, callee).message2(Answer(64), primitives)
    expected: Mapping[str, int] = operations.ANSWERED_PRIMITIVES
    counts |= {
        name: expected[name] for name in (operations.KEYGEN_X25519, operations.TRANSCRIPT, operations.FIELDS)
    }
    assert counts == expected
    assert tuple(hashed) == operations.HASHED_BYTES
    assert tuple(sealed) == operations.SEALED_BYTES


def test_more_calls_are_answered_than_parsed_keys_are_kept() -> None:
    assert operations.CALLS > kem.PARSED_KEYS
    first, second = operations.answering(), operations.answering()
    assert first()[1].transcript != first()[1].transcript != second()[1].transcript


def test_the_measured_handshake_ends_in_one_session_on_both_sides() -> None:
    ours, theirs = operations.handshake()()
    iv, ciphertext = Session(ours, 0).open_lane().seal(b"packet", 1)
    assert Session(theirs, 0).open(iv, ciphertext, 1) == b"packet"


def test_json_and_table_show_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    bench.bench(seconds=0.2, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in printed["operations"]] == list(operations.operations())
    assert all(row["per_second"] > 0 for row in printed["operations"])
    assert printed["handshake_over_primitives"] > 1
    assert 1 < printed["answered_over_primitives"] < printed["answered_over_key_primitives"]

    console = Console(record=True, width=100)
    bench.show(bench.measure(0.2), console)
    text = console.export_text()
    assert all(name in text for name in operations.operations())


def test_the_flooded_node_refuses_all_that_is_forged_and_for_the_reason_said() -> None:
    refused = flood.measure_flood(0.6)
    assert [(each.kind, each.joined) for each in refused] == list(product(flood.REFUSED, (False, True)))
    assert all(each.per_second > 1000 for each in refused)
