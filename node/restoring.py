"""After a backup was put back: partners are asked what they hold of our chain, before anything is signed.

    a partner shows more than we hold ─▶ behind ─▶ all others, by "ledger.meet", again every 25 minutes
                                                     └─ all heard, or a day is over ─▶ sign again

    ledger.meet   question: a note of node/settlement/heads.py, heads or held
                  answer:   msgpack [note, …]: the other's heads, and what it has to say to the note

What a partner that did not answer alone holds would be signed twice, and prove us to lie: so they have a day.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from crypto.errors import PeerFault
from crypto.identity import KeyBundle, slug
from node import meeting
from node.answering import Answering, Declined
from node.books import Books
from node.contacts import Contacts
from node.errors import StorageFailed, UserError
from node.ledger import Ledger
from node.logs import Log
from node.settlement import heads
from node.settlement.blocks import Partner
from node.settlement.heads import BadNote, Heads, Held

MEET: Final = "ledger.meet"
AGAIN_SECONDS: Final = 1500.0  # more than a machine counts as away
GIVEN_UP_SECONDS: Final = 86_400
NOTES: Final = 4  # of an answer
ROUNDS: Final = 2  # heads, and what we have to say to the answer

log = Log("ledger")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class Restoring:
    """`found()` is called when the ledger may have a new proof. `unix()`: seconds."""

    def __init__(
        self,
        books: Books,
        contacts: Contacts,
        answering: Answering,
        found: Callable[[], None],
        unix: Callable[[], int],
    ) -> None:
        self._books = books
        self._contacts = contacts
        self._found = found
        self._unix = unix
        self._wake = trio.Event()
        answering.handle(MEET, self._on_meet)

    def shown(self) -> None:
        """The ledger may be behind."""
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        task_status.started()
        while True:
            self._wake = trio.Event()
            try:
                behind = await self._catch_up()
            except StorageFailed as error:
                log.warning("partners are asked later: the ledger does not answer", error=error)
                behind = True
            if behind:
                await trio.sleep(AGAIN_SECONDS)
            else:
                await self._wake.wait()

    # ------------------------------------------------------------------ asking

    async def _catch_up(self) -> bool:
        """Whether it is behind still."""
        since = await self._books.call(Ledger.behind_since, self._unix())
        if since is None:
            return False
        asked = await self._books.call(Ledger.to_ask)
        log.warning("a partner holds more of this chain than is here: asking the others", left=len(asked))
        async with trio.open_nursery() as nursery:
            for partner in asked:
                nursery.start_soon(self._ask, partner)
        left = await self._books.call(Ledger.to_ask)
        if left and self._unix() - since < GIVEN_UP_SECONDS:
            return True
        await self._books.call(Ledger.ask_no_more)
        if left:
            log.warning(
                "signing again, though not all have answered in a day: what they alone hold is signed twice",
                silent=", ".join(slug(each.machine_id) for each in left[:8]),
            )
        else:
            log.info("all partners have said what they hold of this chain: signing again")
        return False

    async def _ask(self, partner: Partner) -> None:
        if self._contacts.is_away(partner.machine_id, partner.key):
            return
        notes = (await self._books.call(meeting.opening, partner, os.urandom))[:1]
        try:
            for _ in range(ROUNDS):
                said = [each for note in notes for each in await self._exchange(partner, note)]
                notes = said[:NOTES]
        except (UserError, PeerFault) as error:
            log.info("a partner does not say what it holds", machine=slug(partner.machine_id), why=error)
        self._found()

    async def _exchange(self, partner: Partner, note: bytes) -> list[bytes]:
        """What is to be said to its answer. Raises UserError and PeerFault."""
        answer = await self._contacts.ask(partner.machine_id, partner.key, MEET, note)
        return await self._books.call(_received, partner, _notes(answer))

    # ------------------------------------------------------------------ answering

    async def _on_meet(self, author: KeyBundle, payload: bytes) -> bytes:
        partner = Partner(machine_id=author.machine_id, key=author.ed25519)
        try:
            notes = await self._books.call(_met, partner, payload)
        except PeerFault as error:
            raise Declined("BAD_NOTE") from error
        self._found()
        return _encode(notes)


def _met(ledger: Ledger, partner: Partner, payload: bytes) -> list[bytes]:
    """Who has no business with us learns nothing. Raises BadNote and BadBlock."""
    note = heads.decode(payload)
    if not isinstance(note, Heads | Held):
        raise BadNote("not about a chain of the two")
    if partner not in ledger.partners() and ledger.head(partner.key) is None:
        return [heads.encode(Heads(b"", b""))]
    held = meeting.opening(ledger, partner, os.urandom)[0]  # before what the other shows is learnt
    return [held, *meeting.received(ledger, partner, payload)]


def _received(ledger: Ledger, partner: Partner, notes: list[bytes]) -> list[bytes]:
    return [each for note in notes for each in meeting.received(ledger, partner, note)]


def _notes(answer: bytes) -> list[bytes]:
    """Raises BadNote."""
    try:
        notes = _decode(answer)
    except (ValueError, RecursionError) as error:
        raise BadNote("not an answer about a ledger") from error
    if len(notes) > NOTES:
        raise BadNote("more notes than there can be")
    return notes
