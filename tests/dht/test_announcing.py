"""When a node publishes again: hourly, sooner where few keep what it says, and seldom in a mesh of few."""

from __future__ import annotations

from typing import cast

import pytest

from dht.announcing import AGAIN_US, FEW_US, RETRY_US, SETTLE_US, SOONEST_US, Announcer
from dht.overlay import Overlay
from dht.records import Kind, Record

RECORD = Record(b"raw", Kind.LOCATION, bytes(32), b"", 1, bytes(32), 0, 0)


class Kept:
    """An overlay in which so many keep what is put; `size` contacts."""

    hurry = 1000

    def __init__(self, size: int, kept: int) -> None:
        self.size = size
        self.kept = kept
        self.puts: list[int] = []

    def put(self, _records: list[bytes], _key: bytes, now_us: int) -> int:
        self.puts.append(now_us)
        return len(self.puts)


def publish(overlay: Kept, times: int) -> list[int]:
    """The microseconds between one publication and the next."""
    announcer = Announcer((cast("Overlay", overlay),), lambda size: bytes(size))
    announcer.set("here", lambda _unix_us: [RECORD], 0)
    waits = []
    for _ in range(times):
        now_us = announcer.due_us
        announcer.tick(now_us, 0)
        if overlay.size:
            announcer.done(cast("Overlay", overlay), len(overlay.puts), overlay.kept, now_us)
        waits.append(announcer.due_us - now_us)
    return waits


def test_what_many_keep_is_published_hourly() -> None:
    assert publish(Kept(20, 20), 3) == [AGAIN_US] * 3


@pytest.mark.parametrize("kept", [1, 9])
def test_what_few_keep_is_published_again_soon_and_then_ever_more_rarely(kept: int) -> None:
    """The mesh may have grown since; where it has not, this ends as with everybody else."""
    waits = publish(Kept(20, kept), 12)
    assert waits[:3] == [FEW_US, 2 * FEW_US, 4 * FEW_US]
    assert waits == sorted(waits)
    assert waits[-3:] == [AGAIN_US] * 3


def test_who_knows_few_yet_publishes_again_soon_whoever_kept_it() -> None:
    """When all begin at once, nobody knows who is closest to a key."""
    assert publish(Kept(19, 20), 2) == [FEW_US, 2 * FEW_US]


def test_a_mesh_that_has_grown_is_published_to_as_any_other() -> None:
    overlay = Kept(3, 2)
    assert publish(overlay, 1) == [FEW_US]
    overlay.size = overlay.kept = 20
    assert publish(overlay, 1) == [AGAIN_US]


def test_what_nobody_keeps_is_tried_again_within_five_minutes() -> None:
    waits = publish(Kept(20, 0), 8)
    assert waits[:2] == [RETRY_US, 2 * RETRY_US]
    assert waits[-1] == SOONEST_US


def test_what_could_be_told_to_nobody_is_told_soon_when_somebody_comes() -> None:
    overlay = Kept(0, 5)
    announcer = Announcer((cast("Overlay", overlay),), lambda size: bytes(size))
    announcer.set("here", lambda _unix_us: [RECORD], 0)
    announcer.tick(0, 0)
    overlay.size = 1
    announcer.set("here", lambda _unix_us: [RECORD], 1)
    assert announcer.due_us == SETTLE_US, "not when the first has answered: a lookup would end nowhere yet"
    later_us = 60_000_000
    announcer.set("here", lambda _unix_us: [RECORD], later_us)
    announcer.tick(later_us, 0)
    assert overlay.puts == [later_us], "the start is long past: at once"
