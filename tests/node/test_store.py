from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node import store as module
from node.errors import LoosePermissions, StateDamaged, StorageFailed
from node.store import SEEDS_MAX, InvitationRow, PeerRow, PendingRow, Redeemed, Store, open_store

ADA, BOB = b"A" * 32, b"B" * 32
TOKEN = hashlib.sha256(b"token").digest()
PEER = PeerRow(
    machine_id=ADA,
    bundle=bytes(1248),
    name="ada",
    lookup_secret=bytes(16),
    endpoints=("192.0.2.1:51777", "[2001:db8::1]:51777"),
    allowed_ips=("fd5a:6571::/128",),
    ipv4="100.64.0.2",
    enabled=True,
    last_clock=7,
    added_at=100,
)
INVITATION = InvitationRow(TOKEN, "phone", created=100, expires=200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store.open(path)) as opened:
        yield opened


def test_peers_are_kept_changed_and_removed(store: Store) -> None:
    other = replace(PEER, machine_id=BOB, lookup_secret=None, ipv4=None, endpoints=(), added_at=50)
    store.put_peer(PEER)
    store.put_peer(other)
    assert store.peers() == [other, PEER]
    store.set_clock(ADA, 9)
    store.set_enabled(ADA, enabled=False)
    store.set_last_endpoint(ADA, "192.0.2.9:1")
    assert store.peer(ADA) == replace(PEER, last_clock=9, enabled=False, last_endpoint="192.0.2.9:1")
    store.put_peer(PEER)
    assert store.peer(ADA) == PEER
    assert store.remove_peer(ADA)
    assert not store.remove_peer(ADA)
    assert store.peer(ADA) is None
    assert store.peers() == [other]


def test_a_clock_may_go_back_and_may_be_absurd(store: Store) -> None:
    store.put_peer(PEER)
    store.set_clock(ADA, 3)
    assert [peer.last_clock for peer in store.peers()] == [3]
    store.set_clock(ADA, 2**64 - 1)
    assert [peer.last_clock for peer in store.peers()] == [2**63 - 1]


def test_everything_is_there_after_opening_again(path: Path) -> None:
    with closing(Store.open(path)) as store:
        store.put_peer(PEER)
        store.add_invitation(INVITATION)
        store.add_pending("zeq://x", 5)
        store.set_setting("lookup_secret", b"s" * 16)
    with closing(Store.open(path)) as store:
        assert store.peers() == [PEER]
        assert store.list_invitations() == [INVITATION]
        assert store.pending() == [PendingRow("zeq://x", 5)]
        assert store.setting("lookup_secret") == b"s" * 16
        assert store.setting("other") is None


def test_a_token_lets_one_machine_in_and_the_same_one_again(store: Store) -> None:
    store.add_invitation(INVITATION)
    first = store.redeem(TOKEN, ADA, 199)
    assert first.outcome is Redeemed.DONE
    assert first.invitation == INVITATION
    assert store.redeem(TOKEN, ADA, 9999).outcome is Redeemed.AGAIN
    assert store.redeem(TOKEN, BOB, 150).outcome is Redeemed.USED
    assert store.list_invitations() == [replace(INVITATION, used_by=ADA, used_at=199)]


def test_tokens_that_let_nobody_in_are_told_apart(store: Store) -> None:
    store.add_invitation(INVITATION)
    assert store.redeem(bytes(32), ADA, 150).outcome is Redeemed.UNKNOWN
    assert store.redeem(TOKEN, ADA, 200).outcome is Redeemed.EXPIRED
    assert store.revoke(TOKEN)
    assert not store.revoke(TOKEN)
    assert not store.revoke(bytes(32))
    refused = store.redeem(TOKEN, ADA, 150)
    assert refused.outcome is Redeemed.REVOKED
    assert not refused.admits


def test_a_removed_peer_does_not_come_back_by_its_old_token(store: Store) -> None:
    store.add_invitation(INVITATION)
    assert store.redeem(TOKEN, ADA, 150).admits
    store.put_peer(PEER)
    store.remove_peer(ADA)
    assert store.redeem(TOKEN, ADA, 151).outcome is Redeemed.REVOKED


machines = st.sampled_from([ADA, BOB])
steps = st.one_of(
    st.tuples(st.just("redeem"), machines, st.integers(190, 210)),
    st.tuples(st.just("revoke"), machines, st.just(0)),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(steps, max_size=12))
def test_no_order_of_events_lets_two_machines_in(sequence: list[tuple[str, bytes, int]]) -> None:
    admitted: set[bytes] = set()
    revoked = False
    with TemporaryDirectory() as directory, closing(Store.open(Path(directory) / "node.db")) as store:
        store.add_invitation(INVITATION)
        for what, machine, now in sequence:
            if what == "revoke":
                store.revoke(TOKEN)
                revoked = True
                continue
            admits = store.redeem(TOKEN, machine, now).admits
            expected = not revoked and (machine in admitted or (not admitted and now < INVITATION.expires))
            assert admits is expected
            admitted |= {machine} if admits else set()
    assert len(admitted) <= 1


def test_pending_joins(store: Store) -> None:
    store.add_pending("zeq://b", 2)
    store.add_pending("zeq://a", 1)
    store.set_pending_error("zeq://b", "no answer")
    assert store.pending() == [PendingRow("zeq://a", 1), PendingRow("zeq://b", 2, "no answer")]
    store.add_pending("zeq://b", 9)
    assert store.pending()[1] == PendingRow("zeq://b", 2)
    assert store.remove_pending("zeq://a")
    assert not store.remove_pending("zeq://a")


def test_seeds_are_remembered_newest_first_and_to_a_bound(store: Store) -> None:
    store.remember_seeds(["a:1", "b:1"], 1)
    store.remember_seeds(["c:1", "a:1"], 2)
    assert store.seeds() == ["a:1", "c:1", "b:1"]
    store.remember_seeds([f"d{number:03}:1" for number in range(SEEDS_MAX)], 3)
    assert store.seeds() == [f"d{number:03}:1" for number in range(SEEDS_MAX)]


def test_a_file_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    path.touch(0o600)
    with closing(sqlite3.connect(path)) as connection:
        for statement in module._MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
    with closing(Store.open(path)) as store:
        store.put_peer(PEER)
        store.remember_seeds(["a:1"], 1)
        assert (store.peers(), store.seeds()) == ([PEER], ["a:1"])


def test_a_setting_can_be_removed(store: Store) -> None:
    store.set_setting("x", b"1")
    store.remove_setting("x")
    store.remove_setting("x")
    assert store.setting("x") is None


def test_a_block_that_fails_changes_nothing(store: Store) -> None:
    store.put_peer(PEER)
    with pytest.raises(StorageFailed, match="cannot be used"):
        store.put_peer(replace(PEER, machine_id=BOB, name=None))  # type: ignore[arg-type]
    assert store.peers() == [PEER]
    store.put_peer(replace(PEER, machine_id=BOB))


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match=r"newer zeqnode \(format 99.*update zeqnode"):
        Store.open(path)
    assert path.read_bytes() == before


def test_scribble_and_torn_pages_are_refused(path: Path) -> None:
    path.write_bytes(b"this is no database" * 300)
    path.chmod(0o600)
    with pytest.raises(StateDamaged, match="backup"):
        Store.open(path)
    path.unlink()
    with closing(Store.open(path)) as store:
        for number in range(200):
            store.put_peer(replace(PEER, machine_id=number.to_bytes(32, "big")))
    content = bytearray(path.read_bytes())
    content[4096:40960] = bytes(36864)
    path.write_bytes(content)
    with pytest.raises(StateDamaged, match="backup"):
        Store.open(path)


def test_loose_permissions_and_a_directory_in_its_place_are_refused(path: Path) -> None:
    Store.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(LoosePermissions, match="chmod 600"):
        Store.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageFailed, match=r"node\.db"):
        Store.open(path)


def test_another_writer_is_waited_for_then_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.database._BUSY_SECONDS", 0.01)
    with closing(Store.open(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="another program"):
            store.put_peer(PEER)
        other.execute("ROLLBACK")
        store.put_peer(PEER)


def test_a_copy_taken_while_open_holds_what_was_acknowledged(
    path: Path, tmp_path: Path, store: Store
) -> None:
    store.put_peer(PEER)
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", tmp_path / f"copy.db{suffix}")
    with closing(Store.open(tmp_path / "copy.db")) as copy:
        assert copy.peers() == [PEER]


async def test_the_async_face_serves_many_tasks_one_at_a_time(path: Path) -> None:
    async with open_store(path) as store:
        await store.call(Store.add_invitation, INVITATION)
        outcomes: list[Redeemed] = []

        async def redeem(machine: bytes) -> None:
            outcomes.append((await store.call(Store.redeem, TOKEN, machine, 150)).outcome)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(redeem, bytes([number]) * 32)
    assert sorted(outcome.name for outcome in outcomes) == ["DONE"] + ["USED"] * 19


async def test_the_async_store_closes_when_its_task_is_cancelled(path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_store(path) as store:
            await store.call(Store.put_peer, PEER)
            scope.cancel()
            await trio.sleep_forever()
    assert not path.with_name("node.db-wal").exists()
    async with open_store(path) as store:
        assert await store.call(Store.peers) == [PEER]
