"""What is asked of the network, each with a handle: who is close, what is stored, keep this.

    find ─▶ Search ─▶ Found
    get  ─▶ Fetch  ─▶ Got …, the last one final
    put  ─▶ Search ─▶ Publication ─▶ Put

Handles count from 1; below 0 are the overlay's own lookups, of which nobody is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dht.answers import Shelf
from dht.contacts import ID_BYTES, Contact
from dht.deliveries import KEPT, Publication
from dht.lookup import Lookup
from dht.outcomes import Found, Got, Outcome, Put
from dht.questions import NEVER_US, Questions
from dht.routing import K, RoutingTable
from dht.searches import Fetch, Search
from dht.upkeep import Bootstrap
from dht.whereabouts import Whereabouts

PARKED_US: Final = 5_000_000  # that a search waits for the first node to be known
PATHS: Final = 2  # of a lookup for values …
PATHS_FROM: Final = 2 * K  # … in a table of so many
MEETING_K: Final = 8  # closest ones wanted by a lookup that is only to meet people


class Queries:
    """`serving()`: whether others may store here, and so we ourselves where we are close. `hopeful()`:
    whether nodes are being called while none is known. `told()`: nodes that we were told of."""

    __slots__ = (
        "_bootstrap",
        "_events",
        "_handle",
        "_parked",
        "_pausing",
        "_questions",
        "_searches",
        "_shelf",
        "_size",
        "_table",
        "_where",
        "unix",
    )

    def __init__(
        self,
        table: RoutingTable,
        where: Whereabouts,
        shelf: Shelf,
        questions: Questions,
        size: int,
        events: list[Outcome],
        bootstrap: Bootstrap,
    ) -> None:
        self.unix = 0  # seconds, as last heard
        self._table = table
        self._where = where
        self._shelf = shelf
        self._questions = questions
        self._size = size
        self._events = events
        self._bootstrap = bootstrap
        self._searches: dict[int, Search] = {}
        self._pausing: list[Fetch] = []
        self._parked: list[tuple[int, Search]] = []  # until when, which: nobody is known yet
        self._handle = 0

    def __len__(self) -> int:
        return len(self._searches)

    def find(self, target: bytes, now_us: int) -> int:
        self._handle += 1
        search = Search(self._handle, target, self._lookup(target, now_us), *self._wires, self._found)
        return self._start(search, now_us)

    def get(self, key: bytes, now_us: int) -> int:
        self._handle += 1
        paths = PATHS if self._table.size >= PATHS_FROM else 1
        lookup = self._lookup(key, now_us, paths=paths)
        fetch = Fetch(self._handle, key, lookup, *self._wires, self._got_all, self._got)
        here = self._shelf.values(key, self.unix)
        if here:
            fetch.hand_up(here, 0)
        return self._start(fetch, now_us)

    def put(self, records: Sequence[bytes], key: bytes, now_us: int) -> int:
        self._handle += 1

        def store(search: Search, now_us: int) -> None:
            self._searches.pop(search.handle, None)
            self._publish(search, tuple(records), now_us)

        return self._start(Search(self._handle, key, self._lookup(key, now_us), *self._wires, store), now_us)

    def look(self, target: int, whole: bool, now_us: int) -> None:
        """A lookup of our own: of the very closest, or only to meet who lives there."""
        self._handle += 1
        wire = target.to_bytes(ID_BYTES, "big")
        lookup = self._lookup(wire, now_us, K if whole else MEETING_K, thorough=whole)
        self._start(Search(-self._handle, wire, lookup, *self._wires, self._met), now_us)

    def forget_own(self) -> None:
        """Our id is another: the neighbourhood that is being looked up is not ours."""
        for handle in [handle for handle in self._searches if handle < 0]:
            self.cancel(handle)

    def enough(self, handle: int, now_us: int) -> None:
        search = self._searches.get(handle)
        if search is not None:
            search.end(now_us)

    def cancel(self, handle: int) -> None:
        search = self._searches.pop(handle, None)
        if search is not None:
            search.ended = True

    @property
    def due_us(self) -> int:
        """When `go_on` has something to do; 0 where a caller may by now have said `enough`."""
        if self._pausing:
            return 0
        return self._parked[0][0] if self._parked else NEVER_US

    def go_on(self, now_us: int) -> None:
        """Lookups that stood still for a moment."""
        pausing, self._pausing = self._pausing, []
        for fetch in pausing:
            fetch.pausing = False
            fetch.go_on(now_us)
        if self._parked and (self._table.size or now_us >= self._parked[0][0]):
            parked, self._parked = self._parked, []
            for _, search in parked:
                target = search.lookup.target
                search.lookup.start(self._table.find_neighbors(target, K), self._sure(target))
                search.go_on(now_us)

    # ------------------------------------------------------------------ inside

    @property
    def _wires(self) -> tuple[int, Questions]:
        return self._size, self._questions

    def _lookup(
        self, target: bytes, now_us: int, k: int = K, paths: int = 1, thorough: bool = True
    ) -> Lookup:
        number = int.from_bytes(target, "big")
        self._table.touched(number, now_us // 1_000_000)
        avoid = () if self._where.endpoint is None else (self._where.endpoint,)
        sure = self._sure(number) if thorough else []
        return Lookup(number, self._table.find_neighbors(number, K), k, paths, avoid, sure)

    def _sure(self, target: int) -> list[Contact]:
        """Those whom nobody can have made all of one mind: who we were told of, and some from everywhere."""
        return [*self._bootstrap.known, *self._table.spread(target)]

    def _start(self, search: Search, now_us: int) -> int:
        self._searches[search.handle] = search
        if not self._table.size and len(self._bootstrap):
            self._parked.append((now_us + PARKED_US, search))
        elif not isinstance(search, Fetch) or not search.pausing:
            search.go_on(now_us)
        return search.handle

    def _met(self, search: Search, _now_us: int) -> None:
        self._searches.pop(search.handle, None)

    def _found(self, search: Search, _now_us: int) -> None:
        self._searches.pop(search.handle, None)
        lookup = search.lookup
        closest = lookup.closest()
        hops = lookup.depth(closest[0]) if closest else 0
        self._events.append(Found(search.handle, closest, hops, lookup.messages))

    def _got(self, fetch: Fetch, records: list[bytes]) -> None:
        self._pausing.append(fetch)
        self._events.append(Got(fetch.handle, records, False, fetch.hops, fetch.lookup.messages))

    def _got_all(self, search: Search, _now_us: int) -> None:
        self._searches.pop(search.handle, None)
        assert isinstance(search, Fetch)
        self._events.append(Got(search.handle, [], True, search.hops, search.lookup.messages))

    def _publish(self, search: Search, records: Sequence[bytes], now_us: int) -> None:
        handle, key, closest = search.handle, search.target, search.lookup.closest()
        here = self._keep_here(key, records, len(closest) < K or self._closer_than(closest[-1].long_id, key))
        if here is not None:
            closest = closest[: K - 1]

        def done(stored: int, asked: int) -> None:
            self._events.append(Put(handle, stored, asked))

        Publication(here, done).start(closest, key, records, self._questions, now_us)

    def _keep_here(self, key: bytes, records: Sequence[bytes], close: bool) -> bool | None:
        """None where it is not for us to keep."""
        if not close or not self._questions.serving:
            return None
        network = self._where.network
        kept = [self._shelf.put(key, record, network, self.unix) for record in records]
        return kept == [KEPT] * len(kept)

    def _closer_than(self, long_id: int, key: bytes) -> bool:
        target = int.from_bytes(key, "big")
        return self._where.long_id ^ target < long_id ^ target
