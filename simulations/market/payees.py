"""Relays that cheat: an honest desk, and around it statements, packets and manners that are not.

over-meters   claims twice of everything             nothing    takes the money, forwards nothing
pads          sends three bytes for each one         leaves     with the first voucher: is gone, or says
              that was asked for                                goodbye and hopes for a whole gigabyte
clique        as the payers' clique
"""

from __future__ import annotations

from typing import Final

from node import meeting
from node.settlement import actions, wire
from node.settlement.vouchers import read
from node.settlement.wire import Stated
from simulations.market.machine import Machine
from simulations.market.town import MINUTE_US

STATED: Final = 3  # the tag of the note, in its second byte
GONE_US: Final = 20 * MINUTE_US


class Greedy(Machine):
    sound = False


class OverMeters(Greedy):
    way = "over-meters"

    def send(self, action: actions.Send) -> None:
        note = wire.decode_note(action.body) if action.body[1] == STATED else None
        if isinstance(note, Stated):
            self.say(action.machine_id, Stated(note.tunnel_id, 2 * note.up, 2 * note.down, 2 * note.zeqonds))
        else:
            super().send(action)


class Pads(Greedy):
    way = "pads"

    def forwards(self, machine_id: bytes) -> int:  # noqa: ARG002
        return 300


class Nothing(Greedy):
    way = "forwards nothing"

    def forwards(self, machine_id: bytes) -> int:  # noqa: ARG002
        return 0


class Leaves(Greedy):
    """Every other relay of these is polite."""

    way = "takes one voucher"

    def keep(self, action: actions.Keep) -> None:
        super().keep(action)
        tunnel_id = read(action.voucher).tunnel_id
        if self.machine_id[0] % 2:
            self.town.call_in(0, self.terminate, tunnel_id)
        else:
            self.kill()
            self.town.call_in(GONE_US, self.start)


class CliqueRelay(Greedy):
    way = "clique"

    def greet(self, action: actions.Greet) -> None:
        super().greet(action)
        self.show(action.row, meeting.references(self.disk.ledger), opening=False)
