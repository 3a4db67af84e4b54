"""Questions that are under way: whom they went to, until when an answer counts, and what the tokens were.

A question has a transaction of eight random bytes; its answer must come from the very endpoint that was
asked, and be of the kind that the question wants. No question is overtaken by a later one: deadlines never go
back, so the first in the dict is always the next to time out, and there is no timer for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.messages import (
    PADDED_BYTES,
    DhtMessage,
    Dial,
    Find,
    Get,
    Nodes,
    Ping,
    Pong,
    Reach,
    Store,
    Stored,
    Values,
    encode_dht,
)
from dht.patience import Patience
from dht.tokens import TOKEN_BYTES

Answer: TypeAlias = Pong | Nodes | Values | Stored

NEVER_US: Final = 1 << 62
UNDER_WAY: Final = 512
TOKENS: Final = 64  # of others, that we remember
_SECOND_BYTES: Final = 4
_GIVEN_BYTES: Final = TOKEN_BYTES + _SECOND_BYTES
TOKEN_S: Final = 270  # theirs hold for five to ten minutes (dht/tokens.py)
_PAD: Final = bytes(PADDED_BYTES - 54)  # 54 bytes: the shortest Find, with no tail and no token

_PING_PAD: Final = bytes(16)  # to three times this any Pong fits


class Asker(Protocol):
    """Who hears what became of a question."""

    def answered(self, question: Question, answer: Answer, contact: Contact | None, now_us: int, /) -> None:
        """`contact`: who answered, None where it shows no id; it may be another than who was asked."""

    def unanswered(self, question: Question, now_us: int, /) -> None:
        """Nobody did."""


class Question:
    """`contact`: whom it was for, None where only the endpoint was known. `note` is the asker's own."""

    __slots__ = ("again", "asker", "contact", "deadline_us", "endpoint", "note", "sent_us", "wants")

    def __init__(
        self,
        endpoint: Endpoint,
        contact: Contact | None,
        asker: Asker,
        wants: tuple[type[Answer], ...],
        note: int,
        sent_us: int,
    ) -> None:
        self.endpoint = endpoint
        self.contact = contact
        self.asker = asker
        self.wants = wants
        self.note = note
        self.sent_us = sent_us
        self.deadline_us = 0
        self.again: bytes | None = None  # what is sent once more before it counts as unanswered


class Questions:
    """`tail()`: what we show of our id. `outgoing`: where datagrams go."""

    __slots__ = (
        "_entropy",
        "_last_us",
        "_random",
        "_tokens",
        "_under_way",
        "counters",
        "heard_us",
        "outgoing",
        "patience",
        "tail",
    )

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        outgoing: list[tuple[bytes, Endpoint]],
        counters: Counter[str],
    ) -> None:
        self.tail = b""
        self.outgoing = outgoing
        self.counters = counters
        self.patience = Patience()
        self.heard_us = -1  # when an answer came last
        self._entropy = entropy
        self._random = b""
        self._under_way: dict[bytes, Question] = {}
        # Of others, the oldest first: endpoint ‖ token, 8 bytes ‖ the second that it came, 4 bytes. In one
        # piece, as a dict of them takes four times the memory. All endpoints are of one family.
        self._tokens = bytearray()
        self._last_us = 0

    @property
    def serving(self) -> bool:
        """Whether we show an id, and so are in others' tables."""
        return self.tail != b""

    # ------------------------------------------------------------------ asking

    def ping(self, to: Contact | Endpoint, asker: Asker, now_us: int) -> bool:
        """False where too many questions are under way; nothing is sent then, nor heard of it."""
        return self._ask(
            to,
            (Pong,),
            asker,
            now_us,
            0,
            lambda t, token: Ping(t, self.tail, token, b"" if token else _PING_PAD),
        )

    def find(self, to: Contact, target: bytes, asker: Asker, now_us: int, again: bool = False) -> bool:
        """`again`: sent twice before it counts as unanswered."""
        return self._ask(
            to,
            (Nodes,),
            asker,
            now_us,
            0,
            lambda t, token: Find(t, self.tail, token, target, b"" if token else _PAD),
            again,
        )

    def get(
        self, to: Contact, key: bytes, offset: int, asker: Asker, now_us: int, again: bool = False
    ) -> bool:
        return self._ask(
            to,
            (Values, Nodes),
            asker,
            now_us,
            offset,
            lambda t, token: Get(t, self.tail, token, key, offset, b"" if token else _PAD),
            again,
        )

    def store(
        self, to: Contact, key: bytes, part: int, parts: int, chunk: bytes, asker: Asker, now_us: int
    ) -> bool:
        """Sent twice before it counts as unanswered."""
        return self._ask(
            to,
            (Stored,),
            asker,
            now_us,
            0,
            lambda t, token: Store(t, self.tail, token, key, part, parts, chunk),
            again=True,
        )

    def reach(self, to: Contact, asker: Asker, now_us: int) -> bytes | None:
        """The transaction, which the Reached will repeat."""
        if self._ask(to, (Stored,), asker, now_us, 0, lambda t, token: Reach(t, self.tail, token)):
            return next(reversed(self._under_way))
        return None

    def dial(self, to: Contact, whom: Endpoint, nonce: bytes, asker: Asker, now_us: int) -> bool:
        return self._ask(
            to, (Pong,), asker, now_us, 0, lambda t, token: Dial(t, self.tail, token, whom, nonce)
        )

    def _ask(
        self,
        to: Contact | Endpoint,
        wants: tuple[type[Answer], ...],
        asker: Asker,
        now_us: int,
        note: int,
        make: Callable[[bytes, bytes], DhtMessage],
        again: bool = False,
    ) -> bool:
        if len(self._under_way) >= UNDER_WAY:
            self.counters["question not asked: too many under way"] += 1
            return False
        contact = to if isinstance(to, Contact) else None
        endpoint = to.endpoint if isinstance(to, Contact) else to
        transaction = self._transaction()
        datagram = encode_dht(make(transaction, self.token(endpoint, now_us)))
        question = Question(endpoint, contact, asker, wants, note, now_us)
        if again:
            question.again = datagram
        self._wait(transaction, question, now_us)
        self.outgoing.append((datagram, endpoint))
        return True

    def _transaction(self) -> bytes:
        if not self._random:
            self._random = self._entropy(256)
        transaction, self._random = self._random[:8], self._random[8:]
        return transaction

    def _wait(self, transaction: bytes, question: Question, now_us: int) -> None:
        self._last_us = question.deadline_us = max(self._last_us, now_us + self.patience.wait_us())
        self._under_way[transaction] = question

    # ------------------------------------------------------------------ answers, and none

    def settle(self, answer: Answer, source: Endpoint, now_us: int) -> Question | None:
        """The question that this answers, now no longer under way; None, and counted, where there is none."""
        question = self._under_way.get(answer.t)
        if question is None or question.endpoint != source:
            self.counters["answer that nobody asked for"] += 1
            return None
        if not isinstance(answer, question.wants):
            self.counters["answer of the wrong kind"] += 1
            return None
        del self._under_way[answer.t]
        self.heard_us = now_us
        self.patience.answered(now_us - question.sent_us)
        if len(answer.token) == TOKEN_BYTES:
            self._remember(question.endpoint, answer.token, now_us)
        return question

    def expire(self, now_us: int) -> list[Question]:
        """Those that are not answered and no longer will be."""
        found: list[Question] = []
        while self._under_way:
            transaction = next(iter(self._under_way))
            question = self._under_way[transaction]
            if question.deadline_us > now_us:
                break
            del self._under_way[transaction]
            if question.again is not None:
                self.outgoing.append((question.again, question.endpoint))
                question.again = None
                self._wait(transaction, question, now_us)
                continue
            self.patience.silent()
            found.append(question)
        return found

    def deadline_us(self) -> int:
        for question in self._under_way.values():
            return question.deadline_us
        return NEVER_US

    # ------------------------------------------------------------------ tokens of others

    def token(self, endpoint: Endpoint, now_us: int) -> bytes:
        """What they gave us to show them, empty where we have nothing fresh."""
        place = self._place(endpoint)
        if place < 0:
            return b""
        at = place + len(endpoint)
        token, second = (
            self._tokens[at : at + TOKEN_BYTES],
            self._tokens[at + TOKEN_BYTES : at + _GIVEN_BYTES],
        )
        if now_us // 1_000_000 - int.from_bytes(second, "big") >= TOKEN_S:
            return b""
        return bytes(token)

    def called(self, endpoint: Endpoint, now_us: int) -> bool:
        """Whether we sent something there in the last minutes, as far as we remember."""
        under_way = any(question.endpoint == endpoint for question in self._under_way.values())
        return under_way or self.token(endpoint, now_us) != b""

    def _place(self, endpoint: Endpoint) -> int:
        """Where in `_tokens` its entry begins; below 0 where it has none."""
        tokens, size = self._tokens, len(endpoint) + _GIVEN_BYTES
        place = tokens.find(endpoint)
        while place > 0 and place % size:
            place = tokens.find(endpoint, place + 1)
        return place

    def _remember(self, endpoint: Endpoint, token: bytes, now_us: int) -> None:
        tokens, size = self._tokens, len(endpoint) + _GIVEN_BYTES
        place = self._place(endpoint)
        if place >= 0:
            del tokens[place : place + size]
        elif len(tokens) >= TOKENS * size:
            del tokens[:size]
        tokens += endpoint + token + (now_us // 1_000_000).to_bytes(_SECOND_BYTES, "big")
