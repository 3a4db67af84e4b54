"""Handing records to a node: STORE, one part after the other, each acknowledged.

ask for a token if there is none ─▶ part 0 of record 0 ─▶ … ─▶ last part ─▶ record 1 ─▶ …
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dht.contacts import Contact
from dht.messages import Stored
from dht.questions import Answer, Question, Questions
from dht.tokens import TOKEN_BYTES

CHUNK_BYTES: Final = 900
KEPT, PARTS_MISSING, REFUSED, OLDER, NO_ROOM = range(5)  # statuses of `Stored`


class Delivery:
    """Of some records of one key to one contact. `done` is called once: with whether it keeps all of them."""

    __slots__ = ("_contact", "_done", "_kept", "_key", "_part", "_questions", "_record", "_records")

    def __init__(
        self,
        contact: Contact,
        key: bytes,
        records: Sequence[bytes],
        questions: Questions,
        done: Callable[[bool, int], None],
    ) -> None:
        self._contact = contact
        self._key = key
        self._records = records
        self._questions = questions
        self._done = done
        self._record = 0
        self._part = 0
        self._kept = True

    def go_on(self, now_us: int) -> None:
        """Send what comes next."""
        if self._record == len(self._records):
            self._done(self._kept, now_us)
            return
        if not self._questions.token(self._contact.endpoint, now_us):
            asked = self._questions.ping(self._contact, self, now_us)
        else:
            asked = self._send(now_us)
        if not asked:
            self._done(False, now_us)

    def _send(self, now_us: int) -> bool:
        record = self._records[self._record]
        chunk = record[self._part * CHUNK_BYTES :][:CHUNK_BYTES]
        return self._questions.store(self._contact, self._key, self._part, parts(record), chunk, self, now_us)

    def answered(self, _question: Question, answer: Answer, contact: Contact | None, now_us: int) -> None:
        if contact is not self._contact or len(answer.token) != TOKEN_BYTES:
            self._done(False, now_us)
            return
        if isinstance(answer, Stored):
            more = self._part + 1 < parts(self._records[self._record])
            if answer.status == PARTS_MISSING and more:
                self._part += 1
            else:
                self._kept = self._kept and answer.status == KEPT
                self._record += 1
                self._part = 0
        self.go_on(now_us)

    def unanswered(self, _question: Question, now_us: int) -> None:
        self._done(False, now_us)


def parts(record: bytes) -> int:
    """How many a record is sent in."""
    return max(1, -(-len(record) // CHUNK_BYTES))


class Publication:
    """Deliveries of the same records to several; `done(stored, asked)` is called after the last. `here`:
    whether we ourselves keep them, None where we were not asked."""

    __slots__ = ("_asked", "_done", "_left", "_stored")

    def __init__(self, here: bool | None, done: Callable[[int, int], None]) -> None:
        self._stored = int(here is True)
        self._asked = int(here is not None)
        self._left = 0
        self._done = done

    def start(
        self,
        to: Sequence[Contact],
        key: bytes,
        records: Sequence[bytes],
        questions: Questions,
        now_us: int,
    ) -> None:
        self._asked += len(to)
        self._left = len(to)
        for contact in to:
            Delivery(contact, key, records, questions, self._delivered).go_on(now_us)
        if not to:
            self._done(self._stored, self._asked)

    def _delivered(self, kept: bool, _now_us: int) -> None:
        self._stored += kept
        self._left -= 1
        if not self._left:
            self._done(self._stored, self._asked)
