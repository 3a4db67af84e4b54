"""Mode-B: a stream that arrives whole or is refused, under another key every zeqond."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import LocalFault, RecordRefused, SessionExpired
from crypto.mode_b import (
    HEADER_BYTES,
    IDLE_ZEQONDS,
    PLAINTEXT_BYTES,
    SKEW_ZEQONDS,
    Direction,
    Receiver,
    Sender,
)

SEED = bytes(range(32))
START = 2_293_617_891
FROM = Direction.FROM_INITIATOR


def pair(start: int = START) -> tuple[Sender, Receiver]:
    return Sender(SEED, FROM, start), Receiver(SEED, FROM, start)


def expand(secret: bytes, label: bytes, context: bytes = b"") -> bytes:
    return hmac.digest(secret, bytes([len(label)]) + label + context + b"\x01", "sha256")


# ------------------------------------------------------------------ the wire


def test_a_record_is_laid_out_as_drawn() -> None:
    """Opened with hmac and AES-GCM alone."""
    sender, _ = pair()
    sender.seal(b"first", START)
    record = sender.seal(b"second", START + 3)
    assert record[:2] == (1 + 6 + 16).to_bytes(2, "big")
    assert record[2:10] == (START + 3).to_bytes(8, "big")
    secret = expand(SEED, b"zeqnode mode b v1", b"\0" + START.to_bytes(8, "big"))
    for _ in range(3):
        secret = expand(secret, b"zeqnode mode b next v1")
    key = expand(secret, b"zeqnode mode b key v1")
    assert AESGCM(key).decrypt(bytes(11) + b"\1", record[10:], record[:10]) == b"\0second"


def test_the_bytes_of_a_stream_are_fixed() -> None:
    sender, _ = pair()
    stream = sender.seal(b"one", START) + sender.seal(b"two", START + 1) + sender.close(START + 1)
    assert (
        hmac.digest(b"vector", stream, "sha256").hex()
        == "f0c73c644d98fe75454773b077901665b434b5da616662e8f0d5fbe1fbf2734c"
    )


# ------------------------------------------------------------------ what holds

pieces = st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3)), max_size=8)


@given(pieces, st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(-2, 2))
def test_what_goes_in_comes_out_in_whatever_pieces(
    said: list[tuple[bytes, int]], cuts: list[int], skew: int
) -> None:
    sender, receiver = pair()
    now, stream = START + 2, b""
    for plaintext, later in said:
        now += later
        stream += sender.seal(plaintext, now)
    stream += sender.close(now)
    found = b""
    number = 0
    while stream:
        size = cuts[number % len(cuts)]
        found += receiver.receive(stream[:size], now + skew)
        stream, number = stream[size:], number + 1
    assert found == b"".join(plaintext for plaintext, _ in said)
    assert receiver.closed


def test_long_plaintexts_take_several_records() -> None:
    sender, receiver = pair()
    plaintext = bytes(range(256)) * 200
    stream = sender.seal(plaintext, START)
    assert len(stream) == len(plaintext) + -(-len(plaintext) // PLAINTEXT_BYTES) * (HEADER_BYTES + 1 + 16)
    assert receiver.receive(stream, START) == plaintext


def test_no_two_records_share_key_and_nonce_even_if_the_clock_goes_back() -> None:
    sender, receiver = pair()
    clock = [START + 5, START + 6, START + 2, START, START + 6, START + 7]
    records = [sender.seal(b"x", now) for now in clock]
    assert [int.from_bytes(record[2:10], "big") - START for record in records] == [5, 6, 6, 6, 6, 7]
    assert len({record[10:] for record in records}) == len(records)
    assert receiver.receive(b"".join(records), START + 7) == b"x" * 6


def test_the_two_directions_have_nothing_in_common() -> None:
    ours, theirs = (
        Sender(SEED, Direction.FROM_INITIATOR, START),
        Sender(SEED, Direction.FROM_RESPONDER, START),
    )
    record = ours.seal(b"same", START)
    assert record[10:] != theirs.seal(b"same", START)[10:]
    with pytest.raises(RecordRefused):
        Receiver(SEED, Direction.FROM_RESPONDER, START).receive(record, START)


def test_a_receiver_that_has_gone_on_cannot_open_what_was_before() -> None:
    """Forward secrecy: nothing that it still holds leads back."""
    sender, receiver = pair()
    recorded = sender.seal(b"secret", START)
    receiver.receive(recorded, START)
    receiver.receive(sender.seal(b"later", START + 1), START + 1)
    held = receiver._chain._secret
    secret = expand(SEED, b"zeqnode mode b v1", b"\0" + START.to_bytes(8, "big"))
    assert held == expand(secret, b"zeqnode mode b next v1") != secret
    with pytest.raises(RecordRefused, match="before the last one's"):
        receiver.receive(recorded, START + 1)


# ------------------------------------------------------------------ what is refused


def refused(
    data: bytes, zeqond: int = START, before: Callable[[Receiver], object] = lambda _receiver: None
) -> str:
    receiver = pair()[1]
    before(receiver)
    with pytest.raises(RecordRefused) as why:
        receiver.receive(data, zeqond)
    with pytest.raises(RecordRefused, match="refused before"):
        receiver.receive(b"", zeqond)
    return str(why.value)


def test_records_missing_doubled_or_out_of_place_end_the_stream() -> None:
    sender, _ = pair()
    one, two, three = (sender.seal(bytes([number]), START) for number in range(3))
    for order in ((two,), (one, one), (one, three), (two, one)):
        assert refused(b"".join(order)) == "a record does not authenticate"


@given(st.integers(0, 39), st.integers(1, 255))
def test_one_changed_byte_ends_the_stream(place: int, change: int) -> None:
    record = bytearray(pair()[0].seal(b"thirteen byte", START))
    record[place] ^= change
    receiver = pair()[1]
    try:
        assert receiver.receive(bytes(record) + bytes(70_000), START) == b"never"
    except (RecordRefused, SessionExpired):
        return


def test_two_zeqonds_ahead_are_skew_and_three_are_not() -> None:
    sender, receiver = pair()
    assert receiver.receive(sender.seal(b"ahead", START + SKEW_ZEQONDS), START) == b"ahead"
    assert "from the future" in refused(pair()[0].seal(b"x", START + SKEW_ZEQONDS + 1), START)


def test_what_a_stream_held_up_is_late_and_still_good() -> None:
    sender, receiver = pair()
    assert receiver.receive(sender.seal(b"late", START), START + 500) == b"late"


def test_the_end_is_told_from_a_cut() -> None:
    sender, receiver = pair()
    ends = []
    for record in (sender.seal(b"all", START), sender.close(START)):
        receiver.receive(record, START)
        ends.append(receiver.closed)
    assert ends == [False, True]
    assert receiver.receive(b"", START) == b""
    with pytest.raises(RecordRefused, match="after the end"):
        receiver.receive(b"x", START)
    with pytest.raises(LocalFault, match="closed"):
        sender.seal(b"more", START)


def test_bytes_behind_the_end_in_one_piece_are_refused_too() -> None:
    sender, _ = pair()
    assert "after the end" in refused(sender.close(START) + b"x")


def test_a_chain_does_not_go_on_by_more_than_a_day() -> None:
    sender, _ = pair()
    with pytest.raises(SessionExpired, match="new seed"):
        sender.seal(b"x", START + IDLE_ZEQONDS + 1)
    far = Sender(SEED, FROM, START + IDLE_ZEQONDS + 1).seal(b"x", START + IDLE_ZEQONDS + 1)
    with pytest.raises(SessionExpired):
        pair()[1].receive(far, START + IDLE_ZEQONDS + 1)


@given(st.binary(max_size=200))
def test_any_bytes_wait_or_are_refused(data: bytes) -> None:
    receiver = pair()[1]
    try:
        assert receiver.receive(data, START) == b""
    except (RecordRefused, SessionExpired):
        assert not receiver.closed
