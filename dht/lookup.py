"""One lookup: whom to ask next for what lies closest to a target. No bytes, no clock, no table.

    start ─▶ next() ─▶ ask them ─▶ answered(contact, whom it named) ─┐
                ▲                  failed(contact)                   │   until `done`
                └────────────────────────────────────────────────────┘

On each path, the k closest candidates that have not failed, one of each network, are its view. It is done
when all in its view have answered, and the closest of the start with them. A lookup for nodes has one path.
One for values has two, and nobody is asked on both (S/Kademlia, section 4.4), so that a liar on one of them
cannot lead the other astray.

How many questions a path has under way at once is α = 3, and one more for each that went unanswered since the
last answer.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Final

from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.routing import K

ALPHA: Final = 3
ALPHA_MOST: Final = 8
NAMED_MOST: Final = 20  # contacts taken of one answer
CANDIDATES: Final = 60  # kept on a path: the closest
ASKED_MOST: Final = 200  # questions of a lookup, however close the names are that it is lured on with
OF_A_NETWORK: Final = 3  # candidates, as in the routing table

NEW, ASKED, ANSWERED, FAILED = range(4)


class _Candidate:
    __slots__ = ("contact", "depth", "path", "state")

    def __init__(self, contact: Contact, depth: int, path: _Path) -> None:
        self.contact = contact
        self.depth = depth  # how many nodes one after another led there, itself included
        self.state = NEW
        self.path = path


class _Path:
    __slots__ = ("changed", "done", "order", "silences", "start", "under_way")

    def __init__(self) -> None:
        self.order: list[int] = []  # distances of its candidates
        self.start: list[int] = []  # of those who are asked before it is done, however far away
        self.under_way = 0
        self.silences = 0  # since the last answer
        self.changed = True  # since it was last seen who is next
        self.done = False


class Lookup:
    """`target`: a number of 256 bits. `start`: whom we know. `k`: how many closest ones are wanted, on all
    paths together. `avoid`: our own endpoint and whoever else is not to be asked. `sure`: who is asked in any
    case, however far away."""

    __slots__ = (
        "_asked",
        "_endpoints",
        "_known",
        "_networks",
        "_paths",
        "k",
        "messages",
        "target",
    )

    def __init__(
        self,
        target: int,
        start: Sequence[Contact],
        k: int = K,
        paths: int = 1,
        avoid: Iterable[Endpoint] = (),
        sure: Sequence[Contact] = (),
    ) -> None:
        self.target = target
        self.k = k
        self.messages = 0  # datagrams, both ways
        self._asked = 0
        self._known: dict[int, _Candidate] = {}  # by distance
        self._endpoints = set(avoid)
        self._networks: dict[bytes, int] = {}
        self._paths = [_Path() for _ in range(paths)]
        self.start(start, sure)

    def start(self, contacts: Sequence[Contact], sure: Sequence[Contact] = ()) -> None:
        """Begin with these: at the very start, or when nobody was known then."""
        target, paths = self.target, self._paths
        for path in paths:
            path.changed = True
        for number, contact in enumerate(sorted(contacts, key=lambda contact: contact.long_id ^ target)):
            self._add(contact, 1, paths[number % len(paths)])
        for number, contact in enumerate(sure):
            self._add(contact, 1, paths[number % len(paths)])
            distance = contact.long_id ^ target
            candidate = self._known.get(distance)
            if candidate is not None and distance not in candidate.path.start:
                candidate.path.start.append(distance)

    # ------------------------------------------------------------------ what happens

    def next(self) -> list[Contact]:
        """Whom to ask now; they count as asked."""
        found: list[Contact] = []
        for path in self._paths:
            if self._asked + len(found) >= ASKED_MOST:
                path.done = True
            elif path.changed and not path.done:
                path.changed = False
                self._advance(path, found)
        self._asked += len(found)
        self.messages += len(found)
        return found

    @property
    def scarce(self) -> bool:
        """So few candidates that none should be lost to a lost datagram."""
        return len(self._known) <= ALPHA

    def answered(self, contact: Contact, named: Sequence[Contact]) -> None:
        """It named these, of which the first NAMED_MOST are looked at."""
        candidate = self._known.get(contact.long_id ^ self.target)
        if candidate is None or candidate.state != ASKED:
            return
        self.messages += 1
        candidate.state = ANSWERED
        path = candidate.path
        path.under_way -= 1
        path.silences = 0
        path.changed = True
        known, target, depth = self._known, self.target, candidate.depth + 1
        for other in named[:NAMED_MOST]:
            if other.long_id ^ target not in known:
                self._add(other, depth, path)

    def renamed(self, contact: Contact, to: Contact, named: Sequence[Contact]) -> None:
        """Who was named to us by a false id answered by its own, and named these. Else one liar could take
        out of the lookup all those that are closest, naming them falsely before they are named truly."""
        candidate = self._known.get(contact.long_id ^ self.target)
        if candidate is None or candidate.state != ASKED:
            return
        self._take_out(contact.long_id ^ self.target, candidate.path)
        candidate.state = FAILED
        distance = to.long_id ^ self.target
        if distance in self._known:
            candidate.path.under_way -= 1
            candidate.path.changed = True
            return
        true = self._known[distance] = _Candidate(to, candidate.depth, candidate.path)
        true.state = ASKED
        self._networks[to.network] = self._networks.get(to.network, 0) + 1
        insort(candidate.path.order, distance)
        self.answered(to, named)

    def failed(self, contact: Contact) -> None:
        """It did not answer."""
        candidate = self._known.get(contact.long_id ^ self.target)
        if candidate is None or candidate.state != ASKED:
            return
        candidate.path.under_way -= 1
        candidate.path.silences += 1
        candidate.path.changed = True
        candidate.state = FAILED
        self._take_out(contact.long_id ^ self.target, candidate.path)

    # ------------------------------------------------------------------ what came of it

    @property
    def done(self) -> bool:
        return all(path.done for path in self._paths)

    def depth(self, contact: Contact) -> int:
        """How many nodes one after another led to it, itself included."""
        candidate = self._known.get(contact.long_id ^ self.target)
        return candidate.depth if candidate is not None else 0

    def closest(self) -> list[Contact]:
        """Up to k that answered, the closest first, each in a network of its own."""
        found: list[Contact] = []
        networks: set[bytes] = set()
        for distance in sorted(distance for path in self._paths for distance in path.order):
            candidate = self._known[distance]
            if candidate.state == ANSWERED and candidate.contact.network not in networks:
                networks.add(candidate.contact.network)
                found.append(candidate.contact)
                if len(found) == self.k:
                    break
        return found

    # ------------------------------------------------------------------ inside

    def _advance(self, path: _Path, found: list[Contact]) -> None:
        room = min(ALPHA + path.silences, ALPHA_MOST) - path.under_way
        left = -(-self.k // len(self._paths))
        known = self._known
        networks: set[bytes] = set()
        waiting = False
        for distance in path.order:
            candidate = known[distance]
            network = candidate.contact.network
            if network in networks:
                continue
            networks.add(network)
            if candidate.state != ANSWERED:
                waiting = True
                if candidate.state == NEW:
                    if room <= 0:
                        break
                    candidate.state = ASKED
                    path.under_way += 1
                    room -= 1
                    found.append(candidate.contact)
            left -= 1
            if not left:
                break
        if not waiting:
            # All in the view have answered, but they may be of one mind: liars name only each other, and
            # twenty of them are a view. Of those we knew before, hardly all are among them.
            waiting = self._ask_start(path, room, found)
        path.done = not waiting

    def _ask_start(self, path: _Path, room: int, found: list[Contact]) -> bool:
        """Those of the start who have not been asked; whether there are any, or their answers are missing."""
        start = [self._known[distance] for distance in path.start]
        waiting = [candidate for candidate in start if candidate.state in (NEW, ASKED)]
        for candidate in waiting:
            if candidate.state == NEW and room > 0:
                candidate.state = ASKED
                path.under_way += 1
                room -= 1
                found.append(candidate.contact)
        return bool(waiting)

    def _add(self, contact: Contact, depth: int, path: _Path) -> None:
        """A candidate, unless there are CANDIDATES closer ones, or its endpoint or network has its share."""
        distance = contact.long_id ^ self.target
        full = len(path.order) >= CANDIDATES
        if full and distance > path.order[-1]:
            return
        network = contact.network
        named = self._networks.get(network, 0)
        if distance in self._known or contact.endpoint in self._endpoints or named >= OF_A_NETWORK:
            return
        if full:
            self._take_out(path.order[-1], path)
        self._known[distance] = _Candidate(contact, depth, path)
        self._endpoints.add(contact.endpoint)
        self._networks[network] = self._networks.get(network, 0) + 1
        insort(path.order, distance)

    def _take_out(self, distance: int, path: _Path) -> None:
        """It can be in no view any more. An answer of it still counts."""
        place = bisect_left(path.order, distance)
        if place < len(path.order) and path.order[place] == distance:
            del path.order[place]
            self._networks[self._known[distance].contact.network] -= 1
