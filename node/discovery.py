"""Discovery's shell: the core of dht/ on the engine's one UDP port, its clock, and who waits for answers.

    engine ─▶ a datagram that is no tunnel's ─▶ core.receive ─┐
    deadline                                 ─▶ core.tick    ─┼─▶ engine.send; events to who waits for them
    a question of the node's                                 ─┘

dht and tun know nothing of each other: addresses are converted here (node/links.py). The tables are kept
every ten minutes and at the end, so that the next start knows somebody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from crypto.errors import LocalFault
from crypto.kem import BadPublicKey
from dht.calls import Recipient, Sent
from dht.core import taken
from dht.endpoints import Endpoint
from dht.locations import Location
from dht.marketplace import Listing
from dht.offers import Offer
from dht.tags import Tagged
from node.discovery_face import Face, MachineFound, SlugFound
from node.errors import StorageFailed, Usage
from node.links import Links
from node.logs import Log
from node.store import AsyncStore, Store
from tun.addresses import Address
from tun.engine import NAP_US, boot_us, unix_us

STATE_SETTING: Final = "discovery"
SAVE_SECONDS: Final = 600
LOOKUP_SECONDS: Final = 20.0
EVENT_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 10.0
HEARD_MAX: Final = 256  # events that wait for one listener; a slow one loses the newest

log = Log("discovery")


class Discovery:
    """Owns the core. `send` is the engine's."""

    def __init__(self, core: Face, store: AsyncStore, send: Callable[[bytes, Address], None]) -> None:
        self.core = core
        self.links = Links()
        self._store = store
        self._send = send
        self._nap = trio.CancelScope()
        self._waiting: dict[int, _Answer] = {}
        self._listeners: dict[int, trio.MemorySendChannel[Tagged]] = {}  # by the subscription's number

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then keeps what it knows for the next start."""
        saved = await self._store.call(Store.setting, STATE_SETTING)
        if saved is not None:
            try:
                self.core.load(saved, boot_us())
            except ValueError as error:
                log.warning("what the last run knew cannot be read, and is left", error=error)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._by_the_clock)
                nursery.start_soon(self._save_now_and_then)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                await self._save()

    def receive(self, datagram: bytes, source: Address) -> None:
        """What the engine has for nobody else."""
        endpoint = self.links.endpoint(source)
        if endpoint is None:
            self.core.counters["datagram from nowhere"] += 1
            return
        self.core.receive(datagram, endpoint, boot_us(), unix_us())
        self.poke()

    def poke(self) -> None:
        """After a call into the core: send what it has, pass its events on, and keep its new deadline."""
        core = self.core
        for datagram, endpoint in taken(core.outgoing):
            address = self.links.address(endpoint)
            if address is None:
                core.counters["datagram to nowhere"] += 1
            else:
                self._send(datagram, address)
        for event in taken(core.events):
            self._pass_on(event)
        self._set_alarm()

    # ------------------------------------------------------------------ questions

    def begin_at(self, found: Iterable[Address], *, named: bool = True) -> None:
        """Places where other nodes may be, to begin with; `named`: by the owner, so not by just anybody."""
        self.core.bootstrap(self.links.endpoints(found), boot_us(), named=named)
        self.poke()

    def publish(self, own: Iterable[Address], listed: bool) -> None:
        """Where this machine is, for those who may know."""
        self.core.publish(self.links.endpoints(own), listed, boot_us(), unix_us())
        self.poke()

    async def find_machine(
        self, machine_id: bytes, ed25519: bytes | None, lookup_secret: bytes
    ) -> Location | None:
        """Its newest location, if there is one that opens with the secret (16 bytes)."""
        core = self.core
        handle = core.lookup_machine(machine_id, ed25519, lookup_secret, boot_us(), unix_us())
        found = await self._answer(handle, LOOKUP_SECONDS)
        return found.location if isinstance(found, MachineFound) else None

    async def find_slug(self, slug: str) -> SlugFound | None:
        """The machines that claim the slug; None if the time was not enough."""
        found = await self._answer(self.core.lookup_slug(slug, boot_us(), unix_us()), LOOKUP_SECONDS)
        return found if isinstance(found, SlugFound) else None

    async def send_event(self, to: Recipient, tag: str, body: bytes) -> Sent | None:
        """Seal it to the machine and bring it there or to its homes; None if that cannot be in time."""
        try:
            handle = self.core.send_event(to, tag, body, boot_us(), unix_us())
        except (LocalFault, BadPublicKey) as error:
            log.warning("an event could not be sent", tag=tag, error=error)
            return None
        sent = await self._answer(handle, EVENT_SECONDS)
        return sent if isinstance(sent, Sent) else None

    def answer_to(self, secrets: tuple[bytes, ...]) -> None:
        """Take events under these secrets (16 bytes each, 64 at most) too, in place of those said before.
        Raises LocalFault."""
        self.core.answer_to(secrets)

    def places(self) -> tuple[tuple[Endpoint, ...], tuple[tuple[Endpoint, bytes], ...]]:
        """For who is to answer this machine: its own endpoints, and (endpoint, handle 16) of its homes."""
        return self.core.places()

    def offer(self, offer: Offer) -> None:
        """Have it published, in place of the last one; one that is not active withdraws that."""
        if offer.active:
            self.core.offer(offer, boot_us(), unix_us())
        else:
            self.core.withdraw(offer, boot_us(), unix_us())
        self.poke()

    async def refresh_market(self, country: str) -> bool:
        """Ask the DHT for the offers of a country class; False if not all of it answered in time."""
        handle = self.core.refresh_market(country, boot_us(), unix_us())
        return await self._answer(handle, REFRESH_SECONDS) is not None

    def market(self, country: str, max_per_gb: int | None) -> list[Listing]:
        """The offers that are known here, the best first."""
        return self.core.market(country, max_per_gb, unix_us())

    def status(self) -> dict[str, Any]:
        """For `zeqnode status` and `zeqnode peers`."""
        return self.core.status(boot_us())

    def publish_tag(self, tag: str, body: bytes) -> int:
        """To everybody who listens, by gossip; the number of listeners here. Raises Usage."""
        try:
            notified = self.core.publish_tag(tag, body, boot_us(), unix_us())
        except LocalFault as error:
            raise Usage(f"this cannot be published: {error}") from None
        self.poke()
        return notified

    @asynccontextmanager
    async def listen(self, pattern: str) -> AsyncIterator[trio.MemoryReceiveChannel[Tagged]]:
        """Events of a tag, or of all that begin with its words: "vpn.tunnel.*". Raises Usage."""
        sender, receiver = trio.open_memory_channel[Tagged](HEARD_MAX)
        try:
            number = self.core.subscribe(pattern)
        except LocalFault as error:
            raise Usage(f"nobody can listen to {pattern!r}: {error}") from None
        self._listeners[number] = sender
        try:
            yield receiver
        finally:
            del self._listeners[number]
            self.core.unsubscribe(number)

    async def _answer(self, handle: int, seconds: float) -> object | None:
        """The event that ends what `handle` names."""
        answer = self._waiting[handle] = _Answer()
        try:
            self.poke()  # only now: the core may know the answer already
            with trio.move_on_after(seconds):
                await answer.came.wait()
        finally:
            del self._waiting[handle]
        return answer.event

    def _pass_on(self, event: Any) -> None:
        if isinstance(event, Tagged):
            for number in event.subscriptions:
                try:
                    self._listeners[number].send_nowait(event)
                except trio.WouldBlock:
                    self.core.counters["tag event lost by a slow listener"] += 1
            return
        answer = self._waiting.get(event.handle)
        if answer is not None:
            answer.event = event
            answer.came.set()

    # ------------------------------------------------------------------ time

    async def _by_the_clock(self) -> None:
        while True:
            self.core.tick(boot_us(), unix_us())
            self.poke()
            with trio.CancelScope() as self._nap:
                self._set_alarm()
                await trio.sleep_forever()

    def _set_alarm(self) -> None:
        wait_us = min(self.core.deadline_us() - boot_us(), NAP_US)
        self._nap.deadline = trio.current_time() + max(0, wait_us) / 1e6

    async def _save_now_and_then(self) -> None:
        while True:
            await trio.sleep(SAVE_SECONDS)
            await self._save()

    async def _save(self) -> None:
        try:
            await self._store.call(Store.set_setting, STATE_SETTING, self.core.save())
        except StorageFailed as error:
            log.warning("tables not kept for the next start", error=error)


class _Answer:
    def __init__(self) -> None:
        self.came = trio.Event()
        self.event: object | None = None
