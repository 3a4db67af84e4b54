"""What goes through a tunnel, a megabyte or half a second at a time, as far as both ends' gates let it.

    payer ── up ──▶ payee ─▶ the world        counted where it is sent and where it arrives
    payer ◀── down ── payee ◀─ the world      in between the line's loss, which the payer reports

A relay that forwards nothing takes what comes up and sends nothing back; its payer, the worst case, goes on
sending. What a relay makes up and sends down is of no use to the payer, though its meter counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.settlement.terms import MILLIONTHS, Terms
from simulations.dice import MILLION
from simulations.market.town import SECOND_US, ZEQOND_US, Line, Town

if TYPE_CHECKING:
    from simulations.market.machine import Machine

STEP_BYTES: Final = 1_000_000
STEP_US: Final = SECOND_US // 2
WAIT_US: Final = SECOND_US // 4  # while nothing passes
RETRY_BYTES: Final = 10_000  # in that time, of a connection that hears nothing


@dataclass(slots=True)
class Carried:
    """Of one tunnel, in truth. `up`: arrived at the payee; `down`: at the payer; `useful`: of both, what was
    brought from or to the world. `served_us`: for how long the payee was there to forward something;
    `open_us`: and its gate was open. How often each was killed."""

    payer: bytes
    payee: bytes
    tunnel_id: bytes
    terms: Terms
    up: int = 0
    down: int = 0
    useful: int = 0
    served_us: int = 0
    open_us: int = 0
    payer_kills: int = 0
    payee_kills: int = 0

    @property
    def lent(self) -> int:
        """Millionths, pro rata, of all that the payee carried, while its gate was open."""
        return self._worth(self.up + self.down, self.open_us)

    @property
    def got(self) -> int:
        """Millionths, pro rata, of all that was of use to the payer."""
        return self._worth(self.useful, self.served_us)

    def _worth(self, carried: int, spent_us: int) -> int:
        return self.terms.amount(carried, min(-(-spent_us // ZEQOND_US), self.terms.lifespan_zeqonds))


class Flow:
    """`want`: useful bytes both ways together. `rate`: a second. `up_percent`: of what goes through.
    `over(flow)`: it has what it wanted."""

    def __init__(
        self,
        town: Town,
        payer: Machine,
        payee: Machine,
        carried: Carried,
        want: int,
        rate: int,
        up_percent: int,
        over: Callable[[Flow], None],
    ) -> None:
        self.carried = carried
        self.want, self.rate = want, rate
        self.stopped = False
        self.stalled_us = 0
        """For how long nothing useful came."""
        self._town, self._payer, self._payee = town, payer, payee
        self._up_percent = up_percent
        self._over = over
        self._line = town.line(payer.machine_id, payee.machine_id)
        self._at_us = town.now_us
        self._alive = (payer.alive, payee.alive)
        town.call_in(0, self._step)

    def stop(self) -> None:
        self.stopped = True

    def _step(self) -> None:
        if self.stopped:
            return
        size = max(1, min(STEP_BYTES, self.rate * STEP_US // SECOND_US, self.want - self.carried.useful))
        before, past_us = self.carried.useful, self._town.now_us - self._at_us
        self._at_us = self._town.now_us
        self._count_kills()
        moved = self._carry(size)
        if self._payee.alive and self._payee.forwards(self._payer.machine_id):
            self.carried.served_us += past_us
            self.carried.open_us += past_us if self._payee.lets(self._payer.machine_id) else 0
        self.stalled_us = 0 if self.carried.useful > before else self.stalled_us + past_us
        self._payee.measure(self._payer.machine_id)
        self._payer.measure(self._payee.machine_id)
        if self.carried.useful >= self.want and not self.stopped:
            self.stop()
            self._over(self)
        else:
            self._town.call_in(size * SECOND_US // self.rate if moved else WAIT_US, self._step)

    def _count_kills(self) -> None:
        """Who is down for so short a time that no step sees it has lost nothing that was carried."""
        alive = (self._payer.alive, self._payee.alive)
        self.carried.payer_kills += self._alive[0] and not alive[0]
        self.carried.payee_kills += self._alive[1] and not alive[1]
        self._alive = alive

    def _carry(self, size: int) -> bool:
        """Whether anything passed both gates."""
        line, payer, payee = self._line, self._payer, self._payee
        if not line.up or not payer.lets(payee.machine_id):
            return False
        up = size * self._up_percent // 100
        ours, theirs = payer.meters.get(payee.machine_id), payee.meters.get(payer.machine_id)
        if ours is None:
            return False
        if theirs is None or not payee.lets(payer.machine_id):
            ours.sent += min(up, RETRY_BYTES)
            return False
        arrived = up - _lost(up, line)
        ours.sent += up
        theirs.received += arrived
        self.carried.up += arrived
        percent = payee.forwards(payer.machine_id)
        if not percent:
            return True
        useful = (size - up) - _lost(size - up, line)
        sent = (size - up) * percent // 100
        brought = sent - _lost(sent, line)
        theirs.sent += sent
        theirs.lost += sent - brought
        ours.received += brought
        self.carried.down += brought
        self.carried.useful += arrived + min(useful, brought)
        return True


def _lost(size: int, line: Line) -> int:
    return size * line.loss_ppm // MILLION


def zeq(amount: int) -> float:
    """Of millionths, for a table."""
    return amount / MILLIONTHS
