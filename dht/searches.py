"""Lookups that run: they ask whom the machine of dht/lookup.py names, and tell it what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from dht import contacts
from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.lookup import NAMED_MOST, Lookup
from dht.messages import Nodes, Values
from dht.questions import Answer, Question, Questions

VALUES_BYTES: Final = 65_536  # of one node's records for a key
PAGE_LEAST: Final = 200  # bytes of a page that is not the last: else a liar could make thousands of them

_NAMING: Final = (Nodes, Values)  # answers that name contacts
_records = msgspec.msgpack.Decoder(list[bytes]).decode


class Search:
    """For nodes. `done` is called once, with the search and the time."""

    __slots__ = ("_done", "_questions", "_size", "_wires", "ended", "handle", "lookup", "target")

    def __init__(
        self,
        handle: int,
        target: bytes,
        lookup: Lookup,
        size: int,
        questions: Questions,
        done: Callable[[Search, int], None],
    ) -> None:
        self.handle = handle
        self.target = target
        self.lookup = lookup
        self.ended = False
        self._size = size  # of a contact on the wire
        self._wires: set[bytes] = set()  # contacts that were named
        self._questions = questions
        self._done = done

    def go_on(self, now_us: int) -> None:
        """Ask whoever is next."""
        while not self.ended:
            refused = False
            for contact in self.lookup.next():
                if not self._ask(contact, now_us):
                    self.lookup.failed(contact)
                    refused = True
            if self._complete():
                self.end(now_us)
            elif not refused:
                return

    def end(self, now_us: int) -> None:
        if not self.ended:
            self.ended = True
            self._done(self, now_us)

    def answered(self, question: Question, answer: Answer, contact: Contact | None, now_us: int) -> None:
        if self.ended or question.contact is None:
            return
        self._hear(question.contact, answer, contact)
        self.go_on(now_us)

    def unanswered(self, question: Question, now_us: int) -> None:
        if self.ended or question.contact is None:
            return
        self.lookup.failed(question.contact)
        self.go_on(now_us)

    def _hear(self, asked: Contact, answer: Answer, contact: Contact | None) -> None:
        if contact is None or not isinstance(answer, _NAMING):
            self.lookup.failed(asked)
        elif contact is asked:
            self.lookup.answered(asked, self._named(answer.contacts, asked))
        else:
            self.lookup.renamed(asked, contact, self._named(answer.contacts, contact))

    def _named(self, joined: bytes, by: Contact) -> list[Contact]:
        """Of these contacts, those that nobody named before in this lookup, and whose addresses mean to us
        what they mean to who names them."""
        size, before = self._size, self._wires
        ends = range(size, min(len(joined), NAMED_MOST * size) + size, size)
        wires = {wire: None for end in ends if (wire := joined[end - size : end]) not in before}
        before.update(wires)
        found: list[Contact] = []
        for wire in wires:
            contact = contacts.of(wire) if len(wire) == size else None
            if contact is not None and contact.usable and contact.scope >= by.scope:
                found.append(contact)
            else:
                self._questions.counters["named contacts that we may not call"] += 1
        return found

    def _ask(self, contact: Contact, now_us: int) -> bool:
        return self._questions.find(contact, self.target, self, now_us, again=self.lookup.scarce)

    def _complete(self) -> bool:
        return self.lookup.done


class _Pages:
    """What one node has under the key, as far as it has come."""

    __slots__ = ("digest", "got", "restarted", "total")

    def __init__(self, answer: Values, restarted: bool) -> None:
        self.digest = answer.digest
        self.total = answer.total
        self.got = bytearray()
        self.restarted = restarted


class Fetch(Search):
    """For values. `got` is called with records that are new, and how many hops away they were."""

    __slots__ = ("_got", "_pages", "_seen", "hops", "pausing")

    def __init__(
        self,
        handle: int,
        target: bytes,
        lookup: Lookup,
        size: int,
        questions: Questions,
        done: Callable[[Search, int], None],
        got: Callable[[Fetch, list[bytes]], None],
    ) -> None:
        super().__init__(handle, target, lookup, size, questions, done)
        self.hops = 0
        self.pausing = False  # the caller may want to say `enough` before more is asked
        self._got = got
        self._pages: dict[Endpoint, _Pages] = {}
        self._seen: set[bytes] = set()

    def answered(self, question: Question, answer: Answer, contact: Contact | None, now_us: int) -> None:
        asked = question.contact
        if self.ended or asked is None:
            return
        if question.note == 0:
            self._hear(asked, answer, contact)
        else:
            self.lookup.messages += 1
        if contact is not None and isinstance(answer, Values):
            self._read(contact, answer, question.note, now_us)
        else:
            self._pages.pop(asked.endpoint, None)
        if not self.pausing:
            self.go_on(now_us)

    def unanswered(self, question: Question, now_us: int) -> None:
        self._pages.pop(question.endpoint, None)
        super().unanswered(question, now_us)

    def hand_up(self, values: bytes, hops: int) -> None:
        """Records as storage has them: msgpack's array."""
        try:
            records = _records(values)
        except msgspec.MsgspecError:
            self._questions.counters["values that are no records"] += 1
            return
        fresh = [record for record in dict.fromkeys(records) if record not in self._seen]
        if fresh:
            self._seen.update(fresh)
            self.hops = self.hops or hops
            self.pausing = True
            self._got(self, fresh)

    def _read(self, asked: Contact, answer: Values, offset: int, now_us: int) -> None:
        pages = self._pages.get(asked.endpoint)
        if pages is None:
            if offset:
                return
            pages = self._pages[asked.endpoint] = _Pages(answer, restarted=False)
        elif answer.digest != pages.digest and not pages.restarted:
            # What is stored has changed meanwhile: once more from its beginning.
            pages = self._pages[asked.endpoint] = _Pages(answer, restarted=True)
            if answer.offset:
                self._next_page(asked, 0, now_us)
                return
        got = len(pages.got) + len(answer.page)
        fits = (
            answer.digest == pages.digest and answer.offset == len(pages.got) and answer.total == pages.total
        )
        whole = got == pages.total and answer.page != b""
        if not fits or not (whole or (len(answer.page) >= PAGE_LEAST and got < pages.total <= VALUES_BYTES)):
            self._questions.counters["page of values that does not fit"] += 1
            del self._pages[asked.endpoint]
            return
        pages.got += answer.page
        if len(pages.got) < pages.total:
            self._next_page(asked, len(pages.got), now_us)
        else:
            del self._pages[asked.endpoint]
            self.hand_up(bytes(pages.got), self.lookup.depth(asked))

    def _next_page(self, asked: Contact, offset: int, now_us: int) -> None:
        self.lookup.messages += 1
        if not self._questions.get(asked, self.target, offset, self, now_us, again=True):
            self._pages.pop(asked.endpoint, None)

    def _ask(self, contact: Contact, now_us: int) -> bool:
        return self._questions.get(contact, self.target, 0, self, now_us, again=self.lookup.scarce)

    def _complete(self) -> bool:
        return self.lookup.done and not self._pages
