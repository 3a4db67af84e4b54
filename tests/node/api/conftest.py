from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.node.api.stand_in import Api, running


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """With limits that no test reaches unless it means to."""
    async with running(tmp_path, reads_per_minute=10_000, writes_per_minute=10_000) as served:
        yield served
