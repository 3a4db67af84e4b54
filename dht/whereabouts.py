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

    __slots__ = ("_votes", "endpoint", "id", "long_id", "tail")

    def __init__(self, tail: bytes, endpoint_bytes: int) -> None:
        assert len(tail) == contacts.TAIL_BYTES
        self.tail = tail
        self.endpoint: Endpoint | None = None
        self._votes: dict[bytes, Endpoint] = {}  # by network, the newest last
        self._become(bytes(endpoint_bytes))

    def vote(self, voter: Endpoint, seen: Endpoint) -> bool:
        """`voter` says that we are at `seen`. True when that changes what is believed."""
        votes = self._votes
        network = endpoints.network(voter)
        if votes.get(network) == seen == self.endpoint:
            return False
        # A new dict, with no gaps where something was taken out.
        votes = self._votes = {other: vote for other, vote in votes.items() if other != network}
        votes[network] = seen if seen != self.endpoint else self.endpoint
        if len(votes) > VOTERS:
            del votes[next(iter(votes))]
        if seen == self.endpoint or not endpoints.usable(seen):
            return False
        counts = Counter(votes.values())
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
