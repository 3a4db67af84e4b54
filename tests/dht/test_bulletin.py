"""Bulletins: their bytes, their stamp, whose they are, how long they hold, and what is none."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import MachineKeys
from crypto.pulse import ZEQOND_MS
from dht import bulletin as bulletins
from dht.bulletin import AHEAD_ZEQONDS, BULLETIN_BYTES, LABEL, LIFE_ZEQONDS, compose, genuine, parse, timely
from dht.messages import DATAGRAM_BYTES, Push, encode_gossip
from dht.signatures import Ed25519Signatures, MachineSigner
from simulations.toycrypto import ToySignatures, ToySigner

AUTHOR = MachineSigner(MachineKeys.from_bytes(bytes(range(128))))
TOY = ToySigner(bytes(32))
ED25519 = Ed25519Signatures()
NOW = 2_293_617_891
VECTOR = (
    "9701a77461673a76706ec42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8ce88b5d4"
    "e307cd0145c40568656c6c6f4294b0d325f68ff77cf909b1fd1aa482d9fee67006892aed5aeb0785b08e742c4a7c3fae"
    "38ad64f3a0cba89d5385192db9b826b651a4b886d988d6acb0c50a07"
)


def test_a_bulletin_is_laid_out_as_drawn() -> None:
    """A fixed vector: Ed25519 of a known seed over msgpack, and the id."""
    found = compose("tag:vpn", b"hello", AUTHOR, NOW, 7, difficulty=8)
    assert found.wire.hex() == VECTOR
    assert found.id == sha256(found.wire).digest()[:12]
    signed = found.wire[:-64]
    assert signed[:10] == b"\x97\x01\xa7tag:vpn"
    assert signed[10:44] == b"\xc4\x20" + AUTHOR.public
    assert signed[44:49] == b"\xce" + NOW.to_bytes(4, "big")
    assert signed.endswith(b"\xc4\x05hello")
    assert sha256(signed).digest()[0] == 0, "the stamp"
    assert ED25519.holds(AUTHOR.public, LABEL, signed, found.wire[-64:])
    assert genuine(found, ED25519, 8)


def test_the_same_bytes_are_the_same_object() -> None:
    found = compose("news", b"hello", TOY, NOW, 1, 0)
    assert parse(bytes(bytearray(found.wire))) is found


@given(
    topic=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64),
    body=st.binary(max_size=900),
    sequence=st.integers(0, 2**63 - 1),
)
def test_what_is_composed_is_read_and_fits_a_datagram(topic: str, body: bytes, sequence: int) -> None:
    found = compose(topic, body, TOY, NOW, sequence, 0)
    assert (found.topic, found.body, found.sequence, found.zeqond) == (topic, body, sequence, NOW)
    assert found.author == TOY.public
    assert len(found.wire) <= BULLETIN_BYTES
    assert len(encode_gossip(Push(bytes(8), found.wire))) <= DATAGRAM_BYTES
    assert genuine(found, ToySignatures(), 0)


@pytest.mark.parametrize(
    ("topic", "body", "sequence"),
    [
        ("x" * 65, b"", 0),
        ("é", b"", 0),
        ("line\n", b"", 0),
        ("x", bytes(901), 0),
        ("x", b"", 2**63),
        ("x", b"", -1),
    ],
)
def test_what_is_too_long_is_not_composed(topic: str, body: bytes, sequence: int) -> None:
    with pytest.raises(ValueError):
        compose(topic, body, TOY, NOW, sequence, 0)


def test_a_bulletin_changed_in_any_byte_does_not_hold() -> None:
    found = compose("news", b"hello", AUTHOR, NOW, 1, 0)
    for place in range(len(found.wire)):
        other = parse(found.wire[:place] + bytes([found.wire[place] ^ 1]) + found.wire[place + 1 :])
        assert other is None or not other.known or not genuine(other, ED25519, 0)


def test_a_stamp_of_too_little_work_does_not_hold() -> None:
    found = next(
        each for each in (compose("x", b"%d" % n, TOY, NOW, 1, 0) for n in range(99)) if _bits(each) < 3
    )
    assert genuine(found, ToySignatures(), 0)
    assert not genuine(found, ToySignatures(), 3)
    paid = compose("x", b"", TOY, NOW, 1, 10)
    assert genuine(paid, ToySignatures(), 10)
    assert _bits(paid) >= 10


def _bits(found: bulletins.Bulletin) -> int:
    return 256 - int.from_bytes(sha256(found.wire[:-64]).digest(), "big").bit_length()


def test_a_later_version_is_read_but_not_known() -> None:
    found = compose("news", b"hello", TOY, NOW, 1, 0)
    later = parse(b"\x98\x02" + found.wire[2:-64] + b"\xc0" + found.wire[-64:])
    assert later is not None
    assert not later.known


def test_two_hours_back_and_ten_minutes_ahead_are_timely() -> None:
    assert LIFE_ZEQONDS * ZEQOND_MS in range(7_200_000, 7_201_000)
    assert AHEAD_ZEQONDS * ZEQOND_MS in range(600_000, 601_000)
    assert timely(NOW - LIFE_ZEQONDS, NOW)
    assert timely(NOW + AHEAD_ZEQONDS, NOW)
    assert not timely(NOW - LIFE_ZEQONDS - 1, NOW)
    assert not timely(NOW + AHEAD_ZEQONDS + 1, NOW)


@given(st.binary(max_size=1200))
def test_arbitrary_bytes_are_no_bulletin_or_not_genuine(noise: bytes) -> None:
    found = parse(noise)
    assert found is None or not genuine(found, ED25519, 0)


def test_arrays_in_each_other_are_no_bulletin() -> None:
    """In a field that is read past; msgspec raises RecursionError there, which is no ValueError."""
    found = compose("news", b"", TOY, NOW, 1, 0)
    for depth in range(1, BULLETIN_BYTES - len(found.wire)):
        nested = parse(b"\x98" + found.wire[1:-64] + b"\x91" * depth + b"\xc0" + bytes(64))
        assert nested is None or not genuine(nested, ToySignatures(), 0)
    assert parse(b"\x97\x01" + b"\x91" * 1000 + bytes(64)) is None


def test_a_topic_that_is_no_text_is_none() -> None:
    """msgspec raises UnicodeDecodeError there, which is no MsgspecError."""
    found = compose("news", b"", TOY, NOW, 1, 0)
    assert parse(found.wire.replace(b"news", b"ne\xffs")) is None


def test_a_bulletin_cut_anywhere_or_longer_is_none() -> None:
    found = compose("news", b"hello", TOY, NOW, 1, 0)
    assert all(parse(found.wire[:end]) is None for end in range(len(found.wire)))
    assert parse(found.wire + b"\0") is None
    assert parse(bytes(BULLETIN_BYTES + 1)) is None
