"""A wire whose machines are gone when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node.settlement.market_kit import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()
