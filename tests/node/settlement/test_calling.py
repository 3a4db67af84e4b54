"""A partner whose process was another a moment ago: where it is called, and when a session is given up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from node.settlement import life
from node.settlement import wire as notes
from tests.node.settlement.market_kit import MB, Machine, Wire, a_relay


class Pair:
    """A guest whose tunnel through a relay carries. `calls`: when it was called though there is a session."""

    def __init__(self, folder: Path) -> None:
        self.wire = Wire()
        self.relay = a_relay(folder, self.wire)
        self.guest = Machine("guest", folder, self.wire)
        self.tunnel = self.guest.ask(self.relay)
        self.wire.run(1)
        self.carry()
        self.calls: list[int] = []
        self.wire.call = self._call  # type: ignore[method-assign]

    def carry(self) -> None:
        assert self.wire.carry(self.guest, self.relay, 5 * MB, 5 * MB)
        self.wire.run(0.5)

    def _call(self, one: bytes, other: bytes) -> None:
        """It is tried, and nobody is there."""
        if self.wire.joined(one, other):
            self.calls.append(self.wire.now_us)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.wire.close()


def deaf(machine: Machine) -> None:
    """It hears no vouchers."""
    heard = machine.desk.on_note

    def on_note(machine_id: bytes, body: bytes, now_us: int) -> None:
        if not isinstance(notes.decode_note(body), notes.Paid):
            heard(machine_id, body, now_us)

    machine.desk.on_note = on_note  # type: ignore[method-assign]


def test_a_payee_that_answers_is_not_called(pair: Pair) -> None:
    for _ in range(10):
        pair.carry()
        pair.wire.run(2)
    assert pair.calls == []


def test_a_payee_that_does_not_answer_is_called_more_and_more_rarely(pair: Pair) -> None:
    deaf(pair.relay)
    began = pair.wire.now_us
    pair.carry()
    pair.wire.run(240)
    waits = [later - sooner for sooner, later in pairwise(pair.calls)]
    assert 3_000_000 <= pair.calls[0] - began <= 4_000_000
    assert 4 <= len(pair.calls) <= 8
    assert waits == sorted(waits)
    del pair.relay.desk.on_note
    pair.wire.run(20)
    deaf(pair.relay)
    before, began = len(pair.calls), pair.wire.now_us
    pair.carry()
    pair.wire.run(6)
    assert [when - began <= 4_000_000 for when in pair.calls[before:]] == [True]


def test_where_the_partner_was_last_is_on_the_disk_while_it_matters(pair: Pair) -> None:
    def kept() -> str:
        return life.from_bytes(pair.guest.rows[pair.tunnel]).place

    def reached(place: str) -> None:
        pair.guest.desk.reached(pair.relay.machine_id, place)
        pair.guest.act()

    assert kept() == ""
    reached("192.0.2.1:51777")
    assert kept() == "192.0.2.1:51777"
    pair.guest.kill()
    pair.guest.start()
    assert pair.guest.row(pair.tunnel).place == "192.0.2.1:51777"
    reached("[2001:db8::1]:51777")
    assert kept() == "[2001:db8::1]:51777"
    pair.guest.desk.reached(bytes(32), "192.0.2.9:51777")
    pair.guest.desk.reached(pair.relay.machine_id, "[2001:db8::1]:51777")
    assert pair.guest.desk.actions == []
