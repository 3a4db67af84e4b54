from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from crypto.identity import KeyBundle
from crypto.vault_keys import FieldKey, KeyKind, Passphrase
from crypto.zid import parse_zid, read_claim
from node import files, identity_store
from node.errors import DiskFull, StateDamaged, Usage
from node.identity_store import VaultClosed
from node.vault import entries
from node.vault.book import Book
from node.vault.errors import NoSuchSecret, NotPermitted
from node.vault.owner import CLAIM_ZEQONDS
from node.vault.secrets import open_secrets, zeqond_now

ADA = entries.machine(b"a" * 32)
OLD, NEW = FieldKey("0f" * 32), FieldKey("1e" * 32)
OLD_ENV, NEW_ENV = {"ZEQ_FIELD_KEY": OLD.hex64}, {"ZEQ_FIELD_KEY": NEW.hex64}


@dataclass
class Clock:
    now: int = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def state(tmp_path: Path) -> Path:
    identity_store.create(tmp_path / "state", None)
    return tmp_path / "state"


@pytest.fixture
def bundle(state: Path) -> KeyBundle:
    return identity_store.load_public(state)


async def test_services_put_have_and_remove_secrets(state: Path) -> None:
    clock = Clock()
    async with open_secrets(state, {}, clock) as secrets:
        await secrets.put(
            "vpn.tunnel.1.key", b"exporter", permissions=[ADA], expires_zeqond=2000, by=secrets.owner
        )
        assert await secrets.get("vpn.tunnel.1.key", by=secrets.owner) == b"exporter"
        assert await secrets.get("vpn.tunnel.1.key", by=ADA) == b"exporter"
        info = next(info for info in await secrets.names() if info.purpose == "vpn.tunnel.1.key")
        assert (info.by, info.permissions, info.expires_zeqond) == (secrets.owner, (ADA,), 2000)
        with pytest.raises(NotPermitted):
            await secrets.remove("vpn.tunnel.1.key", by=ADA)
        await secrets.remove("vpn.tunnel.1.key", by=secrets.owner)
        await secrets.remove("vpn.tunnel.1.key", by=secrets.owner)
        with pytest.raises(NoSuchSecret):
            await secrets.get("vpn.tunnel.1.key", by=secrets.owner)
        assert [entry.outcome.value for entry in await secrets.audit(4)] == [
            "denied",
            "done",
            "missing",
            "missing",
        ]
        assert (await secrets.verify_audit()).entries == (await secrets.audit(99))[-1].number


async def test_the_owner_is_made_once_and_nobody_is_given_its_key(state: Path, bundle: KeyBundle) -> None:
    async with open_secrets(state, {}) as secrets:
        owner, machine = secrets.owner, secrets.machine
    async with open_secrets(state, {}) as secrets:
        assert (secrets.owner, secrets.machine) == (owner, machine)
        assert machine == entries.machine(bundle.machine_id)
        for by in (owner, ADA):
            with pytest.raises(NotPermitted):
                await secrets.get("owner.zid.seed", by=by)


async def test_owner_and_machine_sign_and_sign_again_in_time(state: Path, bundle: KeyBundle) -> None:
    clock = Clock()
    async with open_secrets(state, {}, clock) as secrets:
        first = await secrets.claim()
        said = read_claim(first, bundle, clock.now)
        assert (said.owner, said.expires) == (parse_zid(secrets.owner), clock.now + CLAIM_ZEQONDS)
        clock.now += CLAIM_ZEQONDS // 2
        assert await secrets.claim() == first
        clock.now += CLAIM_ZEQONDS // 4
        assert read_claim(await secrets.claim(), bundle, clock.now).expires == clock.now + CLAIM_ZEQONDS


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ({}, None, KeyKind.KEY_FILE),
        ({}, NEW, KeyKind.FIELD_KEY),
        (OLD_ENV, NEW, KeyKind.FIELD_KEY),
        (OLD_ENV, Passphrase("correct horse", 10), KeyKind.PASSPHRASE),
    ],
)  # fmt: skip
async def test_the_key_is_changed_while_the_node_runs(
    tmp_path: Path, old: dict[str, str], new: FieldKey | Passphrase | None, kind: KeyKind
) -> None:
    state = tmp_path / "new"
    keys = identity_store.create(state, identity_store.source_from(old))
    async with open_secrets(state, old) as secrets:
        owner = secrets.owner
        await secrets.put("a", b"one", by=ADA)
        shutil.copytree(state, tmp_path / "copy")
        assert await secrets.rotate(new) is kind
        assert await secrets.get("a", by=ADA) == b"one"
        await secrets.put("b", b"two", by=ADA)
        assert await secrets.rotate(FieldKey("2d" * 32)) is KeyKind.FIELD_KEY
    env = {"ZEQ_FIELD_KEY": "2d" * 32}
    if old == OLD_ENV:
        with pytest.raises(VaultClosed):
            identity_store.load(state, old)
    assert identity_store.load(state, env).machine_id == keys.machine_id
    async with open_secrets(state, env) as secrets:
        assert secrets.owner == owner
        assert [await secrets.get(name, by=ADA) for name in "ab"] == [b"one", b"two"]
        await secrets.verify_audit()
    assert sorted(path.name for path in state.iterdir()) == ["identity.pub", "identity.vault", "vault.db"]


async def test_an_old_copy_of_the_identity_does_not_read_what_came_later(tmp_path: Path) -> None:
    state = tmp_path / "state"
    identity_store.create(state, OLD)
    async with open_secrets(state, OLD_ENV) as secrets:
        old = (state / "identity.vault").read_bytes()
        await secrets.rotate(NEW)
        await secrets.put("a", b"later", by=ADA)
    files.write_atomic(state / "identity.vault", old)
    with pytest.raises(StateDamaged, match="not of one time"):
        async with open_secrets(state, OLD_ENV):
            pass


async def test_a_change_that_cannot_be_meant_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    identity_store.create(state, OLD)
    async with open_secrets(state, OLD_ENV) as secrets:
        before = await secrets.audit(99)
        with pytest.raises(Usage, match="has now"):
            await secrets.rotate(OLD)
        with pytest.raises(Usage, match="ZEQ_NEW_FIELD_KEY"):
            await secrets.rotate(None)
        assert await secrets.audit(99) == before


@pytest.mark.parametrize("file", [False, True])
async def test_a_full_disk_in_the_middle_of_a_change_leaves_the_old_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: bool
) -> None:
    state = tmp_path / "state"
    identity_store.create(state, None if file else OLD)
    env, new = ({}, None) if file else (OLD_ENV, NEW)

    def full(*_: object) -> None:
        raise DiskFull("no space")

    async with open_secrets(state, env) as secrets:
        await secrets.put("a", b"one", by=ADA)
        for module, name in (
            (identity_store, "save_vault"),
            (Book, "rekey"),
            (identity_store, "replace_vault"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, full)
                with pytest.raises(DiskFull):
                    await secrets.rotate(new)
            assert await secrets.get("a", by=ADA) == b"one"
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(state, tmp_path / "copy")
            async with open_secrets(tmp_path / "copy", env) as copy:
                assert await copy.get("a", by=ADA) == b"one"
                await copy.verify_audit()
        await secrets.rotate(new)
        assert await secrets.get("a", by=ADA) == b"one"


async def test_a_vault_without_its_identity_says_what_to_do(state: Path, tmp_path: Path) -> None:
    async with open_secrets(state, {}):
        pass
    identity_store.create(tmp_path / "other", None)
    shutil.copy(state / "vault.db", tmp_path / "other")
    with pytest.raises(StateDamaged, match=r"move vault\.db away"):
        async with open_secrets(tmp_path / "other", {}):
            pass


async def test_many_at_once_go_one_after_the_other(state: Path) -> None:
    async with open_secrets(state, {}) as secrets:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(partial(secrets.put, f"n{number}", b"x", by=ADA))
        assert len([info for info in await secrets.names() if info.by == ADA]) == 20
        verified = await secrets.verify_audit()
        assert verified.secrets == 21


def test_now_is_a_zeqond_of_our_days() -> None:
    assert 2_200_000_000 < zeqond_now() < 10_000_000_000
