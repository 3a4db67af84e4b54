"""Addresses that the owner named: of invitations, peers, seeds. Whoever fills our tables chose none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dht import acquaintances
from dht.endpoints import Endpoint
from dht.links import Known
from dht.overlay import Overlay

FRIENDS: Final = 64  # the last ones


class Friends:
    """`neighbours(n)`: up to n addresses out of the tables of `overlays`."""

    __slots__ = ("_entropy", "_friends", "_neighbours", "_overlays")

    def __init__(
        self,
        overlays: tuple[Overlay, ...],
        neighbours: Callable[[int], list[Endpoint]],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._friends: dict[Endpoint, None] = {}  # the newest last
        self._overlays = overlays
        self._neighbours = neighbours
        self._entropy = entropy

    def add(self, named: Iterable[Endpoint]) -> None:
        for endpoint in named:
            self._friends.pop(endpoint, None)
            self._friends[endpoint] = None
            if len(self._friends) > FRIENDS:
                del self._friends[next(iter(self._friends))]

    def candidates(self, count: int) -> list[Endpoint]:
        """For links of the mesh: friends first, half of them at most."""
        friends = acquaintances.draw(list(self._friends), count // 2, self._entropy)
        return list(dict.fromkeys([*friends, *self._neighbours(count)]))

    def known(self, endpoint: Endpoint) -> Known:
        if endpoint in self._friends:
            return Known.FRIEND
        found = any(one.endpoint == endpoint for overlay in self._overlays for one in overlay.table)
        return Known.TABLE if found else Known.NOT
