from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.vault import Vault, key_kind
from crypto.vault_keys import (
    SCRYPT_COSTS,
    BadVaultKey,
    FieldKey,
    KeyFile,
    KeyKind,
    KeySource,
    NoSuchSecret,
    Passphrase,
    VaultDamaged,
    VaultTooNew,
    WrongVaultKey,
)

FIELD = FieldKey("0f" * 32)
PHRASE = Passphrase("correct horse", cost=10)
FILE = KeyFile(bytes(range(32)))
SOURCES: list[tuple[KeySource, KeyKind]] = [
    (FIELD, KeyKind.FIELD_KEY),
    (PHRASE, KeyKind.PASSPHRASE),
    (FILE, KeyKind.KEY_FILE),
]


def counting() -> Callable[[int], bytes]:
    """Entropy that a test can foresee: 00…, 01…, 02…"""
    calls = iter(range(256))
    return lambda size: bytes([next(calls)]) * size


def filled(source: KeySource = FILE) -> bytes:
    vault = Vault.create(source, counting())
    vault.put("machine.keys", b"secret one")
    vault.put("vpn.tunnel.1.key", b"secret two")
    return vault.to_bytes()


def resealed(data: bytes) -> bytes:
    """What somebody can make who changes a vault without its key: the plain hash fits again."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


@pytest.mark.parametrize(("source", "kind"), SOURCES)
def test_each_kind_of_key_opens_what_it_sealed(source: KeySource, kind: KeyKind) -> None:
    data = filled(source)
    assert key_kind(data) is kind
    vault = Vault.open(data, source)
    assert vault.names() == ["machine.keys", "vpn.tunnel.1.key"]
    assert vault.get("machine.keys") == b"secret one"
    assert vault.to_bytes() == data
    assert b"secret one" not in data


def test_the_bytes_of_a_vault_are_fixed() -> None:
    vault = Vault.create(FILE, counting())
    vault.put("a", b"b")
    assert vault.to_bytes().hex() == (
        "5a5343560103000000000000000000000000000000000000011cd238a3069847194eaf6a1160a9bd"
        "3a01610000001d0101010101010101010101011dc18814a9cb1dbfb0bc242b3f1d805f8130f57465"
        "1bc1db6f8a6bacff59be58dc8b68b0f5b242f32747e6506397e49d1e03e38a1cd49f9cb68ee6cab8"
        "56e37c273926fd42b5377121f89916bfbee36e14"
    )


def test_the_vault_key_of_each_kind_is_fixed() -> None:
    checks = {kind: filled(source)[25:41].hex() for source, kind in SOURCES}
    assert checks == {
        KeyKind.FIELD_KEY: "70530ad65f769301de1f8da2e67be0e6",
        KeyKind.PASSPHRASE: "5fcdb7ff3dc76f86b3a2205e139c7ef0",
        KeyKind.KEY_FILE: "1cd238a3069847194eaf6a1160a9bd3a",
    }


def test_the_key_check_follows_from_the_drawing() -> None:
    """The schedule once more, by hand, on the standard library alone."""
    salt = bytes(16)  # the first that `counting` gives
    secrets = {
        KeyKind.FIELD_KEY: b"\x0f" * 32,
        KeyKind.PASSPHRASE: hashlib.scrypt(b"correct horse", salt=salt, n=2**10, r=8, p=1, dklen=32),
        KeyKind.KEY_FILE: bytes(range(32)),
    }
    for source, kind in SOURCES:
        label = b"zeqnode vault v1" + bytes([kind, 10 if kind is KeyKind.PASSPHRASE else 0])
        extracted = hmac.digest(salt, secrets[kind], "sha256")
        vault_key = hmac.digest(extracted, label + b"\x01", "sha256")
        check = hmac.digest(vault_key, b"check" + b"\x01", "sha256")[:16]
        assert filled(source)[25:41] == check


def test_put_get_remove() -> None:
    vault = Vault.create(FILE)
    vault.put("name", b"old")
    vault.put("name", b"new")
    assert vault.get("name") == b"new"
    vault.remove("name")
    assert vault.names() == []
    for use in (vault.get, vault.remove):
        with pytest.raises(NoSuchSecret, match="name"):
            use("name")
    for name in ("", "x" * 256, "é" * 128):
        with pytest.raises(ValueError, match="1 to 255"):
            vault.put(name, b"")


@settings(deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), st.binary(max_size=200))
)
def test_any_secrets_round_trip(secrets: dict[str, bytes]) -> None:
    vault = Vault.create(FILE)
    for name, secret in secrets.items():
        vault.put(name, secret)
    again = Vault.open(vault.to_bytes(), FILE)
    assert {name: again.get(name) for name in again.names()} == secrets


@pytest.mark.parametrize(
    ("sealed_with", "wrong"),
    [
        (FIELD, FieldKey("0e" * 32)),
        (FIELD, FILE),
        (PHRASE, Passphrase("correct house")),
        (PHRASE, FIELD),
        (FILE, KeyFile(bytes(32))),
        (FILE, PHRASE),
    ],
)
def test_a_wrong_key_is_told_apart_from_damage(sealed_with: KeySource, wrong: KeySource) -> None:
    with pytest.raises(WrongVaultKey, match="give"):
        Vault.open(filled(sealed_with), wrong)


def test_every_flipped_byte_and_every_cut_is_damage() -> None:
    data = filled()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x40
        with pytest.raises(VaultDamaged, match="backup"):
            Vault.open(bytes(flipped), FILE)
        with pytest.raises(VaultDamaged):
            Vault.open(data[:at], FILE)
    with pytest.raises(VaultDamaged):
        Vault.open(data + b"\0", FILE)


def test_a_change_with_a_new_plain_hash_is_refused_too() -> None:
    data = filled()
    for at in range(len(data) - 32):
        flipped = bytearray(data)
        flipped[at] ^= 0x40
        with pytest.raises((VaultDamaged, WrongVaultKey, VaultTooNew)):
            Vault.open(resealed(bytes(flipped)), FILE)


def test_an_old_entry_cannot_be_put_into_a_newer_vault() -> None:
    old = filled()
    vault = Vault.open(old, FILE)
    vault.put("machine.keys", b"secret 001")
    new = vault.to_bytes()
    start = new.index(b"machine.keys")
    mixed = new[:start] + old[start : start + 60] + new[start + 60 :]
    assert mixed not in (new, old)
    with pytest.raises(VaultDamaged):
        Vault.open(resealed(mixed), FILE)


def test_a_newer_version_says_so() -> None:
    data = bytearray(filled())
    data[4] = 2
    with pytest.raises(VaultTooNew, match="update"):
        Vault.open(resealed(bytes(data)), FILE)


@pytest.mark.parametrize("cost", [0, SCRYPT_COSTS.start - 1, SCRYPT_COSTS.stop, 63, 255])
def test_a_forged_scrypt_cost_is_refused_before_any_memory_is_taken(cost: int) -> None:
    data = bytearray(filled(PHRASE))
    data[6] = cost
    with pytest.raises(VaultDamaged):
        Vault.open(resealed(bytes(data)), PHRASE)


def test_the_same_secret_twice_is_sealed_differently() -> None:
    vault = Vault.create(FILE)
    vault.put("name", b"secret")
    first = vault.to_bytes()
    vault.put("name", b"secret")
    assert vault.to_bytes() != first


def test_a_passphrase_is_the_same_however_its_letters_are_composed() -> None:
    assert Vault.open(filled(Passphrase("caf\u00e9", cost=10)), Passphrase("cafe\u0301")).names()


@pytest.mark.parametrize("text", ["", "0f" * 31, "0f" * 33, "0g" * 32, " " + "0f" * 31 + "0", "٣" * 64])
def test_a_field_key_is_64_hex_digits(text: str) -> None:
    with pytest.raises(BadVaultKey, match="64 hex digits"):
        FieldKey(text)


def test_other_keys_that_cannot_be() -> None:
    with pytest.raises(BadVaultKey, match="32 bytes"):
        KeyFile(b"short")
    with pytest.raises(BadVaultKey, match="empty"):
        Passphrase("")
    with pytest.raises(ValueError, match="range"):
        Passphrase("text", cost=40)


def test_nothing_secret_is_shown() -> None:
    vault = Vault.open(filled(), FILE)
    shown = f"{FIELD!r} {PHRASE!r} {FILE!r} {vault!r}"
    for secret in ("0f0f", "horse", "\\x01", "secret one"):
        assert secret not in shown


@pytest.mark.parametrize(("source", "kind"), SOURCES)
def test_a_vault_is_resealed_under_any_other_key(source: KeySource, kind: KeyKind) -> None:
    old = Vault.open(filled(FieldKey("aa" * 32)), FieldKey("aa" * 32))
    new = old.resealed(source)
    assert new.kind is kind
    again = Vault.open(new.to_bytes(), source)
    assert {name: again.get(name) for name in again.names()} == {
        "machine.keys": b"secret one",
        "vpn.tunnel.1.key": b"secret two",
    }
    assert old.get("machine.keys") == b"secret one"
    with pytest.raises(WrongVaultKey):
        Vault.open(new.to_bytes(), FieldKey("aa" * 32))


def test_resealing_takes_a_new_salt_also_for_the_same_key() -> None:
    old = Vault.open(filled(FIELD), FIELD)
    assert old.resealed(FIELD).to_bytes()[7:23] != old.to_bytes()[7:23]
