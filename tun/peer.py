"""One peer: handshakes, sessions, timers and staged packets, as WireGuard's (its paper, section 6).

    packet ─▶ current session? ─▶ sealed, to the proven endpoint
                 └ none: staged (128, oldest out), and a handshake starts
    record ─▶ opened ─▶ unconfirmed: it confirms ─▶ roaming ─▶ timers ─▶ by its kind

Timers, none of which an unauthenticated datagram can move:
    120 s of use (154 zeqonds)        the initiator starts a new handshake when it sends
    165 s (212 zeqonds)               … or when it receives
    10 s after data came in           a keepalive, unless data was sent; one more 10 s later
    15 s after data went out          a new handshake, unless something came back
    25 s                              a keepalive, while we are behind a NAT or were told to
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from crypto.errors import LocalFault, PeerFault
from tun import control
from tun.addresses import Address
from tun.control import Control, Note
from tun.conversation import Conversation
from tun.events import Connected, Disconnected, Roamed
from tun.frames import HEAD_BYTES, OVERHEAD_BYTES, PACKET_PREFIX, PREFIX_BYTES, SPAN, Kind, inner, outer
from tun.handshakes import Handshakes
from tun.host import NO_TOKEN_ID, Host, PeerConfig
from tun.keypairs import Keypair, Keypairs
from tun.paths import NEVER, Ask, Paths
from tun.seam import Carried
from tun.timers import Timers
from tun.traffic import Traffic

PERSISTENT_US = 25_000_000
BACKOFF_MAX_US = 600_000_000
REKEY_ON_RECEIVE_ZEQONDS = 212
MAX_STAGED = 128


class Peer:
    """`guest`: it came with an invitation that the node has not redeemed yet; its packets go nowhere."""

    def __init__(self, host: Host, config: PeerConfig, now_us: int, guest: bool = False) -> None:
        self._host = host
        self.config = config
        self.machine_id = config.bundle.machine_id
        self.guest = guest
        self.born_us = now_us
        self.traffic = Traffic()
        self.handshakes = Handshakes(host, self)
        self.conversation = Conversation(host, self)
        self.paths = Paths(host.full_payload, host.local.entropy)
        self.behind_nat = False
        self.rtt_us: int | None = None
        self.timers = Timers()
        self.last_handshake_us = -1
        self.armed_us = NEVER
        self.held = False  # its packets go nowhere for now: see TunnelCore.gate
        self.span = False  # what a worker sends in, and the loss that the peer reports to it
        self.loss: float | None = None
        self._staged: deque[tuple[Kind, bytes]] = deque(maxlen=MAX_STAGED)
        self._persistent_us = now_us if config.eager and not guest else NEVER
        self._backoff_us = PERSISTENT_US
        self._met = False  # there was a session since the start

    def reconfigure(self, config: PeerConfig, now_us: int) -> None:
        """Its owner has other words for it, or a guest becomes a peer; a session that is up stays, and so
        does the token of a join that is under way."""
        if not config.token:
            config.token, config.token_id = self.config.token, self.config.token_id
        before, was_guest = self.config, self.guest
        self.config, self.guest = config, False
        if not was_guest and config == replace(before, last_clock_us=config.last_clock_us):
            return  # nothing new: what is under way goes on
        if self.keypairs.current is None:
            self.handshakes.end_attempt()  # it was made of the old words: addresses, token
            self._met = False
            self._persistent_us = now_us if config.eager else NEVER
        elif config.token:
            self.conversation.introduce(now_us)

    def drop_token(self) -> None:
        """It is redeemed, or never will be: it is not shown again."""
        self.config.token, self.config.token_id = b"", NO_TOKEN_ID
        self.conversation.hello_us = NEVER

    # ------------------------------------------------------------------ sending

    def send_packet(self, packet: bytes, now_us: int, unix_us: int) -> None:
        """An IP packet from our TUN: sealed and out, or staged until there is a session."""
        if self.held:
            self._host.count("packet held back")
            return
        keypair = self.keypairs.current
        endpoint = self.paths.endpoint
        if (
            keypair is None
            or endpoint is None
            or not self._seal(keypair, PACKET_PREFIX + packet, endpoint, now_us)
        ):
            self._stage(Kind.PACKET, packet, now_us, unix_us)
            return
        self.traffic.sent(len(packet))
        self.timers.sent_data(now_us)
        self._host.arm(self, self.timers.no_reply_us)
        self._rekey(now_us, unix_us)

    def send_note(self, body: bytes, now_us: int, unix_us: int) -> bool:
        """In the present session, or not at all; it keeps the session up as a packet does."""
        sent = self.send_kind(Kind.CONTROL, control.encode(Note(body)), now_us)
        if sent:
            self._rekey(now_us, unix_us)
        return sent

    def _rekey(self, now_us: int, unix_us: int) -> None:
        keypair, age = self.keypairs.current, self._host.rekey_zeqonds
        if keypair is not None and keypair.initiator and keypair.session.elapsed_zeqonds(now_us) >= age:
            self.handshakes.connect(now_us, unix_us)

    def send_control(self, message: Control, now_us: int, unix_us: int) -> None:
        """Like a packet: waits for a session where there is none."""
        body = control.encode(message)
        if not self.send_kind(Kind.CONTROL, body, now_us):
            self._stage(Kind.CONTROL, body, now_us, unix_us)

    def _stage(self, kind: Kind, body: bytes, now_us: int, unix_us: int) -> None:
        self._staged.append((kind, body))
        self.handshakes.connect(now_us, unix_us)
        if self.handshakes.attempt is not None:
            self.handshakes.attempt.persevere()

    def send_kind(self, kind: Kind, body: bytes, now_us: int, to: Address | None = None) -> bool:
        """One record to the endpoint, or to where it was heard from; False where there is no session."""
        return self._send(inner(kind, body), now_us, to)

    def _send_keepalive(self, now_us: int) -> None:
        self._send(b"", now_us)

    def _send(self, plaintext: bytes, now_us: int, to: Address | None = None, room: int = 0) -> bool:
        """`room`: bytes of a datagram, where it is not what the path is known to carry."""
        keypair, address = self.keypairs.current, to or self.paths.endpoint
        if keypair is None or address is None:
            return False
        return self._seal(keypair, plaintext, address, now_us, room)

    def _seal(self, keypair: Keypair, plaintext: bytes, address: Address, now_us: int, room: int = 0) -> bool:
        try:
            iv, ciphertext = keypair.lane.seal(plaintext, now_us)
        except LocalFault:
            self._expire(now_us)
            return False
        for datagram in outer(iv, ciphertext, room or self.paths.payload):
            self._host.emit(datagram, address)
        keypair.used = True
        if address == self.paths.endpoint and not room:  # a probe may be too large even to leave
            self.timers.last_sent_us = now_us
        return True

    # ------------------------------------------------------------------ what its handshakes tell it

    @property
    def keypairs(self) -> Keypairs:
        return self.handshakes.keypairs

    def established(self, keypair: Keypair, now_us: int, unix_us: int) -> None:
        """A session is up; the initiator's first record, sent from here, confirms it to the other side."""
        self.last_handshake_us = now_us
        self.timers.no_reply_us = NEVER
        self.paths.ask_again(now_us)
        self._persistent_us = now_us + PERSISTENT_US
        self._backoff_us = PERSISTENT_US
        self._met = True
        where, transcript = self.paths.endpoint, keypair.session.transcript
        self._host.event(Connected(self.machine_id, where, keypair.initiator, keypair.clock_us, transcript))
        if self.config.token:
            self.conversation.introduce(now_us)
        self._flush(now_us, unix_us)
        if keypair.initiator and not keypair.used:
            self._send_keepalive(now_us)
        self._host.arm(self, self.deadline_us())

    def abandoned(self, now_us: int) -> None:
        """Nobody answered: what waited is gone, and the next try without traffic comes later each time."""
        self._staged.clear()
        self._persistent_us = now_us + self._backoff_us
        self._backoff_us = min(2 * self._backoff_us, BACKOFF_MAX_US)

    def _flush(self, now_us: int, unix_us: int) -> None:
        staged, self._staged = self._staged, deque(maxlen=MAX_STAGED)
        for kind, body in staged:
            if kind is Kind.PACKET:
                self.send_packet(body, now_us, unix_us)
            else:
                self.send_kind(kind, body, now_us)

    # ------------------------------------------------------------------ receiving

    def on_record(
        self, keypair: Keypair, datagram: bytes, source: Address, now_us: int, unix_us: int
    ) -> None:
        """A datagram with the index of one of our sessions. What does not authenticate is only counted."""
        ciphertext: bytes | None = datagram[HEAD_BYTES:]
        if datagram[0] == SPAN:
            ciphertext = keypair.spans.add(datagram)
            if ciphertext is None:
                return
        assert ciphertext is not None
        try:
            plaintext = keypair.session.open(datagram[4:HEAD_BYTES], ciphertext, now_us)
        except (PeerFault, LocalFault):
            self._host.count("record refused")
            return
        self.heard(keypair, source, len(datagram), now_us, unix_us)
        if plaintext:
            self._dispatch(plaintext, source, len(datagram), now_us, unix_us)

    def heard(self, keypair: Keypair, source: Address, size: int, now_us: int, unix_us: int) -> None:
        """Authentic records of `size` bytes came in this session, from there."""
        if keypair is not self.keypairs.current and keypair in self.keypairs.unconfirmed:
            self.handshakes.confirm(keypair, now_us, unix_us)
        if source != self.paths.endpoint:
            self.paths.heard(source, size, now_us)
            self._host.arm(self, now_us)
        self.timers.heard(now_us)
        if keypair.initiator and keypair.session.elapsed_zeqonds(now_us) >= REKEY_ON_RECEIVE_ZEQONDS:
            self.handshakes.connect(now_us, unix_us)

    def carried(self, told: Carried, now_us: int, unix_us: int) -> None:
        """What a worker of the data path did for this peer; the timers follow as if we had done it."""
        self.traffic.add(told)
        self.span, self.loss = told.span, told.loss if told.loss >= 0 else None
        self.timers.carried(told, self.held)
        keypair = self.keypairs.current
        if keypair is not None and keypair.initiator:
            elapsed = keypair.session.elapsed_zeqonds(now_us)
            if elapsed >= (self._host.rekey_zeqonds if told.sent_packets else REKEY_ON_RECEIVE_ZEQONDS):
                self.handshakes.connect(now_us, unix_us)
        self._host.arm(self, self.deadline_us())

    def _dispatch(self, plaintext: bytes, source: Address, size: int, now_us: int, unix_us: int) -> None:
        kind, body = plaintext[0], plaintext[PREFIX_BYTES:]
        if kind == Kind.PACKET:
            if self.guest:
                self._host.count("packet before the invitation was redeemed")
                return
            if self.held:
                self._host.count("packet held back")
            else:
                self.traffic.received(len(body))
                self._host.deliver(self, body)
            self.timers.received_data(now_us, now_us)
            self._host.arm(self, self.timers.keepalive_us)
        elif kind == Kind.CONTROL:
            self.conversation.receive(body, source, now_us, unix_us)
        elif kind == Kind.PATH_CHALLENGE:
            if self.paths.grant(source, OVERHEAD_BYTES + len(body)):
                self.send_kind(Kind.PATH_RESPONSE, body, now_us, to=source)
        elif kind == Kind.PATH_RESPONSE:
            old = self.paths.endpoint
            new = self.paths.echoed(source, body, now_us)
            if new is not None:
                self._host.event(Roamed(self.machine_id, old, new))
                self._flush(now_us, unix_us)
                self._host.arm(self, self.paths.deadline_us())
        elif kind == Kind.MTU_PROBE:
            self.send_kind(Kind.MTU_REPLY, body[:8] + size.to_bytes(2, "big"), now_us)
        elif kind == Kind.MTU_REPLY:
            self.paths.probe_echoed(body[:8], int.from_bytes(body[8:10], "big"), now_us)
        else:
            self._host.count("record of unknown kind")

    # ------------------------------------------------------------------ time

    def tick(self, now_us: int, unix_us: int) -> int:
        """Do what is due; returns the next deadline."""
        self._expire(now_us)
        self.handshakes.drive(now_us, unix_us)
        if self.timers.take_keepalive(now_us):
            self._send_keepalive(now_us)
        if self.timers.take_no_reply(now_us):
            self.handshakes.connect(now_us, unix_us)
        self.conversation.tick(now_us)
        if now_us >= self._persistent_us:
            self._persist(now_us, unix_us)
        self._drive_paths(now_us)
        return self.deadline_us()

    def _expire(self, now_us: int) -> None:
        """Old keys go by our own clock; without any left, whoever asks is told."""
        had = self.keypairs.current is not None
        self._host.unregister(self.keypairs.advance(now_us))
        if had and self.keypairs.current is None:
            self._host.event(Disconnected(self.machine_id, said_bye=False))

    def _persist(self, now_us: int, unix_us: int) -> None:
        """Every 25 s: who is behind a NAT stays reachable; who was never reached is tried again, ever rarer.

        Two idle machines that need neither stay silent, and their session ends by itself."""
        self._persistent_us = now_us + PERSISTENT_US
        reachable_only_if_kept = self.behind_nat or self.config.keepalive
        keypair = self.keypairs.current
        if keypair is None:
            if reachable_only_if_kept or not self._met:
                self.handshakes.connect(now_us, unix_us, brief=True)
        elif reachable_only_if_kept:
            if now_us - self.timers.last_sent_us >= PERSISTENT_US:
                self._send_keepalive(now_us)
            else:
                self._persistent_us = self.timers.last_sent_us + PERSISTENT_US
            if keypair.session.elapsed_zeqonds(now_us) >= self._host.rekey_zeqonds:
                self.handshakes.connect(now_us, unix_us, brief=True)

    def _drive_paths(self, now_us: int) -> None:
        for request in self.paths.due(now_us, self.timers.in_use(now_us)):
            if request.ask is Ask.CHALLENGE:
                self.send_kind(Kind.PATH_CHALLENGE, request.value, now_us, to=request.address)
            else:
                padded = request.value.ljust(request.size - OVERHEAD_BYTES, b"\0")
                self._send(inner(Kind.MTU_PROBE, padded), now_us, request.address, request.size)

    def deadline_us(self) -> int:
        return min(
            self.handshakes.deadline_us(),
            self.timers.deadline_us(),
            self._persistent_us,
            self.conversation.hello_us,
            self.paths.deadline_us() if self.keypairs.current is not None else NEVER,
        )

    def network_changed(self, now_us: int, unix_us: int) -> None:
        """Our own addresses changed: tell the peer at once, from wherever we are now."""
        self.paths.network_changed(now_us)
        if self.keypairs.current is not None:
            self._send_keepalive(now_us)
            self._host.arm(self, now_us)
            if self.paths.endpoint is not None and not self._host.has_family_of(self.paths.endpoint):
                self.handshakes.connect(now_us, unix_us, brief=True)  # to its addresses of the other family
        elif self.config.eager or self._staged:
            self.handshakes.end_attempt()  # what it sent may have left from nowhere
            self._backoff_us = PERSISTENT_US
            self.handshakes.connect(now_us, unix_us, brief=not self._staged)

    def forget(self) -> None:
        """Drop every key and whatever waited for one."""
        self.handshakes.forget()
        self._staged.clear()
        self.timers.forget()
        self.conversation.end()
