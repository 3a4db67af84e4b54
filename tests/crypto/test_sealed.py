"""Sealed boxes: vectors of a fixed one, who can open it, and what its receipt proves."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import KeyBundle, MachineKeys
from crypto.kem import HybridKey, PrivateHybrid, RealPrimitives
from crypto.sealed import OVERHEAD_BYTES, RECEIPT_BYTES, BoxRefused, seal, unseal
from tests.forgery import LOW_ORDER

VECTORS = json.loads((Path(__file__).parent / "vectors" / "sealed.json").read_text())
PLAINTEXT = b"what one machine says to another"
CONTEXT = bytes(range(16))
KEYS = MachineKeys.from_bytes(hashlib.shake_256(b"zeqnode sealed vectors: recipient").digest(128))
OTHER = MachineKeys.from_bytes(hashlib.shake_256(b"zeqnode sealed vectors: other").digest(128))
STATIC = HybridKey(KEYS.x25519_key, KEYS.ml_kem_key)
BOX, RECEIPT = seal(KEYS.bundle, CONTEXT, PLAINTEXT, RealPrimitives())


class Recorded:
    """An encapsulation that was made once: no seed can repeat it."""

    def ephemeral(self) -> PrivateHybrid:
        seed = hashlib.shake_256(b"zeqnode sealed vectors: e").digest(96)
        return HybridKey.from_seeds(seed[:32], seed[32:])

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        assert kem_public == KEYS.bundle.ml_kem
        return bytes.fromhex(VECTORS["shared"]), bytes.fromhex(VECTORS["ciphertext"])


def _hkdf(secret: bytes, label: bytes, context: bytes) -> bytes:
    block = bytes([len(label)]) + label + context + b"\x01"
    return hmac.new(secret, block, hashlib.sha256).digest()


# ------------------------------------------------------------------ the encoding


def test_a_box_of_fixed_inputs() -> None:
    box, receipt = seal(KEYS.bundle, CONTEXT, PLAINTEXT, Recorded())
    assert hashlib.sha256(box).hexdigest() == VECTORS["box_sha256"]
    assert box[1120:].hex() == VECTORS["sealed"]
    assert receipt.hex() == VECTORS["receipt"]
    assert unseal(STATIC, KEYS.machine_id, [CONTEXT], box) == (PLAINTEXT, receipt)


def test_a_box_is_made_as_drawn() -> None:
    """Once more, out of the standard library and what the module says."""
    e, ciphertext = Recorded().ephemeral(), bytes.fromhex(VECTORS["ciphertext"])
    shared = STATIC.decapsulate(ciphertext)
    assert shared.hex() == VECTORS["shared"]
    secrets = STATIC.exchange(e.x25519_public) + shared
    public = b"zeqnode sealed box v1" + KEYS.machine_id + e.x25519_public + ciphertext
    prk = hmac.new(hashlib.sha256(public).digest(), secrets, hashlib.sha256).digest()
    key = _hkdf(prk, b"zeqnode sealed key v1", CONTEXT)
    box = e.x25519_public + ciphertext + AESGCM(key).encrypt(bytes(12), PLAINTEXT, None)
    receipt = _hkdf(prk, b"zeqnode sealed receipt v1", CONTEXT)[:8]
    assert seal(KEYS.bundle, CONTEXT, PLAINTEXT, Recorded()) == (box, receipt)


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_what_is_sealed_comes_out(plaintext: bytes, context: bytes) -> None:
    box, receipt = seal(KEYS.bundle, context, plaintext, RealPrimitives())
    assert len(box) == OVERHEAD_BYTES + len(plaintext) == 1136 + len(plaintext)
    assert len(receipt) == RECEIPT_BYTES == 8
    assert unseal(STATIC, KEYS.machine_id, [context], box) == (plaintext, receipt)


def test_no_two_boxes_have_one_key() -> None:
    boxes = [seal(KEYS.bundle, CONTEXT, PLAINTEXT, RealPrimitives()) for _ in range(20)]
    assert len({box[:32] for box, _ in boxes}) == len({receipt for _, receipt in boxes}) == 20
    assert len({box[-16:] for box, _ in boxes}) == 20


# ------------------------------------------------------------------ who can open it


def test_any_of_several_contexts_opens_it() -> None:
    assert unseal(STATIC, KEYS.machine_id, [b"old", CONTEXT], BOX) == (PLAINTEXT, RECEIPT)


def test_nobody_else_opens_it() -> None:
    other = HybridKey(OTHER.x25519_key, OTHER.ml_kem_key)
    for static, machine_id in ((other, OTHER.machine_id), (other, KEYS.machine_id)):
        with pytest.raises(BoxRefused):
            unseal(static, machine_id, [CONTEXT], BOX)


@pytest.mark.parametrize("broken", ["X25519", "ML-KEM"])
def test_one_broken_key_is_not_enough(broken: str) -> None:
    """A quantum computer has the X25519 key, or a flaw in ML-KEM gives that one away: not both."""
    if broken == "X25519":
        static = HybridKey(KEYS.x25519_key, OTHER.ml_kem_key)
    else:
        static = HybridKey(OTHER.x25519_key, KEYS.ml_kem_key)
    with pytest.raises(BoxRefused):
        unseal(static, KEYS.machine_id, [CONTEXT], BOX)


def test_without_the_lookup_secret_a_box_does_not_open() -> None:
    """Who has the key bundle alone learns nothing from how its machine answers."""
    box, _ = seal(KEYS.bundle, b"a guess", PLAINTEXT, RealPrimitives())
    for contexts in ([CONTEXT], [], [b""]):
        with pytest.raises(BoxRefused):
            unseal(STATIC, KEYS.machine_id, contexts, box)


def test_a_machine_that_publishes_somebody_elses_keys_gets_no_box_opened() -> None:
    """The bundle of a thief: its own Ed25519 key, our X25519 and ML-KEM keys."""
    thief = KeyBundle.from_bytes(OTHER.bundle.ed25519 + KEYS.bundle.raw[32:])
    box, _ = seal(thief, CONTEXT, PLAINTEXT, RealPrimitives())
    with pytest.raises(BoxRefused):
        unseal(STATIC, KEYS.machine_id, [CONTEXT], box)


def test_the_receipt_is_another_for_another_context_and_box() -> None:
    _, receipt = seal(KEYS.bundle, CONTEXT, PLAINTEXT, Recorded())
    _, other = seal(KEYS.bundle, b"", PLAINTEXT, Recorded())
    assert len({receipt, other, RECEIPT}) == 3
    assert receipt not in BOX


# ------------------------------------------------------------------ what strangers send


@pytest.mark.parametrize("place", [*range(0, 32, 5), 31, 32, 700, 1119, *range(1120, len(BOX))])
def test_a_box_changed_anywhere_does_not_open(place: int) -> None:
    changed = BOX[:place] + bytes([BOX[place] ^ 1]) + BOX[place + 1 :]
    with pytest.raises(BoxRefused):
        unseal(STATIC, KEYS.machine_id, [CONTEXT], changed)


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_a_point_of_low_order_does_not_open(point: bytes) -> None:
    with pytest.raises(BoxRefused):
        unseal(STATIC, KEYS.machine_id, [CONTEXT], point + BOX[32:])


@pytest.mark.parametrize("size", [0, 1, 31, 32, 1119, 1120, 1135, len(BOX) - 1])
def test_a_box_cut_short_does_not_open(size: int) -> None:
    with pytest.raises(BoxRefused):
        unseal(STATIC, KEYS.machine_id, [CONTEXT], BOX[:size])


@given(st.binary(max_size=1300))
def test_arbitrary_bytes_are_no_box(data: bytes) -> None:
    for box in (data, data.ljust(OVERHEAD_BYTES + 1, b"\0")):
        with pytest.raises(BoxRefused):
            unseal(STATIC, KEYS.machine_id, [CONTEXT], box)
