"""A tunnel's states: the table, whole; and the row as it stands on the disk."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import BUNDLE_BYTES
from node.settlement import life
from node.settlement.life import TRANSITIONS, Code, Happening, InvalidState, Role, Row, State
from node.settlement.terms import Unit, agree

LEADS = {
    (State.PENDING, Happening.ACCEPT): State.ACTIVE,
    (State.PENDING, Happening.REFUSE): State.REFUSED,
    (State.PENDING, Happening.TERMINATE): State.TERMINATED,
    (State.PENDING, Happening.EXPIRE): State.EXPIRED,
    (State.ACTIVE, Happening.TERMINATE): State.TERMINATED,
    (State.ACTIVE, Happening.EXPIRE): State.EXPIRED,
}
BUNDLE = b"\5" * BUNDLE_BYTES

states, happenings, codes = st.sampled_from(State), st.sampled_from(Happening), st.sampled_from(Code)
times = st.integers(0, 2**48)


def a_row(**fields: object) -> Row:
    given_ = {"tunnel_id": b"i" * 16, "role": Role.PAYER, "bundle": BUNDLE, "asked_at": 7} | fields
    return Row(**{"terms": agree(Unit.GB, 50, 1000).encoded, **given_})  # type: ignore[arg-type]


rows = st.builds(
    Row,
    tunnel_id=st.binary(min_size=16, max_size=16),
    role=st.sampled_from(Role),
    state=states,
    bundle=st.binary(min_size=BUNDLE_BYTES, max_size=BUNDLE_BYTES),
    terms=st.builds(agree, st.just(Unit.GB), st.integers(0, 10**9), st.integers(10, 86_400)).map(
        lambda terms: terms.encoded
    ),
    asked_at=times,
    started_at=times,
    began_at=times,
    ended_at=times,
    session=st.binary(max_size=32),
    code=codes,
    carried=st.integers(0, 2**52),
    zeqonds=st.integers(0, 86_400),
    amount=st.integers(0, 2**62),
    value=st.integers(0, 2**62),
    day=st.integers(0, 10**5),
    before_today=st.integers(0, 2**62),
    left=st.none() | st.integers(-(2**62), 2**62),
    budget=st.none() | st.integers(0, 2**62),
    answer_to=st.binary(max_size=400),
    spent=st.booleans(),
    settled=st.booleans(),
)


# ------------------------------------------------------------------ the table


@given(states, happenings, st.integers(1, 2**48), codes, st.booleans())
def test_every_state_and_happening_is_in_the_table_or_refused(
    state: State, happening: Happening, zeqond: int, code: Code, began: bool
) -> None:
    row = a_row(state=state, ended_at=3, code=Code.OTHER, began_at=5 if began else 0)
    if (state, happening) not in LEADS:
        with pytest.raises(InvalidState, match=f"the tunnel is {state}, so it cannot be ") as refused:
            row.after(happening, zeqond, code)
        assert refused.value.state is state
        return
    after = row.after(happening, zeqond, code)
    assert after.state is LEADS[state, happening]
    if happening is Happening.ACCEPT:
        assert (after.started_at, after.ended_at, after.code, after.settled) == (zeqond, 3, Code.OTHER, False)
        assert not after.ended
    else:
        assert (after.started_at, after.ended_at, after.code) == (0, zeqond, code)
        assert after.ended
        assert after.settled is not began


@given(st.lists(happenings, max_size=8))
def test_what_has_ended_stays_as_it_ended(way: list[Happening]) -> None:
    row = a_row()
    for zeqond, happening in enumerate(way, 10):
        if row.ended:
            with pytest.raises(InvalidState):
                row.after(happening, zeqond)
        elif (row.state, happening) in TRANSITIONS:
            row = row.after(happening, zeqond)


def test_a_free_tunnel_has_nothing_to_settle() -> None:
    row = a_row(terms=agree(Unit.GB, 0, 1000).encoded, state=State.ACTIVE, began_at=5)
    assert row.free
    assert row.after(Happening.TERMINATE, 9).settled


# ------------------------------------------------------------------ on the disk


def test_a_row_is_laid_out_by_names() -> None:
    raw = life.to_bytes(a_row())
    assert sha256(raw).hexdigest() == "8fe1efdc419ab30ae52f4036b3efa6addc61ccc3dcaa2953ced80de4374f8e97"
    fields = msgpack.unpackb(raw)
    assert (fields["version"], fields["role"], fields["state"]) == (1, "payer", "pending")
    assert life.from_bytes(msgpack.packb(fields | {"of_a_later_version": 1})) == a_row()


@given(rows)
def test_a_row_is_read_as_it_was_written(row: Row) -> None:
    assert life.from_bytes(life.to_bytes(row)) == row


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2}, {"version": True}, {"role": "owner"}, {"state": "open"}, {"bundle": BUNDLE[1:]},
        {"tunnel_id": b""}, {"terms": b""}, {"terms": b"\x94\x01\xa2gb\x32"}, {"code": "FULL_MOON"},
        {"amount": 1.5}, {"settled": 1}, {"left": "all"}, {"asked_at": None},
    ],
)  # fmt: skip
def test_what_is_no_row(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        life.from_bytes(msgpack.packb(msgpack.unpackb(life.to_bytes(a_row())) | fields))


@given(st.data())
def test_a_damaged_row_is_a_row_or_a_value_error(data: st.DataObject) -> None:
    raw = bytearray(life.to_bytes(a_row()))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        life.from_bytes(bytes(raw))


@pytest.mark.parametrize("begin", [b"", b"\x81\xa1x"])
def test_what_is_deep_is_a_value_error(begin: bytes) -> None:
    with pytest.raises(ValueError):
        life.from_bytes(begin + b"\x91" * 100_000)


@given(st.binary(max_size=100))
def test_other_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        life.from_bytes(data)
