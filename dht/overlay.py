"""The Kademlia overlay of one address family: bytes and the time in; datagrams, outcomes and a deadline out.

    question of a stranger ─▶ dht/desk.py ─▶ answer
    answer ─▶ dht/questions.py: whose? ─▶ searches, deliveries, upkeep, reach check ─▶ questions, outcomes
    whoever proved an address, by an answer or a token ─▶ dht/routing.py

Kademlia with k = 20, α = 3 and ids of 256 bits that an address decides (dht/contacts.py). Who does not serve
asks without an id, and so is in nobody's table (BEP 43), until it is told to serve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from dht import acquaintances, contacts
from dht.answers import Shelf
from dht.contacts import TAIL_BYTES, Contact
from dht.desk import Desk
from dht.endpoints import IPV4_BYTES, IPV6_BYTES, Endpoint
from dht.handoff import Handoff
from dht.messages import Nodes, Pong, Reached, Stored, Values, decode_dht
from dht.outcomes import Moved, Outcome, Reachable
from dht.queries import Queries
from dht.questions import Answer, Questions
from dht.reach import ReachCheck
from dht.routing import RoutingTable
from dht.tokens import Tokens
from dht.upkeep import Bootstrap, Upkeep
from dht.whereabouts import Whereabouts

_ANSWERS: Final = (Pong, Nodes, Values, Stored)


class Overlay:
    """`family`: 4 or 6. `tail`: 24 random bytes. `entropy(n)`: n random bytes. `storage`: what others store
    here. `outgoing`: a list that others write to as well. Times: microseconds, monotonic and Unix. The shell
    empties `outgoing` and `events`."""

    __slots__ = (
        *("_desk", "_entropy", "_handoff", "_queries", "_questions", "_reach", "_size"),
        *("_storage", "_upkeep", "counters", "endpoint_bytes", "events", "outgoing", "table"),
        "where",
    )

    def __init__(
        self,
        family: int,
        tail: bytes,
        entropy: Callable[[int], bytes],
        now_us: int,
        storage: Shelf,
        outgoing: list[tuple[bytes, Endpoint]] | None = None,
        *,
        serving: bool,
        counters: Counter[str] | None = None,
    ) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = [] if outgoing is None else outgoing
        self.events: list[Outcome] = []
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.endpoint_bytes = IPV4_BYTES if family == 4 else IPV6_BYTES
        self.where = Whereabouts(tail, self.endpoint_bytes)
        self.table = RoutingTable(self.where.long_id, now_us // 1_000_000)
        self._size = size = TAIL_BYTES + self.endpoint_bytes
        self._entropy = entropy
        self._storage = storage
        self._questions = questions = Questions(entropy, self.outgoing, self.counters)
        self._reach = ReachCheck(questions, self._anybody, self._reach_told)
        self._handoff = Handoff(storage, questions)
        bootstrap = Bootstrap(questions)
        self._queries = Queries(
            self.table,
            self.where,
            storage,
            questions,
            size,
            self.events,
            bootstrap,
        )
        self._upkeep = Upkeep(questions, bootstrap, entropy, self._queries.look, now_us)
        self._desk = Desk(
            self.table,
            storage,
            questions,
            size,
            Tokens(entropy, now_us),
            proven=self._proven,
            probe=self._upkeep.probe,
            anybody=self._anybody,
        )
        storage.center(self.where.id)
        self.serve(serving)

    # ------------------------------------------------------------------ who we are

    @property
    def size(self) -> int:
        """Contacts in the table."""
        return self.table.size

    @property
    def hurry(self) -> int:
        """Of 1,000: what is left of every interval, while many do not answer."""
        return self._upkeep.hurry()

    @property
    def endpoint(self) -> Endpoint | None:
        """Where others see us; None until two networks agree."""
        return self.where.endpoint

    @property
    def serving(self) -> bool:
        return self._desk.answers.serving

    def serve(self, serving: bool) -> None:
        """From now on be in others' tables and store for them, or only ask."""
        if serving and not self.serving and self.table.size:
            self._upkeep.announce()
        self._desk.answers.serving = serving
        self._questions.tail = self.where.tail if serving else b""

    def believe(self, endpoint: Endpoint, now_us: int) -> None:
        """Others see us there, as the caller knows."""
        if self.where.believe(endpoint):
            self._moved(now_us)

    def network_changed(self, now_us: int) -> None:
        """Our addresses are others: ask around, so that others say where they see us now."""
        if self.table.size:
            self._upkeep.look_at_self(now_us)

    def _moved(self, now_us: int) -> None:
        """Another endpoint is believed; where it lies in another network, our id is another too."""
        assert self.where.endpoint is not None
        self.events.append(Moved(self.where.endpoint))
        if self.where.long_id != self.table.own:
            self.table.turn(self.where.long_id, now_us // 1_000_000)
            self._storage.center(self.where.id)
            self._queries.forget_own()
            if self.table.size:
                self._upkeep.look_at_self(now_us)

    # ------------------------------------------------------------------ asking the network

    def bootstrap(self, endpoints: Iterable[Endpoint], now_us: int, *, named: bool = True) -> None:
        """Nodes may be there. They are kept, and asked with back-off for as long as nobody else is known; of
        those that the owner `named`, some are asked in each lookup."""
        ours = [endpoint for endpoint in endpoints if len(endpoint) == self.endpoint_bytes]
        self._upkeep.bootstrap.add(ours, now_us, named=named)

    def find(self, target: bytes, now_us: int) -> int:
        """A handle. The nodes closest to 32 bytes: ends with Found."""
        return self._queries.find(target, now_us)

    def get(self, key: bytes, now_us: int) -> int:
        """A handle. The records under 32 bytes: one Got after the other, the last one `final`. As anybody may
        lie, it goes on until the closest have all answered, unless the caller says `enough`."""
        return self._queries.get(key, now_us)

    def put(self, record_bytes_list: Sequence[bytes], key: bytes, now_us: int) -> int:
        """A handle. Have the k closest to 32 bytes store records of at most 8,192 bytes: ends with Put."""
        return self._queries.put(record_bytes_list, key, now_us)

    def enough(self, handle: int, now_us: int) -> None:
        """What a `get` has brought will do: its last Got comes now."""
        self._queries.enough(handle, now_us)

    def cancel(self, handle: int) -> None:
        """Ask no more for it, and say no more of it; what is stored stays."""
        self._queries.cancel(handle)

    def check_reach(self, now_us: int) -> bool:
        """Do strangers reach us? Ends with Reachable. False where this is being checked, or just was."""
        return self._reach.start(now_us)

    def _reach_told(self, reachable: bool | None, _now_us: int) -> None:
        self.events.append(Reachable(reachable, self.where.endpoint))

    # ------------------------------------------------------------------ who is known

    def contacts(self, count: int) -> list[Contact]:
        """So many of the table, or all, in random order."""
        return acquaintances.draw(list(self.table), count, self._entropy)

    def _anybody(self) -> list[Contact]:
        return self.contacts(self.table.size)

    def save(self) -> bytes:
        """The table, for `load`."""
        return acquaintances.pack(self.table)

    def load(self, saved: bytes, now_us: int) -> None:
        """Who was in the table once is asked again. What is no table is ignored, and counted."""
        try:
            known = acquaintances.unpack(saved, self._size)
        except ValueError:
            self.counters["saved table that cannot be read"] += 1
            return
        self.bootstrap([contact.endpoint for contact in known], now_us)

    def _proven(self, contact: Contact, now_us: int) -> None:
        """It receives at its address: into the table, where there is room."""
        table = self.table
        size = table.size
        silent = table.add_contact(contact, now_us // 1_000_000)
        if silent is not None:
            self._upkeep.probe(silent, now_us)
        if table.size > size:
            self._handoff.came(contact)
            if not size:
                self._upkeep.look_at_self(now_us)
                self._queries.go_on(now_us)

    # ------------------------------------------------------------------ datagrams

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        """One datagram whose first byte is 0xD0."""
        self._queries.unix = unix = unix_us // 1_000_000
        if self._queries.due_us <= now_us:
            self._queries.go_on(now_us)
        try:
            message = decode_dht(datagram[1:])
        except msgspec.MsgspecError:
            self.counters["not a message"] += 1
            return
        if len(source) != self.endpoint_bytes:
            self.counters["from the other family"] += 1
        elif isinstance(message, Reached):
            if not self._reach.reached(message, source, now_us):
                self.counters["reached, but nobody waits for it"] += 1
        elif len(message.tail) not in (0, TAIL_BYTES):
            self.counters["not a message"] += 1
        elif message.tail == self.where.tail:
            self.counters["from ourselves"] += 1
        elif isinstance(message, _ANSWERS):
            self._on_answer(message, source, now_us)
        else:
            self._desk.hear(message, source, len(datagram), now_us, unix)

    def _on_answer(self, answer: Answer, source: Endpoint, now_us: int) -> None:
        question = self._questions.settle(answer, source, now_us)
        if question is None:
            return
        contact = question.contact
        if contact is None or contact.tail != answer.tail:
            if contact is not None:
                self.counters["answered under another id"] += 1
                self.table.remove_contact(contact)
            contact = contacts.at(answer.tail, source) if answer.tail else None
        if contact is not None:
            self._proven(contact, now_us)
        if len(answer.you) == self.endpoint_bytes and self.where.vote(source, answer.you):
            self._moved(now_us)
        question.asker.answered(question, answer, contact, now_us)

    # ------------------------------------------------------------------ time

    def tick(self, now_us: int, unix_us: int) -> None:
        """Whatever is due."""
        self._queries.unix = unix = unix_us // 1_000_000
        if self._queries.due_us <= now_us:
            self._queries.go_on(now_us)
        for question in self._questions.expire(now_us):
            # Where nobody at all was heard meanwhile, it is our own link that is down.
            if question.contact is not None and self._questions.heard_us >= question.sent_us:
                self.table.failed(question.contact, now_us // 1_000_000)
            question.asker.unanswered(question, now_us)
        self._reach.tick(now_us)
        if self._upkeep.tick(self.table, now_us):
            self._handoff.run(self.table, now_us, unix)
            self._desk.answers.forget(now_us)

    def deadline_us(self) -> int:
        """When `tick` is due; may have passed."""
        upkeep = self._upkeep
        return min(
            self._queries.due_us,
            self._questions.deadline_us(),
            self._reach.due_us,
            upkeep.due_us,
            upkeep.bootstrap.due_us,
        )
