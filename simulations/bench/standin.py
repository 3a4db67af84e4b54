"""One member of a crowd: a real tunnel core, and what becomes of its words to a worker among many others."""

from __future__ import annotations

import os
from dataclasses import replace

from crypto.cookies import mac1_key
from crypto.identity import KeyBundle
from crypto.kem import RealPrimitives
from simulations.bench.members import HUB_PORT, LOOKUP_SECRET, Member, outside
from tun.addresses import of_ip
from tun.core import TunnelCore
from tun.engine import boot_us, unix_us
from tun.host import PeerConfig
from tun.seam import Aim, Down, PeerGone, PeerIs, Serves, SessionOpened


class StandIn:
    """A member with its core. hub: whom it calls, and its only peer."""

    def __init__(self, member: Member, hub: KeyBundle) -> None:
        self.member = member
        self.hub = hub
        self.key = mac1_key(member.id, LOOKUP_SECRET)
        self.connected = False
        self.core = TunnelCore(member.keys, LOOKUP_SECRET, RealPrimitives(), os.urandom, boot_us())
        self.core.briefing.on = True

    def add_hub(self) -> None:
        where = of_ip(outside(self.member.network, 1), HUB_PORT)
        config = PeerConfig(self.hub, "hub", LOOKUP_SECRET, [where], eager=False)
        self.core.add_peer(config, [self.member.gate], boot_us())

    def call(self) -> None:
        self.core.peers[self.hub.machine_id].handshakes.connect(boot_us(), unix_us())

    @property
    def message_id(self) -> bytes | None:
        """Of the message 1 whose answer it awaits."""
        peer = self.core.peers.get(self.hub.machine_id)
        attempt = peer.handshakes.attempt if peer is not None else None
        return attempt.message_id if attempt is not None else None

    def down(self, message: Down) -> Down | None:
        """What its core tells workers, as the crowd's is to have it: the hub is another for each member."""
        match message:
            case PeerIs():
                gate = str(self.member.gate)
                return PeerIs(self.member.id, self.member.name4, [gate])
            case PeerGone() | SessionOpened() | Aim():
                return replace(message, machine_id=self.member.id)
            case Serves():
                return None
            case _:
                return message
