"""What this node has asked of others: its own handshakes and key requests, and whose answer is whose.

C9 CD   an answer to a message 1, by that message's id
CF      a key bundle, by the nonce of its request
CC      a cookie reply names nothing of its own: everything that is under way looks whether it is meant
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tun.addresses import Address
from tun.frames import COOKIE, KEYS, MESSAGE2
from tun.keyrequest import KeyRequest, KeyRequests
from tun.peer import Peer

if TYPE_CHECKING:
    from tun.core import TunnelCore

MIN_BYTES = 20  # of whatever answers us


class Asked:
    """Part of a core."""

    def __init__(self, core: TunnelCore) -> None:
        self._core = core
        self._by_message: dict[bytes, Peer] = {}  # id of our message 1 -> whose answer it awaits
        self._requests = KeyRequests()

    def keys(
        self, machine_id: bytes, lookup_secret: bytes, addresses: Sequence[Address], now_us: int
    ) -> None:
        """Answered by KeysArrived or KeysMissing."""
        entropy = self._core.local.entropy
        self._requests.start(KeyRequest(machine_id, lookup_secret, addresses, entropy, now_us))
        self.drive(now_us)

    def attempt_moved(self, peer: Peer, before: bytes) -> None:
        """The peer's message 1 is another one now, or none."""
        self._by_message.pop(before, None)
        if peer.handshakes.attempt is not None:
            self._by_message[peer.handshakes.attempt.message_id] = peer

    def answered(self, datagram: bytes, source: Address, now_us: int, unix_us: int) -> None:
        """A message 2, a refusal, a cookie reply or a key bundle, from anybody."""
        core = self._core
        if len(datagram) < MIN_BYTES:
            core.count("handshake datagram of wrong size")
            return
        kind = datagram[0]
        if kind == COOKIE:
            for peer in list(self._by_message.values()):
                peer.handshakes.on_cookie(datagram, source, now_us)
            core.outgoing += self._requests.on_cookie(datagram, source, now_us)
            return
        if kind == KEYS:
            core.events += self._requests.on_keys(datagram, source, now_us)
            return
        waiting = self._by_message.get(datagram[12:20] if kind == MESSAGE2 else datagram[4:12])
        if waiting is None:
            core.count("answer to nothing that we asked")
        elif kind == MESSAGE2:
            waiting.handshakes.on_message2(datagram, source, now_us, unix_us)
        else:
            waiting.handshakes.on_refusal(datagram, now_us, unix_us)

    def drive(self, now_us: int) -> None:
        """Ask for keys again, or give up. Handshakes are driven by their peers."""
        datagrams, events = self._requests.due(now_us)
        self._core.outgoing += datagrams
        self._core.events += events

    def deadline_us(self) -> int:
        return self._requests.deadline_us()
