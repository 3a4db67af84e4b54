"""One try to reach a peer: message 1, its identical resends, cookies, a Retry, and message 2.

    fresh message 1 ─ 0.5 s ─ same ─ 0.5 s ─ same ─ 1 s ─ same ─ at 5 s and a jitter: fresh message 1 … 90 s

The identical bytes go to every address where the peer may be, at most eight; the answer says which one works.
A brief attempt, which no traffic waits for, ends before its second message 1: a peer that is switched off
must not cost its partners a stream of handshakes.
Times are microseconds of the monotonic clock, but for message 1's own clock, which is Unix time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crypto.cookies import Refusal, answer_mac1_key, open_refusal
from crypto.errors import HandshakeRefused
from crypto.handshake import RETRY_BYTES, TOKEN_ID_BYTES, Answer, Established, Initiator, Opening
from crypto.identity import KeyBundle
from crypto.kem import BadPublicKey, Primitives, PrivateHybrid
from tun import fragments
from tun.addresses import Address
from tun.caller import Caller, Outgoing
from tun.frames import MESSAGE1

NUDGE_US = 50_000  # longer ago than what is still under way
RESEND_AT_US = (500_000, 1_000_000, 2_000_000)
FRESH_EVERY_US = 5_000_000  # WireGuard's REKEY_TIMEOUT
JITTER_US = 333_000
GIVE_UP_US = 90_000_000  # WireGuard's REKEY_ATTEMPT_TIME


@dataclass(frozen=True, slots=True)
class Local:
    """What of this machine a handshake needs. `new_index` reserves a base receiver index, aligned to 64."""

    static: PrivateHybrid
    bundle: KeyBundle
    lookup_secret: bytes
    primitives: Primitives
    mesh_secret: bytes
    entropy: Callable[[int], bytes]
    new_index: Callable[[], int]
    free_index: Callable[[int], None]


class Attempt:
    """Feed it cookies, refusals and message 2; ask `due` for what to send. Ends by `close`."""

    def __init__(
        self,
        local: Local,
        remote: KeyBundle,
        lookup_secret: bytes,
        addresses: Sequence[Address],
        token_id: bytes,
        brief: bool,
    ) -> None:
        self._local = local
        self._remote = remote
        self._caller = Caller(remote.machine_id, lookup_secret, addresses)
        self._token_id = token_id
        self._patience_us = FRESH_EVERY_US if brief else GIVE_UP_US
        self._retry = bytes(RETRY_BYTES)
        self.started_us = -1
        self.fresh_us = -1
        self._next_fresh_us = 0
        self._resends = 0
        self._sent_us = -1
        self.message_id = b""
        self.clock_us = 0
        self.base_index = -1
        self._initiator: Initiator | None = None
        self._partial = fragments.Reassembly()
        self._control_key = self._answer_key = b""

    @property
    def addresses(self) -> list[Address]:
        return self._caller.addresses

    def due(self, now_us: int, unix_us: int) -> Outgoing:
        """Datagrams to send now, and to whom. Raises BadPublicKey for a peer whose keys cannot be used."""
        if now_us >= self._next_fresh_us:
            return self._fresh(now_us, unix_us)
        if self._resends < len(RESEND_AT_US) and now_us >= self.fresh_us + RESEND_AT_US[self._resends]:
            self._resends += 1
            self._sent_us = now_us
            return self._caller.everywhere(now_us)
        return []

    def nudge(self, now_us: int) -> Outgoing:
        """The peer shows itself: what it missed, because it had not started yet, is sent again."""
        if self._sent_us < 0 or now_us - self._sent_us < NUDGE_US:
            return []
        self._sent_us = now_us
        return self._caller.everywhere(now_us)

    def deadline_us(self) -> int:
        if self._resends < len(RESEND_AT_US) and self.fresh_us >= 0:
            return min(self.fresh_us + RESEND_AT_US[self._resends], self._next_fresh_us)
        return self._next_fresh_us

    def gave_up(self, now_us: int) -> bool:
        return self.started_us >= 0 and now_us >= self.started_us + self._patience_us

    def reach(self, addresses: Sequence[Address]) -> None:
        """The peer may have roamed since: what is sent from here on goes to these addresses."""
        self._caller.reach(addresses)

    def persevere(self) -> None:
        """Traffic waits for this attempt now: 90 seconds from its start."""
        self._patience_us = GIVE_UP_US

    def close(self) -> None:
        """Let the reserved index go, unless `take_index` has."""
        if self.base_index >= 0:
            self._local.free_index(self.base_index)
            self.base_index = -1

    def take_index(self) -> None:
        """The index belongs to a session now."""
        self.base_index = -1

    def on_cookie(self, datagram: bytes, source: Address, now_us: int) -> Outgoing:
        """A cookie reply: what to send again at once."""
        return self._caller.on_cookie(datagram, source, now_us)

    def on_refusal(self, datagram: bytes, now_us: int) -> Refusal | None:
        """What the peer refused with; a Retry is taken up by a fresh message 1, asked of `due` next."""
        try:
            kind, retry = open_refusal(datagram, self._control_key)
        except HandshakeRefused:
            return None
        if kind is Refusal.RETRY:
            if self._retry == bytes(RETRY_BYTES):  # one at a time: the next must come for another message 1
                self._retry = retry
                self._next_fresh_us = now_us
            return None
        # A thief of the peer's static keys can seal this too: who presented no token loses no session by it.
        return kind if self._token_id != bytes(TOKEN_ID_BYTES) else None

    def on_message2(self, datagram: bytes, source: Address, now_us: int) -> tuple[Established, Answer] | None:
        """A fragment of message 2. Forged ones are dropped here and end nothing."""
        if self._initiator is None or len(datagram) < 64:
            return None
        if not fragments.mac1_holds(datagram, self._answer_key):
            return None
        message = self._partial.add(datagram, source, now_us)
        if message is None:
            return None
        try:
            return self._initiator.read_message2(message)
        except HandshakeRefused:
            return None

    def _fresh(self, now_us: int, unix_us: int) -> Outgoing:
        if self.started_us < 0:
            self.started_us = now_us
        self.close()
        local = self._local
        initiator = Initiator(local.static, local.bundle, self._remote, local.primitives, local.mesh_secret)
        self.base_index = local.new_index()
        self.clock_us = unix_us
        opening = Opening(unix_us, self.base_index, self._retry, self._token_id)
        try:
            message = initiator.message1(opening)
        except BadPublicKey:
            self.close()
            raise
        self._retry = bytes(RETRY_BYTES)
        self._initiator = initiator
        self._control_key = initiator.control_key()
        self.message_id = fragments.message_id(message)
        self._answer_key = answer_mac1_key(self._remote.machine_id, initiator.ephemeral_public)
        self._partial = fragments.Reassembly()
        self._caller.bare = fragments.cut(MESSAGE1, message)
        self.fresh_us = self._sent_us = now_us
        self._resends = 0
        jitter = int.from_bytes(local.entropy(4), "big") % JITTER_US
        self._next_fresh_us = now_us + FRESH_EVERY_US + jitter
        return self._caller.everywhere(now_us)
