from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from crypto.vault import key_kind
from crypto.vault_keys import FieldKey, KeyKind, KeySource, Passphrase
from node import identity_store
from node.errors import AlreadyExists, LoosePermissions, StateDamaged, StorageFailed, Usage
from node.identity_store import VaultClosed

FIELD_ENV = {"ZEQ_FIELD_KEY": "ab" * 32}
PHRASE_ENV = {"ZEQ_PASSPHRASE": "correct horse"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("source", "env", "kind", "names"),
    [
        (None, {}, KeyKind.KEY_FILE, ["identity.pub", "identity.vault", "vault.key"]),
        (FieldKey("ab" * 32), FIELD_ENV, KeyKind.FIELD_KEY, ["identity.pub", "identity.vault"]),
        (Passphrase("correct horse", 10), PHRASE_ENV, KeyKind.PASSPHRASE, ["identity.pub", "identity.vault"]),
    ],
)
def test_create_and_load_with_each_kind_of_key(
    state: Path, source: KeySource | None, env: Mapping[str, str], kind: KeyKind, names: list[str]
) -> None:
    assert not identity_store.exists(state)
    keys = identity_store.create(state, source)
    assert identity_store.exists(state)
    assert identity_store.load(state, env).to_bytes() == keys.to_bytes()
    assert identity_store.load_public(state) == keys.bundle
    assert key_kind((state / "identity.vault").read_bytes()) is kind
    assert sorted(path.name for path in state.iterdir()) == names
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()}
    assert modes.pop("identity.pub") == 0o644
    assert set(modes.values()) == {0o600}
    assert state.stat().st_mode & 0o777 == 0o700


def test_no_secret_lies_open_in_any_file(state: Path) -> None:
    secret = identity_store.create(state, None).to_bytes()
    for path in state.iterdir():
        content = path.read_bytes()
        assert all(secret[at : at + 32] not in content for at in range(0, 128, 32))


def test_an_identity_is_never_written_over(state: Path) -> None:
    keys = identity_store.create(state, None)
    with pytest.raises(AlreadyExists, match="identity already"):
        identity_store.create(state, None)
    assert identity_store.load(state, {}).to_bytes() == keys.to_bytes()


def test_the_environment_names_the_key_for_a_new_identity() -> None:
    assert identity_store.source_from({}) is None
    assert identity_store.source_from(FIELD_ENV | PHRASE_ENV) == FieldKey("ab" * 32)
    assert identity_store.source_from(PHRASE_ENV) == Passphrase("correct horse")
    with pytest.raises(Usage, match="64 hex digits"):
        identity_store.source_from({"ZEQ_FIELD_KEY": "short"})


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({}, "set ZEQ_FIELD_KEY"),
        (PHRASE_ENV, "set ZEQ_FIELD_KEY"),
        ({"ZEQ_FIELD_KEY": "ac" * 32}, "is not the one of this vault"),
    ],
)
def test_a_missing_or_wrong_field_key_is_a_sentence(
    state: Path, env: Mapping[str, str], sentence: str
) -> None:
    identity_store.create(state, FieldKey("ab" * 32))
    with pytest.raises(VaultClosed, match=sentence) as closed:
        identity_store.load(state, env)
    assert str(state) in str(closed.value)
    assert closed.value.exit_code == 1


def test_a_foreign_short_or_missing_key_file_is_a_sentence(state: Path) -> None:
    identity_store.create(state, None)
    key_file = state / "vault.key"
    key_file.write_bytes(bytes(32))
    with pytest.raises(VaultClosed, match="is not the one"):
        identity_store.load(state, {})
    key_file.write_bytes(b"short")
    with pytest.raises(StateDamaged, match=r"vault\.key is damaged"):
        identity_store.load(state, {})
    key_file.unlink()
    with pytest.raises(StorageFailed, match=r"vault\.key is missing"):
        identity_store.load(state, {})


@pytest.mark.parametrize("name", ["identity.vault", "vault.key"])
def test_loose_permissions_are_refused(state: Path, name: str) -> None:
    identity_store.create(state, None)
    (state / name).chmod(0o640)
    with pytest.raises(LoosePermissions, match=rf"chmod 600 .*{name}"):
        identity_store.load(state, {})


def test_a_damaged_vault_is_a_sentence_that_names_the_file(state: Path) -> None:
    identity_store.create(state, None)
    vault = state / "identity.vault"
    vault.write_bytes(vault.read_bytes()[:-1])
    with pytest.raises(StateDamaged, match=r"backup.*identity\.vault"):
        identity_store.load(state, {})


def test_the_public_file_is_mended_from_the_vault(state: Path) -> None:
    keys = identity_store.create(state, None)
    public = state / "identity.pub"
    public.write_bytes(b"scribble")
    with pytest.raises(StateDamaged, match="writes it anew"):
        identity_store.load_public(state)
    identity_store.load(state, {})
    assert identity_store.load_public(state) == keys.bundle
    public.unlink()
    identity_store.load(state, {})
    assert identity_store.load_public(state) == keys.bundle


def test_what_a_crash_in_creation_left_is_used_or_replaced(state: Path) -> None:
    identity_store.create(state, None)
    key = (state / "vault.key").read_bytes()
    (state / "identity.vault").unlink()
    (state / ".identity.vault.01234567.zeq-new").write_bytes(b"half")
    assert not identity_store.exists(state)
    keys = identity_store.create(state, None)
    assert (state / "vault.key").read_bytes() == key
    assert identity_store.load(state, {}).to_bytes() == keys.to_bytes()
    assert sorted(path.name for path in state.iterdir()) == ["identity.pub", "identity.vault", "vault.key"]


def test_a_vault_keeps_other_secrets_beside_the_identity(state: Path) -> None:
    keys = identity_store.create(state, None)
    vault = identity_store.open_vault(state, {})
    vault.put("vpn.tunnel.1.key", b"parked")
    identity_store.save_vault(state, vault)
    again = identity_store.open_vault(state, {})
    assert again.get("vpn.tunnel.1.key") == b"parked"
    assert identity_store.keys_in(again).to_bytes() == keys.to_bytes()


def test_a_new_identity_comes_from_the_entropy_given(tmp_path: Path) -> None:
    def counting() -> Callable[[int], bytes]:
        calls = iter(range(256))
        return lambda size: bytes([next(calls)]) * size

    made = [identity_store.create(tmp_path / name, None, counting()) for name in ("one", "two")]
    assert made[0].to_bytes() == made[1].to_bytes()
    files = [(tmp_path / name / "identity.vault").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize("placed", [False, True])
def test_a_change_of_the_key_file_that_was_cut_short_is_ended(state: Path, placed: bool) -> None:
    keys = identity_store.create(state, None)
    old = (state / "vault.key").read_bytes()
    vault = identity_store.open_vault(state, {}).resealed(identity_store.next_key_file(state))
    new = (state / "vault.key.next").read_bytes()
    if placed:
        identity_store.save_vault(state, vault)
    assert identity_store.load(state, {}).to_bytes() == keys.to_bytes()
    assert (state / "vault.key").read_bytes() == (new if placed else old)
    assert sorted(path.name for path in state.iterdir()) == ["identity.pub", "identity.vault", "vault.key"]


def test_two_foreign_key_files_open_nothing_and_stay(state: Path) -> None:
    identity_store.create(state, None)
    (state / "vault.key").write_bytes(bytes(32))
    identity_store.next_key_file(state)
    with pytest.raises(VaultClosed, match="is not the one"):
        identity_store.load(state, {})
    assert (state / "vault.key.next").exists()


def test_a_key_file_goes_when_another_kind_of_key_takes_its_place(state: Path) -> None:
    keys = identity_store.create(state, None)
    vault = identity_store.open_vault(state, {})
    assert not identity_store.opens(vault, FieldKey("ab" * 32))
    identity_store.replace_vault(state, vault.resealed(FieldKey("ab" * 32)))
    vault = identity_store.open_vault(state, FIELD_ENV)
    assert identity_store.opens(vault, FieldKey("ab" * 32))
    assert identity_store.keys_in(vault).to_bytes() == keys.to_bytes()
    assert sorted(path.name for path in state.iterdir()) == ["identity.pub", "identity.vault"]
