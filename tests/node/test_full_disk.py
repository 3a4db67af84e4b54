"""A full and a read-only disk, for real: a tmpfs of 1 MiB in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from node import files, identity_store
from node.errors import DiskFull, NotWritable, StorageFailed
from node.lock import state_lock
from node.store import InvitationRow, PeerRow, Redeemed, Store

ROOT = Path(__file__).resolve().parents[2]
PEER = PeerRow(b"A" * 32, bytes(1248), "ada", bytes(16), (), (), None, True, 0, 0)
TOKEN = b"T" * 32
NAMESPACE = (
    ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")
)


def namespace_works() -> bool:
    try:
        mount = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all space but `leave` bytes; returns the file that took it."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    with ballast.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_bsize - leave))
    return ballast


def names(state: Path) -> list[str]:
    return sorted(path.name for path in state.iterdir())


def creation(disk: Path) -> None:
    """Where space is too little, nothing or a key without a vault is left; with more, it comes through."""
    state = disk / "state"
    files.make_private_directory(state)
    for pages in range(20):
        ballast = fill(disk, leave=4096 * pages)
        try:
            keys = identity_store.create(state, None)
        except DiskFull:
            assert not identity_store.exists(state)
            assert set(names(state)) <= {"vault.key", "identity.pub"}
            ballast.unlink()
            continue
        assert pages > 0
        assert identity_store.load(state, {}).to_bytes() == keys.to_bytes()
        return
    raise AssertionError("it never came through")


def changes(disk: Path) -> None:
    """An identity and its vault on a disk that is full: readable, and as it was after each failure."""
    keys = identity_store.create(disk / "state", None)
    vault = identity_store.open_vault(disk / "state", {})
    before = (disk / "state" / "identity.vault").read_bytes()
    ballast = fill(disk)
    vault.put("name", bytes(10_000))
    for _ in range(3):
        with pytest.raises(DiskFull, match="free some"):
            identity_store.save_vault(disk / "state", vault)
        assert (disk / "state" / "identity.vault").read_bytes() == before
        assert names(disk / "state") == ["identity.pub", "identity.vault", "vault.key"]
    assert identity_store.load(disk / "state", {}).to_bytes() == keys.to_bytes()
    ballast.unlink()
    identity_store.save_vault(disk / "state", vault)
    assert identity_store.open_vault(disk / "state", {}).get("name") == bytes(10_000)


def database(disk: Path) -> None:
    """Writes until the disk is full: all that came back are there, at once and after opening again."""
    path = disk / "node.db"
    with closing(Store.open(path)) as store:
        store.add_invitation(InvitationRow(TOKEN, "phone", 0, 100))
        store.put_peer(PEER)
        ballast = fill(disk, leave=200_000)
        kept = [PEER]
        with suppress(DiskFull):
            while True:
                peer = replace(PEER, machine_id=len(kept).to_bytes(32, "big"), added_at=len(kept))
                store.put_peer(peer)
                kept.append(peer)
        assert len(kept) > 10
        assert store.peers() == kept
        with pytest.raises(DiskFull, match="free some"):
            store.put_peer(replace(PEER, machine_id=b"Z" * 32, bundle=bytes(50_000)))
        assert store.peers() == kept
    with pytest.raises(StorageFailed, match=r"free some|disk is not full"):
        Store.open(disk / "another.db")
    ballast.unlink()
    with closing(Store.open(path)) as store:
        assert store.peers() == kept
        assert store.redeem(TOKEN, b"B" * 32, 1).outcome is Redeemed.DONE


def read_only(disk: Path) -> None:
    """A disk that went read-only: what can be read is read, the rest is a sentence."""
    state = disk / "state"
    keys = identity_store.create(state, None)
    Store.open(state / "node.db").close()
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
    assert identity_store.load(state, {}).to_bytes() == keys.to_bytes()
    with pytest.raises(NotWritable, match="read-only"):
        identity_store.save_vault(state, identity_store.open_vault(state, {}))
    with pytest.raises(NotWritable, match="read-only"):
        identity_store.create(disk / "other", None)
    with pytest.raises(NotWritable, match="read-only"):
        Store.open(state / "node.db")
    with pytest.raises(NotWritable, match="read-only"), state_lock(state):
        pass


SCENARIOS = {"creation": creation, "changes": changes, "database": database, "read_only": read_only}


@pytest.mark.skipif(
    not namespace_works(), reason="needs root or unprivileged user namespaces, to mount a tmpfs"
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_on_a_small_disk(scenario: str, tmp_path: Path) -> None:
    shell = 'mount -t tmpfs -o size=1m,mode=0700 tmpfs "$1" && exec "$2" -W error "$3" "$4" "$1"'
    here = (str(tmp_path), sys.executable, str(Path(__file__)), scenario)
    command = [*NAMESPACE, "sh", "-c", shell, "sh", *here]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
