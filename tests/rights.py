"""What this process may do besides being "root": in a user namespace root is often the only user there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOBODY = 65534  # uid and gid


def maps_uid(uid: int) -> bool:
    """Whether this user namespace has that user."""
    ranges = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(first <= uid < first + count for first, _, count in ranges)


needs_other_users = pytest.mark.skipif(
    os.geteuid() != 0 or not maps_uid(NOBODY),
    reason="only root, where there are other users, may become one",
)
