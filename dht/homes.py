"""Being a home: machines that cannot be reached lodge here, and are called through this node.

    caller ── parts ─▶ home ── parts ─▶ lodger        Taken 6 "under way", then 1 with the lodger's receipt
                        └─ lodger away: held, an hour at most, and brought at its next Lodge     Taken 2

handle = SHA-256("zeqnode lodge v1" ‖ Ed25519 public key)[:16], a key that the lodger has for this home alone.
A Lodge signs the token that this home gave to the address it comes from: only who has the key *and* receives
there becomes the target, and who only listened on the path can take nothing over. An older signature moves
nobody back. A home forwards only for callers that receive where they send from.

What a home learns: the addresses of callers and lodgers, when, and how many parts. The event is sealed, and
the receipt comes from whoever opened it: a home can lose an event, but not pass it off as delivered.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Final

from dht.endpoints import Endpoint, network
from dht.keeping import KEPT_US, Held, Keeping, Lodger
from dht.limits import RateLimit
from dht.messages import Event, Lodge, Lodged, Taken, encode_call
from dht.parts import NEVER, Parcel, Partials, event_id
from dht.post import Answer, Delivery, Host, Post, Status
from dht.signatures import Signatures

LODGE_LABEL: Final = b"zeqnode lodge v1"
LODGERS: Final = 256
LODGERS_PER_NETWORK: Final = 8
LEASE_US: Final = 90_000_000  # a lodger shows itself every 25 s
AT_ONCE: Final = 4  # events on their way to one lodger
PER_CALLER: Final = (1, 10)  # new events a second, and burst, of one network
PROOFS: Final = (2, 20)  # signatures checked a second, and burst, of one network
SWEEP_US: Final = 30_000_000
YES, NO_ROOM, SHOW_TOKEN = 0, 1, 2  # what a Lodged says


def handle_of(public: bytes) -> bytes:
    """16 bytes."""
    return sha256(LODGE_LABEL + public).digest()[:16]


def lodge_payload(token: bytes, mine: bytes, sequence: int, leave: bool) -> bytes:
    """What a Lodge signs under LODGE_LABEL."""
    return (
        bytes([len(token)]) + token + bytes([len(mine)]) + mine + sequence.to_bytes(8, "big") + bytes([leave])
    )


class Home:
    """`serving`: whether newcomers are let in."""

    __slots__ = (
        *("_callers", "_host", "_keeping", "_lodgers", "_post", "_proofs", "_signatures", "_sweep_us"),
        *("partials", "serving"),
    )

    def __init__(self, host: Host, post: Post, signatures: Signatures) -> None:
        self._host = host
        self._post = post
        self._signatures = signatures
        self._lodgers: dict[bytes, Lodger] = {}
        self._keeping = Keeping()
        self._callers = RateLimit(*PER_CALLER)
        self._proofs = RateLimit(*PROOFS)
        self._sweep_us = NEVER
        self.partials = Partials()
        self.serving = False

    def __len__(self) -> int:
        return len(self._lodgers)

    @property
    def held(self) -> tuple[int, int]:
        """Events and bytes that are kept."""
        return self._keeping.size

    @property
    def due_us(self) -> int:
        return min(self._sweep_us, self.partials.due_us)

    # ------------------------------------------------------------------ lodgers

    def on_lodge(self, message: Lodge, source: Endpoint, now_us: int) -> None:
        token = self._host.tokens.make(source, now_us)
        if not self._host.tokens.holds(message.token, source, now_us) or not message.proof:
            self._host.emit(encode_call(Lodged(message.t, token, SHOW_TOKEN)), source)
            return
        handle = handle_of(message.public)
        lodger = self._lodgers.get(handle)
        if not self._proven(message, lodger, source, now_us):
            return
        if message.leave:
            self._forget(lodger)
            return
        if lodger is None:
            lodger = self._admit(handle, source, now_us)
        if lodger is None:
            self._host.emit(encode_call(Lodged(message.t, token, NO_ROOM)), source)
            return
        self._renew(lodger, message, source, now_us)
        self._host.emit(encode_call(Lodged(message.t, token, YES, LEASE_US // 1_000_000)), source)
        self._bring(lodger, now_us)

    def _proven(self, message: Lodge, lodger: Lodger | None, source: Endpoint, now_us: int) -> bool:
        if lodger is not None:
            shown = (message.proof, message.mine, message.sequence, source)
            if shown == (lodger.proof, lodger.mine, lodger.sequence, lodger.endpoint):
                return not message.leave
            moves = source != lodger.endpoint or message.leave
            if moves and message.sequence <= lodger.sequence:
                self._host.count("lodge that is older than the lodger's last")
                return False
        if not self._proofs.allow(network(source), now_us):
            self._host.count("lodge above the rate that is checked")
            return False
        payload = lodge_payload(message.token, message.mine, message.sequence, message.leave)
        if not self._signatures.holds(message.public, LODGE_LABEL, payload, message.proof):
            self._host.count("lodge with a bad signature")
            return False
        return True

    def _admit(self, handle: bytes, source: Endpoint, now_us: int) -> Lodger | None:
        """Room for one more; one that is away, and for whom nothing is kept, gives way."""
        if not self.serving:
            return None
        everybody = list(self._lodgers.values())
        near = [one for one in everybody if network(one.endpoint) == network(source)]
        crowded = near if len(near) >= LODGERS_PER_NETWORK else everybody
        if crowded is near or len(everybody) >= LODGERS:
            idle = next((one for one in crowded if one.until_us <= now_us and not one.held), None)
            if idle is None:
                self._host.count("lodge for which there is no room")
                return None
            self._forget(idle)
        lodger = self._lodgers[handle] = Lodger(handle)
        if self._sweep_us == NEVER:
            self._sweep_us = now_us + SWEEP_US
        return lodger

    def _renew(self, lodger: Lodger, message: Lodge, source: Endpoint, now_us: int) -> None:
        if source != lodger.endpoint:
            for held in lodger.held.values():
                self._halt(held)
        lodger.endpoint, lodger.mine, lodger.proof = source, message.mine, message.proof
        lodger.sequence = max(lodger.sequence, message.sequence)
        lodger.until_us = now_us + LEASE_US

    def _forget(self, lodger: Lodger | None) -> None:
        if lodger is not None:
            for held in list(lodger.held.values()):
                self._remove(lodger, held)
            del self._lodgers[lodger.handle]

    # ------------------------------------------------------------------ events

    def knows(self, handle: bytes) -> bool:
        return handle in self._lodgers

    def on_event(self, message: Event, source: Endpoint, now_us: int) -> Answer | None:
        """A part for a lodger, or a question. None: say nothing."""
        lodger = self._lodgers[message.handle]
        held = lodger.held.get(message.event)
        if held is not None:
            if source == held.caller:
                held.transaction = message.t
            return held.standing, 0, b""
        settled = self._keeping.settled(message.handle, message.event)
        if settled is not None:
            return settled
        key = (source, message.handle, message.event)
        if not message.chunk:
            return Status.MISSING, self.partials.have(key), b""
        if not self.partials.has(key, now_us):
            if not self._keeping.has_room(lodger, source, message.parts):
                self._host.count("event for which there is no room")
                return Status.REFUSED, 0, b""
            if not self._callers.allow(network(source), now_us):
                self._host.count("event above the rate that is forwarded")
                return None
        sealed = self.partials.add(key, message, now_us)
        if sealed is not None:
            return self._take(lodger, sealed, message, source, now_us)
        return None

    def _take(self, lodger: Lodger, sealed: bytes, message: Event, source: Endpoint, now_us: int) -> Answer:
        if event_id(sealed) != message.event:
            self._host.count("event whose parts do not make its whole")
            return Status.REFUSED, 0, b""
        parcel = Parcel(sealed)
        if not self._keeping.has_room(lodger, source, len(parcel.chunks)):
            self._host.count("event for which there is no room")
            return Status.REFUSED, 0, b""
        held = Held(parcel, source, message.t, now_us)
        self._keeping.put(lodger, held)
        self._bring(lodger, now_us)
        return held.standing, 0, b""

    def _bring(self, lodger: Lodger, now_us: int) -> None:
        """Start what waits, if the lodger is there."""
        if lodger.until_us <= now_us:
            return
        room = AT_ONCE - sum(1 for held in lodger.held.values() if held.delivery is not None)
        for held in list(lodger.held.values()):
            if room > 0 and held.delivery is None:
                told = partial(self._told, lodger, held)
                delivery = Delivery(held.parcel, lodger.endpoint, lodger.handle, lodger.mine, told)
                held.delivery = self._post.start(delivery, now_us)
                room -= 1

    def _told(self, lodger: Lodger, held: Held, delivery: Delivery, now_us: int) -> None:
        """The lodger said something of an event, or said nothing until the end."""
        if not delivery.over:
            return
        if delivery.status in (Status.DELIVERED, Status.REFUSED):
            answer = (delivery.status, 0, delivery.receipt)
            self._halt(held)
            self._keeping.settle(lodger, held, answer, now_us)
            self._tell(held, answer, now_us)
            self._bring(lodger, now_us)
        else:
            self._halt(held)
            lodger.until_us = min(lodger.until_us, now_us)  # away, until it lodges again
            self._tell(held, (Status.HELD, 0, b""), now_us)

    def _tell(self, held: Held, answer: Answer, now_us: int) -> None:
        token = self._host.tokens.make(held.caller, now_us)
        self._host.emit(encode_call(Taken(held.transaction, token, *answer)), held.caller)

    def _halt(self, held: Held) -> None:
        if held.delivery is not None:
            self._post.drop(held.delivery)
            held.delivery = None

    def _remove(self, lodger: Lodger, held: Held) -> None:
        self._halt(held)
        self._keeping.remove(lodger, held)

    # ------------------------------------------------------------------ time

    def tick(self, now_us: int) -> None:
        if self.partials.due_us <= now_us:
            self.partials.expire(now_us)
        if now_us < self._sweep_us:
            return
        for lodger in list(self._lodgers.values()):
            for held in [one for one in lodger.held.values() if one.born_us + KEPT_US <= now_us]:
                self._remove(lodger, held)
                self._host.count("event that nobody fetched in an hour")
            if lodger.until_us + KEPT_US <= now_us:
                self._forget(lodger)
        self._keeping.expire(now_us)
        self._sweep_us = now_us + SWEEP_US if self._lodgers else NEVER
