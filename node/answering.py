"""Answering what other machines ask (node/asking.py), from wherever they are.

    sealed event ─▶ rate ─▶ the method's handler, once for each id ─▶ answer, sealed to the author

Whoever asks is known by its machine_id, which the event proves. A machine_id costs nothing, so strangers have
a rate in common besides that of each; those that are known here are not held up by them. The answer goes to
where the question says, and nothing proves that the author is there: the mesh sends no more than a few small
datagrams to an address that has not shown a token (dht/post.py), so there is little to be had by lying.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from crypto.errors import LocalFault, PeerFault
from crypto.identity import BadKeys, KeyBundle
from dht.calls import Recipient
from dht.limits import RateLimit
from dht.tags import Tagged
from node import asks
from node.asking import Mail
from node.asks import ANSWER_TAG, ASK_TAG, Answer, Ask, Status
from node.errors import UserError
from node.logs import Log
from tun.engine import boot_us

ANSWERING_MAX: Final = 16
STRANGERS_MAX: Final = 8  # of these
KEPT: Final = 256  # answers, of at most 4 KiB, for questions that come again
PER_AUTHOR: Final = (1, 6)  # a second, and burst
STRANGERS: Final = (2, 12)

Handler: TypeAlias = Callable[[KeyBundle, bytes], Awaitable[bytes]]
"""(who asks, with all its keys looked at; payload) to an answer, both of at most 3,584 bytes."""

log = Log("answering")


class Declined(Exception):
    """A handler says no, with a code that the asker is told: capital letters, digits and _, at most 40."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Answering:
    """`is_known`: whether a machine_id is a friend's. What is passed over is counted in `counters`."""

    def __init__(self, mail: Mail, is_known: Callable[[bytes], bool], counters: Counter[str]) -> None:
        self._mail = mail
        self._is_known = is_known
        self._counters = counters
        self._handlers: dict[str, Handler] = {}
        self._under_way: dict[tuple[bytes, bytes], bool] = {}  # (author, id) to whether it is known
        self._kept: dict[tuple[bytes, bytes], bytes] = {}  # answers by (author, id), the oldest first
        self._authors = RateLimit(*PER_AUTHOR)
        self._strangers = RateLimit(*STRANGERS)

    def handle(self, method: str, handler: Handler) -> None:
        """Have questions of this method answered. One may come twice, as answers are not kept for long."""
        self._handlers[method] = handler

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with self._mail.listen(ASK_TAG) as questions, trio.open_nursery() as nursery:
            task_status.started()
            async for event in questions:
                try:
                    self._begin(event, nursery)
                except PeerFault as error:
                    self._counters[str(error)] += 1

    def _begin(self, event: Tagged, nursery: trio.Nursery) -> None:
        """Raises PeerFault for what is passed over."""
        if not event.bundle:
            raise PeerFault("question that was not sealed")
        ask = asks.decode_ask(event.body)
        name = event.author, ask.id
        if name in self._under_way:
            raise PeerFault("question that is being answered")
        known = self._is_known(event.author)
        self._check_rate(event.author, known)
        try:
            author = KeyBundle.from_bytes(event.bundle)
        except BadKeys as error:
            raise PeerFault("question of a machine without keys") from error
        self._under_way[name] = known
        nursery.start_soon(self._answer, author, ask)

    def _check_rate(self, author: bytes, known: bool) -> None:
        busy = len(self._under_way) >= ANSWERING_MAX
        if not known:
            busy |= list(self._under_way.values()).count(False) >= STRANGERS_MAX
        now = boot_us()
        if busy or not self._authors.allow(author, now) or not (known or self._strangers.allow(b"", now)):
            raise PeerFault("question above the rate that is answered")

    async def _answer(self, author: KeyBundle, ask: Ask) -> None:
        name = author.machine_id, ask.id
        try:
            body = self._kept.get(name)
            if body is None:
                status, payload = await self._handled(author, ask)
                body = asks.encode(Answer(id=ask.id, status=status, payload=payload))
                if status is not Status.FAILED:
                    self._keep(name, body)
            to = Recipient(author, ask.secret, ask.endpoints, ask.homes)
            await self._mail.send_event(to, ANSWER_TAG, body)
        finally:
            del self._under_way[name]

    def _keep(self, name: tuple[bytes, bytes], body: bytes) -> None:
        self._kept[name] = body
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    async def _handled(self, author: KeyBundle, ask: Ask) -> tuple[Status, bytes]:
        handler = self._handlers.get(ask.method)
        if handler is None:
            return Status.UNKNOWN, b""
        try:
            return Status.DONE, await handler(author, ask.payload)
        except Declined as no:
            return Status.REFUSED, no.code.encode()
        except (UserError, PeerFault, LocalFault) as error:
            log.warning("a question could not be answered", method=ask.method, error=error)
            return Status.FAILED, b""
