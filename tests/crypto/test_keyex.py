"""ZeqKeyEx over a published key: both have the same, pins hold, and what is wrong is refused."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto import keyex
from crypto.errors import HandshakeRefused
from crypto.identity import MachineKeys
from crypto.kem import RealPrimitives
from crypto.keyex import CONFIRMATION_BYTES, FingerprintMismatch, Published, Responder

MACHINE = MachineKeys.from_bytes(bytes(range(128)))
OTHER = MachineKeys.from_bytes(bytes(range(1, 129)))
SEED = bytes(range(64))
RESPONDER = Responder(MACHINE, SEED)
PUBLISHED = RESPONDER.published


def test_both_sides_have_the_same() -> None:
    ours, ciphertext = keyex.initiate(PUBLISHED, RealPrimitives())
    theirs = RESPONDER.respond(ciphertext)
    ours.confirm(theirs.confirmation)
    assert ours.record_key == theirs.record_key
    seed = ours.mode_b_seed(OTHER.machine_id, MACHINE.machine_id)
    assert seed == theirs.mode_b_seed(OTHER.machine_id, MACHINE.machine_id)
    assert keyex.commitment(seed) == keyex.commitment(
        theirs.mode_b_seed(OTHER.machine_id, MACHINE.machine_id)
    )
    assert seed != ours.mode_b_seed(MACHINE.machine_id, OTHER.machine_id)
    assert len({seed, ours.record_key, ours.prk}) == 3


def test_keys_are_made_as_drawn() -> None:
    """Written anew, with hashlib and hmac alone."""
    shared, ciphertext = MLKEM768PrivateKey.from_seed_bytes(SEED).public_key().encapsulate()
    transcript = hashlib.sha256(
        b"zeqnode keyex v1" + MACHINE.machine_id + PUBLISHED.public + ciphertext
    ).digest()
    prk = hmac.digest(transcript, shared, "sha256")

    def expand(label: bytes, context: bytes = b"") -> bytes:
        return hmac.digest(prk, bytes([len(label)]) + label + context + b"\x01", "sha256")

    agreed = RESPONDER.respond(ciphertext)
    assert agreed.record_key == expand(b"zeqnode keyex record v1")
    assert agreed.mode_b_seed(b"i" * 32, b"r" * 32) == expand(
        b"zeqnode keyex mode b v1", b"i" * 32 + b"r" * 32
    )
    box = AESGCM(expand(b"zeqnode keyex record v1"))
    assert box.decrypt(bytes(12), agreed.confirmation, b"zeqnode keyex confirmation v1") == transcript
    assert len(agreed.confirmation) == CONFIRMATION_BYTES
    commitment = hashlib.sha256(b"zeqnode seed commitment v1" + b"s" * 32).hexdigest()
    assert keyex.commitment(b"s" * 32) == commitment


def test_what_is_published_is_pinned_by_its_fingerprint_and_signed() -> None:
    assert PUBLISHED.fingerprint == hashlib.sha256(PUBLISHED.public).hexdigest()
    assert PUBLISHED.fingerprint == "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9"
    PUBLISHED.check(MACHINE.bundle, None)
    PUBLISHED.check(MACHINE.bundle, PUBLISHED.fingerprint)
    PUBLISHED.check(None, f" {PUBLISHED.fingerprint.upper()}\n")


def test_a_key_that_is_not_the_pinned_one_is_named() -> None:
    for wrong in ("", "0" * 64, PUBLISHED.fingerprint[:-1]):
        with pytest.raises(FingerprintMismatch, match=PUBLISHED.fingerprint) as mismatch:
            PUBLISHED.check(MACHINE.bundle, wrong)
        assert mismatch.value.fingerprint == PUBLISHED.fingerprint


def test_a_key_that_somebody_put_in_its_place_is_refused() -> None:
    theirs = Responder(OTHER, bytes(64)).published
    with pytest.raises(HandshakeRefused, match="another machine's"):
        theirs.check(MACHINE.bundle, None)
    with pytest.raises(HandshakeRefused, match="not signed"):
        Published(MACHINE.machine_id, theirs.public, theirs.signature).check(MACHINE.bundle, None)
    with pytest.raises(HandshakeRefused, match="not signed"):
        Published(MACHINE.machine_id, PUBLISHED.public, PUBLISHED.signature[:-1]).check(MACHINE.bundle, None)


@given(st.binary(max_size=64))
def test_what_is_no_confirmation_is_refused(data: bytes) -> None:
    ours, _ = keyex.initiate(PUBLISHED, RealPrimitives())
    with pytest.raises(HandshakeRefused):
        ours.confirm(data)


def test_the_confirmation_of_another_exchange_is_refused() -> None:
    one, _ = keyex.initiate(PUBLISHED, RealPrimitives())
    _, other = keyex.initiate(PUBLISHED, RealPrimitives())
    with pytest.raises(HandshakeRefused):
        one.confirm(RESPONDER.respond(other).confirmation)


@pytest.mark.parametrize("size", [0, 1, 1087, 1089, 2400])
def test_a_ciphertext_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(HandshakeRefused, match="1088 bytes"):
        RESPONDER.respond(bytes(size))


def test_a_forged_ciphertext_gives_keys_that_nobody_has() -> None:
    ours, ciphertext = keyex.initiate(PUBLISHED, RealPrimitives())
    forged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert RESPONDER.respond(forged).record_key != ours.record_key
    assert RESPONDER.respond(forged).record_key == RESPONDER.respond(forged).record_key


@pytest.mark.parametrize("public", [b"", bytes(1183), bytes(1185), b"\xff" * 1184])
def test_a_public_key_that_is_none_is_refused(public: bytes) -> None:
    with pytest.raises(HandshakeRefused):
        keyex.initiate(Published(MACHINE.machine_id, public, bytes(64)), RealPrimitives())
