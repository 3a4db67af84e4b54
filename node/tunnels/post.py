"""Events of tunnels, brought to others: requests to where a relay was found, answers to where they say.

    Tell without answer_to ─▶ the recipient that was looked up for it      tunnel_id ─▶ how many have read it
    Tell with              ─▶ the payer, under its reply secret

A request gives a reply secret of its own, which is good until it has come to nothing or its tunnel has ended:
a payee that was started again asks under it to be called (node/tunnels/summons.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from crypto.identity import KeyBundle, slug
from dht.calls import Recipient, Sent
from node.discovery import Discovery
from node.logs import Log
from node.replies import Replies
from node.settlement import actions, wire
from node.settlement.life import Role, Row, State
from tun.addresses import Address

WAITING_MAX: Final = 256
AT_ONCE: Final = 8
HELD_MAX: Final = 32  # secrets of tunnels that carry; those of more leave none to ask others with

log = Log("tunnels")


class Post:
    """`recipients`: by machine_id, where relays that we ask are. `notified`: by tunnel_id of a request of
    ours, how many machines have read it; not there while it is under way."""

    def __init__(self, discovery: Discovery, replies: Replies) -> None:
        self.recipients: dict[bytes, Recipient] = {}
        self.notified: dict[bytes, int] = {}
        self._discovery = discovery
        self._replies = replies
        self._held: set[bytes] = set()  # ids of tunnels that carry, whose secrets still count
        self._sender, self._receiver = trio.open_memory_channel[actions.Tell](WAITING_MAX)
        self._sent = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._work)

    def where(self, machine_id: bytes) -> Sequence[Address]:
        """Addresses at which a relay that we asked was found."""
        to = self.recipients.get(machine_id)
        return self._discovery.links.addresses(to.endpoints) if to is not None else ()

    def tell(self, action: actions.Tell) -> None:
        """Under way from here; what more is asked for than 256 at once is lost, and asked for again."""
        try:
            self._sender.send_nowait(action)
        except trio.WouldBlock:
            log.warning("an event of a tunnel was dropped: too many are under way", tag=action.tag)

    def secret(self) -> bytes:
        """For a request. Raises Refused while too many are open."""
        return self._replies.new()

    def load(self, row: Row) -> None:
        """A request that was made before this start, and may still be answered, or whose tunnel carries."""
        if row.role is Role.PAYER and row.answer_to and self._counts(row):
            self._replies.take(wire.decode_request(row.answer_to).reply_secret)

    def forget(self, row: Row) -> None:
        """It has changed: its secret goes where nobody is to use it any more."""
        if row.role is not Role.PAYER or row.state is State.PENDING or not row.answer_to:
            return
        self.notified.pop(row.tunnel_id, None)
        if not self._counts(row):
            self._held.discard(row.tunnel_id)
            self._replies.drop(wire.decode_request(row.answer_to).reply_secret)

    def _counts(self, row: Row) -> bool:
        """Whether its partner may have something to say under its secret."""
        if row.state is not State.ACTIVE:
            return row.state is State.PENDING
        if len(self._held) < HELD_MAX:
            self._held.add(row.tunnel_id)
        return row.tunnel_id in self._held

    async def sent(self, tunnel_id: bytes) -> int:
        """How many machines have read the request, when that is known."""
        while tunnel_id not in self.notified:
            await self._sent.wait()
        return self.notified[tunnel_id]

    async def _work(self) -> None:
        async for action in self._receiver:
            sent = await self._bring(action)
            if action.answer_to is None:
                tunnel_id = wire.decode_request(action.body).tunnel_id
                self.notified[tunnel_id] = int(sent is not None and sent.delivered)
                self._sent.set()
                self._sent = trio.Event()

    async def _bring(self, action: actions.Tell) -> Sent | None:
        machine_id = KeyBundle(action.bundle).machine_id
        to = self._recipient(action, machine_id)
        if to is None:
            return None
        sent = await self._discovery.send_event(to, action.tag, action.body)
        if sent is None or not sent.delivered:
            log.info("an event was not read", tag=action.tag, machine=slug(machine_id))
        return sent

    def _recipient(self, action: actions.Tell, machine_id: bytes) -> Recipient | None:
        request = action.answer_to
        if request is None:
            return self.recipients.get(machine_id)
        return Recipient(KeyBundle(action.bundle), request.reply_secret, request.endpoints, request.homes)
