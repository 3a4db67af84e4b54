"""A machine of the market: the product's desk and ledger, and around them what a node's shell would do.

    desk ─▶ actions ─▶ disk, notes, events, peers, gates        meters ─▶ desk, after all that is carried

What cheats overrides one of these methods (simulations/market/payers.py, payees.py), and has an honest desk
inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from crypto.identity import KeyBundle
from node.settlement import actions, wire
from node.settlement.blocks import Party
from node.settlement.credit import DAY_S, by_default
from node.settlement.desk import Desk
from node.settlement.life import Role, Row
from node.settlement.outbox import NEVER
from node.settlement.policy import Policy
from node.settlement.side import Measured
from node.settlement.terms import Unit
from node.settlement.wire import Request
from simulations.market.bookkeeper import Bookkeeper
from simulations.market.disk import Disk
from simulations.market.town import SECOND_US, Town
from simulations.market.watch import Watch
from simulations.toycrypto import ToySigner, toy_machine

SPIN_US: Final = 1_000  # between two ticks at least
KEPT: Final = 5  # the tag of a note, in its second byte


@dataclass(slots=True)
class Meter:
    """Of one peer, as tun.peer counts: inner bytes, and those sent that its reports say were lost."""

    sent: int = 0
    received: int = 0
    lost: int = 0


class Machine(Bookkeeper):
    """`name` makes its keys. `policy`: what it offers; None: it only pays. `watch`: who judges the market."""

    sound = True
    """What it loses counts: it does as the product does."""
    way = "honest"

    def __init__(self, town: Town, watch: Watch, name: str, policy: Policy | None = None) -> None:
        self.town, self.watch, self.name, self.policy = town, watch, name, policy
        self.signer = ToySigner(blake2b(f"{town.seed} {name}".encode(), digest_size=32).digest())
        self.bundle = toy_machine(self.signer).bundle.raw
        self.machine_id = KeyBundle(self.bundle).machine_id
        super().__init__()
        self.party = Party(machine_id=self.machine_id, signer=self.signer)
        self.disk = Disk(self.party)
        self.alive = False
        self.changed: Callable[[Row], None] = lambda _row: None
        self.counters: Counter[str] = Counter()
        self.acknowledged: dict[bytes, int] = {}  # by tunnel_id: the highest sequence that it said it has
        town.add(self)
        self.start()

    # ------------------------------------------------------------------ its process

    def start(self) -> None:
        """Over what the disk has."""
        now_us = self.town.now_us
        self.alive = True
        self.meters: dict[bytes, Meter] = {}
        self.gates: dict[bytes, bool] = {}
        self.peers: dict[bytes, None] = {}
        self._begun: set[bytes] = set()
        self._by_time: dict[bytes, None] = {}  # with whom time is paid for, also while nothing flows
        self._wake_us = NEVER
        rate = self.policy or Policy(per_gb_zeq=50, per_zeqond_zeq=0, max_tunnels=8)
        self.extended = by_default(rate.per_gb_zeq, rate.per_zeqond_zeq)
        credit = self.disk.credit(self.extended, now_us // SECOND_US // DAY_S)
        self.desk = Desk(
            self.machine_id,
            self.signer,
            self.signatures,
            credit,
            lambda machine: self.town.transcripts(self.machine_id, machine),
            lambda tunnel_id: self.disk.rows.get(tunnel_id),
            lambda key: self.disk.ledger.lies(key),
            0,
        )
        self.desk.policy = self.policy
        self.desk.load(self.disk.open_rows(), now_us)
        self.settle()

    def kill(self) -> None:
        """Everything but the disk is gone."""
        self.alive = False
        self.counters.update(self.desk.counters)
        self.desk.actions.clear()
        self.town.vanish(self.machine_id)

    def settle(self) -> None:
        """Carry out what the desk wants, and look at its clock again when it is time."""
        wants = self.desk.actions
        while wants and self.alive:
            done = wants.pop(0)
            _DO[type(done)](self, done)
        if not self.alive:
            return
        deadline_us = self.desk.deadline_us()
        if deadline_us < self._wake_us:
            self._wake_us = max(deadline_us, self.town.now_us + SPIN_US)
            self.town.call_at(self._wake_us, self._wake, self._wake_us)

    def _wake(self, time_us: int) -> None:
        if self._wake_us != time_us or not self.alive:
            return
        self._wake_us = NEVER
        for partner in list(self._by_time):
            self.measure(partner)
        self.desk.tick(time_us)
        self.settle()

    # ------------------------------------------------------------------ what the town brings

    def hear(self, sender: Machine, tag: str, body: bytes) -> None:
        """An event."""
        if tag == wire.REQUEST_TAG:
            self.desk.on_request(sender.bundle, body, self.town.now_us)
        else:
            self.desk.on_answer(tag, sender.machine_id, body, self.town.now_us)
        self.settle()

    def undelivered(self, tunnel_id: bytes) -> None:
        if self.alive:
            self.desk.undelivered(tunnel_id, self.town.now_us)
            self.settle()

    def note(self, machine_id: bytes, body: bytes) -> None:
        self.desk.on_note(machine_id, body, self.town.now_us)
        self.settle()

    def connected(self, machine_id: bytes) -> None:
        self.desk.connected(machine_id, self.town.now_us)
        self.settle()

    def measure(self, machine_id: bytes) -> None:
        """What its meter of this peer says."""
        meter = self.meters.get(machine_id)
        if meter is not None and self.alive:
            rtt_us = self.town.line(self.machine_id, machine_id).rtt_us
            figures = Measured(meter.sent, meter.received, meter.lost, rtt_us)
            self.desk.measured(machine_id, figures, self.town.now_us)
            self.settle()

    def learn_fork(self, proof: bytes) -> bool:
        """By gossip: whether it is news."""
        return self.disk.ledger.learn_fork(proof)

    # ------------------------------------------------------------------ its owner

    def ask(self, relay: Machine, unit: Unit, lifespan: int, budget: int | None) -> bytes:
        """tunnel_id."""
        assert relay.policy is not None
        draft = Request(
            tunnel_id=self.town.entropy(16),
            pricing_unit=unit,
            price_zeq=relay.policy.price(unit) or 0,
            lifespan_zeqonds=lifespan,
            reply_secret=self.town.entropy(16),
        )
        self.desk.request(relay.bundle, draft, self.town.now_us, budget=budget)
        self.settle()
        return draft.tunnel_id

    def terminate(self, tunnel_id: bytes) -> None:
        row = self.desk.row(tunnel_id)
        if self.alive and row is not None:
            self.desk.terminate(tunnel_id, self.town.now_us)
            self.settle()

    def acknowledged_lost(self) -> int:
        """Tunnels of which it has no voucher as new as it said."""
        found = [
            (self.disk.ledger.voucher(key, given=False), least) for key, least in self.acknowledged.items()
        ]
        return sum(voucher is None or voucher.sequence < least for voucher, least in found)

    # ------------------------------------------------------------------ the data path

    def lets(self, machine_id: bytes) -> bool:
        """Whether packets of this peer pass."""
        return self.alive and self.gates.get(machine_id, False)

    def forwards(self, machine_id: bytes) -> int:  # noqa: ARG002
        """Of what its payers ask for, the share in percent that this relay brings: 100."""
        return 100

    # ------------------------------------------------------------------ what the desk wants

    def save(self, action: actions.Save) -> None:
        self.disk.rows[action.row.tunnel_id] = action.row

    def keep(self, action: actions.Keep) -> None:
        self.disk.ledger.keep([action.voucher])

    def tell(self, action: actions.Tell) -> None:
        to = KeyBundle(action.bundle).machine_id
        tunnel_id = wire.decode_request(action.body).tunnel_id if action.answer_to is None else b""
        self.town.tell(self, to, action.tag, action.body, tunnel_id)

    def send(self, action: actions.Send) -> None:
        if action.body[1] == KEPT:
            note = wire.decode_note(action.body)
            assert isinstance(note, wire.Kept)
            self.acknowledged[note.tunnel_id] = note.sequence
        self.town.post(self.machine_id, action.machine_id, action.body)

    def admit(self, action: actions.Admit) -> None:
        partner = action.row.partner
        self.peers[partner] = None
        self.meters.setdefault(partner, Meter())
        if action.row.agreed.pricing_unit is Unit.ZEQOND:
            self._by_time[partner] = None
        if action.row.role is Role.PAYER:
            self.town.dial(self.machine_id, partner)

    def dismiss(self, action: actions.Dismiss) -> None:
        self.peers.pop(action.machine_id, None)
        self._by_time.pop(action.machine_id, None)
        self.meters.pop(action.machine_id, None)
        self.town.hang_up(self.machine_id, action.machine_id)

    def gate(self, action: actions.Gate) -> None:
        self.gates[action.machine_id] = action.open

    def change(self, action: actions.Changed) -> None:
        """Where it begins, the meter is looked at: what it says then is not the tunnel's."""
        row = action.row
        if row.began_at and not row.ended and row.tunnel_id not in self._begun:
            self._begun.add(row.tunnel_id)
            self.measure(row.partner)
        self.changed(row)


_DO: Final[dict[type, Callable[[Machine, Any], None]]] = {
    actions.Save: lambda machine, action: machine.save(action),
    actions.Keep: lambda machine, action: machine.keep(action),
    actions.Spend: lambda machine, action: machine.spend(action),
    actions.Earn: lambda machine, action: machine.earn(action),
    actions.Repeat: lambda machine, action: machine.repeat(action),
    actions.Learn: lambda machine, action: machine.learn(action),
    actions.Greet: lambda machine, action: machine.greet(action),
    actions.Read: lambda machine, action: machine.read(action),
    actions.Tell: lambda machine, action: machine.tell(action),
    actions.Send: lambda machine, action: machine.send(action),
    actions.Admit: lambda machine, action: machine.admit(action),
    actions.Call: lambda machine, action: machine.town.dial(machine.machine_id, action.machine_id),
    actions.Dismiss: lambda machine, action: machine.dismiss(action),
    actions.Gate: lambda machine, action: machine.gate(action),
    actions.Changed: lambda machine, action: machine.change(action),
}
