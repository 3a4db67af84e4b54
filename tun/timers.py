"""WireGuard's timers of one peer (its paper, section 6.5), fed by what was sent and received.

    data received, none sent back     ─▶ a keepalive after 10 s, and a second one after 20
    data sent, nothing received since ─▶ a new handshake after 15 s

Times are microseconds of the monotonic clock. A worker tells late of what it did, but says when it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from tun.paths import NEVER
from tun.seam import Carried

KEEPALIVE_US = 10_000_000
NO_REPLY_US = 15_000_000  # keepalive + rekey timeout
IN_USE_US = 60_000_000


@dataclass(slots=True)
class Timers:
    """`keepalive_us`, `no_reply_us`: when each is due."""

    keepalive_us: int = NEVER
    no_reply_us: int = NEVER
    last_received_us: int = -1
    last_sent_us: int = -1
    _last_data_us: int = -IN_USE_US
    _again: bool = False

    def sent_data(self, now_us: int) -> None:
        self._last_data_us = max(self._last_data_us, now_us)
        self.keepalive_us = NEVER
        if self.no_reply_us == NEVER:
            self.no_reply_us = now_us + NO_REPLY_US

    def heard(self, when_us: int) -> None:
        """Anything authentic came."""
        self.last_received_us = max(self.last_received_us, when_us)
        self.no_reply_us = NEVER

    def received_data(self, first_us: int, last_us: int) -> None:
        self._last_data_us = max(self._last_data_us, last_us)
        self._again = True
        if self.keepalive_us == NEVER:
            self.keepalive_us = first_us + KEEPALIVE_US

    def carried(self, told: Carried, held: bool) -> None:
        """`held`: what a worker heard were packets that may not come in; they are owed an answer as well."""
        if told.last_heard_us:
            self.heard(told.last_heard_us)
        if told.received_packets:
            self.received_data(told.first_received_us, told.last_received_us)
        elif held and told.last_heard_us:
            self.received_data(told.last_heard_us, told.last_heard_us)
        if not told.sent_packets:
            return
        self.last_sent_us = max(self.last_sent_us, told.last_sent_us)
        keepalive_us, no_reply_us = self.keepalive_us, self.no_reply_us
        answered = told.last_sent_us <= self.last_received_us
        since_us = told.first_sent_us if told.first_sent_us > self.last_received_us else told.last_sent_us
        self.sent_data(since_us)
        self._last_data_us = max(self._last_data_us, told.last_sent_us)
        if told.last_sent_us < told.last_received_us:  # data came after the last that went
            self.keepalive_us = keepalive_us
        if answered:
            self.no_reply_us = no_reply_us

    def take_keepalive(self, now_us: int) -> bool:
        """Is one due? Whoever moves right after its keepalive hears nothing more: so there are two."""
        if now_us < self.keepalive_us:
            return False
        self.keepalive_us = now_us + KEEPALIVE_US if self._again else NEVER
        self._again = False
        return True

    def take_no_reply(self, now_us: int) -> bool:
        """Is the peer to be called anew?"""
        if now_us < self.no_reply_us:
            return False
        self.no_reply_us = NEVER
        return True

    def in_use(self, now_us: int) -> bool:
        """Did it carry data in the last minute?"""
        return now_us - self._last_data_us < IN_USE_US

    def deadline_us(self) -> int:
        return min(self.keepalive_us, self.no_reply_us)

    def forget(self) -> None:
        self.keepalive_us = self.no_reply_us = NEVER
