"""The door: what a handshake datagram must pass before it costs memory or a private-key operation.

    mac1 ─▶ under load: mac2, else a cookie reply ─▶ fragments ─▶ rate per source ─▶ the message
                                                                  └ exceeded: a cookie reply

A source has one rate as whoever it claims to be, and one as whoever proved with a cookie to receive there: a
spoofer uses up the first only.

Cookie replies have rates of their own, to each address and port and to all together: an answer costs as much
as a refusal. So an honest caller has its cookie at the first asking, whatever other ports of its own address
do, unless somebody sends 100 a second in the name of its very address and port, or 20,000 a second from some
hundred ports; then it has its share of them.

While the machine is listed, a mac1 may be under either of two keys: with its lookup secret, or of machine_id
alone, which everybody may know then. What follows is the same for both.

Under load means: more than 256 datagrams with a right mac1 in one second, or half of all partial messages in
use; it then lasts a second. The counters say what was refused and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from crypto.cookies import MAC_BYTES, CookieJar, mac1_key
from tun import fragments
from tun.addresses import Address, packed, source_of
from tun.frames import KEY_REQUEST, MESSAGE1
from tun.limits import RateLimit

LOAD_PER_SECOND = 256
LOAD_LASTS_US = 1_000_000
CROWDED = fragments.MAX_PARTIAL // 2
HANDSHAKES_PER_SECOND = 20  # as in WireGuard, the burst too
HANDSHAKE_BURST = 5
REPLIES_PER_SECOND = 100  # to one address and port
REPLY_BURST = 100
ALL_REPLIES_PER_SECOND = 20_000  # about a seventh of a core
ALL_REPLIES_BURST = 2000
KEY_REQUEST_BYTES = 480  # the answer is 1,400: under three times as much
KEY_NONCE = slice(4, 20)
NO_MAC2 = bytes(MAC_BYTES)
MIN_MESSAGE1_BYTES = 600  # every fragment of message 1 has about 1,000


class Guard:
    """For one machine: `admit` gives the whole message, or None. Replies go to `send(datagram, address)`."""

    def __init__(
        self,
        machine_id: bytes,
        lookup_secret: bytes,
        entropy: Callable[[int], bytes],
        send: Callable[[bytes, Address], None],
        counters: Counter[str],
        now_us: int,
    ) -> None:
        self._key = mac1_key(machine_id, lookup_secret)
        self._listed_key = mac1_key(machine_id, b"")
        self.listed = False  # who knows no more than machine_id, which is public then, may knock too
        self.jar = CookieJar(entropy, now_us)
        self._send = send
        self._counters = counters
        self._partial = fragments.Reassembly()
        self._rate = RateLimit(HANDSHAKES_PER_SECOND, HANDSHAKE_BURST)
        self._replies = RateLimit(REPLIES_PER_SECOND, REPLY_BURST)
        self._all_replies = RateLimit(ALL_REPLIES_PER_SECOND, ALL_REPLIES_BURST)
        self._second = 0
        self._in_second = 0
        self._load_until_us = 0

    def admit(self, datagram: bytes, source: Address, now_us: int) -> bytes | None:
        """A whole message 1, or a key request as it stands; refused ones are counted, never answered."""
        kind = datagram[0]
        least = MIN_MESSAGE1_BYTES if kind == MESSAGE1 else KEY_REQUEST_BYTES
        if not least <= len(datagram) <= fragments.FRAGMENT_BYTES:
            self._counters["handshake datagram of wrong size"] += 1
            return None
        key = self._key_of(datagram)
        if key is None:
            self._counters["mac1 refused"] += 1
            return None
        loaded, proven = self._under_load(now_us), self._proves_address(datagram, source, now_us)
        if loaded and not proven:
            self._counters["handshake under load without cookie"] += 1
            if kind == KEY_REQUEST or datagram[1] == 0:  # one reply a message: its first fragment
                self._ask_for_proof(datagram, key, source, now_us)
            return None
        message: bytes | None = datagram
        if kind != KEY_REQUEST:
            message = self._partial.add(datagram, source, now_us)
        if message is not None and not self._rate.allow(bytes([proven]) + source_of(source), now_us):
            self._counters["handshake over the rate limit"] += 1
            if not proven:  # others may have spoofed this source and used up its rate
                self._ask_for_proof(datagram, key, source, now_us)
            return None
        return message

    def _key_of(self, datagram: bytes) -> bytes | None:
        """The one that its mac1 is under, of the one or two that it may be under."""
        if fragments.mac1_holds(datagram, self._key):
            return self._key
        if self.listed and fragments.mac1_holds(datagram, self._listed_key):
            return self._listed_key
        return None

    def _under_load(self, now_us: int) -> bool:
        second = now_us // 1_000_000
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if len(self._partial) > CROWDED:
            self._partial.expire(now_us)  # under load nothing else may do it: nothing new is kept
        if self._in_second > LOAD_PER_SECOND or len(self._partial) > CROWDED:
            self._load_until_us = now_us + LOAD_LASTS_US
        return now_us < self._load_until_us

    def _proves_address(self, datagram: bytes, source: Address, now_us: int) -> bool:
        if datagram[-MAC_BYTES:] == NO_MAC2:
            return False
        return fragments.mac2_holds(datagram, self.jar.cookie(packed(source), now_us))

    def _ask_for_proof(self, datagram: bytes, key: bytes, source: Address, now_us: int) -> None:
        if not (self._replies.allow(source, now_us) and self._all_replies.allow(None, now_us)):
            self._counters["cookie reply over the rate limit"] += 1
            return
        self._send(self.jar.reply(key, fragments.mac1_of(datagram), packed(source), now_us), source)
