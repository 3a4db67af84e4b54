"""What both ends of a tunnel do alike: state, notes that are repeated, how it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Final, NamedTuple, Protocol

from msgspec import structs

from dht.limits import RateLimit
from dht.signatures import Signatures, Signer
from node.settlement.actions import Action, Admit, Changed, Greet, Read, Save, Send
from node.settlement.credit import Credit
from node.settlement.life import Code, Happening, Row, State
from node.settlement.meters import SKEW_ZEQONDS
from node.settlement.outbox import FIRST_WAIT_US, LONGEST_WAIT_US, NEVER, Outbox
from node.settlement.vouchers import Tunnel, Voucher
from node.settlement.wire import End, Ended, Note, Shown, encode

CLOSING_US: Final = 30_000_000
"""For the last voucher and both halves; what is still open then is taken up when the two meet again."""
READS: Final = (1, 32)  # a second, and burst
NEVER_CAME_ZEQONDS: Final = 231
"""An accepted tunnel whose payer has not come by then, three minutes, gives its place back."""


class Measured(NamedTuple):
    """By our own meter of one peer: inner bytes since it is one, or since its tunnel began. `lost`: of those
    sent, that did not arrive by its authenticated reports."""

    sent: int
    received: int
    lost: int
    rtt_us: int


class Host(Protocol):
    """What a side needs of the desk."""

    machine_id: bytes
    signer: Signer
    signatures: Signatures
    credit: Credit
    counters: Counter[str]

    def act(self, action: Action) -> None: ...
    def gate(self, machine_id: bytes) -> None: ...
    def zeqond(self, now_us: int) -> int: ...
    def day(self, now_us: int) -> int: ...
    def knows(self, machine_id: bytes, session: bytes) -> bool: ...
    def newest(self, machine_id: bytes) -> bytes: ...


class Side(ABC):
    """One end. `resumed`: the tunnel is older than this process."""

    def __init__(self, host: Host, row: Row, resumed: bool) -> None:
        self.row = row
        self.resumed = resumed
        self.done_us = NEVER  # when nothing is waited for any more
        self._host = host
        self._outbox = Outbox()
        self._greet_us = NEVER  # when our ledger shows itself again, as the partner's has not yet
        self._greet_wait_us = FIRST_WAIT_US
        self._reads = RateLimit(*READS)
        self._shown_us = -1  # when the partner's last did
        self._base = Measured(0, 0, 0, 0) if resumed and row.began_at else None  # when the tunnel began

    # ------------------------------------------------------------------ what the desk tells it

    def admit(self, now_us: int) -> None:
        """It is accepted, now or before this start; or it has ended and was not settled before this start."""
        self._host.act(Admit(self.row))
        self.gate()
        if self.row.ended:
            self.awake(now_us)
        self.connected(now_us)

    def reached(self, place: str) -> None:
        """Where the partner is now."""
        if place != self.row.place and not self.row.settled:
            self.row = structs.replace(self.row, place=place)
            self._host.act(Save(self.row))

    def connected(self, now_us: int) -> None:
        """There is a session, or another one."""
        self._outbox.renew(now_us)
        if self._greet_us != NEVER or (self.resumed and self.row.began_at):
            self._greet(now_us)

    def gate(self) -> None:
        """Packets pass only while it is active and has begun."""
        self._host.gate(self.row.partner)

    def passes(self) -> bool:
        return bool(self.row.began_at) and not self.row.ended

    def measured(self, meter: Measured, now_us: int) -> None:
        """The peer's meters, at least every half second, whether anything flows or not."""
        if not self.row.began_at or self._base is None:
            self._base = meter
        base = self._base
        since = (meter.sent - base.sent, meter.received - base.received, meter.lost - base.lost)
        if self.row.began_at:
            self._measure(Measured(*since, meter.rtt_us), now_us)

    def tick(self, now_us: int) -> None:
        """Do what is due."""
        if self.row.state is State.ACTIVE:
            self._look(now_us)
        if self._greet_us <= now_us:
            self._host.act(Greet(self.row))
            self._greet_us = now_us + self._greet_wait_us
            self._greet_wait_us = min(2 * self._greet_wait_us, LONGEST_WAIT_US)
        for body in self._outbox.due(now_us):
            self._host.act(Send(self.row.partner, body))

    def deadline_us(self) -> int:
        return min(self._outbox.deadline_us(), self.done_us, self._greet_us)

    def end(self, happening: Happening, code: Code, now_us: int) -> None:
        """Raises InvalidState where it has ended."""
        began = self.row.began_at
        self.row = self.row.after(happening, self._host.zeqond(now_us), code)
        self.row = self.with_figures()
        self.save()
        self.gate()
        self.done_us = now_us + CLOSING_US
        self._say(End(self.row.tunnel_id, str(code)), now_us, "end")
        if began:
            self._close(now_us)

    def ended_there(self, code: Code, now_us: int) -> None:
        """The partner says that it is over."""
        if not self.row.ended:
            self.row = structs.replace(self.row, by_partner=True)
            due = self.row.began_at and self._age(now_us) + SKEW_ZEQONDS >= self.row.agreed.lifespan_zeqonds
            happening = Happening.EXPIRE if due and code is Code.LIFESPAN else Happening.TERMINATE
            self.end(happening, code if code is not Code.NONE else Code.OTHER, now_us)
        elif not self.row.settled:  # it may have forgotten what was said before it was killed
            self.done_us = now_us + CLOSING_US if self.dormant else self.done_us
            self._close(now_us)
        self._outbox.done("end")
        self._host.act(Send(self.row.partner, encode(Ended(self.row.tunnel_id))))

    @property
    def closed(self) -> bool:
        """Ended, settled, and the partner knows."""
        return self.row.settled and not len(self._outbox)

    @property
    def dormant(self) -> bool:
        """Ended and not settled, and the partner is gone: until the two meet again."""
        return self.row.ended and self.done_us == NEVER

    def give_up(self) -> None:
        """The partner had its time: what is open waits until the two meet again, if there is anything."""
        self.done_us = self._greet_us = NEVER
        if not self.row.settled and self._has_come_to_nothing():
            self.settled()
        self._outbox.clear()

    def end_was_heard(self, now_us: int) -> None:
        """What was said before may have been taken for a tunnel's that goes on: it is said again."""
        if self._outbox.has("end"):
            self._outbox.done("end")
            self._close(now_us)

    def awake(self, now_us: int) -> None:
        """It had ended before the two met again, and is not settled."""
        self.done_us = now_us + CLOSING_US
        self._greet(now_us)
        self._say(End(self.row.tunnel_id, str(self.row.code)), now_us, "end")
        self._close(now_us)

    def settled(self) -> None:
        """Both halves stand in the ledger, or there is nothing that they could say."""
        self.row = structs.replace(self.with_figures(), settled=True)
        for kind in ("half", "stated", "paid"):
            self._outbox.done(kind)
        self.save()

    # ------------------------------------------------------------------ for the two roles

    @abstractmethod
    def _measure(self, own: Measured, now_us: int) -> None:
        """By our own meter, since the tunnel began or since this start."""

    @abstractmethod
    def _look(self, now_us: int) -> None:
        """While it is active: what time alone may have made due."""

    @abstractmethod
    def _close(self, now_us: int) -> None:
        """It has ended after it had begun: what is still to be signed and answered."""

    def _has_come_to_nothing(self) -> bool:
        """There is no voucher, and none will come."""
        return self._figures()[0] is None

    @abstractmethod
    def _figures(self) -> tuple[Voucher | None, int, int]:
        """The last voucher, and by our own meter bytes and zeqonds."""

    # ------------------------------------------------------------------ inside

    def save(self) -> None:
        self._host.act(Save(self.row))
        self._host.act(Changed(self.row))

    def _begin(self, session: bytes, now_us: int) -> None:
        """Both ends have this session: from here on it is metered."""
        self.row = structs.replace(self.row, session=session, began_at=self._host.zeqond(now_us))
        self.save()
        self._greet(now_us)
        self.gate()

    def _greet(self, now_us: int) -> None:
        if not self.row.free and not self.row.settled:
            self._greet_us, self._greet_wait_us = now_us, FIRST_WAIT_US

    def on_shown(self, note: Shown, now_us: int) -> None:
        """What the partner's ledger holds. If it opens once more, it has not seen ours. Each costs two
        signatures to check, so a partner has a bounded number of them."""
        if not self._reads.allow(b"", now_us):
            self._host.counters["ledger shown too often"] += 1
            return
        self._host.act(Read(self.row, note.body))
        if not note.opening:
            return
        if self._greet_us == NEVER and now_us - self._shown_us >= FIRST_WAIT_US and self._shown_us >= 0:
            self._host.act(Greet(self.row))
        self._greet_us, self._shown_us = NEVER, now_us

    def _tunnel(self, payer: bytes, payee: bytes, payer_key: bytes) -> Tunnel:
        return Tunnel(
            session=self.row.session,
            tunnel_id=self.row.tunnel_id,
            payer=payer,
            payee=payee,
            payer_key=payer_key,
            terms=self.row.agreed,
        )

    def _age(self, now_us: int) -> int:
        """Zeqonds since it began."""
        return max(0, self._host.zeqond(now_us) - self.row.began_at)

    def _say(self, note: Note, now_us: int, kind: str) -> None:
        """Until it is answered."""
        self._outbox.put(kind, encode(note), now_us)

    def with_figures(self) -> Row:
        """The row with what was signed for so far; of a free tunnel, with what was measured."""
        last, carried, zeqonds = self._figures()
        row = structs.replace(self.row, value=self._value())
        if last is None:
            most = max(carried, row.carried), max(zeqonds, row.zeqonds)  # not less after a restart
            return structs.replace(row, carried=most[0], zeqonds=most[1])
        return structs.replace(row, carried=last.up + last.down, zeqonds=last.zeqonds, amount=last.amount)

    def _value(self) -> int:
        """Row.value."""
        return self._worth(self._figures()[0])

    def _worth(self, voucher: Voucher | None) -> int:
        """What it is for, pro rata, millionths."""
        if voucher is None:
            return 0
        return self.row.agreed.amount(voucher.up + voucher.down, voucher.zeqonds)
