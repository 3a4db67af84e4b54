"""The choice between spans and segments: no spans before enough is told, and none under loss."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planes import NOW, Side, lane_keys
from tests.virtio_packets import Shape
from tun.loss import ENOUGH, HOPE, MEMORY, WITNESSES, LossMeter, Outlook
from tun.plane import REPORT_EVERY_US, REPORT_FEW, REPORT_SLOWLY_US
from tun.reference import seal

TRAIN = 45  # datagrams of a super-packet


class Link:
    """Sends trains as the meter chooses over a link that loses datagrams; reports as tun/plane.py does."""

    def __init__(self, loss: float, seed: int = 1, outlook: Outlook | None = None) -> None:
        self.meter = LossMeter(outlook)
        self.meter.enter(0)
        self.loss = loss
        self.random = random.Random(seed)
        self.sequence = self.received = self.next = 0

    @property
    def spans(self) -> bool:
        return self.meter.span

    def run(self, trains: int, report_every: int = 40) -> None:
        for number in range(trains):
            lost = [self.random.random() < self.loss for _ in range(TRAIN)]
            records = [any(lost)] if self.meter.span else lost
            self.sequence += len(records)
            self.meter.sent(self.sequence, TRAIN)
            self.received += records.count(False)
            self.next = self.sequence
            if number % report_every == report_every - 1:
                self.meter.report(self.next, self.received)


def test_it_starts_with_segments_and_takes_spans_once_hundreds_came() -> None:
    link = Link(0)
    chosen = []
    for trains in (ENOUGH // TRAIN, 100):
        link.run(trains)
        chosen.append(link.spans)
    assert chosen == [False, True]
    assert link.meter.loss == 0


def test_a_peer_that_reports_nothing_keeps_getting_segments() -> None:
    meter = LossMeter()
    meter.enter(0)
    for train in range(10_000):
        meter.sent((train + 1) * TRAIN, TRAIN)
    assert not meter.span
    assert not meter.told


@pytest.mark.parametrize("loss", [0.002, 0.01, 0.2])
def test_spans_are_given_up_under_loss_and_not_taken_again(loss: float) -> None:
    link = Link(0)
    link.run(2_000)
    chosen = [link.spans]
    link.loss = loss
    for trains in (MEMORY // TRAIN, 2_000):
        link.run(trains)
        chosen.append(link.spans)
    assert chosen == [True, False, False]
    assert link.meter.loss == pytest.approx(loss, rel=0.6)


def test_spans_come_back_when_the_loss_is_gone() -> None:
    link = Link(0.01)
    link.run(2_000)
    link.loss = 0
    link.run(8 * MEMORY // TRAIN)
    assert link.spans


def test_one_in_ten_thousand_is_no_reason_for_segments() -> None:
    link = Link(0.0001)
    link.run(20_000)
    assert link.spans


def test_a_new_epoch_counts_sequences_anew_and_keeps_what_was_learnt() -> None:
    link = Link(0)
    link.run(2_000)
    link.meter.enter(1)
    assert link.spans
    link.sequence = link.received = link.next = 0
    link.run(500)
    assert link.meter.loss == 0


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))), st.integers(0, 500))
def test_reports_of_a_liar_are_never_more_than_wrong(reports: list[tuple[int, int]], trains: int) -> None:
    meter = LossMeter()
    meter.enter(0)
    for train in range(trains):
        meter.sent((train + 1) * TRAIN, TRAIN)
    for next_sequence, received in reports:
        meter.report(next_sequence, received)
        assert meter.loss >= 0
    assert not meter.span or trains * TRAIN >= ENOUGH


# ---------------------------------------------------------------------- who has not told anything yet


def witnessed(losses: list[float]) -> Outlook:
    """After so many peers have told a lot."""
    outlook = Outlook()
    for seed, loss in enumerate(losses):
        Link(loss, seed, outlook).run(1_000)
    return outlook


def test_where_all_of_the_last_eight_get_spans_a_new_one_begins_with_them() -> None:
    link = Link(0, outlook=witnessed([0.0] * WITNESSES))
    chosen = [link.spans]
    link.run(1_000)
    assert [*chosen, link.spans] == [True, True]


@pytest.mark.parametrize("losses", [[], [0.0] * (WITNESSES - 1), [0.01] + [0.0] * (WITNESSES - 1)])
def test_without_eight_that_agree_a_new_one_begins_with_segments(losses: list[float]) -> None:
    assert not Link(0, outlook=witnessed(losses)).spans


def test_one_peer_is_one_witness_however_often_it_tells() -> None:
    outlook = Outlook()
    Link(0, outlook=outlook).run(10_000)
    assert not outlook.span


def test_only_the_last_eight_count() -> None:
    assert Link(0, outlook=witnessed([0.01] + [0.0] * WITNESSES)).spans


def test_a_new_one_that_loses_gets_segments_with_its_first_reports() -> None:
    link = Link(0.01, outlook=witnessed([0.0] * WITNESSES))
    link.run(40, report_every=8)
    assert not link.spans


def test_a_new_one_that_loses_is_a_witness_at_once() -> None:
    outlook = witnessed([0.0] * WITNESSES)
    Link(0.01, outlook=outlook).run(40, report_every=8)
    assert not outlook.span


def test_hope_ends_where_nothing_is_told() -> None:
    meter = LossMeter(witnessed([0.0] * WITNESSES))
    meter.enter(0)
    sent = 0
    while meter.span:
        sent += TRAIN
        meter.sent(sent // TRAIN, TRAIN)
    assert HOPE <= sent < HOPE + TRAIN
    meter.enter(1)
    assert not meter.span, "another epoch is no reason for more"


def test_a_peer_that_has_told_keeps_what_is_known_of_it() -> None:
    outlook = Outlook()
    link = Link(0.01, outlook=outlook)
    link.run(1_000)
    for seed in range(WITNESSES):
        Link(0, seed, outlook).run(1_000)
    assert outlook.span
    link.meter.enter(1)
    assert not link.spans


# ---------------------------------------------------------------------- when a plane reports


def test_eight_records_are_told_of_at_once_and_then_only_from_time_to_time() -> None:
    """A new peer may get spans on hope: what becomes of them must not take 64 of them to be known."""
    side = Side()
    side.session(False, 0x7777_0000)
    side.seal([], 0, 1452)
    keys = lane_keys(side.index)
    packet = Shape(payload=b"any").build()

    def reports(first: int, count: int, now: int) -> int:
        side.udp.sent = []
        for number in range(first, first + count):
            side.udp.waiting.append((seal([packet], keys, number, 1452, False), False))
            side.plane.receive(now)
        return len(side.udp.sent)

    soon, late = NOW + REPORT_EVERY_US, NOW + REPORT_EVERY_US + REPORT_SLOWLY_US
    assert reports(0, REPORT_FEW - 1, NOW) == 0
    assert reports(REPORT_FEW - 1, 1, NOW) == 1
    assert reports(REPORT_FEW, 2 * REPORT_FEW, soon) == 0
    assert reports(3 * REPORT_FEW, 1, late) == 1
