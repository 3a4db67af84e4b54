"""Machines that ask, accept and pay, joined by a wire that a test holds: the desks are the product's, with
the real ledger; the disk is a dictionary, the peers are counters. Whatever a machine says must stand on its
disk before, which is checked of every message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from pathlib import Path

from crypto.identity import BUNDLE_BYTES, KeyBundle
from node import meeting
from node.ledger import ChainBehind, Ledger
from node.settlement import actions, blocks, life, vouchers, wire
from node.settlement.actions import Action
from node.settlement.blocks import BadBlock, Partner, Party
from node.settlement.credit import DAY_S, Credit, Extended, by_default
from node.settlement.desk import Desk
from node.settlement.life import Role, Row, State
from node.settlement.policy import Accept, Policy
from node.settlement.side import Measured
from node.settlement.terms import Unit
from node.settlement.wire import Note, Request
from tests.dht.record_kit import ToySignatures, ToySigner

START_US = 1_800_000_000_000_000
MB = 1_000_000


@dataclass
class Meter:
    """One machine's meter of one peer."""

    sent: int = 0
    received: int = 0
    lost: int = 0
    rtt_us: int = 20_000


@dataclass(repr=False, eq=False)
class Machine:
    """`now_us` is the wire's. `alive`: whether its process runs. `dies_in`: after so many actions it is
    killed. `rows`: as encoded."""

    name: str
    path: Path
    wire: Wire
    policy: Policy | None = None
    extended: Extended | None = None
    signer: ToySigner = field(init=False)
    bundle: bytes = field(init=False)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    friends: set[bytes] = field(default_factory=set)
    alive: bool = False
    dies_in: int | None = None
    told: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.signer = ToySigner(self.name.encode().ljust(32, b"."))
        self.bundle = self.signer.public.ljust(BUNDLE_BYTES, b"\x01")
        self.machine_id = KeyBundle(self.bundle).machine_id
        self.wire.machines[self.machine_id] = self
        self.start()

    def start(self) -> None:
        """A process over what the disk has."""
        party = Party(machine_id=self.machine_id, signer=self.signer)
        self.ledger = Ledger.open(self.path / f"{self.name}.db", party, ToySignatures())
        self.ledger._db.rows("PRAGMA synchronous = OFF")  # the test holds the disk's power, too
        self.alive = True
        self.dies_in = None
        self.meters: dict[bytes, Meter] = {}
        self.open: dict[bytes, bool] = {}
        self.peers: set[bytes] = set()
        self.credit = self._credit()
        self.desk = Desk(
            self.machine_id,
            self.signer,
            ToySignatures(),
            self.credit,
            lambda machine: self.wire.transcripts(self.machine_id, machine),
            self._past,
            self.ledger.lies,
            0,
        )
        self.desk.policy = self.policy
        kept = [row for row in self.stored() if not row.ended or not row.settled]
        self.desk.load([(row, self._newest(row)) for row in kept], self.wire.now_us)
        self.act()

    def _past(self, tunnel_id: bytes) -> Row | None:
        return self._on_disk(tunnel_id) if tunnel_id in self.rows else None

    def stored(self) -> list[Row]:
        return [life.from_bytes(raw) for raw in self.rows.values()]

    def _credit(self) -> Credit:
        """With what the rows and vouchers on the disk say of everybody's exposure."""
        rate = self.policy or Policy(per_gb_zeq=50, per_zeqond_zeq=1, max_tunnels=8)
        day = self.wire.now_us // 1_000_000 // DAY_S
        exposures: Counter[bytes] = Counter()
        today = 0
        for row in self.stored():
            value = self._value(row)
            exposures[row.partner] += value if row.role is Role.PAYEE else -value
            if row.role is Role.PAYEE and row.day == day and row.partner not in self.friends:
                today += value - row.before_today
        extended = self.extended or by_default(rate.per_gb_zeq, rate.per_zeqond_zeq)
        return Credit(extended, exposures, today, day, self.friends.__contains__)

    def _value(self, row: Row) -> int:
        raw = self._newest(row)
        if not raw:
            return row.value
        kept = vouchers.read(raw)
        return max(row.value, row.agreed.amount(kept.up + kept.down, kept.zeqonds))

    def kill(self) -> None:
        """Everything but the disk is gone."""
        if self.alive:
            self.alive = False
            self.ledger.close()
            self.desk.actions.clear()
            self.wire.cut(self.machine_id)

    def _newest(self, row: Row) -> bytes:
        return self.ledger.raw_voucher(row.tunnel_id, given=row.role is Role.PAYER)

    def act(self) -> None:
        """Carry out what the desk wants."""
        while self.alive and self.desk.actions:
            if self.dies_in is not None:
                self.dies_in -= 1
                if self.dies_in < 0:
                    self.kill()
                    return
            self._do(self.desk.actions.pop(0))

    def _do(self, action: Action) -> None:
        match action:
            case actions.Save(row):
                self.rows[row.tunnel_id] = life.to_bytes(row)
            case actions.Keep(raw):
                self.ledger.keep([raw])
            case actions.Spend(row, raw):
                self._spend(row, raw)
            case actions.Earn(row, raw, proposal):
                self._earn(row, raw, proposal)
            case actions.Repeat(machine_id, tunnel_id, proposal):
                self._repeat(machine_id, tunnel_id, proposal)
            case actions.Learn(_, raw):
                with suppress(BadBlock):
                    self.ledger.learn(blocks.read(raw))
            case actions.Greet(row):
                self._show(row, meeting.opening(self.ledger, _partner(row), self.wire.entropy), True)
            case actions.Read(row, body):
                self._show(row, meeting.received(self.ledger, _partner(row), body), False)
            case actions.Tell(bundle, tag, body, _):
                self._check_told(tag, body)
                self.wire.post(self, KeyBundle(bundle).machine_id, lambda other: other.hear(self, tag, body))
            case actions.Send(machine_id, body):
                self._check_said(wire.decode_note(body))
                if self.wire.joined(self.machine_id, machine_id):
                    note = self.wire.spoil(self, body)
                    self.wire.post(self, machine_id, lambda other: other.note(self.machine_id, note))
            case actions.Admit(row):
                self.peers.add(row.partner)
                self.meters.setdefault(row.partner, Meter())
                self.wire.meet(self.machine_id, row.partner)
            case actions.Call(machine_id):
                self.wire.call(self.machine_id, machine_id)
            case actions.Dismiss(machine_id):
                if machine_id not in self.friends:
                    self.peers.discard(machine_id)
                    self.meters.pop(machine_id, None)
                    self.wire.part(self.machine_id, machine_id)
            case actions.Gate(machine_id, is_open):
                self.open[machine_id] = is_open

    def _show(self, row: Row, notes: list[bytes], opening: bool) -> None:
        for number, note in enumerate(notes):
            shown = wire.Shown(row.tunnel_id, opening and not number, note)
            self._do(actions.Send(row.partner, wire.encode(shown)))

    def _spend(self, row: Row, raw: bytes) -> None:
        now = self.wire.now_us
        try:
            block = self.ledger.spend(raw, row.partner_key, self.desk.zeqond(now))
        except ChainBehind:
            self.desk.not_halved(row.tunnel_id, now)
        else:
            self.desk.halved(row.tunnel_id, block.raw, now)

    def _check_told(self, tag: str, body: bytes) -> None:
        assert len(body) <= 4096
        if tag == wire.REQUEST_TAG:
            assert self._on_disk(wire.decode_request(body).tunnel_id).role is Role.PAYER
        elif tag == wire.ACCEPTED_TAG:
            assert self._on_disk(wire.decode_answer(body).tunnel_id).state is State.ACTIVE

    def _check_said(self, note: Note) -> None:
        """What is said stands on the disk."""
        assert len(wire.encode(note)) <= wire.NOTE_BYTES
        self.told[type(note).__name__] += 1
        match note:
            case wire.Open(tunnel_id, session):
                assert self._on_disk(tunnel_id).session == session
            case wire.Opened(tunnel_id, session) if session:
                assert self._on_disk(tunnel_id).session == session
            case wire.Paid(raw):
                assert self.ledger.raw_voucher(tunnel_of(raw), given=True) == raw
            case wire.Kept(tunnel_id, sequence):
                kept = self.ledger.voucher(tunnel_id, given=False)
                assert kept is not None
                assert kept.sequence >= sequence
            case wire.End(tunnel_id, _):
                assert self._on_disk(tunnel_id).ended
            case wire.Half(tunnel_id, raw):
                ours = self.ledger.half_of(tunnel_id)
                assert ours is not None
                assert ours.raw == raw

    def _on_disk(self, tunnel_id: bytes) -> Row:
        return life.from_bytes(self.rows[tunnel_id])

    def _repeat(self, machine_id: bytes, tunnel_id: bytes, proposal: bytes) -> None:
        with suppress(BadBlock):
            ours = self.ledger.answer_to(blocks.read(proposal))
            if ours is not None:
                self._do(actions.Send(machine_id, wire.encode(wire.Half(tunnel_id, ours.raw))))

    def _earn(self, row: Row, raw: bytes, proposal: bytes) -> None:
        if not proposal:
            known = self.ledger.half_of(row.tunnel_id)
            if known is not None:
                self.desk.halved(row.tunnel_id, known.raw, self.wire.now_us)
            return
        try:
            block = self.ledger.earn(
                blocks.read(proposal), raw, row.partner_key, self.desk.zeqond(self.wire.now_us)
            )
        except (BadBlock, ChainBehind):
            self.desk.counters["half refused"] += 1
            return
        self.desk.halved(row.tunnel_id, block.raw, self.wire.now_us)

    def hear(self, other: Machine, tag: str, body: bytes) -> None:
        if tag == wire.REQUEST_TAG:
            self.desk.on_request(other.bundle, body, self.wire.now_us)
        else:
            self.desk.on_answer(tag, other.machine_id, body, self.wire.now_us)
        self.act()

    def note(self, machine_id: bytes, body: bytes) -> None:
        self.hear_note(machine_id, body, measured=True)

    def hear_note(self, machine_id: bytes, body: bytes, measured: bool) -> None:
        """`measured`: the desk is told first what the meter says."""
        if measured:
            self.measure(machine_id)
        self.desk.on_note(machine_id, body, self.wire.now_us)
        self.act()

    def connected(self, machine_id: bytes) -> None:
        self.desk.connected(machine_id, self.wire.now_us)
        self.act()

    def measure(self, machine_id: bytes) -> None:
        meter = self.meters.get(machine_id)
        if meter is not None:
            figures = Measured(meter.sent, meter.received, meter.lost, meter.rtt_us)
            self.desk.measured(machine_id, figures, self.wire.now_us)
            self.act()

    def ask(
        self, relay: Machine, *, unit: Unit = Unit.GB, price: int = 50, lifespan: int = 1000, **more: int
    ) -> bytes:
        tunnel_id = self.wire.entropy(16)
        draft = Request(
            tunnel_id=tunnel_id,
            pricing_unit=unit,
            price_zeq=price,
            lifespan_zeqonds=lifespan,
            reply_secret=self.wire.entropy(16),
        )
        self.desk.request(relay.bundle, draft, self.wire.now_us, **more)
        self.act()
        return tunnel_id

    def terminate(self, tunnel_id: bytes) -> Row:
        for partner in self.desk.in_use():
            self.measure(partner)
        row = self.desk.terminate(tunnel_id, self.wire.now_us)
        self.act()
        return row

    def row(self, tunnel_id: bytes) -> Row:
        row = self.desk.row(tunnel_id)
        assert row is not None
        return row


class Wire:
    """`loses(n)`: whether the n-th message is lost. Messages come in the order of sending, at once."""

    def __init__(self, loses: Callable[[int], bool] = lambda _number: False) -> None:
        self.now_us = START_US
        self.machines: dict[bytes, Machine] = {}
        self.loses = loses
        self.spoil: Callable[[Machine, bytes], bytes] = lambda _machine, body: body
        self._queue: list[tuple[bytes, Callable[[Machine], None]]] = []
        self._sessions: dict[frozenset[bytes], list[bytes]] = {}
        self._count = self._random = self.delivered = 0

    def entropy(self, size: int) -> bytes:
        self._random += 1
        return sha256(self._random.to_bytes(8, "big")).digest()[:size]

    def post(self, _sender: Machine, to: bytes, message: Callable[[Machine], None]) -> None:
        self._count += 1
        if not self.loses(self._count):
            self._queue.append((to, message))

    def run(self, seconds: float = 0.0, step_us: int = 250_000) -> None:
        """Deliver everything, then let time go by."""
        self._deliver()
        end_us = self.now_us + round(seconds * 1_000_000)
        while self.now_us < end_us:
            self.now_us += step_us
            for machine in self.machines.values():
                if not machine.alive:
                    continue
                for partner in machine.desk.in_use():
                    machine.measure(partner)
                if machine.desk.deadline_us() <= self.now_us:
                    machine.desk.tick(self.now_us)
                    machine.act()
            for one, other in combinations(self.machines, 2):
                self.meet(one, other)
            self._deliver()

    def close(self) -> None:
        for machine in self.machines.values():
            machine.kill()

    def _deliver(self) -> None:
        for _ in range(10_000):
            if not self._queue:
                return
            to, message = self._queue.pop(0)
            if self.machines[to].alive:
                self.delivered += 1
                message(self.machines[to])
        raise AssertionError("the machines do not stop talking")

    def meet(self, one: bytes, other: bytes) -> None:
        """A handshake, if there is no session, and each is a peer of the other."""
        if not self.joined(one, other):
            self.call(one, other)

    def call(self, one: bytes, other: bytes) -> None:
        """A handshake, if each is a peer of the other."""
        here, there = self.machines[one], self.machines[other]
        mutual = other in here.peers and one in there.peers
        if here.alive and there.alive and mutual:
            self.rekey(one, other)

    def part(self, one: bytes, other: bytes) -> None:
        self._sessions.pop(frozenset((one, other)), None)

    def rekey(self, one: bytes, other: bytes) -> None:
        pair = frozenset((one, other))
        self._sessions.setdefault(pair, []).insert(0, self.entropy(32))
        for here, there in ((one, other), (other, one)):
            self._queue.append((here, lambda machine, there=there: machine.connected(there)))  # type: ignore[misc]

    def cut(self, machine_id: bytes) -> None:
        """Its sessions are gone."""
        for pair in self._sessions:
            if machine_id in pair:
                self._sessions[pair] = []
        self._queue = [(to, message) for to, message in self._queue if to != machine_id]

    def joined(self, one: bytes, other: bytes) -> bool:
        return bool(self._sessions.get(frozenset((one, other))))

    def transcripts(self, one: bytes, other: bytes) -> tuple[bytes, ...]:
        return tuple(self._sessions.get(frozenset((one, other)), ()))

    def carry(self, payer: Machine, payee: Machine, up: int, down: int) -> bool:
        """Packets, all of which arrive; False where a gate is shut."""
        if not (payer.alive and payee.alive and self.joined(payer.machine_id, payee.machine_id)):
            return False
        if not payer.open.get(payee.machine_id) or not payee.open.get(payer.machine_id):
            return False
        for one, other, size in ((payer, payee, up), (payee, payer, down)):
            one.meters[other.machine_id].sent += size
            other.meters[one.machine_id].received += size
        return True


def a_relay(
    path: Path, on: Wire, name: str = "relay", extended: Extended | None = None, **policy: object
) -> Machine:
    offered = {"per_gb_zeq": 50, "per_zeqond_zeq": 1, "max_tunnels": 8, "accept": Accept.AUTO} | policy
    return Machine(name, path, on, Policy(**offered), extended)  # type: ignore[arg-type]


def _partner(row: Row) -> Partner:
    return Partner(machine_id=row.partner, key=row.partner_key)


def tunnel_of(raw: bytes) -> bytes:
    return vouchers.read(raw).tunnel_id
