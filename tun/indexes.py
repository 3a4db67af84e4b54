"""The receiver indexes of one core: random, 64 lanes wide, each with the session that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tun.keypairs import Keypair

if TYPE_CHECKING:
    from tun.peer import Peer

LANE_BITS = 6
SLOTS = 2 ** (32 - LANE_BITS)


class Indexes:
    """By slot, which is an index without its lane; None: reserved by a handshake that is under way."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._by_slot: dict[int, tuple[Peer, Keypair] | None] = {}

    def reserve(self) -> int:
        """A base index that nobody has."""
        while True:
            slot: int = int.from_bytes(self._entropy(4), "big") % SLOTS
            if slot not in self._by_slot:
                self._by_slot[slot] = None
                return slot << LANE_BITS

    def free(self, index: int) -> None:
        self._by_slot.pop(index >> LANE_BITS, None)

    def put(self, keypair: Keypair, peer: Peer) -> None:
        self._by_slot[keypair.slot] = (peer, keypair)

    def find(self, index: int) -> tuple[Peer, Keypair] | None:
        """Whose record this is, by its receiver index."""
        return self._by_slot.get(index >> LANE_BITS)

    def sessions(self) -> list[tuple[Peer, Keypair]]:
        """All that there are, the unconfirmed ones too."""
        return [entry for entry in self._by_slot.values() if entry is not None]
