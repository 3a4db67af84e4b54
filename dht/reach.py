"""Can strangers reach us? Somebody is asked to have somebody else send us a datagram.

    we ── Reach ──▶ helper ── Dial(us, nonce) ──▶ dialler ── Reached(nonce) ──▶ we
       ◀── Stored ──        ◀───── Pong ─────────

The dialler lies in another network than the helper, and we must not have called it lately: a NAT lets in
whom it has seen us write to. A node sends a Reached only where a node that it gave a token to says so,
seldom, and never to an address of narrower scope than that node's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dht import endpoints
from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.limits import RateLimit
from dht.messages import Dial, Pong, Reach, Reached, Stored, encode_dht
from dht.questions import NEVER_US, Answer, Question, Questions

TRIES: Final = 2
TRY_US: Final = 4_000_000
EVERY_US: Final = 20_000_000  # from one check to the next
ASKED, NOBODY = 0, 4  # what Stored says to a Reach
PER_NETWORK: Final = (1, 4)  # a second, and burst: dials for one network
ALL: Final = (4, 16)


class ReachCheck:
    """Ours. `helpers()` gives contacts in random order; `done(answer, now_us)` gets True, False or None."""

    __slots__ = (
        "_asked",
        "_done",
        "_helper",
        "_helpers",
        "_nonce",
        "_questions",
        "_started_us",
        "_tries",
        "due_us",
    )

    def __init__(
        self,
        questions: Questions,
        helpers: Callable[[], list[Contact]],
        done: Callable[[bool | None, int], None],
    ) -> None:
        self._questions = questions
        self._helpers = helpers
        self._done = done
        self._started_us: int | None = None
        self._tries: list[Contact] = []
        self._helper: Contact | None = None
        self._nonce: bytes | None = None
        self._asked = 0  # helpers who say that they have asked somebody
        self.due_us = NEVER_US  # when this try has failed

    def start(self, now_us: int) -> bool:
        """False while one is under way or was lately."""
        if self._started_us is not None and now_us - self._started_us < EVERY_US:
            return False
        self._started_us = now_us
        self._tries = self._helpers()[:TRIES]
        self._asked = 0
        self._next(now_us)
        return True

    def _next(self, now_us: int) -> None:
        self._nonce, self.due_us = None, NEVER_US
        if not self._tries:
            self._end(False if self._asked else None, now_us)
            return
        self._helper = self._tries.pop(0)
        self.due_us = now_us + TRY_US
        if self._questions.token(self._helper.endpoint, now_us):
            self._nonce = self._questions.reach(self._helper, self, now_us)
        else:
            self._questions.ping(self._helper, self, now_us)

    def _end(self, reachable: bool | None, now_us: int) -> None:
        self._helper, self._nonce, self.due_us = None, None, NEVER_US
        self._tries = []
        self._done(reachable, now_us)

    def tick(self, now_us: int) -> None:
        if now_us >= self.due_us:
            self._next(now_us)

    def reached(self, message: Reached, source: Endpoint, now_us: int) -> bool:
        """False when nobody waits for this one, or it proves nothing."""
        if self._helper is None or message.t != self._nonce:
            return False
        if endpoints.network(source) == self._helper.network:
            return False
        if self._questions.called(source, now_us):
            self._asked -= 1  # no answer either way
            return False
        self._end(True, now_us)
        return True

    def answered(self, question: Question, answer: Answer, _contact: Contact | None, now_us: int) -> None:
        if self._helper is None or question.contact is not self._helper:
            return
        if isinstance(answer, Pong) and self._nonce is None:
            self._nonce = self._questions.reach(self._helper, self, now_us)
        elif isinstance(answer, Stored) and answer.status == ASKED:
            self._asked += 1
        else:
            self._next(now_us)

    def unanswered(self, question: Question, now_us: int) -> None:
        if self._helper is not None and question.contact is self._helper:
            self._next(now_us)


class Dialling:
    """For others: as helper and as dialler."""

    __slots__ = ("_all", "_counters", "_networks", "_outgoing", "_questions")

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._outgoing = questions.outgoing
        self._counters = questions.counters
        self._networks = RateLimit(*PER_NETWORK, capacity=256)
        self._all = RateLimit(*ALL, capacity=1)

    def help(self, question: Reach, source: Endpoint, among: Callable[[], list[Contact]], now_us: int) -> int:
        """Have one of these dial the source, which has shown a token. What the Stored says."""
        network = endpoints.network(source)
        if not self._may(network, now_us):
            return NOBODY
        for contact in among():
            if contact.network != network and self._questions.token(contact.endpoint, now_us):
                asked = self._questions.dial(contact, source, question.t, self, now_us)
                return ASKED if asked else NOBODY
        return NOBODY

    def dial(self, question: Dial, source: Endpoint, now_us: int) -> None:
        """The source has shown a token."""
        whom = question.whom
        fits = len(whom) == len(source) and endpoints.usable(whom)
        if not fits or endpoints.scope(whom) < endpoints.scope(source):
            self._counters["dial to where nobody may send"] += 1
        elif endpoints.network(whom) == endpoints.network(source):
            self._counters["dial to the asker's own network"] += 1
        elif self._may(endpoints.network(whom), now_us):
            self._outgoing.append((encode_dht(Reached(question.nonce)), whom))

    def _may(self, network: bytes, now_us: int) -> bool:
        if self._networks.allow(network, now_us) and self._all.allow(b"", now_us):
            return True
        self._counters["dials too often"] += 1
        return False

    def answered(self, _question: Question, _answer: Answer, _contact: Contact | None, _now_us: int) -> None:
        """The dialler has heard us."""

    def unanswered(self, _question: Question, _now_us: int) -> None:
        """Who asked will notice, and ask another."""
