"""The sealed events that a home keeps for its lodgers, within bounds, and what became of the last ones.

Room is given by the network that a caller is in, so that one caller cannot fill what a lodger has. What a
home said it holds it does hold: nothing gives way to a newcomer, who is refused instead.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from dht.endpoints import Endpoint, network
from dht.parts import PART_BYTES, Parcel
from dht.post import Answer, Delivery, Status

KEPT_US: Final = 3_600_000_000
HELD_PER_HANDLE: Final = 16
HELD_PER_CALLER: Final = 4  # of one network, under one handle
HELD_PER_NETWORK: Final = 64  # of callers, in all
HELD_BYTES: Final = 4 * 1024 * 1024
SETTLED: Final = 512
SETTLED_US: Final = 60_000_000


class Held:
    """An event that is here; `delivery` while it is on its way."""

    __slots__ = ("born_us", "caller", "delivery", "parcel", "transaction")

    def __init__(self, parcel: Parcel, caller: Endpoint, transaction: bytes, now_us: int) -> None:
        self.parcel = parcel
        self.caller = caller
        self.transaction = transaction
        self.born_us = now_us
        self.delivery: Delivery | None = None

    @property
    def standing(self) -> Status:
        return Status.HELD if self.delivery is None else Status.UNDER_WAY


class Lodger:
    """Who is called under a handle. `until_us`: its lease. `mine`: the token that it wants to be shown."""

    __slots__ = ("endpoint", "handle", "held", "mine", "proof", "sequence", "until_us")

    def __init__(self, handle: bytes) -> None:
        self.handle = handle
        self.endpoint = self.mine = self.proof = b""
        self.sequence = -1
        self.until_us = 0
        self.held: dict[bytes, Held] = {}  # by event


class Keeping:
    """What is kept for all lodgers together."""

    __slots__ = ("_bytes", "_of", "_settled")

    def __init__(self) -> None:
        self._bytes = 0
        self._of: Counter[bytes] = Counter()  # events, by the caller's network
        self._settled: dict[tuple[bytes, bytes], tuple[int, Answer]] = {}  # the oldest first

    @property
    def size(self) -> tuple[int, int]:
        """Events and bytes."""
        return self._of.total(), self._bytes

    def has_room(self, lodger: Lodger, caller: Endpoint, parts: int) -> bool:
        near = network(caller)
        return (
            len(lodger.held) < HELD_PER_HANDLE
            and sum(network(held.caller) == near for held in lodger.held.values()) < HELD_PER_CALLER
            and self._of[near] < HELD_PER_NETWORK
            and self._bytes + parts * PART_BYTES <= HELD_BYTES
        )

    def put(self, lodger: Lodger, held: Held) -> None:
        lodger.held[held.parcel.event] = held
        self._of[network(held.caller)] += 1
        self._bytes += len(held.parcel)

    def remove(self, lodger: Lodger, held: Held) -> None:
        del lodger.held[held.parcel.event]
        self._of[network(held.caller)] -= 1
        self._bytes -= len(held.parcel)

    def settle(self, lodger: Lodger, held: Held, answer: Answer, now_us: int) -> None:
        """The lodger has said so: the bytes go, the answer is kept a minute for a caller who asks again."""
        self.remove(lodger, held)
        self._settled[lodger.handle, held.parcel.event] = (now_us, answer)
        if len(self._settled) > SETTLED:
            del self._settled[next(iter(self._settled))]

    def settled(self, handle: bytes, event: bytes) -> Answer | None:
        entry = self._settled.get((handle, event))
        return entry[1] if entry else None

    def expire(self, now_us: int) -> None:
        settled = self._settled
        for key in [key for key, (at_us, _) in settled.items() if at_us + SETTLED_US <= now_us]:
            del settled[key]
        self._of = +self._of
