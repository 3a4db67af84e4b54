"""The pure parts of the API: rates, cookies, strict JSON, and names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api import strict
from node.api.backend import split_name
from node.api.faults import InvalidRequest
from node.api.limits import MINUTE, Limits
from node.api.sessions import KEY_BYTES, SESSION_SECONDS, Session, Sessions
from node.tunnels.keys import purpose
from node.tunnels.shown import identifier

TOKEN = "0123456789abcdef"


@given(
    gaps=st.lists(st.floats(0, 30), max_size=60),
    most=st.integers(1, 8),
)
def test_no_minute_holds_more_than_the_limit_and_none_less_than_is_due(gaps: list[float], most: int) -> None:
    """Against a slow model: what was let through in the last minute."""
    limits, now, let = Limits(most, most), 0.0, list[float]()
    for gap in gaps:
        now += gap
        recent = [each for each in let if each > now - MINUTE]
        wait = limits.take("a", write=False, now=now)
        assert (wait == 0.0) == (len(recent) < most)
        if wait == 0.0:
            let.append(now)
        else:
            assert wait == recent[0] + MINUTE - now > 0


def test_callers_and_reads_and_writes_count_apart() -> None:
    limits = Limits(reads=2, writes=1)
    asked = [("a", True), ("a", False), ("a", False), ("b", True), ("b", False)]
    assert [limits.take(who, write=write, now=1.0) for who, write in asked] == [0.0] * 5
    assert limits.take("a", write=True, now=2.0) == 59.0
    assert limits.take("a", write=False, now=61.0) == 0.0


def test_who_is_quiet_for_a_minute_is_forgotten() -> None:
    limits = Limits(5, 5)
    for number in range(100):
        limits.take(str(number), write=False, now=float(number))
    assert len(limits) <= 61


def test_a_session_says_which_token_and_until_when() -> None:
    sessions = Sessions(bytes(KEY_BYTES))
    cookie, session = sessions.begin(TOKEN, 1_000)
    assert session == Session(TOKEN, 1_000 + SESSION_SECONDS)
    assert sessions.read(cookie, 1_000 + SESSION_SECONDS - 1) == session
    assert sessions.read(cookie, 1_000 + SESSION_SECONDS) is None
    assert Sessions(b"\x01" * KEY_BYTES).read(cookie, 1_000) is None


def test_the_cookie_is_made_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "00112233445566ff")
    cookie, _ = Sessions(bytes(range(32))).begin(TOKEN, 1_000)
    assert cookie == (
        "0123456789abcdef.44200.00112233445566ff."
        "e350da11e81b72e7d802500fe7a1b35748882e8e6f9f4ed20798777ed8ce91f4"
    )


def test_an_ended_session_stays_ended_and_others_go_on() -> None:
    sessions = Sessions(bytes(KEY_BYTES))
    one, _ = sessions.begin(TOKEN, 0)
    other, session = sessions.begin(TOKEN, 0)
    sessions.end(one, 1)
    sessions.end("nonsense", 1)
    assert sessions.read(one, 2) is None
    assert sessions.read(other, 2) == session
    sessions.end(other, SESSION_SECONDS)  # expired by itself: nothing is remembered
    assert sessions._ended == {}


@given(at=st.integers(0, 200), char=st.characters(max_codepoint=127))
def test_a_changed_cookie_is_none(at: int, char: str) -> None:
    sessions = Sessions(bytes(KEY_BYTES))
    cookie, _ = sessions.begin(TOKEN, 0)
    changed = cookie[: at % len(cookie)] + char + cookie[at % len(cookie) + 1 :]
    assert changed == cookie or sessions.read(changed, 0) is None


@given(text=st.text())
def test_any_text_is_read_as_no_session(text: str) -> None:
    assert Sessions(bytes(KEY_BYTES)).read(text, 0) is None


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_what_json_is_passes(value: object) -> None:
    strict.check(json.dumps(value).encode())
    strict.check(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@given(body=st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused(body: bytes) -> None:
    try:
        strict.check(body)
    except InvalidRequest:
        return
    json.loads(body)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"x": {"a": 1, "b": 2, "\\u0061": 3}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 01}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1} {}', "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b"[" * 50_000, "deep"),
        (b'{"a":' * 12_000, "deep"),
        (b"9" * 60_000, "not JSON"),
    ],
)
def test_json_of_two_meanings_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        strict.check(body)


def test_names() -> None:
    tunnel = bytes.fromhex("8f7e6d5c1a2b4c3d8e9f0a1b2c3d4e5f")
    assert identifier(tunnel) == "8f7e6d5c-1a2b-4c3d-8e9f-0a1b2c3d4e5f"
    assert purpose(tunnel) == "vpn.tunnel.8f7e6d5c-1a2b-4c3d-8e9f-0a1b2c3d4e5f.key"
    assert split_name("ZEQ07000000001") == ("ZEQ07000000001", "")
    assert split_name("ZEQ07000000001~abcd-efgh-ijkl-mnop") == ("ZEQ07000000001", "abcdefghijklmnop")
