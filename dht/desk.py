"""Where questions of strangers arrive: who are they, have they shown that they receive there, what is said.

question ─▶ token good? ─▶ the asker into the table ─▶ answer of any length
                 no ─▶ pinged, if the table has room ─▶ answer of at most three times the question
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

from dht import contacts
from dht.answers import Answers, Shelf, room_for
from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.limits import RateLimit
from dht.messages import Dial, Find, Get, Ping, Pong, Reach, Store, Stored, encode_dht
from dht.questions import Answer, Questions
from dht.reach import Dialling
from dht.routing import RoutingTable
from dht.tokens import Tokens

Asked: TypeAlias = Ping | Find | Get | Store | Reach | Dial

STRANGERS: Final = (10, 40)  # who asks without a token is pinged for the table: a second, and burst
PING_BYTES: Final = 64  # at most, of a ping to one that we have no token of


class Desk:
    """`proven` hears who receives where they say; `probe`, whom to ping; `anybody()` gives contacts."""

    __slots__ = (
        "_anybody",
        "_counters",
        "_dialling",
        "_outgoing",
        "_probe",
        "_proven",
        "_questions",
        "_strangers",
        "_table",
        "_tokens",
        "answers",
    )

    def __init__(
        self,
        table: RoutingTable,
        shelf: Shelf,
        questions: Questions,
        size: int,
        tokens: Tokens,
        *,
        proven: Callable[[Contact, int], None],
        probe: Callable[[Contact, int], bool],
        anybody: Callable[[], list[Contact]],
    ) -> None:
        self.answers = Answers(shelf, questions, size, questions.counters)
        self._table = table
        self._tokens = tokens
        self._questions = questions
        self._proven = proven
        self._probe = probe
        self._anybody = anybody
        self._outgoing = questions.outgoing
        self._counters: Counter[str] = questions.counters
        self._dialling = Dialling(questions)
        self._strangers = RateLimit(*STRANGERS, capacity=1)

    def hear(self, question: Asked, source: Endpoint, size: int, now_us: int, unix: int) -> None:
        """A question that came in a datagram of `size` bytes."""
        proven = self._tokens.holds(question.token, source, now_us)
        room = room_for(size, proven)
        if question.tail and self._meet(contacts.at(question.tail, source), proven, now_us):
            room -= PING_BYTES
        token = self._tokens.make(source, now_us)  # not the one shown: that may be about to run out
        answer: Answer | None
        if isinstance(question, Find):
            answer = self.answers.find(question, source, token, room, self._table)
        elif isinstance(question, Get):
            answer = self.answers.get(question, source, token, room, self._table, unix)
        elif isinstance(question, Ping):
            answer = self.answers.ping(question, source, token)
        elif isinstance(question, Store):
            answer = self.answers.store(question, source, token, proven, now_us, unix)
        else:
            answer = self._on_reach(question, source, token, proven, now_us)
        if answer is not None:
            self._send(answer, source, room)

    def _meet(self, asker: Contact, proven: bool, now_us: int) -> bool:
        """Whether it was sent a ping."""
        if not asker.usable:
            self._counters["from where nobody can be"] += 1
        elif proven:
            self._proven(asker, now_us)
        elif self._table.wants(asker):
            if self._strangers.allow(b"", now_us):
                return self._probe(asker, now_us)
            self._counters["strangers not pinged: too many"] += 1
        return False

    def _on_reach(
        self, question: Reach | Dial, source: Endpoint, token: bytes, proven: bool, now_us: int
    ) -> Answer | None:
        if not proven:
            self._counters["reach or dial without a token"] += 1
            return None
        if isinstance(question, Dial):
            self._dialling.dial(question, source, now_us)
            return Pong(question.t, self._questions.tail, source, token)
        status = self._dialling.help(question, source, self._anybody, now_us)
        return Stored(question.t, self._questions.tail, source, token, status)

    def _send(self, answer: Answer, to: Endpoint, room: int) -> None:
        datagram = encode_dht(answer)
        if len(datagram) > room:
            self._counters["answer not sent: too long for who shows no token"] += 1
        else:
            self._outgoing.append((datagram, to))
