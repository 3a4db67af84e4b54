"""What the day came to: what each way of cheating gained, and what those lost who do as the product does.

Of a payee, for each payer:  lent     worth of all that it carried for it, paid or not, at the agreed price
                             unpaid   of that, what no voucher that it holds is for; bounded for each tunnel
Of a payer, for each payee:  overpaid what it signed for beyond what was brought to it and for it; the seeds'
                             sum, a begun gigabyte for a whole one, where it ended the tunnel itself

    bound of unpaid    a window, and of what was carried the three in a hundred that meters may differ by
    bound of lent      the credit that the payee extends to a stranger, and a window
    bound of a day     what it extends to all strangers together, and a window for each of its places
    bound of overpaid  a window; of a relay that sends what nobody asked for, the budget
    of both            one more window each time that the machine itself was killed in a tunnel; and who is
                       put back from a backup has forgotten what it lent since, and may lend it again
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from node.errors import StateDamaged
from node.settlement import tiers
from node.settlement.life import Row
from node.settlement.meters import LEAST_WINDOW_BYTES, SKEW_ZEQONDS, WINDOW_ZEQONDS
from node.settlement.terms import Terms, Unit
from node.settlement.vouchers import Voucher
from simulations.market.course import GB, Course
from simulations.market.customers import LEAST_REST, LIFESPAN, Visit
from simulations.market.flows import STEP_BYTES
from simulations.market.machine import Machine
from simulations.market.watch import Fork

DRIFT_PERCENT: Final = 3  # two in a hundred that a line may lose, and one
SERVED: Final = LEAST_REST - 1, LEAST_REST  # of what was wanted, the share that counts as served


@dataclass
class Loss:
    """Of one honest machine to one other, in millionths. `of_bound`: the worst of what it has to fear."""

    lent: int = 0
    paid: int = 0
    overpaid: int = 0
    limit: int = 0
    windows: int = 0

    @property
    def bound(self) -> int:
        return self.limit + self.windows

    @property
    def unpaid(self) -> int:
        return max(0, self.lent - self.paid)


@dataclass
class Way:
    """One way of cheating, or of being honest. `gained`: millionths: carried for it and not paid, or signed
    to it for nothing; `worst`: of one victim, as a share of what that one chose to extend."""

    name: str
    role: str
    machines: int = 0
    tunnels: int = 0
    carried: int = 0
    settled: int = 0
    gained: int = 0
    most: int = 0
    worst: float = 0.0


@dataclass
class Verdict:
    """`ways`: by role and name; `figures`: by their keys."""

    ways: list[Way] = field(default_factory=list)
    figures: dict[str, float | None] = field(default_factory=dict)


def judge(course: Course) -> Verdict:
    """A course that is over."""
    visits = [visit for visit in course.visits if visit.row is not None]
    lent, overpaid = _lent(visits), _overpaid(visits)
    verdict = Verdict(_ways(course, lent, overpaid))
    verdict.figures = {
        "payee_unpaid_worst": _worst(map(_unpaid, visits)),
        "payee_lent_worst": _worst(each.lent / each.bound for each in lent.values()),
        "payee_day_worst": _worst_day(lent),
        "payer_overpaid_worst": _worst(each.overpaid / each.bound for each in overpaid.values()),
        **_forks(course),
        **_honest_pairs(visits),
        "newcomers_served": _newcomers(course, ("honest",)),
        "newcomers_served_crashing": _newcomers(course, ("honest", "crashes")),
        "clique_tier": _clique(course),
        "pairs": course.watch.pairs,
        "pairs_sum_worst": course.watch.worst_sum,
        "ledgers_broken": _broken(course),
        "kept_lost": _acknowledged(course),
    }
    return verdict


# ---------------------------------------------------------------------- payees


def _lent(visits: list[Visit]) -> dict[tuple[Machine, Machine], Loss]:
    """By (payee, payer): of payees that are sound."""
    found: dict[tuple[Machine, Machine], Loss] = {}
    for visit in visits:
        carried, payee = visit.carried, visit.payee
        if carried is None or not payee.sound:
            continue
        loss = found.setdefault((payee, visit.payer), Loss())
        loss.lent += carried.lent
        holder = visit.payer if payee.way == "restored" else payee  # which lost its vouchers itself
        loss.paid += _pro_rata(carried.terms, _held(holder, visit))
        by_time = carried.terms.pricing_unit is Unit.ZEQOND
        limit = payee.extended.stranger_by_time if by_time else payee.extended.stranger
        if payee.way == "restored":
            limit *= 2
        loss.windows += carried.payee_kills * _window(carried.terms)
        loss.limit = max(loss.limit, limit + _window(carried.terms))
    return found


def _unpaid(visit: Visit) -> float:
    """Of one tunnel, by its bound; who was put back from a backup has lost vouchers by itself."""
    carried, payee = visit.carried, visit.payee
    if carried is None or not payee.sound or payee.way == "restored":
        return 0.0
    unpaid = carried.lent - _pro_rata(carried.terms, _held(payee, visit))
    drift = carried.terms.amount((carried.up + carried.down) * DRIFT_PERCENT // 100, 0)
    return unpaid / ((1 + carried.payee_kills) * _window(carried.terms) + drift)


def _worst_day(lent: dict[tuple[Machine, Machine], Loss]) -> float | None:
    """All strangers of a payee together; the course is one day."""
    by_payee: Counter[Machine] = Counter()
    for (payee, _), loss in lent.items():
        by_payee[payee] += loss.lent
    shares = []
    for payee, total in by_payee.items():
        assert payee.policy is not None
        window = LEAST_WINDOW_BYTES // 1000 * payee.policy.per_gb_zeq
        daily = payee.extended.daily * (2 if payee.way == "restored" else 1)
        shares.append(total / (daily + payee.policy.max_tunnels * window))
    return _worst(shares)


def _held(machine: Machine, visit: Visit) -> Voucher | None:
    """The newest voucher of the tunnel that a machine has."""
    return machine.disk.ledger.voucher(visit.tunnel_id, given=machine is visit.payer)


def _pro_rata(terms: Terms, voucher: Voucher | None) -> int:
    return terms.amount(voucher.up + voucher.down, voucher.zeqonds) if voucher is not None else 0


def _window(terms: Terms) -> int:
    """With what is carried between two looks at the meter, and what ordinary loss is forgiven."""
    size = LEAST_WINDOW_BYTES + STEP_BYTES
    return terms.amount(size, min(WINDOW_ZEQONDS + SKEW_ZEQONDS, terms.lifespan_zeqonds))


# ---------------------------------------------------------------------- payers


def _overpaid(visits: list[Visit]) -> dict[tuple[Machine, Machine], Loss]:
    """By (payer, payee): of payers that are sound. A budget is for one tunnel."""
    found: dict[tuple[Machine, Machine], Loss] = {}
    for visit in visits:
        carried, row = visit.carried, visit.row
        if carried is None or row is None or not visit.payer.sound:
            continue
        last = _held(visit.payer, visit)
        loss = found.setdefault((visit.payer, visit.payee), Loss())
        agreed = carried.got
        if visit.left and carried.useful:
            trusted = carried.payer_kills * LEAST_WINDOW_BYTES
            agreed = max(agreed, carried.terms.final(carried.useful + trusted, _zeqonds(last)))
        loss.overpaid += max(0, (last.amount if last is not None else 0) - agreed)
        loss.windows += (1 + carried.payer_kills) * _window(carried.terms)
        if visit.payee.way == "pads":
            loss.limit += row.budget or 0
    return found


def _zeqonds(voucher: Voucher | None) -> int:
    return min(voucher.zeqonds, LIFESPAN) if voucher is not None else 0


# ---------------------------------------------------------------------- the others


def _honest_pairs(visits: list[Visit]) -> dict[str, float | None]:
    """Tunnels of two sound machines that have begun."""
    begun = [
        visit for visit in visits if visit.payer.sound and visit.payee.sound and visit.carried is not None
    ]
    calm = [visit for visit in begun if "restored" not in (visit.payer.way, visit.payee.way)]
    wanted = sum(visit.want for visit in begun)
    useful = sum(min(visit.want, visit.carried.useful) for visit in begun if visit.carried is not None)
    return {
        "honest_tunnels": len(begun),
        "honest_served": _ratio(useful, wanted),
        "honest_settled": _ratio(sum(_agree(visit) for visit in calm), len(calm)),
    }


def _agree(visit: Visit) -> bool:
    """Both ended it with the same amount, and both ledgers have the pair, if anything was owed."""
    ours, theirs = _row(visit.payer, visit), _row(visit.payee, visit)
    if ours is None or theirs is None or not (ours.settled and theirs.settled):
        return False
    raw = visit.payee.disk.newest(theirs)
    if not raw:
        return ours.amount == theirs.amount == 0
    if ours.amount != theirs.amount or raw != visit.payer.disk.newest(ours):
        return False
    ours_earned = {account.partner: account.earned for account in visit.payee.disk.ledger.accounts()}
    ours_spent = {account.partner: account.spent for account in visit.payer.disk.ledger.accounts()}
    earned, spent = ours_earned.get(visit.payer.machine_id), ours_spent.get(visit.payee.machine_id)
    return earned is not None and earned == spent and earned >= ours.amount


def _row(machine: Machine, visit: Visit) -> Row | None:
    return machine.disk.rows.get(visit.tunnel_id)


def _newcomers(course: Course, ways: tuple[str, ...]) -> float | None:
    """First requests between machines of these ways, to relays that no crowd besieges: got the gigabyte."""
    first = [
        visit
        for visit in course.visits
        if visit.errand.newcomer
        and visit.want == GB
        and visit.payer.way in ways
        and visit.payee.way in ways
        and visit.payee not in course.targets
    ]
    share, whole = SERVED
    served = [visit.carried is not None and visit.carried.useful * whole >= GB * share for visit in first]
    return _ratio(sum(served), len(served))


def _forks(course: Course) -> dict[str, float | None]:
    forks = course.watch.forks
    keys = {machine.signer.public: machine for machine in course.machines}
    found = [fork for fork in forks.values() if fork.found_us >= 0]
    provable = [fork for fork in forks.values() if fork.found_us >= 0 or _provable(course, fork)]
    nodes = len(course.watch.nodes)
    hours = sorted((fork.found_us - fork.made_us) / 3.6e9 for fork in found)
    return {
        "forks": len(forks),
        "forks_found": _ratio(len(found), len(provable)),
        "forks_lost": len(forks) - len(provable),
        "fork_found_hours": hours[len(hours) // 2] if hours else None,
        "proof_reach_worst": min((len(fork.reached) / nodes for fork in found), default=None),
        "honest_liars": sum(keys[key].sound for key in forks),
    }


def _clique(course: Course) -> int:
    """The highest tier of a payer of the clique, which carries for nobody, with any relay that is sound."""
    best = 0
    members = [payer.signer.public for payer in course.payers if payer.way == "clique"]
    for relay in (relay for relay in course.relays if relay.sound):
        ledger = relay.disk.ledger
        liars = {key for key in course.watch.forks if ledger.lies(key)}
        for key in members:
            best = max(best, tiers.reckon(relay.signer.public, key, ledger.receipts(key), liars).tier)
    return best


def _provable(course: Course, fork: Fork) -> bool:
    """Two others hold two blocks for its place: not so where one was on a disk that was put back since."""
    held = [machine.disk.ledger.at(*fork.place) for machine in course.machines]
    return len({block.hash for block in held if block is not None}) > 1


def _broken(course: Course) -> int:
    count = 0
    for machine in course.machines:
        try:
            if machine.sound:
                machine.disk.ledger.verify()
        except StateDamaged:
            count += 1
    return count


def _acknowledged(course: Course) -> int:
    """Vouchers that an honest relay said it has, and has not: those of restored ones do not count."""
    return sum(
        machine.acknowledged_lost()
        for machine in course.machines
        if machine.sound and machine.way != "restored"
    )


def _ways(
    course: Course,
    lent: dict[tuple[Machine, Machine], Loss],
    overpaid: dict[tuple[Machine, Machine], Loss],
) -> list[Way]:
    found: dict[tuple[str, str], Way] = {}
    for role, machines in (("payer", [*course.payers, *course.crowd]), ("relay", course.relays)):
        for machine in machines:
            found.setdefault((role, machine.way), Way(machine.way, role)).machines += 1
    for visit in course.visits:
        for role, machine in (("payer", visit.payer), ("relay", visit.payee)):
            way = found[role, machine.way]
            if visit.carried is not None:
                way.tunnels += 1
                way.carried += visit.carried.up + visit.carried.down
                way.settled += visit.row is not None and visit.row.settled
    for (_, payer), loss in lent.items():
        _add(found["payer", payer.way], loss.unpaid, loss.lent / loss.bound)
    for (_, payee), loss in overpaid.items():
        _add(found["relay", payee.way], loss.overpaid, loss.overpaid / loss.bound)
    return list(found.values())


def _add(way: Way, gained: int, share: float) -> None:
    way.gained += gained
    way.most = max(way.most, gained)
    way.worst = max(way.worst, share)


def _worst(shares: Iterable[float]) -> float | None:
    return max(shares, default=None)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
