"""What is inside a sealed event: its encoding, who signed it, when it counts, and that it counts once."""

from __future__ import annotations

import hashlib

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import LocalFault
from crypto.identity import sign
from dht import letters
from dht.letters import AHEAD_ZEQONDS, OLDEST_ZEQONDS, Letter, LetterRefused, Once
from dht.signatures import Ed25519Signatures, MachineSigner
from tests.callers import keys_of

AUTHOR, RECIPIENT = keys_of("author"), keys_of("recipient")
SIGNER = MachineSigner(AUTHOR)
NOW = 2_293_617_891
CHECK = Ed25519Signatures()
LETTER = Letter(1, "vpn.tunnel.request", AUTHOR.bundle.raw, RECIPIENT.machine_id, NOW, 7, b"body")


def read(plaintext: bytes, now: int = NOW) -> Letter:
    return letters.read(plaintext, RECIPIENT.machine_id, CHECK, now)[0]


def signed(*fields: object) -> bytes:
    """The plaintext of any payload, as its author could sign it."""
    payload: bytes = msgpack.packb(list(fields))
    return len(payload).to_bytes(2, "big") + payload + sign(AUTHOR, b"zeqnode tag event v1", payload)


FIELDS = (1, "vpn.tunnel.request", AUTHOR.bundle.raw, RECIPIENT.machine_id, NOW, 7, b"body")


# ------------------------------------------------------------------ the encoding


def test_a_letter_of_fixed_keys() -> None:
    plaintext = letters.write(LETTER, SIGNER)
    assert hashlib.sha256(plaintext).hexdigest() == (
        "e7b91a624a18bdf94151a15043898214f1d126c526f7548e0c591cb9db5897b3"
    )
    assert (
        letters.read(plaintext, RECIPIENT.machine_id, CHECK, NOW)[1].hex()
        == "67478fb8e276718f8074d0140785b102"
    )


def test_a_letter_is_laid_out_as_drawn() -> None:
    plaintext = letters.write(LETTER, SIGNER)
    assert plaintext.rstrip(b"\0") == signed(*FIELDS).rstrip(b"\0")
    assert (len(plaintext) + 1136) % 900 == 0
    assert len(plaintext) - len(signed(*FIELDS)) < 900


@given(st.binary(max_size=4096))
def test_what_is_written_is_read_and_its_length_is_hidden(body: bytes) -> None:
    letter = msgspec.structs.replace(LETTER, body=body)
    plaintext = letters.write(letter, SIGNER)
    assert read(plaintext) == letter
    assert len(plaintext) + 1136 in range(2700, 8101, 900)


def test_the_author_is_named_by_all_of_its_keys() -> None:
    assert letters.author_of(LETTER) == AUTHOR.machine_id


@pytest.mark.parametrize("tag", ["", ".", "a.", ".a", "a..b", "Vpn", "a b", "a.*", "é", "a\n", "a" * 61])
def test_no_such_tags(tag: str) -> None:
    assert not letters.is_tag(tag)
    with pytest.raises(LocalFault):
        letters.check(tag, b"")
    with pytest.raises(LetterRefused):
        read(signed(1, tag, *FIELDS[2:]))


def test_such_tags() -> None:
    for tag in ("a", "vpn.tunnel.request", "x_1-2.y", "a" * 60):
        letters.check(tag, bytes(4096))
        assert read(signed(1, tag, *FIELDS[2:])).tag == tag
    with pytest.raises(LocalFault):
        letters.check("a", bytes(4097))


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "fields",
    [
        (2, *FIELDS[1:]),
        (*FIELDS[:2], bytes(1247), *FIELDS[3:]),
        (*FIELDS[:2], b"", *FIELDS[3:]),
        (*FIELDS[:3], AUTHOR.machine_id, *FIELDS[4:]),
        (*FIELDS[:4], -1, *FIELDS[5:]),
        (*FIELDS[:5], 2**63, b"body"),
        (*FIELDS[:6], bytes(4097)),
        (*FIELDS[:6], "text"),
        FIELDS[:6],
    ],
    ids=[
        *("version", "short bundle", "no bundle", "for another", "negative time", "huge sequence"),
        *("large body", "text", "too few"),
    ],
)
def test_signed_and_still_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(LetterRefused):
        read(signed(*fields))


def test_later_versions_may_append() -> None:
    assert read(signed(*FIELDS, "more")) == LETTER


@pytest.mark.parametrize("place", range(0, len(signed(*FIELDS)), 7))
def test_a_letter_changed_anywhere_is_refused(place: int) -> None:
    plaintext = letters.write(LETTER, SIGNER)
    with pytest.raises(LetterRefused):
        read(plaintext[:place] + bytes([plaintext[place] ^ 1]) + plaintext[place + 1 :])


def test_signed_by_somebody_else_in_the_authors_name() -> None:
    payload = msgpack.packb(list(FIELDS))
    forged = sign(RECIPIENT, b"zeqnode tag event v1", payload)
    other = sign(AUTHOR, b"zeqnode gossip v1", payload)
    for signature in (forged, other, bytes(64), b""):
        with pytest.raises(LetterRefused):
            read(len(payload).to_bytes(2, "big") + payload + signature)


def test_a_letter_counts_for_70_minutes_and_at_most_10_ahead() -> None:
    assert (OLDEST_ZEQONDS, AHEAD_ZEQONDS) == (5405, 772)
    plaintext = letters.write(LETTER, SIGNER)
    for now in (NOW, NOW + OLDEST_ZEQONDS, NOW - AHEAD_ZEQONDS):
        assert read(plaintext, now) == LETTER
    for now in (NOW + OLDEST_ZEQONDS + 1, NOW - AHEAD_ZEQONDS - 1, 0, NOW * 2):
        with pytest.raises(LetterRefused):
            read(plaintext, now)


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_no_letter(data: bytes) -> None:
    with pytest.raises(LetterRefused):
        read(data)


def test_a_tag_that_is_not_utf8_is_refused() -> None:
    """A fault of Python's, not of msgspec's own."""
    plaintext = letters.write(LETTER, SIGNER)
    tag = LETTER.tag.encode()
    bad = plaintext.replace(tag, b"\xff" * len(tag), 1)
    assert bad != plaintext
    with pytest.raises(LetterRefused, match="does not parse"):
        read(bad)


def test_nested_without_end() -> None:
    payload = b"\x98" + msgpack.packb(list(FIELDS))[1:] + b"\x91" * 9000 + b"\x90"
    with pytest.raises(LetterRefused):
        read(len(payload).to_bytes(2, "big") + payload + bytes(64))


# ------------------------------------------------------------------ once


def letter_at(zeqond: int) -> Letter:
    return msgspec.structs.replace(LETTER, zeqond=zeqond)


@given(st.lists(st.tuples(st.integers(-30, 30), st.integers(0, 40)), max_size=60))
def test_an_event_is_taken_once(steps: list[tuple[int, int]]) -> None:
    """Against a slow, plain model: all that was ever taken."""
    once, taken, now = Once(), set(), NOW
    for ahead, number in steps:
        now += 1
        name = number.to_bytes(16, "big")
        zeqond = NOW + number if number % 2 else NOW + ahead
        assert once.take(letter_at(zeqond), name, now) is (name not in taken)
        taken.add(name)
        assert all(once.seen(one) for one in taken)


def test_what_is_forgotten_was_too_old_already() -> None:
    once = Once()
    assert once.take(letter_at(NOW), b"a" * 16, NOW)
    assert once.take(letter_at(NOW + 9000), b"b" * 16, NOW + 9000)
    assert len(once) == 1
    with pytest.raises(LetterRefused):
        read(letters.write(LETTER, SIGNER), NOW + 9000)


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_a_flood_of_events_makes_nothing_come_twice(order: int) -> None:
    """The memory is bounded; what it loses is refused from then on."""
    once = Once()
    names = [number.to_bytes(16, "big") for number in range(6000)]
    letters_ = [letter_at(NOW + order * (number // 10)) for number in range(6000)]
    taken = [name for name, letter in zip(names, letters_, strict=True) if once.take(letter, name, NOW)]
    assert len(taken) >= letters.REMEMBERED
    assert len(once) <= letters.REMEMBERED
    again = [name for name, letter in zip(names, letters_, strict=True) if once.take(letter, name, NOW)]
    assert not again
    assert once.take(letter_at(NOW + 700), b"new" * 5 + b"!", NOW), "and time goes on"


def test_what_was_taken_is_known_after_a_restart() -> None:
    once, after = Once(), Once()
    assert once.take(letter_at(NOW), b"a" * 16, NOW)
    after.load(once.save())
    assert not after.take(letter_at(NOW), b"a" * 16, NOW)
    assert after.take(letter_at(NOW), b"b" * 16, NOW)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_load_nothing(data: bytes) -> None:
    once = Once()
    with pytest.raises(ValueError):
        once.load(b"\x93" + data)
    assert len(once) == 0
