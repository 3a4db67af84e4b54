"""What the data-path workers have to know of a core, as messages (tun/seam.py) for the shell to carry.

The core says what has changed and whom it touched; where a peer's packets leave to is compared with what the
workers were told last, once for each `messages`. Without workers (`on` is False) nothing is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tun.keypairs import Keypair
from tun.paths import BASE_PAYLOAD
from tun.seam import Aim, Down, PeerGone, PeerIs, Serves, SessionClosed, SessionOpened

if TYPE_CHECKING:
    from tun.core import TunnelCore
    from tun.peer import Peer

NO_SESSION = -1


class Briefing:
    """Part of a core."""

    def __init__(self, core: TunnelCore) -> None:
        self.on = False
        self._core = core
        self._messages: list[Down] = []
        self._touched: dict[Peer, None] = {}  # in order
        self._aims: dict[bytes, Aim] = {}

    def touch(self, peer: Peer) -> None:
        """Its session, endpoint or size may be another now."""
        if self.on:
            self._touched[peer] = None

    def serves(self) -> None:
        self._say(self._serves())

    def peer_is(self, peer: Peer) -> None:
        self._say(self._peer_is(peer))

    def peer_gone(self, machine_id: bytes) -> None:
        self._aims.pop(machine_id, None)
        self._say(PeerGone(machine_id))

    def opened(self, peer: Peer, keypair: Keypair) -> None:
        self._say(_opened(peer, keypair, receives=True))

    def closed(self, keypair: Keypair) -> None:
        self._say(SessionClosed(keypair.session.local_index))

    def messages(self) -> list[Down]:
        """All since the last call."""
        for peer in self._touched:
            if self._core.peers.get(peer.machine_id) is peer:
                aim = _aim(peer)
                if aim != self._aims.get(peer.machine_id):
                    self._aims[peer.machine_id] = aim
                    self._messages.append(aim)
        self._touched.clear()
        messages, self._messages = self._messages, []
        return messages

    def whole(self, receives: bool) -> list[Down]:
        """All that a new worker has to know. Not `receives`: one before it received in these sessions."""
        peers = self._core.peers.values()
        sessions = [entry for entry in self._core.indexes.sessions() if not entry[1].session.expired]
        return [
            self._serves(),
            *map(self._peer_is, peers),
            *[_opened(peer, keypair, receives) for peer, keypair in sessions],
            *map(_aim, peers),
        ]

    def _serves(self) -> Serves:
        return Serves(list(map(str, self._core.serving)))

    def _peer_is(self, peer: Peer) -> PeerIs:
        name = self._core.pool.assign(peer.machine_id)
        networks = list(map(str, self._core.allowed.networks_of(peer)))
        return PeerIs(peer.machine_id, name.packed, networks, peer.held)

    def _say(self, message: Down) -> None:
        if self.on:
            self._messages.append(message)


def _aim(peer: Peer) -> Aim:
    keypair, endpoint = peer.keypairs.current, peer.paths.endpoint
    if keypair is None or endpoint is None or keypair.session.expired:
        return Aim(peer.machine_id, NO_SESSION, "", 0, BASE_PAYLOAD)
    return Aim(peer.machine_id, keypair.session.local_index, *endpoint, peer.paths.payload)


def _opened(peer: Peer, keypair: Keypair, receives: bool) -> SessionOpened:
    keys = keypair.session.keys()
    return SessionOpened(
        peer.machine_id,
        keys.local_index,
        keys.remote_index,
        keys.initiator,
        keys.root,
        keys.epoch,
        keys.zeqond_base,
        keys.started_us,
        receives,
    )
