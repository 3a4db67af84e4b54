"""What holds for every test: Hypothesis profiles, and nothing left running."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, so that a red run is about the change and not about luck.
settings.register_profile("ci", derandomize=True, deadline=None)
# Fresh examples every time, and many.
settings.register_profile(
    "soak", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A test that leaves a thread or a child process behind fails, whatever else it found."""
    threads, children = _threads(), _children()
    yield
    left = [thread.name for thread in _threads() - threads]
    left += [f"process {pid} ({_command(pid)})" for pid in _children() - children]
    assert not left, f"left running: {', '.join(left)}"


def _threads() -> set[threading.Thread]:
    """Without daemon threads: trio keeps its idle workers for the next call."""
    return {thread for thread in threading.enumerate() if not thread.daemon}


def _children() -> set[int]:
    """Ids of this process's children, those that ended and were not waited for included."""
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue  # the thread ended just now, or the kernel was built without this file
    return pids


def _command(pid: int) -> str:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return "ended"
    return arguments.decode(errors="replace").strip() or "ended, never waited for"
