"""What the processes of a contender cost: CPU time, memory; and that all of them are scheduled alike."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_NICE: Final = -15
_SLICE_NS: Final = 300_000
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}  # system call numbers: no libc has it
_AUTOGROUP: Final = Path("/proc/self/autogroup")


def tree(roots: Iterable[int]) -> list[int]:
    """The processes and all that descend from them."""
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in _tasks(pid):
            with suppress(OSError):
                waiting += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all their threads, those that ended included; exact to the nanosecond.

    clock_getcpuclockid(3) has the number of another process's clock, and glibc no name for it in Python."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += time.clock_gettime_ns(~pid << 3 | 2)
    return total / 1e9


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of the processes; a page that n processes of the machine share counts for an n-th."""
    return sum(map(_pss, pids))


@contextmanager
def favoured() -> Iterator[dict[str, int]]:
    """This process and all that it starts meanwhile get more than their share, in short slices.

    Somebody else's job that hogs a core then does not hold a woken tunnel program off for its whole slice.
    It is the same for every contender. Gives what was set; nothing where the rights for it are missing."""
    set_to: dict[str, int] = {}
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if _set_scheduling(_NICE, _SLICE_NS):
        set_to = {"nice": _NICE, "slice_ns": _SLICE_NS}
    try:
        yield set_to
    finally:
        if set_to:
            _set_scheduling(before, 0)


def favour(pid: int) -> None:
    """A program in a session of its own competes with others as a group, which has a nice of its own."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE), encoding="ascii")


def _set_scheduling(nice: int, slice_ns: int) -> bool:
    number = _SCHED_SETATTR.get(platform.machine())
    # struct sched_attr: size, policy, flags, nice, priority, runtime (of SCHED_OTHER: the slice), …
    attributes = struct.pack("=IIQiIQQQ", 48, 0, 0, nice, 0, slice_ns, 0, 0)
    if number is None or ctypes.CDLL(None, use_errno=True).syscall(number, 0, attributes, 0):
        return False
    with suppress(OSError):
        _AUTOGROUP.write_text(str(nice), encoding="ascii")
    return True


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
