"""Token buckets: against exact arithmetic, and bounded in number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.limits import RateLimit

SECOND = 1_000_000


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.integers(0, 2 * SECOND), max_size=80))
def test_a_bucket_against_a_plain_model(per_second: int, burst: int, waits_us: list[int]) -> None:
    """The model fills a bucket by one for every 1/rate and empties it by one for what it allows."""
    limit, cost_us = RateLimit(per_second, burst), SECOND // per_second
    level, now_us = burst * cost_us, SECOND
    for wait_us in waits_us:
        now_us += wait_us
        level = min(burst * cost_us, level + wait_us)
        allowed = level >= cost_us
        level -= cost_us * allowed
        assert limit.allow(b"key", now_us) is allowed


def test_keys_are_apart_and_bounded() -> None:
    limit = RateLimit(1, 2, capacity=3)
    assert [limit.allow(b"a", 0) for _ in range(3)] == [True, True, False]
    for key in (b"b", b"c", b"b"):
        assert limit.allow(key, 0)
    assert not limit.allow(b"a", 0)
    for key in (b"d", b"e", b"f"):
        assert limit.allow(key, 0)
    assert limit.allow(b"a", 0), "the least recently seen gave way"
