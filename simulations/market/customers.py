"""What a payer does in a day: errands, each a number of bytes through some relay; with the rest to another
one if that one refuses, leaves or does not serve.

    errand ─▶ ask ─┬─ refused, unanswered ─▶ another relay
                   └─ accepted, begun ─▶ flow ─┬─ all there ─▶ terminate
                                               ├─ nothing comes for two minutes ─▶ terminate, another relay
                                               └─ ended by the relay ─▶ another relay
    not settled after an hour ─▶ a small errand to the same relay, as two machines settle when they meet
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node.settlement.life import Code, Row, State
from node.settlement.terms import Unit, agree
from simulations.dice import Dice
from simulations.market.flows import Carried, Flow
from simulations.market.machine import Machine
from simulations.market.town import HOUR_US, MINUTE_US, SECOND_US, Town

LIFESPAN: Final = 1_000  # zeqonds: 13 minutes
TRIES: Final = 6
PATIENCE_US: Final = 2 * MINUTE_US
CHEAT_PATIENCE_US: Final = 20 * SECOND_US
LEAST_REST: Final = 50  # of an errand: less than 1/50 missing is no reason to ask somebody else
MEETING_BYTES: Final = 1_000_000
MEETINGS: Final = 3
_MARGIN_PERCENT: Final = 130  # of what an errand should cost, that it may cost
_BAD: Final = (Code.OVER_METERED, Code.NOTHING_CARRIED)


@dataclass(slots=True)
class Errand:
    """`want`: bytes, both ways together. `rate`: a second. `relay`: where; None: anywhere."""

    at_us: int
    want: int
    rate: int
    up_percent: int
    relay: Machine | None = None
    newcomer: bool = False


@dataclass(slots=True)
class Visit:
    """One request, and what came of it. `row`: the payer's, as it last was. `left`: the payer ended it."""

    payer: Machine
    payee: Machine
    errand: Errand
    tunnel_id: bytes
    want: int
    tries: int
    row: Row | None = None
    carried: Carried | None = None
    flow: Flow | None = None
    left: bool = False
    over: bool = False


class Customer:
    """`visits`: where every request is written down, for who judges."""

    def __init__(
        self, town: Town, machine: Machine, relays: Sequence[Machine], visits: list[Visit], dice: Dice
    ) -> None:
        self.town, self.machine = town, machine
        self._relays, self._visits, self._dice = relays, visits, dice
        self._open: dict[bytes, Visit] = {}
        self._shunned: set[bytes] = set()
        self._asked: set[bytes] = set()
        machine.changed = self._changed

    def run(self, errand: Errand) -> None:
        """At its time."""
        self.town.call_at(errand.at_us, self._visit, errand, errand.want, TRIES)

    def _visit(self, errand: Errand, want: int, tries: int) -> None:
        if not tries:
            return
        if not self.machine.alive:
            self.town.call_in(30 * SECOND_US, self._visit, errand, want, tries)
            return
        relay = errand.relay or self._choose(errand.newcomer)
        unit = self._unit(relay)
        budget = agree(unit, _price(relay, unit), LIFESPAN).final(want * _MARGIN_PERCENT // 100, LIFESPAN)
        tunnel_id = self.machine.ask(relay, unit, LIFESPAN, budget)
        self._asked.add(relay.machine_id)
        visit = Visit(self.machine, relay, errand, tunnel_id, want, tries)
        self._open[tunnel_id] = visit
        self._visits.append(visit)

    def _choose(self, newcomer: bool) -> Machine:
        """One that did not cheat us; as a newcomer, one that we have never asked."""
        for _ in range(20):
            relay = self._dice.one_of(self._relays)
            known = relay.machine_id in (self._asked if newcomer else self._shunned)
            if not known and relay is not self.machine:
                break
        return relay

    def _unit(self, relay: Machine) -> Unit:
        assert relay.policy is not None
        return Unit.ZEQOND if relay.policy.price(Unit.ZEQOND) and self._dice.below(2) else Unit.GB

    # ------------------------------------------------------------------ what becomes of it

    def _changed(self, row: Row) -> None:
        visit = self._open.get(row.tunnel_id)
        if visit is None:
            return
        visit.row = row
        if row.ended:
            if visit.flow is not None:
                visit.flow.stop()  # what goes on is another tunnel's with the same relay
            self.town.call_in(SECOND_US, self._ended, visit)
        elif row.state is State.ACTIVE and row.began_at and visit.flow is None:
            self._begun(visit, row)

    def _begun(self, visit: Visit, row: Row) -> None:
        payer, payee, errand = visit.payer, visit.payee, visit.errand
        carried = Carried(payer.machine_id, payee.machine_id, row.tunnel_id, row.agreed)
        visit.carried = carried
        figures = visit.want, errand.rate, errand.up_percent
        visit.flow = Flow(self.town, payer, payee, carried, *figures, lambda _flow: self._leave(visit))
        self.town.call_in(SECOND_US, self._watch, visit)

    def _watch(self, visit: Visit) -> None:
        flow = visit.flow
        if flow is None or flow.stopped:
            return
        patience_us = PATIENCE_US if self.machine.sound else CHEAT_PATIENCE_US
        if flow.stalled_us > patience_us and visit.payer.way != "pays late":
            self._shunned.add(visit.payee.machine_id)
            self._leave(visit)
        else:
            self.town.call_in(5 * SECOND_US, self._watch, visit)

    def _leave(self, visit: Visit) -> None:
        """Who cheats does not say goodbye."""
        assert visit.flow is not None
        visit.flow.stop()
        visit.left = True
        if not self.machine.alive:
            self.town.call_in(30 * SECOND_US, self._leave, visit)
        elif self.machine.sound or visit.payer.way in _POLITE:
            self.machine.terminate(visit.tunnel_id)
            if visit.row is not None and not visit.row.ended:  # it was not on the disk that was put back
                self._ended(visit)
        else:
            self._ended(visit)
            if visit.payer.way == "crowd":  # nobody will see this identity again
                self.town.call_in(30 * SECOND_US, visit.payer.kill)

    def _ended(self, visit: Visit) -> None:
        if visit.over:
            return
        visit.over = True
        if visit.flow is not None:
            visit.flow.stop()
        if visit.row is not None and visit.row.code in _BAD:
            self._shunned.add(visit.payee.machine_id)
        if visit.carried is not None and self.machine.sound:
            self.town.call_in(HOUR_US, self._settle, visit.tunnel_id, visit.payee, MEETINGS)
        useful = visit.carried.useful if visit.carried is not None else 0
        rest = visit.want - useful
        if rest * LEAST_REST > visit.errand.want and not visit.errand.relay:
            pause_us = SECOND_US * self._dice.between(5, 60)
            self.town.call_in(pause_us, self._visit, visit.errand, rest, visit.tries - 1)

    def _settle(self, tunnel_id: bytes, relay: Machine, tries: int) -> None:
        row = self.machine.disk.rows.get(tunnel_id)
        if row is not None and not row.settled and tries:
            self.run(Errand(self.town.now_us, MEETING_BYTES, MEETING_BYTES, 50, relay))
            self.town.call_in(HOUR_US, self._settle, tunnel_id, relay, tries - 1)


_POLITE: Final = ("forks", "pays late", "clique", "one for two")


def _price(relay: Machine, unit: Unit) -> int:
    assert relay.policy is not None
    return relay.policy.price(unit) or 0
