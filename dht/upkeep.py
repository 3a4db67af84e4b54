"""Keeping the table true: lookups of our own neighbourhood, of what nobody looks at, pings of who is silent.

All on one timer, EVERY_US or so, and all of it faster the more questions go unanswered: in a calm network a
contact is asked every 15 minutes, in one where many have left as often as PINGS allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.questions import NEVER_US, Answer, Question, Questions
from dht.routing import STALE_S, RoutingTable

EVERY_US: Final = 30_000_000
LOOKUP_EVERY_US: Final = 20_000_000  # one of ours at most
SELF_FIRST_S: Final = (
    20  # after the first lookup of our own neighbourhood; then thrice as long each time, up to …
)
SELF_EVERY_S: Final = 900
PINGS: Final = 8  # of silent contacts, each time
PROBES: Final = 32  # under way
SLOPE: Final = 5  # of 1,000, by which intervals shrink for each question of 1,000 that fails …
LEAST: Final = 200  # … down to this of 1,000

BOOTSTRAPS: Final = 256
KNOWN: Final = 4
TRIES: Final = 3  # with somebody that does not answer, though others are known
FIRST_RETRY_US: Final = 2_000_000
LAST_RETRY_US: Final = 300_000_000
AT_ONCE: Final = 8
PACE_US: Final = 1_000_000


class _Start:
    __slots__ = ("answered", "due_us", "named", "retry_us")

    def __init__(self, now_us: int, named: bool) -> None:
        self.named = named  # by the owner
        self.answered = False
        self.due_us = now_us
        self.retry_us = FIRST_RETRY_US

    def wanted(self, alone: bool) -> bool:
        """Whether to ask it when it is due. Who has an honest one among those that it was told of is not to
        miss it for a lost datagram."""
        return alone or (not self.answered and self.retry_us < FIRST_RETRY_US << TRIES)


class Bootstrap:
    """Endpoints that may be nodes: of invitations, of the configuration, of a table that was saved. Each is
    pinged up to TRIES times, and again with back-off while the table is empty; later one now and then, so
    that two halves of a network that lost each other meet again."""

    __slots__ = ("_questions", "_starts", "due_us", "known")

    def __init__(self, questions: Questions) -> None:
        self.known: list[Contact] = []
        """Up to KNOWN of those that the owner named and that answered, the first ones. An attacker may fill
        our table, but that we were told of these is not its doing."""
        self._questions = questions
        self._starts: dict[Endpoint, _Start] = {}
        self.due_us = NEVER_US

    def add(self, endpoints: Iterable[Endpoint], now_us: int, *, named: bool = True) -> None:
        """`named`: the owner named them."""
        for endpoint in endpoints:
            start = self._starts.get(endpoint)
            if start is not None:
                start.due_us = min(start.due_us, now_us)
                start.named |= named
            elif len(self._starts) < BOOTSTRAPS:
                self._starts[endpoint] = _Start(now_us, named)
        if self._starts:
            self.due_us = now_us

    def __len__(self) -> int:
        return len(self._starts)

    def run(self, alone: bool, now_us: int) -> None:
        """Ping those that are due, AT_ONCE a PACE_US. `alone`: the table is empty."""
        asked = 0
        self.due_us = NEVER_US
        for endpoint, start in self._starts.items():
            if not start.wanted(alone):
                continue
            if start.due_us <= now_us and asked < AT_ONCE:
                asked += self._ask(endpoint, start, now_us)
            if start.wanted(alone):
                self.due_us = min(self.due_us, max(start.due_us, now_us + PACE_US))

    def remind(self, now_us: int) -> None:
        """Ping the one that was not pinged for longest."""
        if self._starts:
            endpoint = next(iter(self._starts))
            start = self._starts[endpoint] = self._starts.pop(endpoint)
            self._ask(endpoint, start, now_us)

    def _ask(self, endpoint: Endpoint, start: _Start, now_us: int) -> bool:
        start.due_us = now_us + start.retry_us
        start.retry_us = min(2 * start.retry_us, LAST_RETRY_US)
        return self._questions.ping(endpoint, self, now_us)

    def answered(self, question: Question, _answer: Answer, contact: Contact | None, _now_us: int) -> None:
        """It is in the table now, if it shows an id and there is room."""
        start = self._starts.get(question.endpoint)
        if start is None:
            return
        start.answered = True
        if start.named and contact is not None and contact not in self.known and len(self.known) < KNOWN:
            self.known.append(contact)

    def unanswered(self, question: Question, _now_us: int) -> None:
        """Its next turn is set already."""
        self.known = [contact for contact in self.known if contact.endpoint != question.endpoint]


class Upkeep:
    """`look(target, whole, now_us)` starts a lookup: to the very closest, or only to meet who lives there."""

    __slots__ = (
        "_entropy",
        "_look",
        "_looked_us",
        "_probing",
        "_questions",
        "_self_s",
        "_self_us",
        "bootstrap",
        "due_us",
    )

    def __init__(
        self,
        questions: Questions,
        bootstrap: Bootstrap,
        entropy: Callable[[int], bytes],
        look: Callable[[int, bool, int], None],
        now_us: int,
    ) -> None:
        self.bootstrap = bootstrap
        self._questions = questions
        self._entropy = entropy
        self._look = look
        self._probing: dict[Endpoint, None] = {}
        self._looked_us = now_us - LOOKUP_EVERY_US
        self._self_us = now_us  # when our own neighbourhood is to be looked at
        self._self_s = SELF_FIRST_S
        self.due_us = now_us + EVERY_US

    def look_at_self(self, now_us: int) -> None:
        """At once: somebody is known at last, or our id is another."""
        self._self_us = self.due_us = now_us
        self._self_s = SELF_FIRST_S
        self._looked_us = now_us - LOOKUP_EVERY_US

    def announce(self) -> None:
        """As soon as may be: our neighbours do not know yet that we serve."""
        self._self_us = self.due_us = 0

    def hurry(self) -> int:
        """Of 1,000: what is left of each interval as things are."""
        return max(1000 - SLOPE * self._questions.patience.failing, LEAST)

    def tick(self, table: RoutingTable, now_us: int) -> bool:
        """True when it was time for what is done now and then."""
        if now_us >= self.bootstrap.due_us:
            self.bootstrap.run(table.size == 0, now_us)
        if now_us < self.due_us:
            return False
        self._run(table, now_us)
        return True

    def _run(self, table: RoutingTable, now_us: int) -> None:
        # Not all nodes at the same time: up to an eighth earlier.
        self.due_us = now_us + EVERY_US - EVERY_US // 8 * self._entropy(1)[0] // 256
        second = now_us // 1_000_000
        if not table.size:
            self.bootstrap.add((), now_us)
            return
        for contact in table.stale(second, STALE_S * self.hurry() // 1000, PINGS):
            self.probe(contact, now_us)
        if now_us - self._looked_us >= LOOKUP_EVERY_US:
            self._look_somewhere(table, now_us)

    def _look_somewhere(self, table: RoutingTable, now_us: int) -> None:
        second = now_us // 1_000_000
        if now_us >= self._self_us:
            self._self_us = now_us + self._self_s * 1000 * self.hurry()
            self._self_s = min(3 * self._self_s, SELF_EVERY_S)
            self._looked_us = now_us
            self.bootstrap.remind(now_us)
            self._look(table.own, True, now_us)
            return
        lonely = table.lonely_buckets(second)
        if lonely:
            self._looked_us = now_us
            self._look(table.id_in(lonely[-1], self._entropy(32)), False, now_us)
            if len(lonely) > 1:
                self.due_us = min(self.due_us, now_us + LOOKUP_EVERY_US)

    # ------------------------------------------------------------------ pings

    def probe(self, contact: Contact, now_us: int) -> bool:
        """Ping it, unless that is under way, or too many are."""
        if contact.endpoint in self._probing or len(self._probing) >= PROBES:
            return False
        if not self._questions.ping(contact, self, now_us):
            return False
        self._probing[contact.endpoint] = None
        return True

    def answered(self, question: Question, _answer: Answer, _contact: Contact | None, _now_us: int) -> None:
        self._probing.pop(question.endpoint, None)

    def unanswered(self, question: Question, _now_us: int) -> None:
        self._probing.pop(question.endpoint, None)
