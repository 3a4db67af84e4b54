"""Whether a node serves others or only asks, in one overlay: what it is told, and what strangers can reach.

    told "serve" or "ask"                              that
    checked: strangers reach us, or do not             that
    not known yet, and seen where we know we are       serve: nothing translates our address
    not known yet, and seen elsewhere                  ask: we are behind a NAT
    seen nowhere yet                                   serve: a mesh has to begin with somebody

A check is made whenever others see us somewhere else, and every twenty minutes; while it cannot be made for
want of nodes, once a minute. Who serves makes one that failed again in half a minute before it counts: its
datagrams may have been lost, and where many begin at once, those who are to dial are asked too often.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dht.endpoints import Endpoint
from dht.outcomes import Reachable
from dht.overlay import Overlay

CHECK_US: Final = 1_200_000_000
UNSURE_US: Final = 60_000_000
DOUBT_US: Final = 30_000_000


class Standing:
    """`told`: True, False, or None to find out."""

    __slots__ = ("_checked", "_doubted", "_overlay", "_own", "_told", "due_us")

    def __init__(self, overlay: Overlay, told: bool | None, now_us: int) -> None:
        self.due_us = now_us + UNSURE_US
        self._overlay = overlay
        self._told = told
        self._checked: bool | None = None
        self._doubted = False
        self._own: tuple[Endpoint, ...] = ()

    @property
    def unreachable(self) -> bool:
        """Others cannot call us, as far as is known: homes are wanted."""
        return not self._overlay.serving and self._told is not True

    def settle(self) -> None:
        """Serve or ask, as things are."""
        overlay = self._overlay
        if self._told is not None:
            serving = self._told
        elif self._checked is not None:
            serving = self._checked
        else:
            serving = overlay.endpoint is None or overlay.endpoint in self._own
        if serving != overlay.serving:
            overlay.serve(serving)

    def owns(self, endpoints: tuple[Endpoint, ...]) -> None:
        """These are addresses of this machine itself."""
        self._own = endpoints

    def moved(self, now_us: int) -> None:
        self._checked, self._doubted = None, False
        self.due_us = now_us

    def told(self, outcome: Reachable, now_us: int) -> None:
        reachable = outcome.reachable
        if reachable is None:
            self.due_us = now_us + UNSURE_US
        elif reachable or self._doubted or not self._overlay.serving:
            self._checked, self._doubted = reachable, False
            self.due_us = now_us + CHECK_US
        else:
            self._doubted = True
            self.due_us = now_us + DOUBT_US

    def tick(self, now_us: int) -> None:
        if now_us >= self.due_us:
            self.due_us = now_us + UNSURE_US
            if self._overlay.endpoint is not None and self._told is None:
                self._overlay.check_reach(now_us)


class Standings:
    """Of all overlays together."""

    __slots__ = ("_all", "_overlays", "_own")

    def __init__(self, overlays: tuple[Overlay, ...], told: bool | None, now_us: int) -> None:
        self._overlays = overlays
        self._own: tuple[Endpoint, ...] = ()
        self._all = tuple(Standing(overlay, told, now_us) for overlay in overlays)

    @property
    def serving(self) -> bool:
        return any(overlay.serving for overlay in self._overlays)

    @property
    def unreachable(self) -> bool:
        """Wherever we know anybody, we cannot be called."""
        used = [one for one, at in zip(self._all, self._overlays, strict=True) if at.size]
        return bool(used) and all(standing.unreachable for standing in used)

    @property
    def due_us(self) -> int:
        return min(standing.due_us for standing in self._all)

    def of(self, overlay: Overlay) -> Standing:
        return self._all[self._overlays.index(overlay)]

    def owns(self, endpoints: Iterable[Endpoint]) -> bool:
        """These are addresses of this machine itself; whether that is new."""
        before, self._own = self._own, tuple(sorted(set(endpoints)))
        for standing in self._all:
            standing.owns(self._own)
        return before != self._own

    def settle(self) -> None:
        for standing in self._all:
            standing.settle()

    def tick(self, now_us: int) -> None:
        for standing in self._all:
            standing.tick(now_us)
