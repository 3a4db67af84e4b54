"""The file that says which network settings to undo, written before each change.

    {"format": 1, "boot": boot id, "device": "zeq0", "index": 7,
     "changes": [["mtu", "1500"], ["up", ""], ["address", "198.18.0.1/16"], ["route", "10.1.0.0/16"],
                 ["guests", "zeqnode_zeq0"]]}

A TUN that dies with its process takes all of this along, and its index is never given again, so leftovers
are undone only on the same interface of the same boot: a persistent TUN. What does outlive it is the filter
for guests, the table of that name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tun.errors import JournalError

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """The file that says what to undo. Blocking; every `add` is on the disk when it returns.

    Raises JournalError.
    """

    def __init__(self, path: Path, device: str, index: int) -> None:
        self._path = path
        self.device = device
        self.index = index
        self.changes: list[tuple[str, str]] = []

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal at `path`; None when there is none or the machine was restarted since."""
        try:
            stored = json.loads(path.read_bytes())
            if stored["format"] != 1:
                raise ValueError("unknown format")
            journal = cls(path, stored["device"], stored["index"])
            journal.changes = [(kind, value) for kind, value in stored["changes"]]
            return journal if stored["boot"] == _boot_id() else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise JournalError(
                f"{path}, which says what network settings to undo, cannot be read ({error}):"
                " look at `ip address` and `ip route` for leftovers of zeqnode, then remove the file."
            ) from error

    def add(self, kind: str, value: str) -> None:
        self.changes.append((kind, value))
        try:
            self._write()
        except JournalError:
            self.changes.pop()
            raise

    def drop(self, kind: str, value: str) -> None:
        """Strikes a change out. Never raises: undoing what is not there is harmless."""
        self.changes.remove((kind, value))
        with suppress(JournalError):
            self._write()

    def _write(self) -> None:
        content = {
            "format": 1,
            "boot": _boot_id(),
            "device": self.device,
            "index": self.index,
            "changes": self.changes,
        }
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            with open(fresh, "wb", opener=_private) as file:
                file.write(json.dumps(content).encode())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise JournalError(
                f"{self._path} cannot be written ({error.strerror}), so nothing was changed on the network:"
                " free space there or give zeqnode the right to write."
            ) from error


@contextmanager
def journaled(journal: Journal, kind: str, value: str) -> Iterator[None]:
    """Writes down how to undo the change in its body, before it; strikes it out when the body fails."""
    journal.add(kind, value)
    try:
        yield
    except BaseException:
        journal.drop(kind, value)
        raise


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
