"""Any order of asking, carrying, paying, losing, killing and ending, by three machines that are honest."""

from __future__ import annotations

from contextlib import suppress
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.settlement.credit import Extended
from node.settlement.life import InvalidState, Row, State
from node.settlement.meters import LEAST_WINDOW_BYTES, SKEW_ZEQONDS, WINDOW_ZEQONDS
from node.settlement.payer import AGREED
from node.settlement.policy import Accept
from node.settlement.terms import MILLIONTHS, Unit
from tests.node.settlement.market_kit import MB, Machine, Wire, a_relay

PIECE = 4 * MB
LIMIT, BY_TIME = 8 * MILLIONTHS, 60 * MILLIONTHS
PER_GB, PER_ZEQOND = 50, 1
NAMES = ("ann", "bob", "cat")
names = st.sampled_from(NAMES)
pairs = st.sampled_from(list(permutations(NAMES, 2)))
prices = {Unit.GB: PER_GB, Unit.ZEQOND: PER_ZEQOND}


class Market(RuleBasedStateMachine):
    """`carried`: by tunnel, all that arrived between its two while either had it. `kills`: by machine."""

    accept = Accept.AUTO

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loss = 0  # in a hundred messages
        self.wire = Wire(lambda number: number * 40_503 % 65_536 * 100 < self.loss * 65_536)
        extended = Extended(stranger=LIMIT, stranger_by_time=BY_TIME, daily=3 * BY_TIME)
        path = Path(self.folder.name)
        offered = {
            "per_gb_zeq": PER_GB,
            "per_zeqond_zeq": PER_ZEQOND,
            "max_tunnels": 2,
            "accept": self.accept,
        }
        self.machines = {name: a_relay(path, self.wire, name, extended, **offered) for name in NAMES}
        self.tunnels: list[tuple[Machine, Machine, bytes]] = []
        self.carried: dict[bytes, int] = {}
        self.kills = dict.fromkeys(NAMES, 0)
        self.budgets: dict[bytes, int | None] = {}

    # ------------------------------------------------------------------ what happens

    @rule(
        pair=pairs,
        unit=st.sampled_from(Unit),
        less=st.sampled_from([0] * 7 + [1]),
        lifespan=st.sampled_from([10, 60, 1000]),
        budget=st.sampled_from([None, None, MILLIONTHS]),
    )
    def somebody_asks(
        self, pair: tuple[str, str], unit: Unit, less: int, lifespan: int, budget: int | None
    ) -> None:
        payer, payee = (self.machines[name] for name in pair)
        if payer.alive:
            more = {} if budget is None else {"budget": budget}
            tunnel = payer.ask(payee, unit=unit, price=prices[unit] - less, lifespan=lifespan, **more)
            self.tunnels.append((payer, payee, tunnel))
            self.carried[tunnel] = 0
            self.budgets[tunnel] = budget
            self._goes_on()

    @precondition(lambda self: self.accept is Accept.HAND and self.tunnels)
    @rule(place=st.integers(0, 99), yes=st.sampled_from([True, True, False]))
    def the_owner_decides(self, place: int, yes: bool) -> None:
        _, payee, tunnel = self.tunnels[place % len(self.tunnels)]
        row = self.row(payee, tunnel)
        if payee.alive and row is not None and row.state is State.PENDING:
            with suppress(InvalidState):  # its time is over
                (payee.desk.accept if yes else payee.desk.refuse)(tunnel, self.wire.now_us)
            payee.act()
            self._goes_on()

    @precondition(lambda self: any(any(machine.open.values()) for machine in self.machines.values()))
    @rule(place=st.integers(0, 99), up=st.integers(0, PIECE // 2), down=st.integers(0, PIECE // 2),
          gone=st.sampled_from([0, 0, 0, 2, 30]))  # fmt: skip
    def they_carry(self, place: int, up: int, down: int, gone: int) -> None:
        flowing = [each for each in self.tunnels if each[0].open.get(each[1].machine_id)] or self.tunnels
        payer, payee, _ = flowing[place % len(flowing)]
        for _ in range(5):
            if not self.wire.carry(payer, payee, up, down):
                return
            for one, other in ((payer, payee), (payee, payer)):
                lost = (up if one is payer else down) * gone // 100
                one.meters[other.machine_id].sent += lost
                one.meters[other.machine_id].lost += lost
            for tunnel in self._shared(payer, payee):
                self.carried[tunnel] += up + down
            self.wire.run(0.5)

    @rule(seconds=st.sampled_from([0.25, 1, 5, 20]))
    def time_goes_by(self, seconds: float) -> None:
        before = self.wire.delivered
        self.wire.run(seconds, 500_000)
        assert self.wire.delivered - before <= 40 * (1 + seconds), "a storm"

    @rule(minutes=st.sampled_from([2, 4, 11]))
    def much_time_goes_by(self, minutes: int) -> None:
        self.wire.run(60 * minutes, 3_000_000)

    @rule(percent=st.sampled_from([0, 0, 10, 50, 100]))
    def the_weather_changes(self, percent: int) -> None:
        self.loss = percent

    @rule(name=names, after=st.integers(0, 12))
    def one_is_killed(self, name: str, after: int) -> None:
        if self.machines[name].alive:
            self.machines[name].dies_in = after

    @rule(name=names)
    def one_is_started(self, name: str) -> None:
        self._restart(self.machines[name])

    @rule(pair=pairs)
    def a_session_is_renewed(self, pair: tuple[str, str]) -> None:
        one, other = (self.machines[name] for name in pair)
        if self.wire.joined(one.machine_id, other.machine_id):
            self.wire.rekey(one.machine_id, other.machine_id)
            self._goes_on()

    @precondition(lambda self: self.tunnels)
    @rule(place=st.integers(0, 99), by_payee=st.booleans())
    def either_ends_it(self, place: int, by_payee: bool) -> None:
        payer, payee, tunnel = self.tunnels[place % len(self.tunnels)]
        machine = payee if by_payee else payer
        if machine.alive and self.row(machine, tunnel) is not None:
            first = machine.terminate(tunnel)
            self._goes_on()
            if machine.alive:
                again = machine.terminate(tunnel)
                assert (again.state, again.code, again.ended_at) == (first.state, first.code, first.ended_at)

    # ------------------------------------------------------------------ what holds

    @invariant()
    def nobody_signs_for_more_than_there_was(self) -> None:
        for payer, _, tunnel in self.tunnels:
            row = self.row(payer, tunnel)
            if not payer.alive or row is None:
                continue
            given = payer.ledger.voucher(tunnel, given=True)
            if given is not None:
                kills = self.kills[payer.name]
                assert given.up + given.down <= self.carried[tunnel] + kills * 2 * LEAST_WINDOW_BYTES
                age = payer.desk.zeqond(self.wire.now_us) - row.began_at
                assert given.zeqonds <= age + SKEW_ZEQONDS
                budget = self.budgets[tunnel]
                assert budget is None or given.amount <= budget

    @invariant()
    def nobody_risks_more_than_it_extends_and_a_window(self) -> None:
        over = LEAST_WINDOW_BYTES + PIECE * 2
        bound = max(LIMIT + over * PER_GB // 1000, BY_TIME + (WINDOW_ZEQONDS + 5) * PER_ZEQOND * MILLIONTHS)
        for payee in self.machines.values():
            for payer in self.machines.values():
                if payee.alive:
                    assert payee.credit.exposure(payer.machine_id) <= bound

    @invariant()
    def what_both_have_settled_they_agree_on(self) -> None:
        for payer, payee, tunnel in self.tunnels:
            paid, earned = self.row(payer, tunnel), self.row(payee, tunnel)
            if paid is None or earned is None or not (paid.settled and earned.settled):
                continue
            assert paid.ended
            assert earned.ended
            figures = (paid.amount, paid.carried, paid.zeqonds)
            if paid.amount or earned.amount:
                assert figures == (earned.amount, earned.carried, earned.zeqonds)
                if paid.code in AGREED and self.budgets[tunnel] is None and self._brought(payer, paid):
                    assert paid.amount == paid.agreed.final(paid.carried, paid.zeqonds)

    def _brought(self, payer: Machine, paid: Row) -> bool:
        """Whether the relay has brought anything, as the payer's last voucher says, and did not leave early:
        only then is it the seeds' sum."""
        if not payer.alive or (paid.by_partner and paid.state is not State.EXPIRED):
            return False
        last = payer.ledger.voucher(paid.tunnel_id, given=True)
        return last is not None and last.down > 0

    @invariant()
    def no_pair_makes_money(self) -> None:
        for payer, payee, tunnel in self.tunnels:
            if payer.alive and payee.alive:
                spent, earned = payer.ledger.half_of(tunnel), payee.ledger.half_of(tunnel)
                assert spent is None or earned is None or spent.said.delta + earned.said.delta == 0
                assert spent is not None or earned is None
                assert not payer.ledger.lies(payee.signer.public)
                assert not payee.ledger.lies(payer.signer.public)

    # ------------------------------------------------------------------ how it comes out

    def teardown(self) -> None:
        try:
            self._comes_to_rest()
        finally:
            self.wire.close()
            self.folder.cleanup()

    def _comes_to_rest(self) -> None:
        self.loss = 0
        for machine in self.machines.values():
            self._restart(machine)
        self.wire.run(120, 1_000_000)
        self._idles()
        for payer, payee, tunnel in self.tunnels:
            for machine in (payer, payee):
                if self.row(machine, tunnel) is not None:
                    machine.terminate(tunnel)
        self.wire.run(60, 500_000)
        for one, other in permutations(self.machines.values(), 2):  # all meet again
            one.friends.add(other.machine_id)
            self.wire.part(one.machine_id, other.machine_id)
            one.peers.add(other.machine_id)
        self.wire.run(60, 500_000)
        for payer, payee, tunnel in self.tunnels:
            for machine in (payer, payee):
                row = self.row(machine, tunnel)
                assert row is None or row.ended
                assert row is None or row.settled or not row.began_at
        self.what_both_have_settled_they_agree_on()
        earned = sum(each.earned for machine in self.machines.values() for each in machine.ledger.accounts())
        spent = sum(each.spent for machine in self.machines.values() for each in machine.ledger.accounts())
        assert earned == spent
        assert not any(machine.ledger.verify().open for machine in self.machines.values())
        self.wire.run(60, 1_000_000)
        before = self.wire.delivered
        self.wire.run(600, 5_000_000)
        assert self.wire.delivered == before, "nothing is open, and they talk"

    def _idles(self) -> None:
        """A tunnel by the gigabyte through which nothing flows is silent."""
        rows = [row for machine in self.machines.values() for row in machine.desk.rows() if not row.ended]
        before = self.wire.delivered
        self.wire.run(20, 1_000_000)
        if all(row.began_at and row.agreed.pricing_unit is Unit.GB for row in rows):
            assert self.wire.delivered == before

    # ------------------------------------------------------------------ inside

    def row(self, machine: Machine, tunnel: bytes) -> Row | None:
        return machine.desk.row(tunnel) if machine.alive else machine._past(tunnel)

    def _shared(self, one: Machine, other: Machine) -> list[bytes]:
        both = {one.name, other.name}
        return [tunnel for payer, payee, tunnel in self.tunnels if {payer.name, payee.name} == both]

    def _restart(self, machine: Machine) -> None:
        if machine.dies_in is not None:
            machine.kill()
        if not machine.alive:
            self.kills[machine.name] += 1
            machine.start()
            self._goes_on()

    def _goes_on(self) -> None:
        self.wire.run()


class ByHand(Market):
    accept = Accept.HAND


Market.TestCase.settings = ByHand.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
TestMarket = Market.TestCase
TestMarketByHand = ByHand.TestCase
