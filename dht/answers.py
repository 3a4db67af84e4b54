"""What is said to who asks: who is close, what is stored, and whether a record was kept.

Nobody gets more than three times the bytes of the question before a token has shown that they receive where
they say; what does not fit is left out, contacts first. Nothing of a question is kept but parts of a record,
and those only of who showed a token.

    Ping ─▶ Pong      Find ─▶ Nodes      Get ─▶ Values, or Nodes when nothing is stored      Store ─▶ Stored
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2s
from typing import Final, Protocol

from dht import endpoints
from dht.contacts import Contact
from dht.deliveries import CHUNK_BYTES, PARTS_MISSING, REFUSED
from dht.endpoints import Endpoint
from dht.messages import AMPLIFICATION, DATAGRAM_BYTES, Find, Get, Nodes, Ping, Pong, Store, Stored, Values
from dht.questions import Questions
from dht.routing import K, RoutingTable

RECORD_BYTES: Final = 8192
PAGE_BYTES: Final = 1000
FIRST_PAGE_BYTES: Final = 700  # contacts go with it
NODES_BYTES: Final = 54  # of a Nodes that shows an id, but for what is in `you` and in `contacts`
VALUES_MORE_BYTES: Final = 21  # that a Values has in addition, but for the page

PARTIALS: Final = 64  # records of which parts are missing; at most 0.5 MB
PARTIALS_OF_A_NETWORK: Final = 4
PARTIAL_US: Final = 20_000_000  # between one part and the next


class Shelf(Protocol):
    """What is stored here for others: dht/storage.py in the product."""

    def put(self, key: bytes, record_bytes: bytes, source_network: bytes, unix: int) -> int:
        """A status of dht/messages.py's Stored."""

    def values(self, key: bytes, unix: int) -> bytes:
        """msgpack's array of records, at most 64 KB; empty when there are none."""

    def keys(self) -> Iterable[bytes]:
        """Of 32 bytes, those that something is stored under."""

    def center(self, node_id: bytes) -> None:
        """Our id is this now."""


class _Partial:
    __slots__ = ("got", "part", "parts", "touched_us")

    def __init__(self, parts_: int, now_us: int) -> None:
        self.parts = parts_
        self.part = 0  # the next one
        self.got = b""
        self.touched_us = now_us


class Answers:
    """`serving`: whether others are to store here."""

    __slots__ = ("_counters", "_partials", "_questions", "_shelf", "_size", "serving")

    def __init__(self, shelf: Shelf, questions: Questions, size: int, counters: Counter[str]) -> None:
        self._shelf = shelf
        self._questions = questions  # for the tail that we show
        self._size = size  # of a contact on the wire
        self._counters = counters
        self._partials: dict[tuple[Endpoint, bytes], _Partial] = {}  # by source and key; the oldest first
        self.serving = False

    def ping(self, question: Ping, source: Endpoint, token: bytes) -> Pong:
        return Pong(question.t, self._questions.tail, source, token)

    def find(self, question: Find, source: Endpoint, token: bytes, room: int, table: RoutingTable) -> Nodes:
        """`room`: bytes that the answer may have."""
        contacts = self._contacts(question.target, room - NODES_BYTES - len(source), table)
        return Nodes(question.t, self._questions.tail, source, token, contacts)

    def get(
        self, question: Get, source: Endpoint, token: bytes, room: int, table: RoutingTable, unix: int
    ) -> Values | Nodes:
        values = self._shelf.values(question.key, unix)
        room -= NODES_BYTES + len(source)
        if not values:
            contacts = self._contacts(question.key, room, table)
            return Nodes(question.t, self._questions.tail, source, token, contacts)
        offset = question.offset
        most = PAGE_BYTES if offset else FIRST_PAGE_BYTES
        room -= VALUES_MORE_BYTES
        page = values[offset : offset + max(0, min(most, room))]
        contacts = b"" if offset else self._contacts(question.key, room - len(page), table)
        return Values(
            question.t,
            self._questions.tail,
            source,
            token,
            contacts,
            len(values),
            _digest(values),
            offset,
            page,
        )

    def _contacts(self, target: bytes, room: int, table: RoutingTable) -> bytes:
        """As many as fit, in no order: who asks sorts them, and drops addresses narrower than ours."""
        count = min(K, room // self._size)
        if count <= 0:
            return b""
        found: list[Contact] = table.find_neighbors(int.from_bytes(target, "big"), count)
        return b"".join([contact.wire for contact in found])

    # ------------------------------------------------------------------ storing

    def store(
        self, question: Store, source: Endpoint, token: bytes, proven: bool, now_us: int, unix: int
    ) -> Stored:
        """Only who shows a token stores, and only here where we serve."""
        status = REFUSED
        if not proven:
            self._counters["store without a token"] += 1
        elif self.serving:
            status = self._keep(question, source, now_us, unix)
        return Stored(question.t, self._questions.tail, source, token, status)

    def _keep(self, question: Store, source: Endpoint, now_us: int, unix: int) -> int:
        whole: bytes | None = question.chunk
        if question.parts != 1:
            whole = self._put_together(question, source, now_us)
            if whole is None:
                return PARTS_MISSING
        if not whole or question.part >= question.parts:
            self._counters["part of a record that does not fit"] += 1
            return REFUSED
        return self._shelf.put(question.key, whole, endpoints.network(source), unix)

    def _put_together(self, question: Store, source: Endpoint, now_us: int) -> bytes | None:
        """Parts come in their order, as each waits for the last one's answer; the same again is no harm. The
        record when it is whole, None while parts are missing, empty when they do not fit together."""
        if not 1 < question.parts <= -(-RECORD_BYTES // CHUNK_BYTES) or question.part >= question.parts:
            return b""
        place = (source, question.key)
        partial = self._partials.get(place)
        if question.part == 0 and (partial is None or partial.part != 1):
            partial = self._new_partial(place, question.parts, now_us)
        if partial is None or partial.parts != question.parts or question.part > partial.part:
            return b""
        partial.touched_us = now_us
        last = question.part == question.parts - 1
        if question.part < partial.part:
            return None
        if not question.chunk or (not last and len(question.chunk) != CHUNK_BYTES):
            return b""
        partial.got += question.chunk
        partial.part += 1
        if not last:
            return None
        del self._partials[place]
        return partial.got

    def _new_partial(self, place: tuple[Endpoint, bytes], count: int, now_us: int) -> _Partial:
        """In a network that has PARTIALS_OF_A_NETWORK, or when there are PARTIALS, the oldest gives way."""
        self._partials.pop(place, None)
        self.forget(now_us)
        network = endpoints.network(place[0])
        alike = [other for other in self._partials if endpoints.network(other[0]) == network]
        if len(alike) >= PARTIALS_OF_A_NETWORK:
            del self._partials[alike[0]]
        elif len(self._partials) >= PARTIALS:
            del self._partials[next(iter(self._partials))]
        partial = self._partials[place] = _Partial(count, now_us)
        return partial

    def forget(self, now_us: int) -> None:
        """Parts whose next part did not come."""
        for place in [p for p, one in self._partials.items() if now_us - one.touched_us >= PARTIAL_US]:
            del self._partials[place]


def room_for(size: int, proven: bool) -> int:
    """Bytes that the answer to a datagram of `size` bytes may have."""
    return DATAGRAM_BYTES if proven else min(DATAGRAM_BYTES, AMPLIFICATION * size)


@lru_cache(maxsize=64)
def _digest(values: bytes) -> bytes:
    return blake2s(values, digest_size=8).digest()
