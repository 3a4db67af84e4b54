"""The DHT on the wire: a fixed vector of every message, and arbitrary bytes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.messages import (
    DATAGRAM_BYTES,
    DhtMessage,
    Dial,
    Find,
    Get,
    Nodes,
    Ping,
    Pong,
    Reach,
    Reached,
    Store,
    Stored,
    Values,
    decode_dht,
    encode_dht,
)

T, TAIL, TOKEN, KEY = b"transact", b"tail of twenty-four byte", b"token 8b", bytes(range(32))
YOU4, YOU6 = bytes([192, 0, 2, 1, 0xCA, 0x41]), bytes.fromhex("20010db8000000000000000000000001ca41")


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Ping(T, b""), "d09501c4087472616e73616374c400c400c400"),
        (
            Ping(T, TAIL, TOKEN, b"pad"),
            "d09501c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "08746f6b656e203862c403706164",
        ),
        (
            Find(T, TAIL, b"", KEY, bytes(2)),
            "d09602c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "00c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fc4020000",
        ),
        (
            Get(T, TAIL, TOKEN, KEY, 700),
            "d09703c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "08746f6b656e203862c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c"
            "1d1e1fcd02bcc400",
        ),
        (
            Store(T, TAIL, TOKEN, KEY, 1, 2, b"chunk"),
            "d09804c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "08746f6b656e203862c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c"
            "1d1e1f0102c4056368756e6b",
        ),
        (
            Reach(T, TAIL, TOKEN),
            "d09405c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "08746f6b656e203862",
        ),
        (
            Dial(T, TAIL, TOKEN, YOU4, b"nonce 8b"),
            "d09606c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "08746f6b656e203862c406c0000201ca41c4086e6f6e6365203862",
        ),
        (
            Pong(T, TAIL, YOU4, TOKEN),
            "d09510c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "06c0000201ca41c408746f6b656e203862",
        ),
        (
            Nodes(T, b"", YOU6, TOKEN, TAIL + YOU6),
            "d09611c4087472616e73616374c400c41220010db8000000000000000000000001ca41c408746f6b"
            "656e203862c42a7461696c206f66207477656e74792d666f7572206279746520010db80000000000"
            "00000000000001ca41",
        ),
        (
            Values(T, TAIL, YOU4, TOKEN, b"", 70_000, b"digest 8", 300, b"page"),
            "d09a12c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "06c0000201ca41c408746f6b656e203862c400ce00011170c4086469676573742038cd012cc40470"
            "616765",
        ),
        (
            Stored(T, TAIL, YOU4, TOKEN, 4),
            "d09613c4087472616e73616374c4187461696c206f66207477656e74792d666f75722062797465c4"
            "06c0000201ca41c408746f6b656e20386204",
        ),
        (Reached(T), "d09214c4087472616e73616374"),
    ],
)
def test_every_message_has_a_fixed_encoding(message: DhtMessage, wire: str) -> None:
    assert encode_dht(message).hex() == wire
    assert decode_dht(bytes.fromhex(wire)[1:]) == message


def test_what_a_later_version_appends_is_read_past() -> None:
    wire = encode_dht(Pong(T, TAIL, YOU4, TOKEN))[1:]
    assert decode_dht(bytes([wire[0] + 1]) + wire[1:] + b"\xa3new") == Pong(T, TAIL, YOU4, TOKEN)


@given(st.binary(max_size=DATAGRAM_BYTES))
def test_arbitrary_bytes_raise_what_is_said(data: bytes) -> None:
    try:
        message = decode_dht(data)
    except msgspec.MsgspecError:
        return
    assert decode_dht(encode_dht(message)[1:]) == message


def test_a_thousand_arrays_in_each_other() -> None:
    wire = encode_dht(Reached(T))[1:]
    with pytest.raises(msgspec.MsgspecError):
        decode_dht(bytes([wire[0] + 1]) + wire[1:] + b"\x91" * 1100 + b"\x90")
