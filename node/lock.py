"""One node to a state directory: a lock that the kernel gives back when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import Refused
from node.files import sentences


@contextmanager
def state_lock(state: Path) -> Iterator[None]:
    """Hold `<state>/lock` (flock, its content is our pid) for the block; Refused if another process does.

    The file stays when the lock is given up: removing it would let two processes lock two files of one name.
    """
    path = state / "lock"
    with sentences(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(handle, state)
        with sentences(path):
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


def _lock(handle: int, state: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
        raise Refused(
            f"another zeqnode (process {pid}) uses {state}; stop it first, or choose another state directory"
        ) from error
