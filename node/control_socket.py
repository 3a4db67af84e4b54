"""The Unix sockets under node/control.py: made, found, limited, and who is at the other end."""

from __future__ import annotations

import contextlib
import grp
import os
import shlex
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from node.config import SYSTEM_STATE
from node.errors import NotRunning, Refused, StorageFailed, Usage, UserError
from node.files import storage_error

GROUP: Final = "zeqnode"

_BACKLOG: Final = 128
_PATH_BYTES_MAX: Final = 107  # sun_path in unix(7), less its final zero byte
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; the socket module has no name for it
_GROUPS_BYTES: Final = 1024  # the most that Python's getsockopt fetches: 256 groups


class Lines:
    """Lines of a stream; `limit` bytes at most, where there is one, in all that has come at once."""

    def __init__(self, stream: trio.SocketStream, limit: int | None) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """The next line, or None at the end; an unfinished last line counts for nothing. Raises Usage."""
        while (end := self._buffer.find(b"\n")) < 0 and not self._too_long():
            try:
                more = await self._stream.receive_some(16384)
            except trio.BrokenResourceError:
                return None
            if not more:
                return None
            self._buffer += more
        if self._too_long():
            raise Usage(f"a request has at most {self._limit} bytes; this one is longer")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _too_long(self) -> bool:
        return self._limit is not None and len(self._buffer) > self._limit


def listen(path: Path) -> socket.socket:
    """The listening socket, 0600, or 0660 where the group zeqnode is there; raises StorageFailed.

    A socket that a dead node left at `path` is replaced.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        # unix(7) gives the file the mode of the socket, less the umask: it is never open to others.
        os.fchmod(server.fileno(), 0o600)
        with _short(path) as name:
            server.bind(name)
        server.listen(_BACKLOG)
        if (group := group_id()) is not None:
            with contextlib.suppress(PermissionError):  # not in the group ourselves: then root and we only
                os.chown(path, -1, group)
                path.chmod(0o660)
                _let_through(path.parent, group)
    except OSError as error:
        server.close()
        raise storage_error(error, path) from error
    except BaseException:
        server.close()
        raise
    return server


def _let_through(directory: Path, group: int) -> None:
    """The group may pass a state directory that was only ours, not list it; what is secret in it is 0600."""
    if stat.S_IMODE(directory.stat().st_mode) == 0o700:
        os.chown(directory, -1, group)
        directory.chmod(0o710)


def remove(path: Path) -> None:
    """Take the socket's file away, if it is still there."""
    with contextlib.suppress(OSError):  # gone already, or its whole directory
        path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StorageFailed(f"{path} is no socket and stands where the node's must be; move it away")
    path.unlink()


async def connect(path: Path) -> trio.socket.SocketType:
    """A connection to the node; raises NotRunning, Refused if this user may not have one, StorageFailed."""
    client = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            await client.connect(name)
    except OSError as error:
        client.close()
        raise _no_connection(path, error) from error
    except trio.Cancelled:
        client.close()
        raise
    return client


def _no_connection(path: Path, error: OSError) -> UserError:
    match error:
        case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
            return not_running(path.parent)
        case PermissionError():
            return not_allowed()
    return storage_error(error, path)


def not_allowed() -> Refused:
    return Refused(f"this user may not control the node; use sudo, or have root add you to the group {GROUP}")


def not_running(state: Path) -> NotRunning:
    option = "" if state == SYSTEM_STATE else f" --state {shlex.quote(str(state))}"
    return NotRunning(f"no node is running on {state}; start one with: sudo zeqnode run{option}")


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, however deep its directory lies."""
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def may_ask(peer: trio.socket.SocketType, group: int | None) -> bool:
    """Whether root, our own user or a member of `group` is at the other end; the kernel knows."""
    _, uid, gid = _UCRED.unpack(_option(peer, socket.SO_PEERCRED, _UCRED.size))
    if uid in (0, os.geteuid()):
        return True
    if group is None:
        return False
    try:
        groups = _option(peer, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        groups = b""  # more groups than can be fetched; the first one still counts
    return group in (gid, *struct.unpack(f"{len(groups) // 4}I", groups))


def _option(peer: trio.socket.SocketType, option: int, size: int) -> bytes:
    return peer.getsockopt(socket.SOL_SOCKET, option, size)


def group_id() -> int | None:
    """Of the group zeqnode, if this machine has it."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
