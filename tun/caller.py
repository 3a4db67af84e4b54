"""The calling side of the guard: datagrams under mac1, and under mac2 once a cookie has come."""

from __future__ import annotations

from collections.abc import Sequence

from crypto.cookies import COOKIE_REPLY_BYTES, COOKIE_SECRET_US, mac1_key, open_cookie
from crypto.errors import HandshakeRefused
from tun import fragments
from tun.addresses import Address

MAX_ADDRESSES = 8

Outgoing = list[tuple[bytes, Address]]


class Caller:
    """What one machine is asked for, at every address where it may be (at most eight).

    `bare` are the datagrams without their macs, the same for every address; a cookie is good for the one
    address that it came from."""

    def __init__(self, responder: bytes, lookup_secret: bytes, addresses: Sequence[Address]) -> None:
        self._key = mac1_key(responder, lookup_secret)
        self._cookies: dict[Address, tuple[bytes, int]] = {}
        self.addresses = list(addresses)[:MAX_ADDRESSES]
        self.bare: list[bytes] = []

    def reach(self, addresses: Sequence[Address]) -> None:
        """Ask at these addresses from now on."""
        self.addresses = list(addresses)[:MAX_ADDRESSES]

    def everywhere(self, now_us: int) -> Outgoing:
        return [item for address in self.addresses for item in self._to(address, now_us)]

    def on_cookie(self, datagram: bytes, source: Address, now_us: int) -> Outgoing:
        """What to send again at once: once for each new cookie."""
        if len(datagram) != COOKIE_REPLY_BYTES or source not in self.addresses:
            return []
        for bare in self.bare:
            mac1 = fragments.mac1_of(fragments.seal(bare, self._key))
            if mac1[:8] != datagram[4:12]:
                continue
            try:
                cookie = open_cookie(datagram, self._key, mac1)
            except HandshakeRefused:
                return []
            known = self._cookies.get(source, (b"", 0))[0]
            self._cookies[source] = (cookie, now_us)
            return self._to(source, now_us) if known != cookie else []
        return []

    def _to(self, address: Address, now_us: int) -> Outgoing:
        cookie, since_us = self._cookies.get(address, (None, 0))
        if cookie is not None and now_us - since_us >= COOKIE_SECRET_US:
            cookie = None
        return [(fragments.seal(bare, self._key, cookie), address) for bare in self.bare]
