from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from node import files
from node.errors import AlreadyExists, DiskFull, LoosePermissions, NotWritable, Refused, StorageFailed
from node.lock import state_lock


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two" * 100_000)
    assert path.read_bytes() == b"two" * 100_000
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_create_exclusive_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.create_exclusive(path, b"one")
    with pytest.raises(AlreadyExists, match="not overwritten"):
        files.create_exclusive(path, b"two")
    assert path.read_bytes() == b"one"
    assert mode_of(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(StorageFailed, match="cannot be used"):
        files.write_atomic(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StorageFailed, match="missing"):
        files.write_atomic(tmp_path / "nowhere" / "file", b"new")


def test_leftovers_of_a_crash_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".file.0123abcd.zeq-new", "file", ".hidden", "other.zeq-new"):
        (tmp_path / name).write_bytes(b"")
    files.clean_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "file", "other.zeq-new"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o660, 0o644])
def test_a_secret_that_others_may_touch_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my secret"
    files.write_atomic(path, b"secret")
    path.chmod(mode)
    for read in (files.read_private, files.make_private_file):
        with pytest.raises(LoosePermissions, match=r"run: chmod 600 '.*my secret'$"):
            read(path)
    path.chmod(0o400)
    assert files.read_private(path) == b"secret"


def test_directories_and_files_are_made_private_and_left_alone_later(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    files.make_private_directory(deep)
    assert (mode_of(tmp_path / "a"), mode_of(deep)) == (0o700, 0o700)
    deep.chmod(0o755)
    files.make_private_directory(deep)
    assert mode_of(deep) == 0o755
    files.make_private_file(deep / "file")
    (deep / "file").write_bytes(b"kept")
    files.make_private_file(deep / "file")
    assert (deep / "file").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, DiskFull, "free some"),
        (errno.EDQUOT, DiskFull, "free some"),
        (errno.EROFS, NotWritable, "read-only"),
        (errno.EACCES, NotWritable, "owner"),
        (errno.EPERM, NotWritable, "owner"),
        (errno.EIO, StorageFailed, "disk"),
    ],
)
def test_each_error_of_the_system_has_its_sentence(
    number: int, kind: type[StorageFailed], advice: str
) -> None:
    error = files.storage_error(OSError(number, os.strerror(number)), Path("/state/file"))
    assert type(error) is kind
    assert "/state/file" in str(error)
    assert advice in str(error)
    assert error.exit_code == 1


def test_a_second_lock_names_the_holder_and_the_first_gives_it_back(tmp_path: Path) -> None:
    with state_lock(tmp_path):
        with (
            pytest.raises(Refused, match=rf"process {os.getpid()}\).*stop it first") as refused,
            state_lock(tmp_path),
        ):
            pass
        assert refused.value.exit_code == 5
    with state_lock(tmp_path):
        assert mode_of(tmp_path / "lock") == 0o600


def test_a_lock_without_a_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="missing"), state_lock(tmp_path / "nowhere"):
        pass
