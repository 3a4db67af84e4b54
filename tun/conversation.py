"""What two machines say to each other in control messages: introductions, pings, notes, goodbye."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crypto.errors import PeerFault
from tun import control
from tun.addresses import Address
from tun.control import Bye, Hello, Note, Ping, Pong, Refused, Welcome
from tun.events import Disconnected, Introduced, Noted, Ponged, TurnedAway, Welcomed
from tun.frames import Kind
from tun.host import Host
from tun.limits import RateLimit
from tun.paths import NEVER

if TYPE_CHECKING:
    from tun.peer import Peer

HELLO_AGAIN_US = (1_000_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000)
MAX_PINGS = 64
NOTES_PER_SECOND = 256  # what two machines settle is some 160 a second where they carry 10 Gbit/s
NOTE_BURST = 512


class Conversation:
    """Part of a Peer. A Hello is repeated until it is answered; all else is asked once."""

    def __init__(self, host: Host, peer: Peer) -> None:
        self._host = host
        self._peer = peer
        self._pings: dict[int, int] = {}
        self._notes = RateLimit(NOTES_PER_SECOND, NOTE_BURST)
        self._hellos = 0
        self.hello_us = NEVER

    def ping(self, number: int, now_us: int, unix_us: int) -> None:
        """Answered by a Ponged event."""
        if len(self._pings) >= MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._pings[number] = now_us
        self._peer.send_control(Ping(number), now_us, unix_us)

    def introduce(self, now_us: int) -> None:
        """We hold an invitation's token: present it, in the first records of this session."""
        self._hellos, self.hello_us = 0, now_us
        self.tick(now_us)

    def tick(self, now_us: int) -> None:
        if now_us < self.hello_us:
            return
        again = self._hellos < len(HELLO_AGAIN_US)
        self.hello_us = now_us + HELLO_AGAIN_US[self._hellos] if again else NEVER
        self._hellos += 1
        hello = self._host.hello_to(self._peer.machine_id)
        self._peer.send_kind(Kind.CONTROL, control.encode(hello), now_us)
        self._host.arm(self._peer, self.hello_us)

    def end(self) -> None:
        self.hello_us = NEVER
        self._pings.clear()

    def receive(self, body: bytes, source: Address, now_us: int, unix_us: int) -> None:
        """The body of an authentic control record; nonsense is counted."""
        peer = self._peer
        try:
            message = control.decode(body)
        except PeerFault:
            self._host.count("control message refused")
            return
        match message:
            case Hello():
                where = peer.paths.endpoint or source
                self._host.event(Introduced(peer.machine_id, peer.config.bundle, message, where))
            case Welcome(name):
                if peer.config.token:
                    peer.drop_token()
                    self._host.event(Welcomed(peer.machine_id, name))
            case Refused(reason):
                if peer.config.token:
                    peer.drop_token()
                    peer.forget()
                    self._host.event(TurnedAway(peer.machine_id, None, reason))
            case Ping(number):
                peer.send_control(Pong(number), now_us, unix_us)
            case Pong(number):
                sent_us = self._pings.pop(number, None)
                if sent_us is not None:
                    peer.rtt_us = now_us - sent_us
                    self._host.event(Ponged(peer.machine_id, number, peer.rtt_us))
            case Note(noted):
                if peer.guest:
                    self._host.count("note before the invitation was redeemed")
                elif not self._notes.allow(None, now_us):
                    self._host.count("note over the rate limit")
                else:
                    self._host.event(Noted(peer.machine_id, noted))
            case Bye():
                peer.forget()
                self._host.event(Disconnected(peer.machine_id, said_bye=True))
