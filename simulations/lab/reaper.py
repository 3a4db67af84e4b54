"""Ends what a laboratory leaves behind, whatever became of its owner.

One reaper process stands beside each laboratory: `python -m simulations.lab.reaper FD...`, with a pipe from
the owner as its standard input and a descriptor of each namespace. When the pipe closes (the owner is done,
or was killed) it sends SIGKILL to every process that is in one of those namespaces or carries the
laboratory's marker, and ends; with it goes the last hold on the namespaces, so their devices go too.

The marker is an environment variable, inherited by all that runs in a laboratory:

    ZEQNODE_LAB=PID.START.N      the owner's pid, its start time (clock ticks after boot), its how-many-th

By it `sweep_dead` finds what is left even where the reaper was killed as well. Processes are ended through
pidfds, so a pid that was given to somebody else meanwhile is never hit.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "ZEQNODE_LAB"
PLACE = "ZEQNODE_LAB_PLACE"
_END_MS = 5_000  # a killed process that is still there after this is stuck in the kernel
_count = itertools.count()


@dataclass(frozen=True, slots=True)
class Member:
    """A process of some laboratory. place: host or link, "" for the reaper itself."""

    pid: int
    marker: str
    place: str
    command: str

    @property
    def owner(self) -> int:
        return int(self.marker.partition(".")[0])


def new_marker() -> str:
    return f"{os.getpid()}.{_start_time(os.getpid())}.{next(_count)}"


def owner_lives(marker: str) -> bool:
    pid, start = marker.split(".")[:2]
    return _start_time(int(pid)) == int(start)


def members() -> Iterator[Member]:
    """Every marked process of every laboratory that this user may look at."""
    for pid in _pids():
        variables = _environment(pid)
        marker = variables.get(VARIABLE, "")
        if len(marker.split(".")) == 3 and marker.replace(".", "").isdigit():
            yield Member(pid, marker, variables.get(PLACE, ""), _command(pid))


def sweep_dead() -> list[Member]:
    """End what belongs to laboratories whose owner is gone; give what was found."""
    found = [member for member in members() if not owner_lives(member.marker)]
    for marker in {member.marker for member in found}:
        sweep(marker, frozenset())
    return found


def sweep(marker: str, namespaces: frozenset[int]) -> None:
    """End all that carries the marker or is in one of the namespaces (inodes), until there is none."""

    def belongs(pid: int) -> bool:
        return _namespace(pid) in namespaces or _environment(pid).get(VARIABLE) == marker

    # Again until nothing is found: one that was being ended can have started another.
    ended = True
    while ended:
        found = [pid for pid in _pids() if pid != os.getpid() and belongs(pid)]
        ended = any([_end(pid, belongs) for pid in found])  # noqa: C419  (a list: all are to be ended)


def start(marker: str, namespaces: Sequence[int]) -> subprocess.Popen[bytes]:
    """namespaces: their descriptors. Closing the Popen's stdin, or dying, sets it to work."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *map(str, namespaces)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**python_environment(), VARIABLE: marker},
        pass_fds=namespaces,
        start_new_session=True,  # Ctrl-C at the terminal is for the owner
    )


def python_environment() -> dict[str, str]:
    """This process's environment, with the folder of the import packages on the path of a Python child."""
    root = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{rest}" if rest else root}


def main(arguments: Sequence[str]) -> None:
    namespaces = frozenset(os.fstat(int(fd)).st_ino for fd in arguments)
    sys.stdin.buffer.read()
    sweep(os.environ[VARIABLE], namespaces)


def _end(pid: int, belongs: Callable[[int], bool]) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            if belongs(pid):  # still the same process, now that the descriptor holds it
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                return bool(poll.poll(_END_MS))
        finally:
            os.close(fd)
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  (only names are wanted)


def _start_time(pid: int) -> int | None:
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116  (this runs for every process of the machine)
    except OSError:
        return None


def _environment(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs if name.startswith(VARIABLE)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1:])
