"""In which order things reach the disk: what a row says stands there before the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import trio

from node.books import Books
from node.errors import StorageFailed
from node.ledger import Ledger
from node.settlement.actions import Keep, Learn, Save
from node.settlement.blocks import BadBlock
from node.settlement.desk import Desk
from node.settlement.life import Row
from node.tunnels.disk import Disk
from node.tunnels.doing import Doer
from node.tunnels.links import Links


class World:
    """A disk, a ledger and a desk that note what they are to do. `full`: the disk, so many times more."""

    def __init__(self) -> None:
        self.actions: list[object] = []
        self.counters: dict[str, int] = {"ledger: bad": 0}
        self.log: list[str] = []
        self.full = 0
        self.bad = False

    async def save(self, _rows: list[Row]) -> None:
        self._write("save")

    async def call(self, function: Callable[..., Any], *_args: object) -> None:
        if function is Ledger.learn and self.bad:
            raise BadBlock("bad")
        self._write("learn" if function is Ledger.learn else "keep")

    async def changed(self, _row: Row) -> None:
        await trio.lowlevel.checkpoint()

    def in_use(self) -> set[bytes]:
        return set()

    def shut(self, _machines: set[bytes]) -> None:
        self.log.append("shut")

    def open_again(self) -> None:
        self.log.append("open")

    def _write(self, what: str) -> None:
        if self.full:
            self.full -= 1
            raise StorageFailed("no space is left")
        self.log.append(what)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("node.settlement.blocks.read", lambda raw: raw)
    return World()


def doer(world: World) -> Doer:
    row = cast(Row, None)
    world.actions = [Save(row), Learn(b"partner", b"half"), Keep(b"voucher"), Save(row)]
    return Doer(
        cast(Desk, world),
        cast(Disk, world),
        cast(Books, world),
        cast(Links, world),
        lambda _tell: None,
        world.changed,
        lambda: None,
        bytes,
    )


async def test_a_row_is_written_after_what_it_speaks_of(world: World) -> None:
    await doer(world).do()
    assert world.log == ["learn", "keep", "save"]


async def test_a_full_disk_keeps_all_of_it_waiting(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.full = 3
    await doer(world).do()
    assert world.log == ["shut", "learn", "keep", "save", "open"]


async def test_a_half_that_does_not_hold_keeps_nothing_waiting(world: World) -> None:
    world.bad = True
    await doer(world).do()
    assert world.log == ["keep", "save"]
    assert world.counters == {"ledger: bad": 1}
