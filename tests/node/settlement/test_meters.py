"""Payer and payee over a channel that loses, repeats and forgets; each may be killed; either may cheat."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.settlement import meters, vouchers
from node.settlement.meters import (
    EVERY_BYTES,
    EVERY_ZEQONDS,
    LEAST_WINDOW_BYTES,
    SKEW_ZEQONDS,
    WINDOW_ZEQONDS,
    OverMetered,
    Payee,
    Payer,
    Statement,
)
from node.settlement.terms import GB, MILLIONTHS, Terms, Unit, agree
from node.settlement.vouchers import BadVoucher, Tunnel
from tests.dht.record_kit import ToySignatures, ToySigner

PAYER = ToySigner(b"p" * 32)
LIFESPAN = 1_000
PIECE = 2_000_000
"""Bytes: no more are forwarded between two looks at the window."""


def a_tunnel(terms: Terms) -> Tunnel:
    return Tunnel(
        session=b"s" * 32,
        tunnel_id=b"t" * 16,
        payer=b"1" * 32,
        payee=b"2" * 32,
        payer_key=PAYER.public,
        terms=terms,
    )


def exact(terms: Terms, carried: int, zeqonds: int) -> Fraction:
    """Millionths of a ZEQ."""
    units = Fraction(carried, GB) if terms.pricing_unit is Unit.GB else Fraction(zeqonds)
    return terms.price_zeq * MILLIONTHS * units


class PaidTunnel(RuleBasedStateMachine):
    """`up`, `down`: what truly arrived; `lost`: what was sent down and did not. A kill may cost a window."""

    unit = Unit.GB

    def __init__(self) -> None:
        super().__init__()
        self.terms = agree(self.unit, 50, LIFESPAN)
        self.tunnel = a_tunnel(self.terms)
        self.payer = Payer(self.tunnel, PAYER)
        self.payee = Payee(self.tunnel, ToySignatures())
        self.zeqonds = self.up = self.sent_up = self.down = self.sent_down = self.lost = 0
        self.payer_at = self.payee_at = (0, 0)  # the true counts when its object was made
        self.signed: list[bytes] = []
        self.on_payers_disk: bytes | None = None
        self.kills = 0

    def _measure(self) -> None:
        self.payer.measured(self.sent_up - self.payer_at[0], self.down - self.payer_at[1], self.zeqonds)
        lost_ppm = self.lost * MILLIONTHS // self.sent_down if self.sent_down else 0
        self.payee.measured(
            self.up - self.payee_at[0], self.sent_down - self.payee_at[1], self.zeqonds, lost_ppm
        )

    # ------------------------------------------------------------------ what happens

    @rule(size=st.integers(1, PIECE), arrives=st.booleans())
    def the_payer_sends(self, size: int, arrives: bool) -> None:
        if self.payee.may_forward():
            self.sent_up += size
            self.up += size if arrives else 0
            self._measure()

    @rule(size=st.integers(1, PIECE), lost=st.integers(0, 3))
    def the_payee_sends(self, size: int, lost: int) -> None:
        """Loss falls on all alike, so that the report is true of every part."""
        if self.payee.may_forward():
            gone = size * lost // 100
            self.sent_down += size
            self.down += size - gone
            self.lost += gone
            self._measure()

    @precondition(lambda self: self.zeqonds < LIFESPAN)
    @rule(count=st.integers(1, 12))
    def time_goes_by(self, count: int) -> None:
        if self.payee.may_forward():
            self.zeqonds = min(self.zeqonds + count, LIFESPAN)
            self._measure()

    @rule(statement=st.booleans(), voucher=st.booleans())
    def they_speak(self, statement: bool, voucher: bool) -> None:
        """Either message may be lost."""
        if statement:
            self.payer.stated(self.payee.statement())
        if self.payer.due():
            raw = self.payer.voucher()
            if raw is not None:
                self.on_payers_disk = raw
                self.signed.append(raw)
                if voucher:
                    self.payee.keep(self.payee.check(raw))

    @precondition(lambda self: self.signed)
    @rule(place=st.integers(0, 1_000))
    def an_old_voucher_comes_again(self, place: int) -> None:
        raw = self.signed[place % len(self.signed)]
        before = self.payee.kept
        try:
            self.payee.keep(self.payee.check(raw))
        except BadVoucher:
            assert self.payee.kept is before

    @rule()
    def the_payer_is_killed(self) -> None:
        last = vouchers.read(self.on_payers_disk) if self.on_payers_disk else None
        self.payer = Payer(self.tunnel, PAYER, last, resumed=True)
        self.payer_at = (self.sent_up, self.down)
        self.kills += 1
        self._measure()

    @rule()
    def the_payee_is_killed(self) -> None:
        self.payee = Payee(self.tunnel, ToySignatures(), self.payee.kept)
        self.payee_at = (self.up, self.sent_down)
        self._measure()

    # ------------------------------------------------------------------ what holds

    @invariant()
    def the_payer_never_signs_for_more_than_there_was(self) -> None:
        if self.signed:
            newest = vouchers.read(self.signed[-1])
            carried = self.sent_up + self.down + self.kills * 2 * LEAST_WINDOW_BYTES
            assert newest.amount < exact(self.terms, carried, self.zeqonds + SKEW_ZEQONDS) + 1

    @invariant()
    def the_payee_is_never_short_of_more_than_a_window(self) -> None:
        window = exact(self.terms, self.payee.window, WINDOW_ZEQONDS)
        piece = exact(self.terms, PIECE, 12)
        assert self.payee.unpaid <= window + piece + 1

    @invariant()
    def nothing_ever_falls(self) -> None:
        amounts = [vouchers.read(raw).amount for raw in self.signed]
        assert amounts == sorted(amounts)


class PaidByTime(PaidTunnel):
    unit = Unit.ZEQOND


TestByBytes = PaidTunnel.TestCase
TestByTime = PaidByTime.TestCase


# ------------------------------------------------------------------ one thing at a time


def pair(unit: Unit = Unit.GB, price: int = 50, budget: int | None = None) -> tuple[Payer, Payee]:
    tunnel = a_tunnel(agree(unit, price, LIFESPAN))
    return Payer(tunnel, PAYER, budget=budget), Payee(tunnel, ToySignatures())


def pay(payer: Payer, payee: Payee) -> bool:
    payer.stated(payee.statement())
    raw = payer.voucher()
    if raw is None:
        return False
    payee.keep(payee.check(raw))
    return True


def test_a_voucher_is_due_every_eight_megabytes_or_ten_zeqonds() -> None:
    payer, payee = pair()
    assert not payer.due()
    payer.measured(0, EVERY_BYTES, 0)
    payee.measured(0, EVERY_BYTES, 0, 0)
    assert payer.due()
    pay(payer, payee)
    payer.measured(0, 2 * EVERY_BYTES - 1, EVERY_ZEQONDS - 1)
    payee.measured(0, 2 * EVERY_BYTES - 1, EVERY_ZEQONDS, 0)
    payer.stated(payee.statement())
    assert payer.due(), "the payee's clock is a little ahead"
    pay(payer, payee)
    assert not payer.due()


def test_a_payer_that_stops_paying_gets_a_window_and_service_resumes_when_it_pays() -> None:
    payer, payee = pair()
    carried = 0
    while payee.may_forward():
        carried += PIECE
        payer.measured(carried, 0, 0)
        payee.measured(carried, 0, 0, 0)
    assert LEAST_WINDOW_BYTES < carried <= LEAST_WINDOW_BYTES + 2 * PIECE + WINDOW_ZEQONDS
    assert pay(payer, payee)
    assert payee.may_forward()
    assert payee.unpaid == 0


def test_ordinary_loss_never_stalls_a_paid_tunnel() -> None:
    payer, payee = pair()
    sent = 0
    for _ in range(5_000):
        sent += PIECE
        arrived = sent * 97 // 100
        payer.measured(0, arrived, 0)
        payee.measured(0, sent, 0, 30_000)
        assert payee.may_forward()
        if payer.due():
            pay(payer, payee)
    assert sent == 10 * GB


def test_a_payee_that_claims_more_than_was_sent_is_found_out() -> None:
    payer, _ = pair()
    payer.measured(1_000, 0, 1)
    with pytest.raises(OverMetered, match="16,001,001 bytes received of 1,000 sent"):
        payer.stated(Statement(LEAST_WINDOW_BYTES + 1_001, 0, 1))


def test_what_our_own_meter_does_not_have_yet_is_not_signed_for() -> None:
    payer, _ = pair()
    payer.measured(1_000, 0, 1)
    payer.stated(Statement(9 * 10**6, 0, 1))
    raw = payer.voucher()
    assert raw is not None
    assert vouchers.read(raw).up == 1_000
    payer.measured(9 * 10**6, 0, 1)
    raw = payer.voucher()
    assert raw is not None
    assert vouchers.read(raw).up == 9 * 10**6


def test_a_payee_that_claims_more_than_it_sent_is_paid_for_what_came() -> None:
    payer, payee = pair()
    payer.measured(0, 1_000_000, 1)
    payee.measured(0, GB, 1, 0)
    payer.stated(payee.statement())
    raw = payer.voucher()
    assert raw is not None
    assert vouchers.read(raw).amount == 50_000


def test_a_clock_that_is_ahead_is_paid_by_ours() -> None:
    payer, payee = pair(Unit.ZEQOND, 3)
    payer.measured(0, 0, 100)
    payee.measured(0, 0, 900, 0)
    pay(payer, payee)
    assert payee.kept is not None
    assert payee.kept.zeqonds == 100 + SKEW_ZEQONDS
    assert not payee.may_forward()


def test_a_budget_is_never_passed_and_says_when_it_is_spent() -> None:
    payer, payee = pair(budget=50 * MILLIONTHS)
    payer.measured(GB, 0, 1)
    payee.measured(GB, 0, 1, 0)
    assert pay(payer, payee)
    assert not payer.spent_up()
    payer.measured(GB + 1, 0, 1)
    payee.measured(GB + 1, 0, 1, 0)
    assert not pay(payer, payee)
    assert payer.spent_up()
    assert payee.kept is not None
    assert payee.kept.amount == 50 * MILLIONTHS


def test_who_ends_together_pays_the_seeds_sum_within_the_budget() -> None:
    for budget, paid in (
        (None, 50 * MILLIONTHS),
        (50 * MILLIONTHS, 50 * MILLIONTHS),
        (49 * MILLIONTHS, 36_700_160),
    ):
        payer, payee = pair(budget=budget)
        payer.measured(734_003_200, 0, 472)
        payee.measured(734_003_200, 0, 472, 0)
        payer.stated(payee.statement())
        raw = payer.voucher(final=True)
        assert raw is not None
        payee.keep(payee.check(raw))
        assert payee.kept is not None
        assert payee.kept.amount == paid
        assert payer.voucher() is None or budget == 49 * MILLIONTHS, (
            "what is paid already is not signed again"
        )


def test_what_a_killed_payer_forgot_is_paid_when_it_is_back() -> None:
    payer, payee = pair()
    payer.measured(0, EVERY_BYTES, 1)
    payee.measured(0, EVERY_BYTES, 1, 0)
    pay(payer, payee)
    payee.measured(0, 2 * EVERY_BYTES, 1, 0)  # and then the payer was killed
    again = Payer(payer.tunnel, PAYER, payer.last, resumed=True)
    pay(again, payee)
    assert payee.unpaid == 0
    payee.measured(0, 9 * EVERY_BYTES, 1, 0)
    pay(again, payee)
    assert payee.unpaid > 0, "that is believed once"


@given(st.integers(0, 2_000_000), st.integers(0, 10**10))
def test_the_window_holds_two_round_trips_and_sixteen_megabytes(rtt_us: int, rate: int) -> None:
    window = meters.window_bytes(rtt_us, rate)
    assert window >= LEAST_WINDOW_BYTES
    assert window >= 2 * rtt_us * rate // 10**6
