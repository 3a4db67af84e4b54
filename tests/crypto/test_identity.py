from __future__ import annotations

import hashlib
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import (
    BadFingerprint,
    BadKeys,
    BadSignature,
    KeyBundle,
    MachineKeys,
    fingerprint,
    parse_fingerprint,
    sign,
    slug,
    ula,
    verify,
)

SEEDS = bytes(range(128))
KEYS = MachineKeys.from_bytes(SEEDS)
LABEL = b"zeqnode test v1"

machine_ids = st.binary(min_size=32, max_size=32)


def test_every_name_of_fixed_seeds() -> None:
    bundle = KEYS.bundle
    assert len(bundle.to_bytes()) == 1248
    assert bundle.ed25519.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert bundle.x25519.hex() == "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254"
    assert (
        hashlib.sha256(bundle.ml_kem).hexdigest()
        == "9af96e00098351ae9c790abe15d80d96e294dbca80f99039d9320f3152e5cdbf"
    )
    assert KEYS.machine_id == hashlib.sha256(b"zeqnode machine v1" + bundle.to_bytes()).digest()
    assert KEYS.machine_id.hex() == "9b26290eb2559246f27d1575b20d9b3c27eda643f41e6ce006f4ff39f35f6fb9"
    assert slug(KEYS.machine_id) == "ZEQ07092068422"
    assert fingerprint(KEYS.machine_id) == (
        "tmtc-sdvs-kwje-n4t5-cv23-edm3-hqt6-3jsd-6qpg-zyag-6t7t-t427-n64q"
    )
    assert ula(KEYS.machine_id) == IPv6Address("fd5a:6571:9b26:290e:b255:9246:f27d:1575")


def test_a_signature_of_fixed_seeds() -> None:
    assert sign(KEYS, LABEL, b"payload").hex() == (
        "cc938b3f6f1c1f934e582d0e40acd69941065583ef1a9fca823d67e4d6ee61ac"
        "2d8c1fc476dea6c17ba7cd50f05b06f24d0d54aab343b411fc004aa16488b001"
    )


def test_the_three_keys_work_with_their_public_halves() -> None:
    other = MachineKeys.generate()
    shared, ciphertext = KEYS.bundle.ml_kem_key.encapsulate()
    assert (len(shared), len(ciphertext)) == (32, 1088)
    assert KEYS.ml_kem_key.decapsulate(ciphertext) == shared
    assert KEYS.x25519_key.exchange(other.bundle.x25519_key) == other.x25519_key.exchange(
        KEYS.bundle.x25519_key
    )


def test_keys_and_bundles_survive_their_bytes() -> None:
    assert MachineKeys.from_bytes(KEYS.to_bytes()).bundle == KEYS.bundle
    assert KeyBundle.from_bytes(KEYS.bundle.to_bytes()).machine_id == KEYS.machine_id


def test_entropy_is_the_only_source_of_new_keys() -> None:
    assert MachineKeys.generate(lambda size: SEEDS[:size]).to_bytes() == SEEDS
    assert MachineKeys.generate().to_bytes() != MachineKeys.generate().to_bytes()


@pytest.mark.parametrize("size", [0, 1247, 1249])
def test_a_bundle_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(BadKeys, match="1248"):
        KeyBundle.from_bytes(bytes(size))


def test_a_bundle_with_an_ml_kem_key_out_of_range_is_refused() -> None:
    raw = KEYS.bundle.to_bytes()
    with pytest.raises(BadKeys, match="not valid"):
        KeyBundle.from_bytes(raw[:64] + b"\xff" * 1184)


@pytest.mark.parametrize("size", [0, 127, 129])
def test_seeds_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(BadKeys, match="128"):
        MachineKeys.from_bytes(bytes(size))


def test_no_secret_is_shown() -> None:
    keys = MachineKeys.generate()
    shown = f"{keys!r} {keys} {[keys]}"
    assert slug(keys.machine_id) in shown
    seeds = keys.to_bytes()
    for part in (seeds[at : at + 32] for at in range(0, 128, 32)):
        assert part.hex() not in shown
        assert repr(part)[2:-1] not in shown


@given(machine_ids)
def test_fingerprints_round_trip_however_they_are_typed(machine_id: bytes) -> None:
    text = fingerprint(machine_id)
    assert len(text) == 64
    assert [len(group) for group in text.split("-")] == [4] * 13
    for typed in (
        text,
        text.upper(),
        text.replace("-", ""),
        f"  {text[:30]}\n{text[30:]} ",
        text.replace("-", " "),
    ):
        assert parse_fingerprint(typed) == machine_id


@pytest.mark.parametrize(
    "text", ["", "abcd", "a" * 51, "a" * 53, "1" + "a" * 51, "a" * 51 + "b", "é" + "a" * 51, "=" * 52]
)
def test_what_is_no_fingerprint_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(BadFingerprint, match="copy"):
        parse_fingerprint(text)


@given(machine_ids)
def test_slugs_and_addresses_have_their_form(machine_id: bytes) -> None:
    name = slug(machine_id)
    assert name.startswith("ZEQ07")
    assert len(name) == 14
    assert name[5:].isdigit()
    assert ula(machine_id) in IPv6Network("fd5a:6571::/32")
    assert ula(machine_id).packed[4:] == machine_id[:12]


@given(st.binary(max_size=64), st.integers(0, 63), st.integers(0, 7))
def test_a_signature_holds_for_its_label_payload_and_key_only(payload: bytes, at: int, bit: int) -> None:
    public = KEYS.bundle.ed25519
    signature = sign(KEYS, LABEL, payload)
    verify(public, LABEL, payload, signature)
    flipped = bytearray(signature)
    flipped[at] ^= 1 << bit
    stranger = MachineKeys.from_bytes(SEEDS[::-1]).bundle.ed25519
    for attempt in (
        (public, LABEL, payload, bytes(flipped)),
        (public, LABEL, payload, signature[:-1]),
        (public, LABEL, payload + b"\0", signature),
        (public, b"zeqnode test v2", payload, signature),
        (stranger, LABEL, payload, signature),
        (public[:-1], LABEL, payload, signature),
    ):
        with pytest.raises(BadSignature):
            verify(*attempt)


def test_label_and_payload_cannot_be_shifted_into_each_other() -> None:
    signature = sign(KEYS, b"ab", b"cd")
    with pytest.raises(BadSignature):
        verify(KEYS.bundle.ed25519, b"abc", b"d", signature)
