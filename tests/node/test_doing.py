"""Who cannot be let in: what the desk does about it, what is told, and who is asked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from node.settlement import wire as wire_of
from node.settlement.actions import Tell
from node.settlement.life import Code, Row, State
from node.settlement.policy import Policy, decide
from node.settlement.terms import Unit
from node.settlement.wire import Request
from node.tunnels.disk import Disk
from node.tunnels.doing import Doer
from node.tunnels.links import Links
from tests.node.settlement.market_kit import Machine, Wire, a_relay
from tun.errors import FilterError

REQUEST = Request(
    tunnel_id=bytes(16),
    pricing_unit=Unit.GB,
    price_zeq=50,
    lifespan_zeqonds=1000,
    reply_secret=bytes(16),
    endpoints=(),
    homes=(),
)


class Shut:
    """Links that let nobody in."""

    async def admit(self, _row: Row) -> None:
        raise FilterError("nothing keeps it out")

    async def dismiss(self, _machine_id: bytes) -> None:
        """It is none."""

    def gate(self, _machine_id: bytes, _opened: bool) -> None:
        """It is none."""

    def send(self, _machine_id: bytes, _body: bytes) -> None:
        """Lost, as there is no session."""


class Paper:
    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}

    async def save(self, rows: list[Row]) -> None:
        self.rows |= {row.tunnel_id: row for row in rows}


async def done(machine: Machine) -> tuple[list[Tell], dict[bytes, Row]]:
    told: list[Tell] = []
    paper = Paper()

    async def changed(_row: Row) -> None:
        """Nobody watches."""

    doer = Doer(
        *(machine.desk, cast("Disk", paper), None, cast("Links", Shut())),
        *(told.append, changed, lambda: None, machine.wire.entropy),
    )
    await doer.do()
    return told, paper.rows


async def test_who_cannot_be_let_in_is_refused_and_never_told_yes(tmp_path: Path) -> None:
    relay, guest = a_relay(tmp_path, Wire()), Machine("guest", tmp_path, Wire())
    relay.desk.on_request(guest.bundle, wire_of.encode(REQUEST), 0)
    told, rows = await done(relay)
    assert [(each.tag, wire_of.decode_answer(each.body).code) for each in told] == [
        (wire_of.REFUSED_TAG, "UNGUARDED")
    ]
    row = rows[REQUEST.tunnel_id]
    assert (row.state, row.code, row.settled) == (State.TERMINATED, Code.UNGUARDED, True)
    assert relay.desk.rows() == []


async def test_a_relay_that_cannot_be_kept_out_is_not_called(tmp_path: Path) -> None:
    relay, guest = a_relay(tmp_path, Wire()), Machine("guest", tmp_path, Wire())
    guest.desk.request(relay.bundle, REQUEST, 0)
    guest.desk.actions.clear()
    relay.desk.on_request(guest.bundle, wire_of.encode(REQUEST), 0)
    answer = next(each for each in relay.desk.actions if isinstance(each, Tell))
    guest.desk.on_answer(answer.tag, relay.machine_id, answer.body, 0)
    told, rows = await done(guest)
    assert told == []
    assert rows[REQUEST.tunnel_id].code is Code.UNGUARDED


def test_only_friends_come_in_where_strangers_cannot_be_kept_out(tmp_path: Path) -> None:
    relay, guest = a_relay(tmp_path, Wire()), Machine("guest", tmp_path, Wire())
    words: dict[str, Any] = {"per_gb_zeq": 50, "per_zeqond_zeq": 0, "max_tunnels": 8}

    def code(guarded: bool) -> Code:
        policy = Policy(**words, guarded=guarded)
        return decide(policy, REQUEST, guest.machine_id, False, 0, relay.credit, 0).code

    assert (code(True), code(False)) == (Code.NONE, Code.UNGUARDED)
    relay.friends.add(guest.machine_id)
    assert code(False) is Code.NONE
