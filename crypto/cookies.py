"""What keeps strangers from costing anything: mac1, cookies (mac2), and the stateless Retry.

    mac1    BLAKE2s(key from responder ‖ lookup secret): whoever does not know whom they call gets nothing
    mac2    BLAKE2s(cookie): under load, only for who receives at the address that they send from
    cookie  BLAKE2s(our secret of these 120 s, source address), sealed to whoever knows mac1's key

Cookies and mac1 are WireGuard's (its paper, section 5.3); a Retry is QUIC's (RFC 9000, section 8.1.2).

    cookie reply, 56 bytes             refusal, 65 bytes, only for an opened message 1
    0    4           12      24   56   0    4           12      24                65
    ├0xCC┼ mac1's 8  ┼ nonce ┼ ct ┤    ├0xCD┼ message 8 ┼ nonce ┼ ct: kind, 24 ‖ tag┤
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2s
from hmac import compare_digest

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import HandshakeRefused
from crypto.handshake import RETRY_BYTES

MAC_BYTES = 16
COOKIE_BYTES = 16
LOOKUP_SECRET_BYTES = 16
COOKIE_SECRET_US = 120_000_000
COOKIES_KEPT = 1024  # a flood that shows the same sources again and again has each worked out once
RETRY_MINUTE_US = 60_000_000
COOKIE_TYPE = 0xCC
REFUSAL_TYPE = 0xCD
COOKIE_REPLY_BYTES = 12 + 12 + COOKIE_BYTES + 16
REFUSAL_BYTES = 12 + 12 + 1 + RETRY_BYTES + 16


def mac1_key(responder: bytes, lookup_secret: bytes) -> bytes:
    """32 bytes, from the responder's machine_id and, where it is unlisted, its lookup secret (else empty)."""
    return blake2s(responder + lookup_secret, person=b"zqmac1v1").digest()


def answer_mac1_key(responder: bytes, nonce: bytes) -> bytes:
    """32 bytes for what the responder sends back: `nonce` is message 1's e, or a key request's nonce."""
    return blake2s(responder + nonce, person=b"zqansrv1").digest()


def mac(key: bytes, data: bytes) -> bytes:
    """16 bytes of keyed BLAKE2s."""
    return blake2s(data, key=key, digest_size=MAC_BYTES).digest()


class CookieJar:
    """The responder's cookies and retry tokens: two rotating secrets, nothing that is owed to a caller."""

    def __init__(self, entropy: Callable[[int], bytes], now_us: int) -> None:
        self._entropy = entropy
        self._secret = entropy(32)
        self._retry_secret = entropy(32)
        self._since_us = now_us
        self._cookies: dict[bytes, bytes] = {}  # of this secret, by source

    def cookie(self, source: bytes, now_us: int) -> bytes:
        """16 bytes that only who receives at `source` can know, for at most 120 s."""
        if now_us - self._since_us >= COOKIE_SECRET_US:
            self._secret, self._since_us = self._entropy(32), now_us
            self._cookies.clear()
        cookie = self._cookies.get(source)
        if cookie is None:
            if len(self._cookies) >= COOKIES_KEPT:
                self._cookies.clear()
            cookie = self._cookies[source] = mac(self._secret, source)
        return cookie

    def reply(self, key: bytes, mac1: bytes, source: bytes, now_us: int) -> bytes:
        """The cookie reply to a datagram whose mac1 (under `key`) is right."""
        nonce = self._entropy(12)
        head = bytes([COOKIE_TYPE, 0, 0, 0]) + mac1[:8]
        sealed = _cookie_cipher(key).encrypt(nonce, self.cookie(source, now_us), head + mac1)
        return head + nonce + sealed

    def retry(self, source: bytes, initiator: bytes, message_id: bytes, now_us: int) -> bytes:
        """24 bytes: the id of the message it answers, and a MAC over it, the caller and the minute."""
        return message_id + self._retry_mac(source, initiator, message_id, now_us // RETRY_MINUTE_US)

    def check_retry(self, token: bytes, source: bytes, initiator: bytes, now_us: int) -> bool:
        """True for a token made in this minute or the last, for this source and initiator."""
        message_id, given = token[:8], token[8:]
        minute = now_us // RETRY_MINUTE_US
        return any(
            compare_digest(given, self._retry_mac(source, initiator, message_id, m))
            for m in (minute, minute - 1)
        )

    def _retry_mac(self, source: bytes, initiator: bytes, message_id: bytes, minute: int) -> bytes:
        data = message_id + initiator + minute.to_bytes(8, "big", signed=True) + source
        return mac(self._retry_secret, data)


def open_cookie(reply: bytes, key: bytes, mac1: bytes) -> bytes:
    """The cookie in a reply to our datagram with `mac1`. Raises HandshakeRefused."""
    head, nonce, sealed = reply[:12], reply[12:24], reply[24:]
    try:
        return _cookie_cipher(key).decrypt(nonce, sealed, head + mac1)
    except (InvalidTag, ValueError) as error:
        raise HandshakeRefused("the cookie reply does not authenticate") from error


@lru_cache(maxsize=64)
def _cookie_cipher(key: bytes) -> AESGCM:
    """Of one mac1 key: under load the same one seals every reply."""
    return AESGCM(blake2s(key, person=b"zqcookv1").digest())


class Refusal(IntEnum):
    """Why an opened message 1 got no message 2; only a caller with some standing ever sees one."""

    RETRY = 1  # the clock said nothing: come again with this token
    TOKEN_USED = 2
    TOKEN_EXPIRED = 3
    TOKEN_REVOKED = 4


def seal_refusal(
    key: bytes, message_id: bytes, kind: Refusal, entropy: Callable[[int], bytes], retry: bytes = b""
) -> bytes:
    """65 bytes under the control key of message 1 (`Responder.control_key`)."""
    nonce = entropy(12)
    head = bytes([REFUSAL_TYPE, 0, 0, 0]) + message_id
    return head + nonce + AESGCM(key).encrypt(nonce, bytes([kind]) + retry.ljust(RETRY_BYTES, b"\0"), head)


def open_refusal(datagram: bytes, key: bytes) -> tuple[Refusal, bytes]:
    """(kind, retry token of 24 bytes). Raises HandshakeRefused."""
    if len(datagram) != REFUSAL_BYTES:
        raise HandshakeRefused("a refusal has 65 bytes")
    try:
        plain = AESGCM(key).decrypt(datagram[12:24], datagram[24:], datagram[:12])
        return Refusal(plain[0]), plain[1:]
    except (InvalidTag, ValueError) as error:
        raise HandshakeRefused("the refusal does not authenticate") from error
