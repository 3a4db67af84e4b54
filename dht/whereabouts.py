"""Where others see us, and so which id is ours.

Every answer says where its question came from. Each network has one vote, the last that came from there; the
last VOTERS networks count. An endpoint is believed when two of them say it and no other has as many: one liar
cannot move us, and after a change of address a few answers do.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from dht import contacts, endpoints
from dht.endpoints import Endpoint

VOTERS: Final = 8
AGREEING: Final = 2


class Whereabouts:
    """`tail`: 24 bytes. Until an endpoint is believed the id is as if we were at 0.0.0.0 or ::."""

    __slots__ = ("_networks", "_votes", "endpoint", "id", "long_id", "tail")

    def __init__(self, tail: bytes, endpoint_bytes: int) -> None:
        assert len(tail) == contacts.TAIL_BYTES
        self.tail = tail
        self.endpoint: Endpoint | None = None
        # Each network's vote, the newest last. Two lists: a dict of which something is taken out all the time
        # takes more than twice the memory.
        self._networks: list[bytes] = []
        self._votes: list[Endpoint] = []
        self._become(bytes(endpoint_bytes))

    def vote(self, voter: Endpoint, seen: Endpoint) -> bool:
        """`voter` says that we are at `seen`. True when that changes what is believed."""
        networks, votes = self._networks, self._votes
        network = endpoints.network(voter)
        if network in networks:
            place = networks.index(network)
            if votes[place] == seen == self.endpoint:
                return False
            del networks[place], votes[place]
        elif len(networks) == VOTERS:
            del networks[0], votes[0]
        networks.append(network)
        votes.append(seen if seen != self.endpoint else self.endpoint)
        if seen == self.endpoint or not endpoints.usable(seen):
            return False
        counts = Counter(votes)
        rivals = max((count for other, count in counts.items() if other != seen), default=0)
        return counts[seen] >= AGREEING and counts[seen] > rivals and self.believe(seen)

    def believe(self, endpoint: Endpoint) -> bool:
        """Whoever says so knows. True when it is news."""
        if endpoint == self.endpoint:
            return False
        self.endpoint = endpoint
        self._become(endpoint)
        return True

    @property
    def network(self) -> bytes:
        """Ours, as far as it is known."""
        return b"" if self.endpoint is None else endpoints.network(self.endpoint)

    def _become(self, endpoint: Endpoint) -> None:
        self.id = contacts.node_id(self.tail, endpoint)
        self.long_id = int.from_bytes(self.id, "big")
