"""The paying end: it calls, signs for what it measured, ends what does not carry, and writes its half.

Open ─▶ Opened      which session the vouchers name; one that the payee does not know (it was restarted in
                    between) is replaced by the newest
Stated ─▶ Paid      until Kept
no answer in 3 s    the payee may have lost the session with its process: it is called again
ended: the last voucher, for the seeds' sum ─▶ Kept ─▶ Spend ─▶ Half ─▶ the payee's half: settled
"""

from __future__ import annotations

from typing import Final

from msgspec import structs

from node.settlement import blocks, vouchers
from node.settlement.actions import Call, Keep, Learn, Save, Send, Spend
from node.settlement.blocks import BadBlock, Block
from node.settlement.life import Code, Happening, Row, State
from node.settlement.meters import LEAST_WINDOW_BYTES, WINDOW_ZEQONDS, OverMetered, Payer, Statement
from node.settlement.outbox import FIRST_WAIT_US
from node.settlement.side import NEVER_CAME_ZEQONDS, Host, Measured, Side
from node.settlement.terms import Unit
from node.settlement.vouchers import Voucher
from node.settlement.wire import Ended, Half, Kept, Open, Opened, Paid, Stated, encode

FIRST_CALL_WAIT_US: Final = 4_000_000
LONGEST_CALL_WAIT_US: Final = 64_000_000
BLIND_BYTES: Final = LEAST_WINDOW_BYTES
BLIND_ZEQONDS: Final = WINDOW_ZEQONDS
BLIND_LEAST_BYTES: Final = 65_536
"""So much sent, and nothing at all has come back: the relay takes the money and forwards nothing. Where time
is paid for, it takes less, in so much time; pings to a host that is off are less than that."""

AGREED: Final = (Code.TERMINATED, Code.LIFESPAN, Code.BUDGET, Code.REPLACED)
"""So a tunnel ends for the seeds' sum, if it is we who end it."""


class PayerSide(Side):
    """`raw`: the voucher that stands on our disk, with its signature; empty: none."""

    def __init__(self, host: Host, row: Row, _now_us: int, resumed: bool = False, raw: bytes = b"") -> None:
        super().__init__(host, row, resumed)
        self._raw = raw
        self._kept = 0  # the highest sequence that the payee says it has
        self._heard_last = False  # the payee has made a statement since the end
        self._half: Block | None = None  # ours, once it is on the disk
        self._payer: Payer | None = None
        self._measured = (0, 0)  # bytes, zeqonds
        self._call_us, self._call_wait_us = 0, FIRST_CALL_WAIT_US
        self._blind_since: tuple[int, int, int] | None = None  # sent, received, zeqonds when something came
        if row.began_at:
            self._meter()

    def connected(self, now_us: int) -> None:
        super().connected(now_us)
        if not self.row.began_at and not self.row.ended:
            session = self.row.session or self._host.newest(self.row.partner)
            if session:
                self._open(session, now_us)
        elif self._raw and not self._kept and not self.row.settled:
            self._say(Paid(self._raw), now_us, "paid")  # after a start: it may not have it

    def tick(self, now_us: int) -> None:
        super().tick(now_us)
        if self._outbox.unheard() and now_us >= self._call_us:
            self._host.act(Call(self.row.partner))
            self._call_us = now_us + self._call_wait_us
            self._call_wait_us = min(2 * self._call_wait_us, LONGEST_CALL_WAIT_US)

    # ------------------------------------------------------------------ notes

    def on_opened(self, note: Opened, now_us: int) -> None:
        if self.row.began_at or self.row.ended:
            self._outbox.done("open")
        elif note.session and note.session == self.row.session:
            self._outbox.done("open")
            self._begin(note.session, now_us)
            self._meter()
        elif not note.session:
            newest = self._host.newest(self.row.partner)
            if newest and newest != self.row.session:
                self._open(newest, now_us)

    def on_stated(self, note: Stated, now_us: int) -> None:
        if self._payer is None or self.row.spent:
            return
        try:
            self._payer.stated(Statement(note.up, note.down, note.zeqonds))
        except OverMetered:
            self._host.counters["tunnel whose payee claims too much"] += 1
            if not self.row.ended:
                self.end(Happening.TERMINATE, Code.OVER_METERED, now_us)
                return  # its last statement, or what it says to be that, comes when it has heard
        self._heard_last = self.row.ended
        self._pay(now_us)

    def on_kept(self, note: Kept, now_us: int) -> None:
        if self._payer is None or self._payer.last is None or note.sequence < self._payer.last.sequence:
            return
        self._kept = note.sequence
        self._call_wait_us = FIRST_CALL_WAIT_US
        self._outbox.done("paid")
        self._pay(now_us)

    def on_half(self, block: bytes) -> None:
        """The payee's."""
        if self._half is None or self.row.settled:
            return
        try:
            theirs = blocks.read(block)
            blocks.check(theirs, self._host.signatures)
        except BadBlock:
            theirs = self._half
        if not theirs.answers(self._half):
            self._host.counters["half that answers none of ours"] += 1
            return
        self._host.act(Learn(self.row.partner, block))
        self.settled()
        self._host.act(Send(self.row.partner, encode(Ended(self.row.tunnel_id))))  # it need not wait for us

    def halved(self, block: bytes, now_us: int) -> None:
        """Our half is on the disk: the payee is shown it until it answers."""
        self._half = blocks.read(block)
        if not self.row.settled:
            self._say(Half(self.row.tunnel_id, block), now_us, "half")

    # ------------------------------------------------------------------ metering

    def _measure(self, own: Measured, now_us: int) -> None:
        sent, received = own.sent, own.received
        if self._payer is None:
            return
        age = self._age(now_us)
        self._payer.measured(sent, received, age)
        self._measured = (sent + received, age)
        at, had, since = self._blind_since or (sent, received, age)
        if self._blind_since is None or received > had or sent == at:
            self._blind_since = at, had, since = sent, received, age
        if self._is_blind(sent - at, age - since) and not self.row.ended:
            self.end(Happening.TERMINATE, Code.NOTHING_CARRIED, now_us)

    def _is_blind(self, sent: int, zeqonds: int) -> bool:
        if self.row.free:
            return False
        by_time = self.row.agreed.pricing_unit is Unit.ZEQOND and zeqonds >= BLIND_ZEQONDS
        return sent >= (BLIND_LEAST_BYTES if by_time else BLIND_BYTES)

    def _meter(self) -> None:
        partner, us = self.row.partner, self._host.machine_id
        tunnel = self._tunnel(us, partner, self._host.signer.public)
        last = vouchers.read(self._raw) if self._raw else None
        trusts = self.resumed and self.row.code not in (Code.OVER_METERED, Code.NOTHING_CARRIED)
        self._payer = Payer(tunnel, self._host.signer, last, resumed=trusts, budget=self.row.budget)

    def _look(self, now_us: int) -> None:
        if not self.row.began_at:
            if self._host.zeqond(now_us) - self.row.started_at > NEVER_CAME_ZEQONDS:
                self.end(Happening.EXPIRE, Code.NEVER_CAME, now_us)
        elif self._age(now_us) >= self.row.agreed.lifespan_zeqonds:
            self.end(Happening.EXPIRE, Code.LIFESPAN, now_us)

    def _figures(self) -> tuple[Voucher | None, int, int]:
        last = self._payer.last if self._payer is not None else None
        return last, *self._measured

    # ------------------------------------------------------------------ paying

    def _pay(self, now_us: int) -> None:
        payer = self._payer
        if payer is None or self.row.free or self.row.spent or self.row.settled:
            return
        if self.row.ended:
            self._sign(payer, True, now_us)
            self._write_half(payer)
        elif payer.spent_up():
            self.end(Happening.TERMINATE, Code.BUDGET, now_us)
        elif payer.due():
            self._sign(payer, False, now_us)

    def _sign(self, payer: Payer, last: bool, now_us: int) -> None:
        """The seeds' sum where we ended it, or its time has come; else, as with a payee that cheats, puts us
        out, leaves with the first voucher or has brought nothing, pro rata."""
        has_lived = self.row.state is State.EXPIRED
        agreed = self.row.code in AGREED and (has_lived or not self.row.by_partner)
        fair = agreed and payer.brought()
        before = self._worth(payer.last)
        raw = payer.voucher(final=last and fair) if payer.owes() else None
        if raw is None:
            return
        self._raw = raw
        self._host.act(Keep(raw))
        self._host.credit.used(self.row.partner, before - self._worth(payer.last), self._host.day(now_us))
        self._say(Paid(raw), now_us, "paid")
        if last:
            self.row = self.with_figures()
            self.save()

    def _write_half(self, payer: Payer) -> None:
        """Once nothing can follow: the payee has made its last statement, and has the voucher for it."""
        if payer.last is None:
            if self._heard_last:
                self.settled()  # nothing was ever owed
        elif self._heard_last and self._kept >= payer.last.sequence:
            self.row = structs.replace(self.row, spent=True)
            self._host.act(Save(self.row))
            self._host.act(Spend(self.row, self._raw))

    def not_halved(self, now_us: int) -> None:
        """Later again: the payee is asked once more what it has, and with its answer we come back."""
        self.row = structs.replace(self.row, spent=False)
        self._host.act(Save(self.row))
        self._say(Paid(self._raw), now_us + FIRST_WAIT_US, "paid")

    def end(self, happening: Happening, code: Code, now_us: int) -> None:
        self._outbox.done("open")
        super().end(happening, code, now_us)

    def _close(self, now_us: int) -> None:
        if self.row.settled:
            return
        if self.row.spent:
            self._host.act(Spend(self.row, self._raw))  # the same half again
        self._pay(now_us)
        if self._raw and not self._outbox.has("paid"):
            self._say(Paid(self._raw), now_us, "paid")

    def _open(self, session: bytes, now_us: int) -> None:
        """Which one we mean is kept before it is said: after a restart it is still the one."""
        if session != self.row.session:
            self.row = structs.replace(self.row, session=session)
            self._host.act(Save(self.row))
        self._say(Open(self.row.tunnel_id, session), now_us, "open")
