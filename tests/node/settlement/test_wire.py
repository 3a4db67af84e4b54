"""Requests, answers and notes: their layout, their sizes at the worst, and what is none of them."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.settlement import vouchers, wire
from node.settlement.blocks import BLOCK_BYTES
from node.settlement.life import Code
from node.settlement.terms import LEAST_LIFESPAN, MAX_LIFESPAN, MAX_PRICE_ZEQ, Unit, agree
from node.settlement.vouchers import MAX_SEQUENCE, VOUCHER_BYTES
from node.settlement.wire import (
    NOTE_BYTES,
    SHOWN_BYTES,
    Answer,
    BadMessage,
    End,
    Ended,
    Half,
    Kept,
    Note,
    Open,
    Opened,
    Paid,
    Request,
    Shown,
    Stated,
    decode_answer,
    decode_note,
    decode_request,
    encode,
)
from tests.node.settlement.test_vouchers import PAYER, a_tunnel

EVENT_BYTES = 4096
ID, HASH, SECRET = b"i" * 16, b"h" * 32, b"r" * 16
V4, V6 = b"\x7f\x00\x00\x01\x12\x34", b"6" * 18
MOST = 2**62
TERMS = agree(Unit.GB, 50, 1000).encoded

REQUEST = Request(
    tunnel_id=ID,
    pricing_unit=Unit.GB,
    price_zeq=50,
    lifespan_zeqonds=1000,
    reply_secret=SECRET,
    endpoints=(V4, V6),
    homes=((V4, b"n" * 16),),
)
ANSWER = Answer(tunnel_id=ID, code="TARGET_FULL", terms=TERMS, balance_zeq=-3, min_required_zeq=5000, left=-7)

NOTES = (
    (Open(ID, HASH), [1, ID, HASH], "9301c410" + ID.hex() + "c420" + HASH.hex()),
    (Opened(ID, b""), [2, ID, b""], "9302c410" + ID.hex() + "c400"),
    (Opened(ID, HASH), [2, ID, HASH], "9302c410" + ID.hex() + "c420" + HASH.hex()),
    (Stated(ID, 1, 300, 70_000), [3, ID, 1, 300, 70_000], "9503c410" + ID.hex() + "01cd012cce00011170"),
    (Paid(b"voucher"), [4, b"voucher"], "9204c407" + b"voucher".hex()),
    (Kept(ID, 9), [5, ID, 9], "9305c410" + ID.hex() + "09"),
    (End(ID, "UNPAID"), [6, ID, "UNPAID"], "9306c410" + ID.hex() + "a6" + b"UNPAID".hex()),
    (Ended(ID), [7, ID], "9207c410" + ID.hex()),
    (Half(ID, b"block"), [8, ID, b"block"], "9308c410" + ID.hex() + "c405" + b"block".hex()),
    (Shown(ID, True, b"own"), [9, ID, True, b"own"], "9409c410" + ID.hex() + "c3c403" + b"own".hex()),
)

WORST = (
    Open(ID, HASH),
    Opened(ID, HASH),
    Stated(ID, MOST, MOST, MOST),
    Paid(b"v" * VOUCHER_BYTES),
    Kept(ID, MAX_SEQUENCE),
    End(ID, "A" * 40),
    Ended(ID),
    Half(ID, b"b" * BLOCK_BYTES),
    Shown(ID, True, b"s" * SHOWN_BYTES),
)


# ------------------------------------------------------------------ layout


@pytest.mark.parametrize(("note", "fields", "vector"), NOTES)
def test_a_note_is_laid_out_as_drawn(note: Note, fields: list[object], vector: str) -> None:
    raw = encode(note)
    assert raw.hex() == vector
    assert msgpack.unpackb(raw) == fields
    assert decode_note(raw) == note


def test_a_request_is_laid_out_as_drawn() -> None:
    raw = encode(REQUEST)
    assert msgpack.unpackb(raw) == [1, ID, "gb", 50, 1000, SECRET, [V4, V6], [[V4, b"n" * 16]]]
    assert raw.hex() == (
        "9801c410"
        + ID.hex()
        + "a2676232cd03e8c410"
        + SECRET.hex()
        + "92c406"
        + V4.hex()
        + "c412"
        + V6.hex()
        + "9192c406"
        + V4.hex()
        + "c410"
        + (b"n" * 16).hex()
    )
    assert decode_request(raw) == REQUEST


def test_an_answer_is_laid_out_as_drawn() -> None:
    raw = encode(ANSWER)
    assert msgpack.unpackb(raw) == [1, ID, "TARGET_FULL", TERMS, -3, 5000, -7]
    assert raw.hex() == (
        "9701c410" + ID.hex() + "ab" + b"TARGET_FULL".hex() + "c409" + TERMS.hex() + "fdcd1388f9"
    )
    assert decode_answer(raw) == ANSWER


@pytest.mark.parametrize("note", WORST)
def test_no_note_is_longer_than_a_record_carries(note: Note) -> None:
    raw = encode(note)
    assert len(raw) <= NOTE_BYTES
    assert decode_note(raw) == note


def test_no_request_or_answer_is_longer_than_an_event_carries() -> None:
    request = Request(
        tunnel_id=ID,
        pricing_unit=Unit.ZEQOND,
        price_zeq=MAX_PRICE_ZEQ,
        lifespan_zeqonds=MAX_LIFESPAN,
        reply_secret=SECRET,
        endpoints=(V6,) * wire.MAX_ENDPOINTS,
        homes=((V6, b"n" * 16),) * wire.MAX_HOMES,
    )
    answer = Answer(
        tunnel_id=ID, code="A" * 40, terms=b"t" * 64, balance_zeq=-MOST, min_required_zeq=MOST, left=-MOST
    )
    assert decode_request(encode(request)) == request
    assert decode_answer(encode(answer)) == answer
    assert max(len(encode(request)), len(encode(answer))) <= NOTE_BYTES <= EVENT_BYTES


@pytest.mark.parametrize("code", Code)
def test_every_code_can_be_said(code: Code) -> None:
    note = decode_note(encode(End(ID, str(code))))
    assert isinstance(note, End)
    assert Code.of(note.code) is code


def test_a_code_that_we_do_not_know_is_another_reason() -> None:
    assert Code.of("FULL_MOON") is Code.OTHER


# ------------------------------------------------------------------ what is none


def changed(message: Request | Answer | Note, place: int, value: object) -> bytes:
    fields = msgpack.unpackb(encode(message))
    fields[place] = value
    packed: bytes = msgpack.packb(fields)
    return packed


REQUESTS = [
    (0, 0), (0, 2), (0, True), (1, b"i" * 15), (1, b"i" * 17), (1, "i" * 16), (2, "GB"), (2, "byte"), (2, 1),
    (3, -1), (3, MAX_PRICE_ZEQ + 1), (3, 50.0), (3, True), (3, "50"), (3, 2**63),
    (4, LEAST_LIFESPAN - 1), (4, MAX_LIFESPAN + 1), (4, 2**64 - 1), (4, 1000.0), (4, None),
    (5, b""), (5, b"r" * 17), (6, [V4] * 9), (6, [b"1" * 5]), (6, [b"1" * 7]), (6, [b"1" * 17]),
    (6, [b"1" * 19]), (6, V4), (7, [[V4, b"n" * 16]] * 4), (7, [[V4]]), (7, [[V4, b"n" * 15]]),
    (7, [[b"1" * 7, b"n" * 16]]), (7, [[V4, b"n" * 16, b""]]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), REQUESTS)
def test_what_is_no_request(place: int, value: object) -> None:
    with pytest.raises(BadMessage):
        decode_request(changed(REQUEST, place, value))


ANSWERS = [
    (0, 2), (1, b""), (2, "lower"), (2, "A" * 41), (2, "A B"), (2, "A\n"), (2, 7), (3, b"t" * 65), (3, "gb"),
    (4, MOST + 1), (4, -MOST - 1), (4, 0.5), (5, -1), (5, True), (6, MOST + 1), (6, -(2**63)), (6, None),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), ANSWERS)
def test_what_is_no_answer(place: int, value: object) -> None:
    with pytest.raises(BadMessage):
        decode_answer(changed(ANSWER, place, value))


@pytest.mark.parametrize(
    ("note", "place", "value"),
    [
        (Open(ID, HASH), 0, 0), (Open(ID, HASH), 0, 10), (Open(ID, HASH), 0, -1), (Open(ID, HASH), 0, True),
        (Open(ID, HASH), 1, b""), (Open(ID, HASH), 2, b""), (Open(ID, HASH), 2, b"h" * 33),
        (Opened(ID, b""), 2, b"h" * 33), (Stated(ID, 1, 2, 3), 2, -1), (Stated(ID, 1, 2, 3), 3, MOST + 1),
        (Stated(ID, 1, 2, 3), 4, 2**64 - 1), (Stated(ID, 1, 2, 3), 2, 1.0), (Stated(ID, 1, 2, 3), 2, True),
        (Paid(b""), 1, b"v" * (VOUCHER_BYTES + 1)), (Paid(b""), 1, "v"), (Kept(ID, 1), 2, 0),
        (Kept(ID, 1), 2, MAX_SEQUENCE + 1), (End(ID, ""), 2, "é"), (End(ID, ""), 2, "A" * 41),
        (Half(ID, b""), 2, b"b" * (BLOCK_BYTES + 1)), (Shown(ID, True, b""), 2, 1),
        (Shown(ID, True, b""), 3, b"s" * (SHOWN_BYTES + 1)),
    ],
)  # fmt: skip
def test_what_is_no_note(note: Note, place: int, value: object) -> None:
    with pytest.raises(BadMessage):
        decode_note(changed(note, place, value))


@pytest.mark.parametrize("read", [decode_note, decode_request, decode_answer])
def test_what_is_deep_or_long_is_none(read: Callable[[bytes], object]) -> None:
    for data in (b"", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1", b"\x90"):
        with pytest.raises(BadMessage):
            read(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40)
    | st.text(max_size=8) | st.sampled_from([ID, HASH, "gb", 1, 1000, V4]),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)  # fmt: skip


@given(st.binary(max_size=200) | st.lists(values, max_size=10).map(msgpack.packb))
def test_strangers_bytes_are_a_message_or_bad(data: bytes) -> None:
    for read in (decode_note, decode_request, decode_answer):
        try:
            again = encode(read(data))
        except BadMessage:
            continue
        assert read(again) == read(data)
    assert isinstance(wire.tunnel_of(data), bytes)


@given(st.data())
def test_a_message_that_was_changed_on_the_way_is_a_message_or_bad(data: st.DataObject) -> None:
    raw = bytearray(
        encode(data.draw(st.sampled_from([*WORST[:8], *[each[0] for each in NOTES], REQUEST, ANSWER])))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    for read in (decode_note, decode_request, decode_answer):
        try:
            read(bytes(raw))
        except BadMessage:
            continue


def test_the_tunnel_of_a_voucher_and_of_what_is_none() -> None:
    assert wire.tunnel_of(vouchers.write(a_tunnel(), 1, 2, 3, 4, PAYER)) == b"\1" * 16
    assert wire.tunnel_of(b"voucher") == b""
