"""The tunnels of one machine: peers, notes, time. What begins and answers them: node/settlement/desk.py.

    peer ─▶ connected, measured      note ─▶ on_note      disk ─▶ halved      time ─▶ tick
                     all ─▶ `actions`, in order (node/settlement/actions.py)

A tunnel that has ended stays here until both halves stand in the ledgers. If the partner has gone before, it
waits without doing anything until the two meet again. After a restart it is a peer for as long as after the
end, as the partner may still wait; not where the end is so long ago that it is over there, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from crypto.errors import LocalFault, PeerFault
from crypto.pulse import zeqond
from dht.signatures import Signatures, Signer
from node.settlement import wire
from node.settlement.actions import Action, Changed, Dismiss, Gate, Repeat, Save, Send
from node.settlement.credit import DAY_S, Credit
from node.settlement.life import Code, Happening, InvalidState, Role, Row, State
from node.settlement.outbox import NEVER
from node.settlement.payee import PayeeSide
from node.settlement.payer import PayerSide
from node.settlement.side import Measured, Side
from node.settlement.terms import MAX_LIFESPAN
from node.settlement.wire import Note

PENDING_ZEQONDS: Final = 772
"""Ten minutes: a request that nobody answered by then has lapsed, at both ends."""
LOOK_US: Final = 1_000_000
MAX_OVER: Final = 256


class NoSuchTunnel(LocalFault):
    """There is no tunnel of this id here, and never was."""


class Tunnels:
    """`transcripts(machine_id)`: hashes of the handshakes of its sessions, 32 bytes each, the newest first.
    `past(tunnel_id)`: the tunnel as it stands on the disk, so that what is over stays as it ended.
    `unix_offset_us`: what makes the clock of `now_us` Unix time, as it was at the start, so that a clock that
    is set later moves no tunnel's age."""

    def __init__(
        self,
        machine_id: bytes,
        signer: Signer,
        signatures: Signatures,
        credit: Credit,
        transcripts: Callable[[bytes], tuple[bytes, ...]],
        past: Callable[[bytes], Row | None],
        unix_offset_us: int,
    ) -> None:
        self.machine_id = machine_id
        self.signer = signer
        self.signatures = signatures
        self.credit = credit
        self.counters: Counter[str] = Counter()
        self.actions: list[Action] = []
        self._transcripts = transcripts
        self._past = past
        self._offset_us = unix_offset_us
        self._pending: dict[bytes, Row] = {}
        self._sides: dict[bytes, Side] = {}  # accepted; ended, while something is waited for
        self._asleep: dict[bytes, Side] = {}  # ended and not settled, until the two meet again
        self._over: dict[bytes, Row] = {}  # the last few, which may not be on the disk yet
        self._look_us = NEVER

    def load(self, rows: Iterable[tuple[Row, bytes]], now_us: int) -> None:
        """Tunnels that have not ended or are not settled, each with its newest voucher (or none)."""
        for row, raw in rows:
            if row.state is State.PENDING:
                self._pending[row.tunnel_id] = row
                continue
            side = self._sides[row.tunnel_id] = self._side(row, now_us, True, raw)
            if not row.ended or self.zeqond(now_us) - row.ended_at <= MAX_LIFESPAN:
                side.admit(now_us)
            self._place(side)
        self._look_us = now_us

    def row(self, tunnel_id: bytes) -> Row | None:
        """With what was signed for so far; None for one that never was."""
        side = self._find(tunnel_id)
        if side is not None:
            return side.with_figures()
        return self._pending.get(tunnel_id) or self._over.get(tunnel_id) or self._past(tunnel_id)

    def rows(self) -> list[Row]:
        """All that are not over and settled."""
        return [*self._pending.values(), *[side.with_figures() for side in self._all()]]

    def terminate(self, tunnel_id: bytes, now_us: int) -> Row:
        """Raises NoSuchTunnel. Of one that has ended: as it ended. Who calls it has just told what its peer's
        meter says (`measured`): what is carried later is not signed for."""
        waiting = self._waiting(tunnel_id, now_us)
        if waiting is not None:
            return self._drop(waiting, Happening.TERMINATE, Code.TERMINATED, now_us)
        side = self._find(tunnel_id)
        if side is None:
            past = self.row(tunnel_id)
            if past is None:
                raise NoSuchTunnel("there is no such tunnel")
            return past
        if not side.row.ended:
            side.end(Happening.TERMINATE, Code.TERMINATED, now_us)
            self._flush(now_us)
        return side.with_figures()

    # ------------------------------------------------------------------ the tunnel's peer

    def reached(self, machine_id: bytes, place: str) -> None:
        """It is at this address now; kept, so that a start finds it there."""
        for side in self._with(machine_id):
            side.reached(place)

    def connected(self, machine_id: bytes, now_us: int) -> None:
        """There is a session with it, or another one."""
        for side in [each for each in self._asleep.values() if each.row.partner == machine_id]:
            side.awake(now_us)
            self._place(side)
        for side in self._with(machine_id):
            side.connected(now_us)
        self._flush(now_us)

    def on_note(self, machine_id: bytes, body: bytes, now_us: int) -> None:
        """In an authentic record of this peer."""
        try:
            note = wire.decode_note(body)
        except PeerFault:
            self.counters["note that cannot be read"] += 1
            return
        side = self._find(_names(note))
        if side is not None and side.row.partner == machine_id:
            self._pass_on(side, note, now_us)
            self._place(side)
        elif isinstance(note, wire.End):  # over and settled, or lost with our disk: it need not ask again
            self.act(Send(machine_id, wire.encode(wire.Ended(note.tunnel_id))))
        elif isinstance(note, wire.Half):  # the same: it did not hear our half
            self.act(Repeat(machine_id, note.tunnel_id, note.block))
        else:
            self.counters["note about no tunnel of this peer"] += 1
        self._flush(now_us)

    def _pass_on(self, side: Side, note: Note, now_us: int) -> None:
        match note:
            case wire.End(_, code):
                side.ended_there(Code.of(code), now_us)
            case wire.Ended():
                side.end_was_heard(now_us)
            case wire.Shown():
                side.on_shown(note, now_us)
            case wire.Opened() if isinstance(side, PayerSide):
                side.on_opened(note, now_us)
            case wire.Stated() if isinstance(side, PayerSide):
                side.on_stated(note, now_us)
            case wire.Kept() if isinstance(side, PayerSide):
                side.on_kept(note, now_us)
            case wire.Open() if isinstance(side, PayeeSide):
                side.on_open(note, now_us)
            case wire.Paid() if isinstance(side, PayeeSide):
                side.on_paid(note, now_us)
            case wire.Half(_, block) if isinstance(side, PayerSide | PayeeSide):
                side.on_half(block)
            case _:
                self.counters["note of the other end's"] += 1

    def measured(self, machine_id: bytes, meter: Measured, now_us: int) -> None:
        """What its peer has carried since it is one."""
        for side in self._with(machine_id):
            if not side.row.ended:
                side.measured(meter, now_us)
        self._flush(now_us)

    def halved(self, tunnel_id: bytes, block: bytes, now_us: int) -> None:
        """Our half of this tunnel stands in the ledger."""
        side = self._find(tunnel_id)
        if isinstance(side, PayerSide | PayeeSide):
            side.halved(block, now_us)
        self._flush(now_us)

    def not_halved(self, tunnel_id: bytes, now_us: int) -> None:
        """The ledger does not sign our half yet: the partner has not shown what it holds of our chain."""
        side = self._find(tunnel_id)
        if isinstance(side, PayerSide):
            side.not_halved(now_us)

    def open_again(self) -> None:
        """Gates that somebody else has shut are as the tunnels have them again."""
        for side in self._sides.values():
            side.gate()

    def partners(self) -> set[bytes]:
        """machine_ids with which there is a tunnel that has not ended, or is not settled."""
        return {side.row.partner for side in self._all()}

    def in_use(self) -> set[bytes]:
        """machine_ids of partners whose meters matter now."""
        return {side.row.partner for side in self._sides.values() if not side.row.ended}

    # ------------------------------------------------------------------ time

    def tick(self, now_us: int) -> None:
        """Do everything that is due."""
        self._look_us = now_us + LOOK_US
        for tunnel_id in list(self._pending):
            self._waiting(tunnel_id, now_us)
        self._flush(now_us)

    def deadline_us(self) -> int:
        """When `tick` next has something to do."""
        if not self._pending and not self._sides:
            return NEVER
        return min(self._look_us, *[side.deadline_us() for side in self._sides.values()], NEVER)

    def _flush(self, now_us: int) -> None:
        """What sides have to send, and which of them are over."""
        for tunnel_id, side in list(self._sides.items()):
            side.tick(now_us)
            if side.row.ended and (side.closed or now_us >= side.done_us):
                side.give_up()
                self._place(side)
                if side.row.settled:
                    self._forget(self._asleep.pop(tunnel_id).row)
                if not self._with(side.row.partner):
                    self.act(Dismiss(side.row.partner))
        self._look_us = min(self._look_us, now_us + LOOK_US)

    # ------------------------------------------------------------------ what sides ask of their host

    def act(self, action: Action) -> None:
        self.actions.append(action)

    def gate(self, machine_id: bytes) -> None:
        """Packets pass where a tunnel has begun, and nothing is unpaid in either direction."""
        begun = [side for side in self._with(machine_id) if side.row.began_at and not side.row.ended]
        self.act(Gate(machine_id, bool(begun) and all(side.passes() for side in begun)))

    def zeqond(self, now_us: int) -> int:
        return zeqond((now_us + self._offset_us) // 1000)

    def day(self, now_us: int) -> int:
        """Unix day."""
        return (now_us + self._offset_us) // 1_000_000 // DAY_S

    def knows(self, machine_id: bytes, session: bytes) -> bool:
        """Whether it is the hash of a handshake with this machine that made a session."""
        return session in self._transcripts(machine_id)

    def newest(self, machine_id: bytes) -> bytes:
        """32 bytes; empty where there is no session."""
        found = self._transcripts(machine_id)
        return found[0] if found else b""

    # ------------------------------------------------------------------ inside

    def _find(self, tunnel_id: bytes) -> Side | None:
        return self._sides.get(tunnel_id) or self._asleep.get(tunnel_id)

    def _place(self, side: Side) -> None:
        """What sleeps is looked at when the two meet, and costs nothing else."""
        here, there = (self._asleep, self._sides) if side.dormant else (self._sides, self._asleep)
        there.pop(side.row.tunnel_id, None)
        here[side.row.tunnel_id] = side

    def _all(self) -> list[Side]:
        return [*self._sides.values(), *self._asleep.values()]

    def _with(self, machine_id: bytes) -> list[Side]:
        """Those that are not asleep."""
        return [side for side in self._sides.values() if side.row.partner == machine_id]

    def _side(self, row: Row, now_us: int, resumed: bool, raw: bytes = b"") -> PayerSide | PayeeSide:
        made = PayerSide if row.role is Role.PAYER else PayeeSide
        return made(self, row, now_us, resumed, raw)

    def _wait(self, row: Row, now_us: int) -> None:
        self._pending[row.tunnel_id] = row
        self._look_us = min(self._look_us, now_us + LOOK_US)
        self._said(row)

    def _waiting(self, tunnel_id: bytes, now_us: int) -> Row | None:
        """The request, if it still waits for an answer; if its time is over, it lapses here and now."""
        row = self._pending.get(tunnel_id)
        if row is not None and self.zeqond(now_us) - row.asked_at > PENDING_ZEQONDS:
            self._drop(row, Happening.EXPIRE, Code.UNANSWERED, now_us)
            return None
        return row

    def _drop(self, row: Row, happening: Happening, code: Code, now_us: int) -> Row:
        """A request comes to nothing."""
        row = row.after(happening, self.zeqond(now_us), code)
        self._pending.pop(row.tunnel_id, None)
        self._said(row)
        self._forget(row)
        return row

    def _forget(self, row: Row) -> None:
        self._over[row.tunnel_id] = row
        if len(self._over) > MAX_OVER:
            del self._over[next(iter(self._over))]

    def _start(self, row: Row, now_us: int) -> Row:
        row = row.after(Happening.ACCEPT, self.zeqond(now_us))
        self._pending.pop(row.tunnel_id, None)
        self._said(row)
        self._sides[row.tunnel_id] = self._side(row, now_us, False)
        return row

    def _said(self, row: Row) -> None:
        self.act(Save(row))
        self.act(Changed(row))

    def _not_pending(self, tunnel_id: bytes, happening: Happening) -> LocalFault:
        known = self.row(tunnel_id)
        return (
            NoSuchTunnel("there is no such tunnel") if known is None else InvalidState(known.state, happening)
        )


def _names(note: Note) -> bytes:
    """The tunnel that a note is about."""
    if isinstance(note, wire.Paid):
        return wire.tunnel_of(note.voucher)
    return note.tunnel_id
