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

NEWCOMERS: Final = 256  # that are remembered until a run is through
HEIRS: Final = 2  # of them get a record: those closest to its key
KEYS: Final = 16  # handed over a run, which upkeep makes every 30 s
LOOKED_AT: Final = 16_384  # contacts, a run

_records = msgspec.msgpack.Decoder(list[bytes]).decode


class Handoff:
    """`came` takes whoever is new in the table; `run` does the rest, a bit at a time.

    All who came since the last run count as one, so that a mesh which grows tenfold in a minute passes its
    records on as one does to which somebody comes now and then."""

    __slots__ = ("_done", "_newcomers", "_questions", "_shelf")

    def __init__(self, shelf: Shelf, questions: Questions) -> None:
        self._shelf = shelf
        self._questions = questions
        self._newcomers: list[Contact] = []
        self._done = 0  # keys that a run which had too much to do was through with

    def came(self, contact: Contact) -> None:
        if len(self._newcomers) < NEWCOMERS:
            self._newcomers.append(contact)

    def run(self, table: RoutingTable, now_us: int, unix: int) -> int:
        """How many keys were handed over."""
        if not self._newcomers:
            return 0
        fresh = {newcomer.id for newcomer in self._newcomers}
        handed = looked_at = 0
        keys = list(self._shelf.keys())
        for number, key in enumerate(keys[self._done :], self._done):
            if handed >= KEYS or looked_at >= LOOKED_AT:
                self._done = number
                return handed
            heirs: list[tuple[int, Contact]] = []
            target = int.from_bytes(key, "big")
            for other in table.closer_than_we(target):
                looked_at += 1
                if other.id not in fresh:
                    break  # it was the closest, not we
                heirs.append((other.long_id ^ target, other))
            else:
                # Distances differ, so contacts are never compared.
                for _, heir in sorted(heirs)[:HEIRS]:
                    handed += self._hand_over(heir, key, now_us, unix)
        self._newcomers, self._done = [], 0
        return handed

    def _hand_over(self, to: Contact, key: bytes, now_us: int, unix: int) -> bool:
        values = self._shelf.values(key, unix)
        if not values:
            return False
        Delivery(to, key, _records(values), self._questions, lambda _kept, _now_us: None).go_on(now_us)
        return True
