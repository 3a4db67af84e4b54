"""How a Mode-B stream begins: only who has the seed gets one, and no two are alike."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import HandshakeRefused
from crypto.mode_b import Direction
from crypto.mode_b_opening import HELLO_BYTES, NONCE_BYTES, Begun, Opening, is_from, other

SEED = bytes(range(32))
NOW = 2_293_617_891
OURS, THEIRS = Direction.FROM_INITIATOR, Direction.FROM_RESPONDER


def both(
    zeqonds: tuple[int, int] = (NOW, NOW), nonces: tuple[bytes, bytes] = (b"a" * 32, b"b" * 32)
) -> tuple[Opening, Opening]:
    return Opening(SEED, OURS, zeqonds[0], nonces[0]), Opening(SEED, THEIRS, zeqonds[1], nonces[1])


def begun(opener: Opening, acceptor: Opening, now: int = NOW) -> tuple[Begun, Begun]:
    return opener.agree(acceptor.hello, now), acceptor.agree(opener.hello, now)


def test_it_is_laid_out_as_drawn() -> None:
    """Made anew with hashlib and hmac alone."""

    def expand(secret: bytes, label: bytes, context: bytes) -> bytes:
        return hmac.digest(secret, bytes([len(label)]) + label + context + b"\x01", "sha256")

    opener, acceptor = both((NOW, NOW + 1))
    said = NOW.to_bytes(8, "big") + b"a" * 32
    assert opener.hello == b"ZMB1" + said + expand(SEED, b"zeqnode mode b hello v1", b"\0" + said)[:16]
    ours, _ = begun(opener, acceptor)
    hellos = hashlib.sha256(opener.hello + acceptor.hello).digest()
    stream = expand(SEED, b"zeqnode mode b stream v1", hellos)
    assert ours.confirmation == expand(stream, b"zeqnode mode b confirmation v1", b"\0")
    assert ours.sender.seal(b"x", NOW)[2:10] == (NOW + 1).to_bytes(8, "big"), "from the later zeqond on"
    fixed = hmac.digest(b"vector", opener.hello + acceptor.hello + ours.confirmation, "sha256").hex()
    assert fixed == "46edd8fee9068af062a8d61c2bbdd8c72e5d7f384a60010a734b85001beeeb30"


@given(st.integers(-2, 2), st.binary(max_size=50), st.binary(max_size=50))
def test_both_have_one_stream_whichever_clock_is_ahead(skew: int, said: bytes, answered: bytes) -> None:
    opener, acceptor = both((NOW, NOW + skew))
    ours, theirs = opener.agree(acceptor.hello, NOW), acceptor.agree(opener.hello, NOW + skew)
    ours.confirm(theirs.confirmation)
    theirs.confirm(ours.confirmation)
    assert theirs.receiver.receive(ours.sender.seal(said, NOW), NOW + skew) == said
    assert ours.receiver.receive(theirs.sender.seal(answered, NOW + skew), NOW) == answered


def test_the_clock_that_is_behind_refuses_and_how_late_a_hello_comes_does_not_matter() -> None:
    opener, acceptor = both((NOW, NOW + 3))
    with pytest.raises(HandshakeRefused, match="clocks differ"):
        opener.agree(acceptor.hello, NOW)
    ours, theirs = opener.agree(acceptor.hello, NOW + 1), acceptor.agree(opener.hello, NOW + 1_000_000)
    ours.confirm(theirs.confirmation)
    with pytest.raises(HandshakeRefused, match="clocks differ"):
        opener.agree(Opening(SEED, THEIRS, 2**64 - 1, b"b" * 32).hello, NOW)


def test_another_seed_is_not_answered() -> None:
    opener, acceptor = Opening(bytes(32), OURS, NOW, b"a" * 32), both()[1]
    with pytest.raises(HandshakeRefused, match="another seed"):
        acceptor.agree(opener.hello, NOW)


def test_a_hello_that_comes_back_to_who_made_it_fits_nothing() -> None:
    for mirrored in both():
        with pytest.raises(HandshakeRefused, match="another seed"):
            mirrored.agree(mirrored.hello, NOW)


def test_a_recording_fails_at_the_confirmation() -> None:
    opener, acceptor = both()
    recorded, _ = begun(opener, acceptor)
    again = Opening(SEED, THEIRS, NOW, b"c" * 32).agree(opener.hello, NOW)
    with pytest.raises(HandshakeRefused, match="confirmation"):
        again.confirm(recorded.confirmation)
    with pytest.raises(HandshakeRefused, match="confirmation"):
        again.confirm(again.confirmation)


def test_no_two_streams_have_a_key_in_common() -> None:
    records = set()
    for number in range(4):
        ours, theirs = begun(*both(nonces=(bytes([number]) * NONCE_BYTES, b"b" * NONCE_BYTES)))
        records |= {ours.sender.seal(b"same", NOW)[10:], theirs.sender.seal(b"same", NOW)[10:]}
    assert len(records) == 8


@given(st.integers(0, HELLO_BYTES - 1), st.integers(1, 255))
def test_a_changed_hello_is_refused(place: int, change: int) -> None:
    hello = bytearray(both()[0].hello)
    hello[place] ^= change
    with pytest.raises(HandshakeRefused):
        both()[1].agree(bytes(hello), NOW)


@given(st.binary(max_size=HELLO_BYTES + 4) | st.binary(min_size=56, max_size=56).map(b"ZMB1".__add__))
def test_whatever_comes_instead_is_nobody(hello: bytes) -> None:
    assert not is_from(SEED, OURS, hello)
    assert other(other(OURS)) is OURS
