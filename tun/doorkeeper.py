"""The answering side: who gets a message 2, who a Retry or a refusal, and who nothing at all.

    guard ─▶ seen before? the identical message 2
          ─▶ opens? ─▶ ours? ─▶ known peer, or a good invitation ─▶ clock ─▶ message 2
                                 └ an invitation used up: refusal     └ Retry

A message 1 proves nobody, so nothing that is stored moves here. All lists are bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from crypto.cookies import Refusal, answer_mac1_key, seal_refusal
from crypto.errors import HandshakeRefused
from crypto.handshake import RETRY_BYTES, TOKEN_ID_BYTES, Answer, Responder
from tun import fragments, keyrequest
from tun.addresses import Address, packed, text
from tun.frames import KEY_REQUEST, MESSAGE2
from tun.guard import Guard
from tun.host import PeerConfig
from tun.keypairs import Keypair
from tun.peer import Peer

if TYPE_CHECKING:
    from tun.core import TunnelCore

CLOCK_SKEW_US = 600_000_000
MAX_ANSWERED = 256
ANSWERED_US = 10_000_000
MAX_REPEATS = 5
MAX_SERVED = 4096


class Invited(Enum):
    """What the node knows of a token id."""

    UNKNOWN = "unknown"
    GOOD = "good"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


_REFUSALS = {
    Invited.USED: Refusal.TOKEN_USED,
    Invited.EXPIRED: Refusal.TOKEN_EXPIRED,
    Invited.REVOKED: Refusal.TOKEN_REVOKED,
}


@dataclass(slots=True)
class _Answered:
    datagrams: list[bytes]
    keypair: Keypair
    since_us: int
    repeats: int = 0


class Doorkeeper:
    """Answers for one core. `invited(token id, Unix us)` asks the node; `addresses` go into message 2."""

    def __init__(self, core: TunnelCore, now_us: int) -> None:
        self._core = core
        local = core.local
        self._guard = Guard(
            local.bundle.machine_id, local.lookup_secret, local.entropy, core.emit, core.counters, now_us
        )
        self._answered: OrderedDict[bytes, _Answered] = OrderedDict()  # by SHA-256 of message 1
        self._served: OrderedDict[bytes, None] = OrderedDict()  # retry tokens that were used
        self.invited: Callable[[bytes, int], Invited] = lambda _token_id, _unix_us: Invited.UNKNOWN
        self.addresses: tuple[str, ...] = ()

    def be_listed(self, listed: bool) -> None:
        """Whether whoever knows our machine_id may have our keys, and call without our lookup secret. Who
        calls must still be a peer or hold an invitation."""
        self._guard.listed = listed

    def knock(self, datagram: bytes, source: Address, now_us: int, unix_us: int) -> None:
        """A fragment of message 1, or a key request, from anybody."""
        message = self._guard.admit(datagram, source, now_us)
        if message is None:
            return
        if datagram[0] == KEY_REQUEST:
            for answer in keyrequest.answer(self._core.local.bundle, message):
                self._core.emit(answer, source)
            return
        digest = sha256(message).digest()
        if not self._repeat(digest, source, now_us):
            self._open(message, digest, source, now_us, unix_us)

    def _repeat(self, digest: bytes, source: Address, now_us: int) -> bool:
        """The identical message 1 gets the identical message 2, five times at most."""
        while self._answered and now_us - next(iter(self._answered.values())).since_us >= ANSWERED_US:
            self._answered.popitem(last=False)
        known = self._answered.get(digest)
        if known is None:
            return False
        if known.repeats < MAX_REPEATS:
            known.repeats += 1
            if source != known.keypair.answered_to:  # who confirms may sit at either: neither is proven
                known.keypair.answered_to = None
            for datagram in known.datagrams:
                self._core.emit(datagram, source)
        return True

    def _open(self, message: bytes, digest: bytes, source: Address, now_us: int, unix_us: int) -> None:
        core, local = self._core, self._core.local
        try:
            responder = Responder(message, local.static, local.bundle, local.mesh_secret)
        except HandshakeRefused:
            core.count("message 1 refused")
            return
        machine_id = responder.remote.machine_id
        if machine_id == local.bundle.machine_id:
            core.count("message 1 of our own")
            return
        peer = core.peers.get(machine_id) or core.guests.get(machine_id)
        if peer is None:
            if not self._is_invited(responder, message, source, unix_us):
                return
        elif peer.handshakes.yields(source, now_us):
            peer.handshakes.nudge(now_us)
            return
        if not self._is_timely(peer, responder, message, source, now_us, unix_us):
            return
        if peer is None:
            peer = core.add_guest(PeerConfig(responder.remote, eager=False), now_us)
        if peer is not None:
            self._answer(peer, responder, message, digest, source, now_us)

    def _is_invited(self, responder: Responder, message: bytes, source: Address, unix_us: int) -> bool:
        token_id = responder.opening.token_id
        standing = Invited.UNKNOWN
        if token_id != bytes(TOKEN_ID_BYTES):
            standing = self.invited(token_id, unix_us)
        refusal = _REFUSALS.get(standing)
        if refusal is not None:
            self._refuse(responder, message, source, refusal)
        elif standing is Invited.UNKNOWN:
            self._core.count("message 1 of a stranger")
        return standing is Invited.GOOD

    def _is_timely(
        self,
        peer: Peer | None,
        responder: Responder,
        message: bytes,
        source: Address,
        now_us: int,
        unix_us: int,
    ) -> bool:
        """The clock says that it is no replay, or a Retry that we gave out does."""
        opening, jar = responder.opening, self._guard.jar
        after = peer.config.last_clock_us if peer is not None else 0
        if opening.clock_us > after and abs(opening.clock_us - unix_us) <= CLOCK_SKEW_US:
            return True
        where, machine_id = packed(source), responder.remote.machine_id
        token = opening.retry
        fresh = token != bytes(RETRY_BYTES) and token not in self._served
        if fresh and jar.check_retry(token, where, machine_id, now_us):
            self._served[token] = None
            if len(self._served) > MAX_SERVED:
                self._served.popitem(last=False)
            return True
        retry = jar.retry(where, machine_id, fragments.message_id(message), now_us)
        self._refuse(responder, message, source, Refusal.RETRY, retry)
        return False

    def _refuse(
        self, responder: Responder, message: bytes, source: Address, kind: Refusal, retry: bytes = b""
    ) -> None:
        self._core.count("message 1 answered with a retry" if retry else "message 1 turned away")
        refusal = seal_refusal(
            responder.control_key(), fragments.message_id(message), kind, self._core.local.entropy, retry
        )
        self._core.emit(refusal, source)

    def _answer(
        self, peer: Peer, responder: Responder, message: bytes, digest: bytes, source: Address, now_us: int
    ) -> None:
        local = self._core.local
        base_index = local.new_index()
        try:
            message2, established = responder.message2(
                Answer(base_index, text(source), self.addresses), local.primitives
            )
        except HandshakeRefused:
            local.free_index(base_index)
            self._core.count("message 1 refused")
            return
        opening = responder.opening
        keypair = peer.handshakes.answer(established, now_us, opening.clock_us, source)
        key = answer_mac1_key(local.bundle.machine_id, responder.ephemeral_public)
        bare = fragments.cut(MESSAGE2, message2, fragments.message_id(message))
        datagrams = [fragments.seal(fragment, key) for fragment in bare]
        self._answered[digest] = _Answered(datagrams, keypair, now_us)
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        for datagram in datagrams:
            self._core.emit(datagram, source)
