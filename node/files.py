"""Files that survive `kill -9` and power loss: whole and old, or whole and new, never in between.

    write    .name.XXXXXXXX.zeq-new   (created O_EXCL with the final mode)
    fsync    the file                 from here on the bytes are on the disk
    rename   over `name`              (or link, where nothing may be overwritten)
    fsync    the directory            from here on the name is, too; only now the caller goes on

A crash leaves at most a `.zeq-new` file, which `clean_leftovers` removes at the next start.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from node.errors import AlreadyExists, DiskFull, LoosePermissions, NotWritable, StorageFailed

_NEW_SUFFIX: Final = ".zeq-new"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, over what is there; raises StorageFailed, and then the old content stands."""
    _place(path, data, mode, os.replace)


def create_exclusive(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, where nothing may be yet: raises AlreadyExists, or another StorageFailed."""
    _place(path, data, mode, os.link)


def replace(path: Path, target: Path) -> None:
    """Give a file the name `target`, over what is there, durably; both are in one directory."""
    with sentences(target):
        path.replace(target)
        _sync_directory(target.parent)


def remove(path: Path) -> None:
    """Remove a file durably; one that is not there is removed already."""
    with sentences(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """Content of a secret file; raises LoosePermissions where group or others have any right to it."""
    with sentences(path), path.open("rb") as file:
        check_private(path, os.fstat(file.fileno()).st_mode)
        return file.read()


def check_private(path: Path, mode: int) -> None:
    """Raise LoosePermissions unless `mode` gives rights to the owner only."""
    if mode & _OTHERS:
        raise LoosePermissions(
            f"{path} holds secrets and others on this machine may open it (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod 600 {shlex.quote(str(path))}"
        )


def make_private_directory(path: Path) -> None:
    """Make `path` (0700) and what is missing above it, durably; one that is there stays as it is."""
    with sentences(path):
        missing = [place for place in (path, *path.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(place.parent)


def make_private_file(path: Path) -> None:
    """See that there is a file at `path`, empty and 0600 if new; raises LoosePermissions, StorageFailed."""
    with sentences(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            check_private(path, os.fstat(handle).st_mode)
        finally:
            os.close(handle)
        _sync_directory(path.parent)


def clean_leftovers(directory: Path) -> None:
    """Remove what writes that a crash cut short have left; nobody may be writing there meanwhile."""
    with sentences(directory):
        for path in directory.glob(f".*{_NEW_SUFFIX}"):
            path.unlink(missing_ok=True)


def storage_error(error: OSError, path: Path) -> StorageFailed:
    """The sentence for what the operating system said about `path`."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return DiskFull(f"no space is left for {path}; free some and try again, nothing was changed")
        case errno.EROFS:
            return NotWritable(f"{path} is on a read-only file system; remount it, or use another directory")
        case errno.EACCES | errno.EPERM:
            return NotWritable(f"this user may not use {path}; run as its owner, or change its permissions")
        case errno.EEXIST:
            return AlreadyExists(f"{path} is there already and is not overwritten; move it away first")
        case errno.ENOENT:
            return StorageFailed(f"{path} is missing; restore it, or begin anew with: zeqnode init")
        case _:
            return StorageFailed(
                f"{path} cannot be used: {error.strerror}; look after the disk and try again"
            )


def _place(path: Path, data: bytes, mode: int, into_place: Callable[[Path, Path], None]) -> None:
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_NEW_SUFFIX}")
    with sentences(path):
        try:
            _write_synced(new, data, mode)
            into_place(new, path)
        finally:
            # Gone already after a rename; a hard link's second name, or a half-written file, otherwise.
            with suppress(FileNotFoundError):
                new.unlink()
        _sync_directory(path.parent)


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Turn every OSError inside into the StorageFailed that tells a person about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error
