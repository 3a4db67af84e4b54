"""The choice between spans and segments: no spans before enough is told, and none under loss."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tun.loss import ENOUGH, MEMORY, LossMeter

TRAIN = 45  # datagrams of a super-packet


class Link:
    """Sends trains as the meter chooses over a link that loses datagrams; reports as tun/plane.py does."""

    def __init__(self, loss: float, seed: int = 1) -> None:
        self.meter = LossMeter()
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
