"""Calls: sealed events to one machine, straight to it or through its homes; never through gossip.

    send ─▶ sign, seal ─▶ to its endpoints at once, to its homes 0.4 s apart ─▶ Sent: delivered, held, refused
    0xD2 ─▶ Event for us ─▶ dht/inbox.py ─▶ Called          Lodge, Event for a lodger ─▶ dht/homes.py
            Taken ─▶ dht/post.py                            Lodged ─▶ dht/lodging.py

`delivered` cannot be faked: the answer has to carry eight bytes that only who opened the event can compute
(crypto/sealed.py). `held` is a home's word. Homes are tried a moment after the machine's own addresses, so
that a home does not even learn of a call that did not need it.

An address that has not shown a token gets one small answer and leaves nothing behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hmac import compare_digest
from typing import Final

import msgspec

from crypto import sealed
from crypto.errors import LocalFault
from crypto.identity import KeyBundle
from crypto.pulse import zeqond
from dht import letters
from dht.endpoints import Endpoint, usable
from dht.homes import Home
from dht.inbox import Inbox, Machine
from dht.letters import Letter
from dht.lodging import Lodging
from dht.messages import Event, Lodge, Taken, decode_call, encode_call
from dht.parts import Parcel, well_formed
from dht.post import Answer, Called, Delivery, HomesChanged, Post, Sent, Status
from dht.signatures import Ed25519Signatures, SeedSigner, Signatures, Signer
from dht.tokens import Tokens

ITSELF: Final = bytes(16)  # the handle of a machine at its own address
MAX_CALLS: Final = 64
MAX_ENDPOINTS: Final = 8
MAX_HOMES: Final = 3
MAX_ANSWERS: Final = 64  # secrets under which answers are awaited
STAGGER_US: Final = 400_000

__all__ = ["Called", "Calls", "HomesChanged", "Machine", "Recipient", "Sent"]


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom to call. `secret`: its lookup secret, 16 bytes. `homes`: (endpoint, handle 16)."""

    bundle: KeyBundle
    secret: bytes
    endpoints: tuple[Endpoint, ...] = ()
    homes: tuple[tuple[Endpoint, bytes], ...] = ()


class _Call:
    __slots__ = ("deliveries", "handle", "receipt")

    def __init__(self, handle: int, receipt: bytes) -> None:
        self.handle = handle
        self.receipt = receipt
        self.deliveries: list[Delivery] = []


class Calls:
    """The core. `secrets`: lookup secrets of which a caller must know one. `lodging`: 32 secret bytes that
    stay the same over restarts. `homes`: with how many to lodge at most, 0 to 3.
    `entropy(n)` gives n random bytes."""

    __slots__ = (
        *("_answers", "_calls", "_home", "_inbox", "_last_handle", "_lodging", "_machine", "_post"),
        *("_secrets", "_sequence", "counters", "entropy", "events", "outgoing", "tokens"),
    )

    def __init__(
        self,
        machine: Machine,
        secrets: tuple[bytes, ...],
        lodging: bytes,
        entropy: Callable[[int], bytes],
        now_us: int,
        *,
        signatures: Signatures | None = None,
        signer_of: Callable[[bytes], Signer] = SeedSigner,
        homes: int = MAX_HOMES,
        counters: Counter[str] | None = None,
    ) -> None:
        signatures = signatures or Ed25519Signatures()
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Called | Sent | HomesChanged] = []
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.entropy = entropy
        self.tokens = Tokens(entropy, now_us)
        self._machine = machine
        self._secrets = secrets
        self._answers: tuple[bytes, ...] = ()
        self._post = Post(self)
        self._inbox = Inbox(self, machine, secrets, signatures)
        self._home = Home(self, self._post, signatures)
        self._lodging = Lodging(self, lodging, signer_of, homes)
        self._calls: dict[int, _Call] = {}
        self._last_handle = 0
        self._sequence = 0

    # ------------------------------------------------------------------ what the owner wants

    def send(self, to: Recipient, tag: str, body: bytes, now_us: int, unix_us: int) -> int:
        """Call a machine; `Sent` of this handle says what came of it, within 25 s. Raises LocalFault for a
        tag or body that no event may have, and while 64 calls are under way; BadPublicKey for keys that are
        none."""
        letters.check(tag, body)
        if len(self._calls) >= MAX_CALLS:
            raise LocalFault(f"{MAX_CALLS} calls are under way; try again in a minute")
        self._sequence = max(unix_us, self._sequence + 1)
        machine, moment = self._machine, zeqond(unix_us // 1000)
        letter = Letter(
            *(letters.VERSION, tag, machine.bundle.raw, to.bundle.machine_id),
            *(moment, self._sequence, body),
        )
        plaintext = letters.write(letter, machine.signer)
        box, receipt = sealed.seal(to.bundle, to.secret, plaintext, machine.primitives)
        self._last_handle += 1
        call = self._calls[self._last_handle] = _Call(self._last_handle, receipt)
        self._start(call, to, Parcel(box), now_us)
        if not call.deliveries:
            self._end(call, False)
        return call.handle

    def lodge(self, candidates: Iterable[Endpoint], now_us: int) -> None:
        """Be called through up to three of these, best first; kept up until `leave`. HomesChanged says when
        more candidates are wanted."""
        self._lodging.lodge(candidates, now_us)

    def leave(self, unix_us: int) -> None:
        """We can be reached ourselves: no homes any more."""
        self._lodging.leave(unix_us)

    def serve(self, serving: bool) -> None:
        """Be a home, or let no new lodgers in."""
        self._home.serving = serving

    def listen(self, secrets: tuple[bytes, ...]) -> None:
        """Callers must know one of these lookup secrets from now on, or one that we gave for an answer."""
        self._secrets = secrets
        self._inbox.secrets = self._secrets + self._answers

    def answer_to(self, secrets: tuple[bytes, ...]) -> None:
        """Take what is sealed under these secrets (16 bytes each) too, in place of those said before: we gave
        them to machines of which we want answers. Each adds a try to every event that opens with none, some
        µs. Raises LocalFault for more than 64."""
        if len(secrets) > MAX_ANSWERS:
            raise LocalFault(f"{MAX_ANSWERS} answers are awaited already; try again in a minute")
        self._answers = secrets
        self._inbox.secrets = self._secrets + self._answers

    @property
    def homes(self) -> tuple[tuple[Endpoint, bytes], ...]:
        """(endpoint, handle 16) through which we are called."""
        return self._lodging.homes

    @property
    def lodgers(self) -> int:
        return len(self._home)

    @property
    def held(self) -> tuple[int, int]:
        """Events, and bytes of them, that are kept for lodgers that are away."""
        return self._home.held

    def save(self) -> bytes:
        """Which events have been taken; load it after a restart, or some may come a second time."""
        return self._inbox.once.save()

    def load(self, saved: bytes) -> None:
        """Raises ValueError for what `save` did not give."""
        self._inbox.once.load(saved)

    # ------------------------------------------------------------------ the core's face

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        """One datagram that begins with 0xD2."""
        try:
            message = decode_call(datagram[1:])
        except msgspec.MsgspecError:
            self.count("call that does not parse")
            return
        if isinstance(message, Event):
            self._on_event(message, source, now_us, unix_us)
        elif isinstance(message, Taken):
            self._post.on_taken(message, source, now_us)
        elif isinstance(message, Lodge):
            self._home.on_lodge(message, source, now_us)
        else:
            self._lodging.on_lodged(message, source, now_us, unix_us)

    def tick(self, now_us: int, unix_us: int) -> None:
        """Do everything that is due."""
        self._post.tick(now_us)
        self._lodging.tick(now_us, unix_us)
        self._home.tick(now_us)
        if self._inbox.partials.due_us <= now_us:
            self._inbox.partials.expire(now_us)

    def deadline_us(self) -> int:
        """When `tick` next has something to do."""
        return min(self._post.due_us, self._lodging.due_us, self._home.due_us, self._inbox.partials.due_us)

    # ------------------------------------------------------------------ what the parts ask of their host

    def emit(self, datagram: bytes, target: Endpoint) -> None:
        self.outgoing.append((datagram, target))

    def event(self, event: Called | Sent | HomesChanged) -> None:
        self.events.append(event)

    def count(self, what: str) -> None:
        self.counters[what] += 1

    # ------------------------------------------------------------------ inside

    def _on_event(self, message: Event, source: Endpoint, now_us: int, unix_us: int) -> None:
        token = self.tokens.make(source, now_us)
        answer: Answer | None
        if not self.tokens.holds(message.token, source, now_us):
            answer = Status.SHOW_TOKEN, 0, b""
        elif not well_formed(message):
            self.count("event in parts that cannot be")
            return
        elif message.handle == ITSELF or self._lodging.is_ours(message.handle, source):
            answer = self._inbox.on_event(message, source, message.handle != ITSELF, now_us, unix_us)
        elif self._home.knows(message.handle):
            answer = self._home.on_event(message, source, now_us)
        else:
            answer = Status.NOBODY, 0, b""
        if answer is not None:
            self.emit(encode_call(Taken(message.t, token, *answer)), source)

    def _start(self, call: _Call, to: Recipient, parcel: Parcel, now_us: int) -> None:
        told = partial(self._told, call)
        endpoints = [one for one in dict.fromkeys(to.endpoints) if usable(one)][:MAX_ENDPOINTS]
        homes = [one for one in dict.fromkeys(to.homes) if usable(one[0])][:MAX_HOMES]
        for endpoint in endpoints:
            delivery = Delivery(parcel, endpoint, ITSELF, b"", told)
            call.deliveries.append(self._post.start(delivery, now_us))
        for number, (endpoint, handle) in enumerate(homes, 1 if endpoints else 0):
            delivery = Delivery(parcel, endpoint, handle, b"", told)
            call.deliveries.append(self._post.start(delivery, now_us + number * STAGGER_US))
        self._post.tick(now_us)

    def _told(self, call: _Call, delivery: Delivery, _now_us: int) -> None:
        """One address answered, or did not to the end."""
        if delivery.status is Status.DELIVERED:
            if compare_digest(delivery.receipt, call.receipt):
                self._end(call, True)
                return
            delivery.status = Status.REFUSED
            self.count("said to be delivered, without the receipt of who opened it")
        if all(one.over for one in call.deliveries):
            self._end(call, False)

    def _end(self, call: _Call, delivered: bool) -> None:
        for delivery in call.deliveries:
            self._post.drop(delivery)
        del self._calls[call.handle]
        held = sum(one.status is Status.HELD for one in call.deliveries)
        refused = sum(one.status is Status.REFUSED for one in call.deliveries)
        self.event(Sent(call.handle, delivered, held, refused))
