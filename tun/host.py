"""What a peer is configured with, and what it asks of the core that it lives in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from crypto.identity import KeyBundle
from tun.addresses import Address
from tun.attempt import Local
from tun.control import Hello
from tun.events import Event
from tun.keypairs import Keypair

if TYPE_CHECKING:
    from tun.peer import Peer

NO_TOKEN_ID = bytes(16)


@dataclass(slots=True)
class PeerConfig:
    """What the owner has said and the store has kept of a peer; addresses in the order of trying."""

    bundle: KeyBundle
    name: str = ""
    lookup_secret: bytes = b""
    addresses: list[Address] = field(default_factory=list)
    token: bytes = b""  # an invitation's, still to be redeemed by us
    token_id: bytes = NO_TOKEN_ID
    last_clock_us: int = 0
    keepalive: bool = False  # every 25 s, whatever the NAT looks like
    eager: bool = True  # connect at once and after a change of network; else on the first packet


class Host(Protocol):
    """What a peer needs of the core that it lives in."""

    local: Local
    full_payload: int
    rekey_zeqonds: int
    hello_to: Callable[[bytes], Hello]

    def emit(self, datagram: bytes, address: Address) -> None: ...
    def event(self, event: Event) -> None: ...
    def count(self, what: str) -> None: ...
    def register(self, keypair: Keypair, peer: Peer) -> None: ...
    def unregister(self, keypairs: Sequence[Keypair]) -> None: ...
    def attempt_moved(self, peer: Peer, before: bytes) -> None: ...
    def arm(self, peer: Peer, when_us: int) -> None: ...
    def deliver(self, peer: Peer, packet: bytes) -> None: ...
    def is_local_address(self, text: str) -> bool: ...
    def has_family_of(self, address: Address) -> bool: ...
