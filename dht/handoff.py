"""Records follow their keys: when somebody closer to one comes, who was the closest until then hands it over.

Without this a record that is announced hourly would thin out: who keeps it leaves, and who comes has nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dht.answers import Shelf
from dht.contacts import Contact
from dht.deliveries import Delivery
from dht.questions import Questions
from dht.routing import RoutingTable

NEWCOMERS: Final = 32  # that are remembered until the next run
KEYS: Final = 8  # handed over a run, which upkeep makes every 30 s
LOOKED_AT: Final = 16_384  # pairs of newcomer and key, a run

_records = msgspec.msgpack.Decoder(list[bytes]).decode


class Handoff:
    """`came` takes whoever is new in the table; `run` does the rest, a bit at a time."""

    __slots__ = ("_newcomers", "_questions", "_shelf")

    def __init__(self, shelf: Shelf, questions: Questions) -> None:
        self._shelf = shelf
        self._questions = questions
        self._newcomers: list[Contact] = []

    def came(self, contact: Contact) -> None:
        if len(self._newcomers) < NEWCOMERS:
            self._newcomers.append(contact)

    def run(self, table: RoutingTable, now_us: int, unix: int) -> int:
        """How many keys were handed over."""
        if not self._newcomers:
            return 0
        newcomers, self._newcomers = self._newcomers, []
        keys = [(key, int.from_bytes(key, "big")) for key in self._shelf.keys()]  # noqa: SIM118
        handed = 0
        for newcomer in newcomers[: LOOKED_AT // max(1, len(keys))]:
            for key, target in keys:
                if newcomer.long_id ^ target < table.own ^ target and _ours(table, target, newcomer):
                    handed += self._hand_over(newcomer, key, now_us, unix)
                    if handed >= KEYS:
                        return handed
        return handed

    def _hand_over(self, to: Contact, key: bytes, now_us: int, unix: int) -> bool:
        values = self._shelf.values(key, unix)
        if not values:
            return False
        Delivery(to, key, _records(values), self._questions, lambda _kept, _now_us: None).go_on(now_us)
        return True


def _ours(table: RoutingTable, target: int, newcomer: Contact) -> bool:
    """Whether we were the closest before."""
    return not any(other is not newcomer for other in table.closer_than_we(target))
