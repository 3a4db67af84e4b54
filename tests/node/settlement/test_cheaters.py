"""Payers that do not pay and payees that do not carry: what each gains, and what it costs the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from crypto.pulse import TAU_ZQ
from node.settlement import vouchers
from node.settlement import wire as messages
from node.settlement.credit import Extended
from node.settlement.life import Code, State
from node.settlement.meters import LEAST_WINDOW_BYTES, SKEW_ZEQONDS, WINDOW_ZEQONDS
from node.settlement.payer import BLIND_BYTES, BLIND_ZEQONDS
from node.settlement.policy import Accept
from node.settlement.terms import GB, MAX_AMOUNT, MILLIONTHS, Unit
from node.settlement.vouchers import Tunnel
from node.settlement.wire import ANSWER_TAGS, Answer, encode
from tests.node.settlement.market_kit import MB, Machine, Wire, a_relay
from tests.node.settlement.market_steps import agree_and_settled, begun, carry, losing, pair, spoiling

# ------------------------------------------------------------------ a payer that does not pay


@pytest.mark.parametrize("restarts", [False, True])
def test_who_never_pays_gets_its_limit_once_and_not_a_window_with_every_tunnel(
    tmp_path: Path, wire: Wire, restarts: bool
) -> None:
    limit_mb = 60
    limit = limit_mb * MB * 50 // 1000
    extended = Extended(stranger=limit, stranger_by_time=0, daily=MAX_AMOUNT)
    relay, guest = pair(tmp_path, wire, extended=extended)
    losing(wire, messages.Paid, 10**6)
    carried = 0
    for _ in range(8):
        tunnel = guest.ask(relay)
        wire.run(1)
        carried += carry(wire, guest, relay, 50)
        if guest.row(tunnel).state is State.ACTIVE:
            guest.terminate(tunnel)
        wire.run(40)
        if restarts:
            relay.kill()
            relay.start()
    assert guest.row(tunnel).code is Code.BALANCE
    assert limit_mb <= carried <= limit_mb + 2


@pytest.mark.parametrize("unit", Unit)
def test_a_silent_payer_gets_a_window_then_nothing_and_after_three_minutes_the_end(
    tmp_path: Path, wire: Wire, unit: Unit
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire, unit)
    losing(wire, messages.Paid, 10**6)
    carried = carry(wire, guest, relay, 200)
    if unit is Unit.GB:
        assert 16 <= carried <= 18
    else:
        assert abs(carried * 0.25 / TAU_ZQ - WINDOW_ZEQONDS) <= 3
    assert not relay.open[guest.machine_id]
    assert guest.open[relay.machine_id], "its own gate is no protection"
    wire.run(170)
    assert relay.row(tunnel).state is State.ACTIVE
    wire.run(15)
    assert (relay.row(tunnel).code, relay.row(tunnel).amount) == (Code.UNPAID, 0)
    assert guest.row(tunnel).code is Code.UNPAID
    wire.run(60)
    assert not relay.peers
    assert relay.credit.exposure(guest.machine_id) >= relay.row(tunnel).value > 0


def test_who_pays_late_is_served_again_at_once(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    losing(wire, messages.Paid, 10**6)
    carry(wire, guest, relay, 200)
    wire.run(100)
    assert not relay.open[guest.machine_id]
    losing(wire, messages.Paid, 0)
    wire.run(17)
    assert relay.open[guest.machine_id]
    assert carry(wire, guest, relay, 20) == 20
    guest.terminate(tunnel)
    wire.run(2)
    agree_and_settled(guest, relay, tunnel)


def refused(relay: Machine) -> dict[str, int]:
    kind = "voucher refused: "
    return {key.removeprefix(kind): n for key, n in relay.desk.counters.items() if key.startswith(kind)}


def replaced(wire: Wire, guest: Machine, change: Callable[[bytes], bytes]) -> None:
    """The guest's vouchers are others."""
    spoiling(
        wire,
        guest,
        lambda note: messages.Paid(change(note.voucher)) if isinstance(note, messages.Paid) else note,
    )


def signed(guest: Machine, raw: bytes, **fields: object) -> bytes:
    """That voucher with other fields, and the guest's true signature."""
    payload = msgspec.msgpack.encode(structs.replace(vouchers.read(raw), **fields))
    return payload + guest.signer.sign(vouchers.LABEL, payload)


def test_an_old_voucher_pays_nothing(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    given: list[bytes] = []

    def always_the_first(raw: bytes) -> bytes:
        given.append(raw)
        return given[0]

    replaced(wire, guest, always_the_first)
    assert 20 <= carry(wire, guest, relay, 100) <= 24, "what it was for, and a window"
    assert relay.ledger.raw_voucher(tunnel, given=False) == given[0]
    second = given[1]
    losing(wire, messages.Paid, 0)
    relay.note(guest.machine_id, encode(messages.Paid(second)))
    assert relay.ledger.raw_voucher(tunnel, given=False) == second
    relay.note(guest.machine_id, encode(messages.Paid(given[0])))
    assert refused(relay) == {"not above the last one": 1}
    assert relay.ledger.raw_voucher(tunnel, given=False) == second


FORGERIES = {
    "lower": ("not the price of what it names", lambda guest, raw: signed(guest, raw, amount=1)),
    "for another session": ("of another tunnel", lambda guest, raw: signed(guest, raw, session=b"s" * 32)),
    "to another payee": ("of another tunnel", lambda guest, raw: signed(guest, raw, payee=b"p" * 32)),
    "by another payer": ("of another tunnel", lambda guest, raw: signed(guest, raw, payer=b"p" * 32)),
    "under other terms": ("of another tunnel", lambda guest, raw: signed(guest, raw, terms=b"t" * 32)),
    "unsigned": ("signature does not hold", lambda guest, raw: raw[:-64] + bytes(64)),
    "for more than a tunnel may carry": (
        "for more than the tunnel may carry",
        lambda guest, raw: signed(guest, raw, zeqonds=1001),
    ),
}


@pytest.mark.parametrize("way", FORGERIES)
def test_a_voucher_that_is_none_pays_nothing(tmp_path: Path, wire: Wire, way: str) -> None:
    why, forge = FORGERIES[way]
    relay, guest, tunnel = begun(tmp_path, wire)
    replaced(wire, guest, lambda raw: forge(guest, raw))  # type: ignore[no-untyped-call]
    assert carry(wire, guest, relay, 100) <= 18
    assert list(refused(relay)) == [why]
    assert relay.ledger.raw_voucher(tunnel, given=False) == b""


def test_one_voucher_shown_to_two_payees_pays_one(tmp_path: Path, wire: Wire) -> None:
    one, guest, first = begun(tmp_path, wire)
    other = a_relay(tmp_path, wire, "other")
    second = guest.ask(other)
    wire.run(1)
    carry(wire, guest, one, 10)
    raw = one.ledger.raw_voucher(first, given=False)
    other.note(guest.machine_id, encode(messages.Paid(raw)))
    assert other.desk.counters["note about no tunnel of this peer"] == 1
    other.note(guest.machine_id, encode(messages.Paid(signed(guest, raw, tunnel_id=second))))
    assert refused(other) == {"of another tunnel": 1}


def test_a_free_tunnel_takes_no_voucher_and_writes_none(tmp_path: Path, wire: Wire) -> None:
    """Else anybody could have the relay write to its disk as fast as it can sign."""
    relay, guest, tunnel = begun(tmp_path, wire, charges=False)
    row = relay.row(tunnel)
    terms = Tunnel(
        session=row.session,
        tunnel_id=tunnel,
        payer=guest.machine_id,
        payee=relay.machine_id,
        payer_key=guest.signer.public,
        terms=row.agreed,
    )
    relay.note(guest.machine_id, encode(messages.Paid(vouchers.write(terms, 1, 2, 3, 4, guest.signer))))
    assert relay.ledger.raw_voucher(tunnel, given=False) == b""
    assert carry(wire, guest, relay, 100) == 100
    assert not relay.told.keys() & {"Stated", "Kept"}
    assert not guest.told.keys() & {"Paid"}
    guest.terminate(tunnel)
    wire.run(2)
    assert agree_and_settled(guest, relay, tunnel).amount == 0
    assert guest.row(tunnel).carried == 100 * MB


def test_a_budget_is_not_passed_and_ends_the_tunnel(tmp_path: Path, wire: Wire) -> None:
    relay, guest = pair(tmp_path, wire)
    tunnel = guest.ask(relay, budget=2 * MILLIONTHS)
    wire.run(1)
    carry(wire, guest, relay, 100)
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.code is Code.BUDGET
    assert 32 * MB * 50 // 1000 <= row.amount <= 2 * MILLIONTHS
    assert relay.row(tunnel).value - row.amount <= LEAST_WINDOW_BYTES * 50 // 1000


# ------------------------------------------------------------------ a payee that cheats


def test_a_payee_that_over_meters_is_left_and_paid_for_what_it_carried(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)

    def more(note: messages.Note) -> messages.Note:
        return structs.replace(note, up=note.up + GB) if isinstance(note, messages.Stated) else note

    spoiling(wire, relay, more)
    carry(wire, guest, relay, 20)
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.code is Code.OVER_METERED
    assert row.amount == row.carried * 50 // 1000 <= 40 * MB * 50 // 1000
    assert guest.desk.counters["tunnel whose payee claims too much"]


@pytest.mark.parametrize("whose", ["guest", "relay"])
def test_it_settles_also_where_a_statement_is_on_its_way_when_it_ends(
    tmp_path: Path, wire: Wire, whose: str
) -> None:
    """That one is answered as by a tunnel that goes on, and is not the last."""
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)
    wire.carry(guest, relay, 5 * MB, 5 * MB)
    relay.measure(guest.machine_id)
    {"guest": guest, "relay": relay}[whose].terminate(tunnel)
    wire.run(1)
    assert agree_and_settled(guest, relay, tunnel).carried == 30 * MB
    assert tunnel not in relay.desk._sides, "the payer has said that it has our half"


def test_a_relay_that_takes_the_money_and_forwards_nothing_is_left(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    sent = 0
    while wire.carry(guest, relay, MB, 0) and sent < 100:
        sent += 1
        wire.run(0.25)
    assert sent <= BLIND_BYTES // MB + 2
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.code is Code.NOTHING_CARRIED
    assert row.amount <= (BLIND_BYTES + 2 * MB) * 50 // 1000


def test_a_relay_by_time_that_forwards_nothing_is_left_sooner(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire, Unit.ZEQOND)
    for _ in range(200):
        if not wire.carry(guest, relay, 10_000, 0):
            break
        wire.run(0.25)
    wire.run(5)
    row = agree_and_settled(guest, relay, tunnel)
    assert row.code is Code.NOTHING_CARRIED
    assert BLIND_ZEQONDS <= row.zeqonds <= BLIND_ZEQONDS + 3


def test_pings_to_a_host_that_is_off_are_no_fault_of_the_relay(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire, Unit.ZEQOND)
    for _ in range(100):
        assert wire.carry(guest, relay, 84, 0)
        wire.run(1)
    assert guest.row(tunnel).state is State.ACTIVE


def test_a_payee_that_states_time_that_did_not_go_by_is_paid_by_our_clock(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire, Unit.ZEQOND)

    def later(note: messages.Note) -> messages.Note:
        return structs.replace(note, zeqonds=900) if isinstance(note, messages.Stated) else note

    spoiling(wire, relay, later)
    wire.run(10)
    given = guest.ledger.voucher(tunnel, given=True)
    assert given is not None
    assert given.zeqonds <= 11 / TAU_ZQ + SKEW_ZEQONDS


def test_a_relay_that_takes_one_voucher_and_leaves_has_what_it_carried(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 9)
    relay.kill()
    wire.run(120)
    guest.terminate(tunnel)
    wire.run(60)
    taken = relay.ledger if relay.alive else None
    assert taken is None
    relay.start()
    kept = relay.ledger.voucher(tunnel, given=False)
    assert kept is not None
    assert kept.amount == (kept.up + kept.down) * 50 // 1000


# ------------------------------------------------------------------ somebody else


def test_another_machine_has_no_say_in_a_tunnel(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    mallory = Machine("mallory", tmp_path, wire)
    own = mallory.ask(relay)
    wire.run(1)
    before = relay.row(tunnel), guest.row(tunnel), relay.row(own)
    raw = vouchers.write(
        Tunnel(
            session=before[0].session,
            tunnel_id=tunnel,
            payer=guest.machine_id,
            payee=relay.machine_id,
            payer_key=guest.signer.public,
            terms=before[0].agreed,
        ),
        9, 10**9, 0, 1, guest.signer,
    )  # fmt: skip
    notes: list[messages.Note] = [
        messages.Open(tunnel, b"h" * 32),
        messages.Opened(tunnel, b"h" * 32),
        messages.Stated(tunnel, 1, 1, 1),
        messages.Paid(raw),
        messages.Kept(tunnel, 9),
        messages.End(tunnel, "TERMINATED"),
        messages.Ended(tunnel),
        messages.Half(tunnel, b"block"),
    ]
    for note in notes:
        for machine in (relay, guest):
            machine.note(mallory.machine_id, encode(note))
    assert (relay.row(tunnel), guest.row(tunnel), relay.row(own)) == before
    assert relay.ledger.raw_voucher(tunnel, given=False) == b""


def test_another_machine_answers_nothing_that_was_not_asked_of_it(tmp_path: Path, wire: Wire) -> None:
    relay, guest = pair(tmp_path, wire, accept=Accept.HAND)
    tunnel = guest.ask(relay)
    wire.run()
    answer = Answer(
        tunnel_id=tunnel, terms=guest.row(tunnel).terms, balance_zeq=0, min_required_zeq=0, left=0
    )
    for tag in ANSWER_TAGS:
        assert guest.desk.on_answer(tag, b"m" * 32, encode(answer), wire.now_us) is None
    assert guest.row(tunnel).state is State.PENDING
    assert guest.desk.counters["answer to no request of ours"] == 3


def test_the_wrong_end_says_nothing_that_counts(tmp_path: Path, wire: Wire) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    for note in (messages.Stated(tunnel, 1, 1, 1), messages.Kept(tunnel, 1), messages.Opened(tunnel, b"")):
        relay.note(guest.machine_id, encode(note))
    for note in (messages.Open(tunnel, b"h" * 32), messages.Paid(b"")):  # type: ignore[assignment]
        guest.note(relay.machine_id, encode(note))
    guest.note(relay.machine_id, b"\xc1")
    assert relay.desk.counters["note of the other end's"] == 3
    assert guest.desk.counters["note of the other end's"] == 1
    assert guest.desk.counters["note that cannot be read"] == 1
