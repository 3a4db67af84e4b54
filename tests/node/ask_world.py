"""Machines that call each other with sealed events, without a network: who knows no secret is not heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from crypto.identity import MachineKeys
from dht import letters
from dht.calls import Recipient, Sent
from dht.endpoints import Endpoint
from dht.tags import Tagged
from node.answering import Answering
from node.asking import Asking, Places
from node.replies import Replies

LOOKUP = bytes(range(16))


class Mailbox:
    """One machine: it answers to LOOKUP, if it is `listed`, and to what it is told with `answer_to`."""

    def __init__(self, world: World, number: int, listed: bool) -> None:
        self.world = world
        self.keys = MachineKeys.from_bytes(bytes([number]) * 128)
        self.endpoint: Endpoint = bytes([192, 0, 2, number, 1, 1])
        self.homes: tuple[tuple[Endpoint, bytes], ...] = ()
        self.listed = listed
        self.reply_secrets: tuple[bytes, ...] = ()
        self.friends: set[bytes] = set()
        self.counters: Counter[str] = Counter()
        self.heard: list[tuple[str, bytes]] = []
        self._listeners: list[tuple[str, trio.MemorySendChannel[Tagged]]] = []
        self.replies = Replies(self.answer_to)
        self.asking = Asking(self, self.replies, self.places, self.counters)
        self.answering = Answering(self, self.friends.__contains__, self.counters)

    def answer_to(self, secrets: tuple[bytes, ...]) -> None:
        self.reply_secrets = secrets

    def places(self) -> Places:
        return (self.endpoint,), self.homes

    def recipient(self, secret: bytes = LOOKUP) -> Recipient:
        return Recipient(self.keys.bundle, secret, (self.endpoint,))

    async def send_event(self, to: Recipient, tag: str, body: bytes) -> Sent | None:
        await trio.lowlevel.checkpoint()
        letters.check(tag, body)
        return Sent(1, self.world.bring(self, to, tag, body), 0, 0)

    @asynccontextmanager
    async def listen(self, pattern: str) -> AsyncIterator[trio.MemoryReceiveChannel[Tagged]]:
        sender, receiver = trio.open_memory_channel[Tagged](256)
        self._listeners.append((pattern, sender))
        try:
            yield receiver
        finally:
            self._listeners.remove((pattern, sender))

    def tell(self, event: Tagged) -> None:
        self.heard.append((event.tag, event.body))
        for pattern, listener in self._listeners:
            if pattern == event.tag:
                listener.send_nowait(event)


class World:
    """`lose(tag, body)` says which events do not arrive; `called` has all, as they were addressed."""

    def __init__(self) -> None:
        self.boxes: dict[bytes, Mailbox] = {}
        self.called: list[Recipient] = []
        self.lose: Callable[[str, bytes], bool] = lambda _tag, _body: False

    def add(self, listed: bool = True) -> Mailbox:
        box = Mailbox(self, len(self.boxes) + 1, listed)
        self.boxes[box.keys.machine_id] = box
        return box

    def bring(self, author: Mailbox, to: Recipient, tag: str, body: bytes) -> bool:
        box = self.boxes[to.bundle.machine_id]
        self.called.append(to)
        secrets = (LOOKUP, *box.reply_secrets) if box.listed else box.reply_secrets
        if box.endpoint not in to.endpoints or to.secret not in secrets or self.lose(tag, body):
            return False
        box.tell(Tagged((1,), tag, author.keys.machine_id, author.keys.bundle.raw, body, 7))
        return True


@asynccontextmanager
async def running(*boxes: Mailbox) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for box in boxes:
            await nursery.start(box.asking.run)
            await nursery.start(box.answering.run)
        yield
        nursery.cancel_scope.cancel()
