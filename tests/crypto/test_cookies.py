"""mac1, cookies, retry tokens and refusals: their layout, how long they hold, and what they are bound to."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s, shake_256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto.cookies import (
    COOKIE_REPLY_BYTES,
    COOKIE_SECRET_US,
    COOKIES_KEPT,
    REFUSAL_BYTES,
    CookieJar,
    Refusal,
    answer_mac1_key,
    mac,
    mac1_key,
    open_cookie,
    open_refusal,
    seal_refusal,
)
from crypto.errors import HandshakeRefused

SECOND = 1_000_000
KEY, MAC1 = bytes(range(32)), bytes(range(16))
HERE, THERE = b"\xc0\x00\x02\x01\xca\x41", b"\xc0\x00\x02\x01\xca\x42"
CALLER, OTHER, MESSAGE = bytes([1]) * 32, bytes([2]) * 32, b"message!"


def entropy() -> Callable[[int], bytes]:
    calls = iter(range(10**6))
    return lambda size: shake_256(next(calls).to_bytes(4, "big")).digest(size)


def jar() -> CookieJar:
    return CookieJar(entropy(), 0)


# ------------------------------------------------------------------ keys and macs


def test_mac1_keys_are_blake2s_of_whom_one_calls() -> None:
    assert mac1_key(CALLER, MAC1) == blake2s(CALLER + MAC1, person=b"zqmac1v1").digest()
    assert answer_mac1_key(CALLER, KEY) == blake2s(CALLER + KEY, person=b"zqansrv1").digest()
    assert mac(KEY, b"data") == blake2s(b"data", key=KEY, digest_size=16).digest()


def test_every_key_is_another() -> None:
    keys = {mac1_key(CALLER, b""), mac1_key(CALLER, MAC1), mac1_key(OTHER, b""), mac1_key(OTHER, MAC1)}
    keys |= {answer_mac1_key(CALLER, b""), answer_mac1_key(CALLER, MAC1), answer_mac1_key(OTHER, MAC1)}
    assert len(keys) == 7


# ------------------------------------------------------------------ cookies


def test_a_cookie_reply_is_laid_out_as_drawn() -> None:
    cookies = jar()
    reply = cookies.reply(KEY, MAC1, HERE, 0)
    assert len(reply) == COOKIE_REPLY_BYTES == 56
    assert reply[:12] == b"\xcc\0\0\0" + MAC1[:8]
    sealing = blake2s(KEY, person=b"zqcookv1").digest()
    plain = AESGCM(sealing).decrypt(reply[12:24], reply[24:], reply[:12] + MAC1)
    assert plain == cookies.cookie(HERE, 0) == open_cookie(reply, KEY, MAC1)
    assert len(plain) == 16


def test_a_cookie_is_the_sources_and_nobody_elses() -> None:
    cookies, others = jar(), CookieJar(lambda size: bytes(size), 0)
    found = {cookies.cookie(HERE, 0), cookies.cookie(THERE, 0), others.cookie(HERE, 0)}
    assert len(found) == 3
    assert cookies.cookie(HERE, 0) in found, "the same again: nothing is kept of a caller"


def test_the_cookie_secret_lasts_120_seconds() -> None:
    cookies = jar()
    first = cookies.cookie(HERE, 0)
    assert cookies.cookie(HERE, 120 * SECOND - 1) == first
    second = cookies.cookie(HERE, 120 * SECOND)
    assert second != first
    assert cookies.cookie(HERE, 239 * SECOND) == second
    assert cookies.cookie(HERE, 240 * SECOND) not in (first, second)


def test_no_two_replies_use_one_nonce() -> None:
    cookies = jar()
    assert len({cookies.reply(KEY, MAC1, HERE, 0)[12:24] for _ in range(200)}) == 200


def test_a_cookie_reply_changed_in_any_byte_does_not_open() -> None:
    reply = jar().reply(KEY, MAC1, HERE, 0)
    for place in range(len(reply)):
        with pytest.raises(HandshakeRefused):
            open_cookie(reply[:place] + bytes([reply[place] ^ 1]) + reply[place + 1 :], KEY, MAC1)
    for wrong in ((bytes(32), MAC1), (KEY, bytes(16))):
        with pytest.raises(HandshakeRefused):
            open_cookie(reply, *wrong)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_hold_no_cookie(data: bytes) -> None:
    with pytest.raises(HandshakeRefused):
        open_cookie(data, KEY, MAC1)


# ------------------------------------------------------------------ retry tokens


def test_a_retry_token_is_the_messages_id_and_a_mac() -> None:
    token = jar().retry(HERE, CALLER, MESSAGE, 0)
    assert len(token) == 24
    assert token[:8] == MESSAGE


@given(made_us=st.integers(0, 10**15), later_us=st.integers(0, 300 * SECOND))
def test_a_retry_token_holds_in_its_minute_and_the_next(made_us: int, later_us: int) -> None:
    cookies = jar()
    token = cookies.retry(HERE, CALLER, MESSAGE, made_us)
    minutes = (made_us + later_us) // (60 * SECOND) - made_us // (60 * SECOND)
    assert cookies.check_retry(token, HERE, CALLER, made_us + later_us) is (minutes <= 1)


def test_a_retry_token_is_not_good_before_it_was_made() -> None:
    cookies = jar()
    token = cookies.retry(HERE, CALLER, MESSAGE, 60 * SECOND)
    assert not cookies.check_retry(token, HERE, CALLER, 59 * SECOND)


def test_a_retry_token_is_bound_to_source_initiator_message_and_machine() -> None:
    cookies = jar()
    token = cookies.retry(HERE, CALLER, MESSAGE, 0)
    assert cookies.check_retry(token, HERE, CALLER, 0)
    assert not cookies.check_retry(token, THERE, CALLER, 0)
    assert not cookies.check_retry(token, HERE, OTHER, 0)
    assert not cookies.check_retry(b"another!" + token[8:], HERE, CALLER, 0)
    assert not CookieJar(lambda size: bytes(size), 0).check_retry(token, HERE, CALLER, 0)


def test_source_and_initiator_do_not_run_into_each_other() -> None:
    """An IPv6 source is longer than an IPv4 one: no other cut of the same bytes is accepted."""
    cookies = jar()
    token = cookies.retry(HERE, CALLER, MESSAGE, 0)
    assert not cookies.check_retry(token, HERE[1:], CALLER + HERE[:1], 0)
    assert not cookies.check_retry(token, CALLER[-1:] + HERE, CALLER[:-1], 0)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_no_retry_token(data: bytes) -> None:
    assert not jar().check_retry(data, HERE, CALLER, 0)


def test_retry_tokens_outlive_the_cookie_secret() -> None:
    """A cookie's rotation in between costs nobody the second round trip."""
    cookies = jar()
    token = cookies.retry(HERE, CALLER, MESSAGE, 119 * SECOND)
    cookies.cookie(HERE, 120 * SECOND)
    assert cookies.check_retry(token, HERE, CALLER, 121 * SECOND)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("kind", list(Refusal))
def test_a_refusal_is_laid_out_as_drawn(kind: Refusal) -> None:
    retry = bytes(range(24)) if kind is Refusal.RETRY else b""
    sealed = seal_refusal(KEY, MESSAGE, kind, entropy(), retry)
    assert len(sealed) == REFUSAL_BYTES == 65
    assert sealed[:12] == b"\xcd\0\0\0" + MESSAGE
    plain = AESGCM(KEY).decrypt(sealed[12:24], sealed[24:], sealed[:12])
    assert plain == bytes([kind]) + retry.ljust(24, b"\0")
    assert open_refusal(sealed, KEY) == (kind, plain[1:])


def test_a_refusal_changed_in_any_byte_or_of_another_length_does_not_open() -> None:
    sealed = seal_refusal(KEY, MESSAGE, Refusal.RETRY, entropy(), bytes(24))
    for place in range(len(sealed)):
        with pytest.raises(HandshakeRefused):
            open_refusal(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], KEY)
    for other in (sealed[:-1], sealed + b"\0", b""):
        with pytest.raises(HandshakeRefused):
            open_refusal(other, KEY)
    with pytest.raises(HandshakeRefused):
        open_refusal(sealed, bytes(32))


def test_a_refusal_of_unknown_kind_is_refused() -> None:
    """Well sealed, by a version of the protocol that does not exist yet."""
    for kind in (0, 5, 255):
        head, nonce = b"\xcd\0\0\0" + MESSAGE, bytes(12)
        sealed = head + nonce + AESGCM(KEY).encrypt(nonce, bytes([kind]) + bytes(24), head)
        with pytest.raises(HandshakeRefused):
            open_refusal(sealed, KEY)


@given(st.binary(max_size=130))
def test_arbitrary_bytes_are_no_refusal(data: bytes) -> None:
    with pytest.raises(HandshakeRefused):
        open_refusal(data, KEY)
    with pytest.raises(HandshakeRefused):
        open_refusal(data.ljust(REFUSAL_BYTES, b"\0")[:REFUSAL_BYTES], KEY)


def test_cookies_are_the_same_again_until_the_secret_changes_and_few_are_kept() -> None:
    door = jar()
    sources = [number.to_bytes(6, "big") for number in range(3 * COOKIES_KEPT)]
    cookies = [door.cookie(source, 0) for source in sources]
    assert len(set(cookies)) == len(sources)
    assert [door.cookie(source, COOKIE_SECRET_US - 1) for source in sources] == cookies
    assert len(door._cookies) <= COOKIES_KEPT
    assert not set(cookies) & {door.cookie(source, COOKIE_SECRET_US) for source in sources}
