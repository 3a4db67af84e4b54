"""The paid end: it states what it measured, keeps vouchers, stops what is not paid or beyond its credit.

Open ─▶ Opened      the session is one of ours with this payer
Stated              when 4 MB, half of the window or 10 zeqonds are not stated yet and cost something
Paid ─▶ on the disk ─▶ Kept
unpaid > window     the gate is shut until it is paid; for three minutes, then the tunnel ends
by time             it does not count how long the gate was shut, or we were off
nothing left        of the credit: the tunnel ends
ended: the last statement ─▶ the last voucher ─▶ Kept; the payer's Half ─▶ Earn ─▶ ours: settled
"""

from __future__ import annotations

from typing import Final

from msgspec import structs

from node.settlement import vouchers
from node.settlement.actions import Earn, Keep, Save, Send
from node.settlement.life import Code, Happening, Row
from node.settlement.meters import EVERY_BYTES, EVERY_ZEQONDS, LEAST_WINDOW_BYTES, Payee, window_bytes
from node.settlement.outbox import NEVER
from node.settlement.side import NEVER_CAME_ZEQONDS, Host, Measured, Side
from node.settlement.terms import Unit
from node.settlement.vouchers import BadVoucher, Voucher
from node.settlement.wire import Half, Kept, Open, Opened, Paid, Stated, encode

STATED_BYTES: Final = EVERY_BYTES // 2
UNPAID_ZEQONDS: Final = 231  # of a shut gate, three minutes: then the payer does not mean to pay
RATE_US: Final = 200_000
LOOK_US: Final = 150_000  # between two looks at the meter while much is carried, and until a voucher is kept
_PPM: Final = 1_000_000


class PayeeSide(Side):
    """`raw`: the voucher that stands on our disk, with its signature; empty: none."""

    def __init__(self, host: Host, row: Row, now_us: int, resumed: bool = False, raw: bytes = b"") -> None:
        super().__init__(host, row, resumed)
        self._raw = raw
        self._over = False  # the payer has said so after it had our half
        self._payee: Payee | None = None
        self._stated = (-1, -1)  # bytes and zeqonds of the last statement; −1: none yet
        self._shut_us = NEVER  # since when it is unpaid
        self._rate = (now_us, 0)  # when it was last looked at, and bytes by then
        self._measured = (0, 0)
        self._served = 0  # zeqonds in which packets might pass
        self._age_then = 0 if not row.began_at else self._age(now_us)  # when it was last looked at
        self.idle_since = host.zeqond(now_us)
        if row.began_at:
            self._meter()
        self._charged = max(row.value, self._worth(self._figures()[0]))  # what its payer has used by now

    @property
    def closed(self) -> bool:
        """Who has paid is given its time: our half may be lost on the way, and then it asks again."""
        return super().closed and (self._over or not self._raw)

    def end_was_heard(self, now_us: int) -> None:
        super().end_was_heard(now_us)
        self._over = self.row.settled

    def passes(self) -> bool:
        return super().passes() and (self.row.free or self._payee is None or self._payee.may_forward())

    # ------------------------------------------------------------------ notes

    def on_open(self, note: Open, now_us: int) -> None:
        row = self.row
        if row.ended:
            return
        if not row.began_at and self._host.knows(row.partner, note.session):
            self._begin(note.session, now_us)
            self._meter()
        same = self.row.session == note.session
        self._send(Opened(row.tunnel_id, note.session if same else b""))

    def on_paid(self, note: Paid, now_us: int) -> None:
        payee = self._payee
        if payee is None or self.row.free:
            return
        if note.voucher == self._raw:
            self._send_kept(vouchers.read(self._raw))  # it did not hear that we have it
            return
        if self.row.settled:
            return
        try:
            voucher = payee.check(note.voucher)
        except BadVoucher as bad:
            self._host.counters[f"voucher refused: {bad}"] += 1
            return
        self._take(payee, voucher, note.voucher, now_us)

    def _take(self, payee: Payee, voucher: Voucher, raw: bytes, now_us: int) -> None:
        self._date(now_us)
        self._host.act(Keep(raw))
        self._raw = raw
        payee.keep(voucher)
        self._charge(self._worth(voucher), now_us)
        self._send_kept(voucher)
        self._outbox.done("stated")
        if self.row.ended:
            self.row = self.with_figures()
            self.save()
        self._watch_gate(now_us)

    def _date(self, now_us: int) -> None:
        """The row says what was there before today, so that a restart knows what strangers used today."""
        day = self._host.day(now_us)
        if self.row.day != day:
            self.row = structs.replace(self.row, day=day, before_today=self._charged)
            self._host.act(Save(self.row))

    def on_half(self, proposal: bytes) -> None:
        """The payer's: answered again if it asks again."""
        if self.row.ended and self._raw:
            self._host.act(Earn(self.row, self._raw, proposal))

    def halved(self, block: bytes, _now_us: int) -> None:
        """Our half is on the disk."""
        self._send(Half(self.row.tunnel_id, block))
        if not self.row.settled:
            self.settled()

    # ------------------------------------------------------------------ metering

    def _measure(self, own: Measured, now_us: int) -> None:
        sent, received, lost = own.sent, own.received, own.lost
        payee, age = self._payee, self._age(now_us)
        if payee is None or self.row.ended:
            return
        if self.passes():
            self._served += max(0, age - self._age_then)
        self._age_then = age
        lost_ppm = min(_PPM, max(0, lost) * _PPM // sent) if sent else 0
        payee.measured(received, sent, self._served, lost_ppm)
        carried = sent + received
        if carried != self._measured[0]:
            self.idle_since = self._host.zeqond(now_us)
        self._measured = (carried, self._served)
        self._widen(payee, carried, own.rtt_us, now_us)
        self._judge(payee, now_us)

    def _widen(self, payee: Payee, carried: int, rtt_us: int, now_us: int) -> None:
        """The window follows the rate: what two round trips hold, and two looks at the meter, nobody can
        have paid yet."""
        since, before = self._rate
        if now_us - since >= RATE_US:
            per_second = (carried - before) * 1_000_000 // (now_us - since)
            payee.window = max(payee.window, window_bytes(rtt_us + LOOK_US, per_second))
            self._rate = (now_us, carried)

    def _judge(self, payee: Payee, now_us: int) -> None:
        if self.row.free:
            return
        self._state(payee, now_us)
        self._watch_gate(now_us)
        row, day = self.row, self._host.day(now_us)
        left = self._host.credit.left(row.partner, day, row.agreed.pricing_unit)
        if left - self._risk(payee) <= 0:
            self.end(Happening.TERMINATE, Code.CREDIT, now_us)

    def _state(self, payee: Payee, now_us: int) -> None:
        """Only what makes a difference to the sum: an idle tunnel by the gigabyte is silent."""
        up, down, zeqonds = payee.statement()
        carried, since = self._stated
        if not payee.unpaid or (up + down, zeqonds) == self._stated:
            return
        by_bytes = self.row.agreed.pricing_unit is Unit.GB
        if by_bytes and up + down == carried and payee.may_forward() and not self._outbox.has("stated"):
            return  # a little that the payer did not receive, and will not sign for
        step = max(STATED_BYTES, (payee.window - LEAST_WINDOW_BYTES) // 2)
        if up + down - carried >= step or zeqonds - since >= EVERY_ZEQONDS:
            self._stated = (up + down, zeqonds)
            self._say(Stated(self.row.tunnel_id, up, down, zeqonds), now_us, "stated")

    def _watch_gate(self, now_us: int) -> None:
        payee = self._payee
        if payee is None or self.row.ended or self.row.free:
            return
        shut = not payee.may_forward()
        if shut != (self._shut_us != NEVER):
            self._shut_us = now_us if shut else NEVER
            self.gate()

    def _look(self, now_us: int) -> None:
        zeqond = self._host.zeqond(now_us)
        if not self.row.began_at:
            if zeqond - self.row.started_at > NEVER_CAME_ZEQONDS:
                self.end(Happening.EXPIRE, Code.NEVER_CAME, now_us)
            return
        payee = self._payee
        shut_for = zeqond - self._host.zeqond(self._shut_us) if self._shut_us != NEVER else 0
        if self._age(now_us) >= self.row.agreed.lifespan_zeqonds or (payee is not None and payee.over()):
            self.end(Happening.EXPIRE, Code.LIFESPAN, now_us)
        elif shut_for > UNPAID_ZEQONDS:
            self.end(Happening.TERMINATE, Code.UNPAID, now_us)

    def end(self, happening: Happening, code: Code, now_us: int) -> None:
        """What is not paid yet is used all the same: else a window would be free with every tunnel."""
        if self._payee is not None and not self.row.ended:
            self._charge(self._payee.owed, now_us)
        super().end(happening, code, now_us)

    def _figures(self) -> tuple[Voucher | None, int, int]:
        kept = self._payee.kept if self._payee is not None else None
        return kept, *self._measured

    def _close(self, now_us: int) -> None:
        """The last statement; it is answered by the last voucher."""
        payee = self._payee
        if payee is None or self.row.settled:
            return
        self._say(Stated(self.row.tunnel_id, *payee.statement()), now_us, "stated")
        if self.resumed and self._raw:  # we may have been killed when our half was written
            self._host.act(Earn(self.row, self._raw, b""))

    # ------------------------------------------------------------------ inside

    def _meter(self) -> None:
        tunnel = self._tunnel(self.row.partner, self._host.machine_id, self.row.partner_key)
        kept = vouchers.read(self._raw) if self._raw else None
        self._served = kept.zeqonds if kept else 0
        self._payee = Payee(tunnel, self._host.signatures, kept)

    def _risk(self, payee: Payee) -> int:
        """Millionths, pro rata: what was measured and is not in a voucher that we have."""
        return max(0, payee.owed - self._worth(payee.kept))

    def _charge(self, value: int, now_us: int) -> None:
        """It has used so much by now."""
        if value > self._charged:
            self._date(now_us)
            self._host.credit.used(self.row.partner, value - self._charged, self._host.day(now_us))
            self._charged = value

    def _has_come_to_nothing(self) -> bool:
        """It used nothing, or had its time and did not pay. What is on its way to us waits with the payer."""
        return super()._has_come_to_nothing() and not (self._charged and self._outbox.has("end"))

    def _value(self) -> int:
        return self._charged

    def _send_kept(self, voucher: Voucher) -> None:
        self._send(Kept(self.row.tunnel_id, voucher.sequence))

    def _send(self, note: Opened | Kept | Half) -> None:
        self._host.act(Send(self.row.partner, encode(note)))
