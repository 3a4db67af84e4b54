"""Errors that end at a person: each is one sentence that says what to do next, with an exit code.

    0 done   1 failed   2 usage   3 node not running   4 peer unreachable   5 refused

Whoever prints one prints `str(error)` and leaves with `error.exit_code`; no traceback, because nothing in
our program is wrong.
"""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Something failed, and the sentence says what the person can do about it."""

    exit_code: ClassVar[int] = 1


class Usage(UserError):
    """The command or a file given to it cannot be meant as it stands."""

    exit_code = 2


class NotRunning(UserError):
    """The command needs a running node, and none answers."""

    exit_code = 3


class Unreachable(UserError):
    """The other machine gives no answer."""

    exit_code = 4


class Refused(UserError):
    """The other machine, or this one's own rules, said no."""

    exit_code = 5


class StorageFailed(UserError):
    """A file could not be read or written; what stood there before stands unchanged."""


class DiskFull(StorageFailed):
    """No space or no quota is left."""


class NotWritable(StorageFailed):
    """Permissions or a read-only file system forbid it."""


class AlreadyExists(StorageFailed):
    """A file that must not be overwritten is there."""


class LoosePermissions(StorageFailed):
    """Others could read or change a secret file."""


class StateDamaged(StorageFailed):
    """A file's content is not what we wrote."""
