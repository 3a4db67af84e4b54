"""What one node stores for others: bounded, expiring, and fair between the networks that it came from.

Strangers write here whatever they can sign, so every bound is by what they cannot make at will, the network
that a store token has proven (dht/tokens.py):

    one key        dht/sets.py: four networks' words of a machine, or 64 offers of one signer each
    all keys       4,096 records (at most 5.7 MB); over that, a network's farthest go first, the network
                   with the most before others

A record's time is checked by the clock when it comes, its content (an offer's fields, a slug's bundle) too; a
signature, which costs most, only when all else would let the record stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from dht import offers, sets, slugs
from dht.records import BadRecord, Kind, Record, Records
from dht.sets import Held

MAX_RECORDS: Final = 4096
_SPARE: Final = MAX_RECORDS // 16  # made free at once, so that a flood is not sorted record by record
VALUES_BYTES: Final = 0xFFFF  # offsets of pages are two bytes

KEPT: Final = 0
REFUSED: Final = 2
OLDER: Final = 3
NO_ROOM: Final = 4

_encode = msgspec.msgpack.Encoder().encode


class Storage:
    """`records` reads and verifies; `entropy(n)` gives n random bytes. Times: Unix seconds."""

    __slots__ = ("_center", "_count", "_expiry", "_records", "_secret", "_sets", "_shown", "counters")

    def __init__(
        self, records: Records, entropy: Callable[[int], bytes], counters: Counter[str] | None = None
    ) -> None:
        self.counters: Counter[str] = Counter() if counters is None else counters
        self._records = records
        self._secret = entropy(16)
        self._sets: dict[bytes, tuple[Held, ...]] = {}
        self._count = 0
        self._center = 0
        self._expiry = 0  # nothing expires before this
        self._shown: tuple[bytes, int, bytes] | None = None  # key, good until, what `values` said

    def __len__(self) -> int:
        """Records, of all keys."""
        return self._count

    def center(self, node_id: bytes) -> None:
        """Our id (32 bytes) is this now: the keys farthest from it go first."""
        self._center = int.from_bytes(node_id, "big")

    def put(self, key: bytes, record_bytes: bytes, source_network: bytes, unix: int) -> int:
        """Keep a record that came from this network (3 or 6 bytes). One of KEPT, REFUSED, OLDER, NO_ROOM, as
        dht/messages.py has them in Stored; the same record once more is KEPT."""
        try:
            record = self._acceptable(key, record_bytes, unix)
            status, held = self._placed(record, source_network, unix)
            if status == KEPT:
                self._records.verify(record)
        except BadRecord as bad:
            self.counters[f"record refused: {bad}"] += 1
            return REFUSED
        if status != KEPT:
            self.counters["record older than ours" if status == OLDER else "record without room"] += 1
            return status
        self._replace(key, held)
        self._expiry = min(self._expiry, record.expires) if self._count > 1 else record.expires
        if self._count > MAX_RECORDS:
            self._make_room()
        return KEPT if self._holds(key, record_bytes) else NO_ROOM

    def values(self, key: bytes, unix: int) -> bytes:
        """msgpack's array of the records under a key, at most 65,535 bytes; b"" when there are none."""
        if self._shown is not None and self._shown[0] == key and unix < self._shown[1]:
            return self._shown[2]
        records = [one.record for one in self._sets.get(key, ()) if unix < one.record.expires]
        if not records:
            return b""
        shown = _encode([record.raw for record in records])
        assert len(shown) <= VALUES_BYTES
        self._shown = key, min(record.expires for record in records), shown
        return shown

    def keys(self) -> list[bytes]:
        """Those that something is stored under, 32 bytes each."""
        return list(self._sets)

    def expire(self, unix: int) -> None:
        """Forget what has expired; cheap when nothing has."""
        if not self._count or unix < self._expiry:
            return
        for key in list(self._sets):
            self._replace(key, tuple(one for one in self._sets[key] if unix < one.record.expires))
        left = (one.record.expires for held in self._sets.values() for one in held)
        self._expiry = min(left, default=0)

    # ------------------------------------------------------------------ one key

    def _acceptable(self, key: bytes, record_bytes: bytes, unix: int) -> Record:
        """All but the signature and the room. Raises BadRecord."""
        record = self._records.read(record_bytes)
        if record.key != key:
            raise BadRecord("wrong key")
        record.check_time(unix)
        if record.kind is Kind.OFFER:
            offers.read(record)
        elif record.kind is Kind.SLUG:
            slugs.read(record)
        return record

    def _placed(self, record: Record, network: bytes, unix: int) -> tuple[int, tuple[Held, ...]]:
        """Whether the record would be kept, and what is under its key then."""
        before = self._sets.get(record.key, ())
        if any(one.record.expires <= unix for one in before):
            before = tuple(one for one in before if unix < one.record.expires)
        new = sets.hold(record, network, unix)
        place = sets.place_word if record.kind in (Kind.LOCATION, Kind.BUNDLE) else sets.place_entry
        after = place(before, new, self._secret)
        if any(one.record.raw == record.raw for one in after):
            return KEPT, after
        return (OLDER if sets.outdated(before, new) else NO_ROOM), before

    def _holds(self, key: bytes, record_bytes: bytes) -> bool:
        return any(one.record.raw == record_bytes for one in self._sets.get(key, ()))

    def _replace(self, key: bytes, held: tuple[Held, ...]) -> None:
        self._count += len(held) - len(self._sets.get(key, ()))
        self._shown = None
        if held:
            self._sets[held[0].record.key] = held  # the record's own bytes: others have them too
        else:
            self._sets.pop(key, None)

    # ------------------------------------------------------------------ all keys

    def _make_room(self) -> None:
        """Every network keeps its closest; who has the most loses the most."""
        closest = sorted(self._sets, key=lambda key: int.from_bytes(key, "big") ^ self._center)
        nth: Counter[bytes] = Counter()
        ranked: list[tuple[int, int, bytes, Held]] = []
        for distance, key in enumerate(closest):
            for one in self._sets[key]:
                nth[one.network] += 1
                ranked.append((nth[one.network], distance, key, one))
        ranked.sort(key=lambda entry: entry[:2])
        for _, _, key, one in ranked[MAX_RECORDS - _SPARE :]:
            self._replace(key, tuple(other for other in self._sets[key] if other is not one))
            self.counters["record dropped for want of room"] += 1
