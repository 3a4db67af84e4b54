"""One peer's handshakes, both roles, and which of its sessions is the one to use.

    we call     connect ─▶ Attempt ─▶ message 2 ─▶ installed; our first record confirms it to the other
    they call   Doorkeeper ─▶ answer: unconfirmed ─▶ their first record: confirmed, installed

Both at once: the lower machine_id's handshake wins. It ignores the other's first message 1 for half a second;
should both complete all the same, the loser serves as the previous session and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crypto.cookies import Refusal
from crypto.handshake import Established
from crypto.kem import BadPublicKey
from crypto.session import Session
from tun.addresses import Address
from tun.attempt import Attempt
from tun.caller import MAX_ADDRESSES
from tun.events import NoAnswer, TurnedAway
from tun.host import Host
from tun.keypairs import Keypair, Keypairs
from tun.paths import NEVER

if TYPE_CHECKING:
    from tun.peer import Peer

YIELD_US = 500_000

_REASONS = {
    Refusal.TOKEN_USED: "the invitation was used already",
    Refusal.TOKEN_EXPIRED: "the invitation has expired",
    Refusal.TOKEN_REVOKED: "the invitation was revoked",
}


class Handshakes:
    """Part of a Peer: `established` and `abandoned` of the peer are called back."""

    def __init__(self, host: Host, peer: Peer) -> None:
        self._host = host
        self._peer = peer
        self.keypairs = Keypairs()
        self.attempt: Attempt | None = None

    # ------------------------------------------------------------------ as initiator

    def connect(self, now_us: int, unix_us: int, brief: bool = False) -> None:
        """Start a handshake, unless one is under way or nobody knows where the peer is."""
        config, addresses = self._peer.config, self.addresses()
        if self.attempt is not None or not addresses:
            return
        self.attempt = Attempt(
            self._host.local, config.bundle, config.lookup_secret, addresses, config.token_id, brief
        )
        self.drive(now_us, unix_us)

    def addresses(self) -> list[Address]:
        """The proven endpoint first, then what is known from invitations and the owner."""
        proven = self._peer.paths.endpoint
        return list(dict.fromkeys([*([proven] if proven is not None else []), *self._peer.config.addresses]))

    def found_at(self, addresses: Sequence[Address], now_us: int, unix_us: int) -> None:
        """Somebody has told where the peer is now: it is called there too, at once unless a session is up."""
        config = self._peer.config
        known = [address for address in config.addresses if address not in addresses]
        config.addresses = [*addresses, *known][:MAX_ADDRESSES]
        if self.attempt is None:
            if self.keypairs.current is None:
                self.connect(now_us, unix_us)
            return
        self.attempt.reach(self.addresses())
        for datagram, address in self.attempt.nudge(now_us):
            self._host.emit(datagram, address)

    def drive(self, now_us: int, unix_us: int) -> None:
        """Send what the attempt has due, or give it up."""
        attempt = self.attempt
        if attempt is None:
            return
        before = attempt.message_id
        if attempt.gave_up(now_us):
            self.end_attempt()
            if self.keypairs.current is None:
                self._peer.abandoned(now_us)
                self._host.event(NoAnswer(self._peer.machine_id))
            return
        attempt.reach(self.addresses() or attempt.addresses)
        try:
            for datagram, address in attempt.due(now_us, unix_us):
                self._host.emit(datagram, address)
        except BadPublicKey:
            self._host.count("peer keys unusable")
            self.end_attempt()
            return
        self._host.attempt_moved(self._peer, before)
        self._host.arm(self._peer, attempt.deadline_us())

    def end_attempt(self) -> None:
        if self.attempt is not None:
            before = self.attempt.message_id
            self.attempt.close()
            self.attempt = None
            self._host.attempt_moved(self._peer, before)

    def on_cookie(self, datagram: bytes, source: Address, now_us: int) -> None:
        if self.attempt is not None:
            for again, address in self.attempt.on_cookie(datagram, source, now_us):
                self._host.emit(again, address)

    def on_refusal(self, datagram: bytes, now_us: int, unix_us: int) -> None:
        if self.attempt is None:
            return
        kind = self.attempt.on_refusal(datagram, now_us)
        if kind is None:
            self.drive(now_us, unix_us)
            return
        self._peer.forget()
        self._host.event(TurnedAway(self._peer.machine_id, kind, _REASONS[kind]))

    def on_message2(self, datagram: bytes, source: Address, now_us: int, unix_us: int) -> None:
        attempt, peer = self.attempt, self._peer
        outcome = attempt.on_message2(datagram, source, now_us) if attempt is not None else None
        if attempt is None or outcome is None:
            return
        established, answer = outcome
        called = source if source in attempt.addresses else attempt.addresses[0]
        keypair = self._keypair(established, attempt.fresh_us, now_us, attempt.clock_us, called)
        attempt.take_index()
        self.end_attempt()
        self._host.register(keypair, peer)
        self._host.unregister(self.keypairs.install(keypair))
        peer.rtt_us = now_us - attempt.fresh_us
        peer.behind_nat = bool(answer.observed) and not self._host.is_local_address(answer.observed)
        peer.paths.adopt(called, now_us)
        if source != called:
            peer.paths.heard(source, len(datagram), now_us)
        peer.established(keypair, now_us, unix_us)

    # ------------------------------------------------------------------ as responder

    def answer(self, established: Established, now_us: int, clock_us: int, source: Address) -> Keypair:
        """We answered the peer's message 1: a session that waits for its first record."""
        keypair = self._keypair(established, now_us, now_us, clock_us, source)
        keypair.crossed = self.attempt is not None and self._is_lower()
        self._host.register(keypair, self._peer)
        self._host.unregister(self.keypairs.offer(keypair))
        self._host.arm(self._peer, self.keypairs.deadline_us())
        return keypair

    def yields(self, source: Address, now_us: int) -> bool:
        """Is this message 1 to be ignored for now, because ours is on its way to the same place?"""
        attempt = self.attempt
        return (
            attempt is not None
            and self._is_lower()
            and source in attempt.addresses
            and now_us - attempt.fresh_us < YIELD_US
        )

    def nudge(self, now_us: int) -> None:
        """It calls us while we call it, and ours is to win: it may not have seen ours."""
        if self.attempt is not None:
            for datagram, address in self.attempt.nudge(now_us):
                self._host.emit(datagram, address)

    def confirm(self, keypair: Keypair, now_us: int, unix_us: int) -> None:
        """The first authentic record of a session that we answered: only now does anything give way."""
        self._host.unregister(self.keypairs.confirm(keypair))
        current, peer = self.keypairs.current, self._peer
        lost = (
            keypair.crossed
            and current is not None
            and current.initiator
            and current.born_us >= keypair.born_us
        )
        if lost:
            self._host.unregister(self.keypairs.install_as_previous(keypair))
        else:
            self._host.unregister(self.keypairs.install(keypair))
            if not keypair.crossed:
                self.end_attempt()
        peer.config.last_clock_us = keypair.clock_us
        if keypair.answered_to is not None:  # it could not have confirmed without our message 2
            peer.paths.adopt(keypair.answered_to, now_us)
        peer.established(keypair, now_us, unix_us)

    def forget(self) -> None:
        self.end_attempt()
        self._host.unregister(self.keypairs.forget())

    def deadline_us(self) -> int:
        attempt = self.attempt.deadline_us() if self.attempt is not None else NEVER
        return min(self.keypairs.deadline_us(), attempt)

    def _is_lower(self) -> bool:
        return self._host.local.bundle.machine_id < self._peer.machine_id

    def _keypair(
        self, established: Established, started_us: int, now_us: int, clock_us: int, where: Address
    ) -> Keypair:
        session, initiator = Session(established, started_us), established.initiator
        return Keypair(session, session.open_lane(), initiator, now_us, clock_us, where, established.exporter)
