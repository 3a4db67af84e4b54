"""ZeqMesh: what many want at once (offers, withdrawals, public tags), pushed along a tree, repaired by ids.

    bulletin ── Push ──▶ eager links: the tree        a second copy ── Prune ──▶ that link is lazy from now on
        ╰─────── Have ──▶ lazy links, after a moment   id unknown ── wait ── Want, Graft ──▶ eager again
    Digest ⇄ Digest ── Have of what differs ── Want ── Push      when a link opens, and now and then on one

The tree is that of Leitão, Pereira and Rodrigues, "Epidemic Broadcast Trees" (2007): nobody builds it, the
first copy of each bulletin does. Each lazy link has one side that announces an id first, the opener for even
ids, the acceptor for odd ones, and the other side keeps silent if it heard of it; so most bulletins cross a
lazy link as one id. Links are dht/links.py, bulletins dht/bulletin.py, what is known dht/seen.py, what is not
yet here dht/missing.py. A neighbour loses its link, and its network half an hour, for what no honest node
sends: a bulletin with a bad signature or stamp, a flood, or promises not kept. Being late costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec

from crypto.pulse import zeqond
from dht import bulletin as bulletins
from dht.bulletin import DIFFICULTY, ID_BYTES, Bulletin
from dht.endpoints import Endpoint
from dht.link import DIGEST_US, SECOND_US, Link, LinkState
from dht.links import Known, Links
from dht.messages import (
    Alive,
    Close,
    Digest,
    GossipMessage,
    Graft,
    Have,
    Open,
    Opened,
    Prune,
    Push,
    Want,
    decode_gossip,
    encode_gossip,
)
from dht.missing import Missing
from dht.ripples import Ripples
from dht.seen import Place, Seen
from dht.signatures import Ed25519Signatures, Signatures, Signer

Heard: TypeAlias = Bulletin
"""The event: a bulletin of somebody else's, genuine, timely and new here."""

RECONCILE_US: Final = 120 * SECOND_US
IDS: Final = 91  # in one datagram
IDS_OF_DIGEST: Final = 11 * IDS  # in answer to one digest; fewer than who reads them has room for


class Gossip:
    """The core. `candidates(n)`: up to n addresses of nodes of mixed networks, other ones each time; asked
    only when links are wanted. `known(address)`: what else we know of it."""

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        now_us: int,
        candidates: Callable[[int], Iterable[Endpoint]],
        signatures: Signatures | None = None,
        *,
        difficulty: int = DIFFICULTY,
        known: Callable[[Endpoint], Known] = lambda _endpoint: Known.NOT,
        counters: Counter[str] | None = None,
    ) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Heard] = []
        self.counters: Counter[str] = Counter() if counters is None else counters
        self._signatures: Signatures = signatures or Ed25519Signatures()
        self._difficulty = difficulty
        self._links = Links(entropy, now_us, candidates, self._send, self.counters, known)
        self._seen = Seen(self.counters)
        self._missing = Missing()
        self._ripples = Ripples()
        self._changed = False  # since the last digest
        self._digest_us = now_us + RECONCILE_US + entropy(1)[0] * RECONCILE_US // 256
        self._turn = 0

    # ------------------------------------------------------------------ the face

    def publish(
        self, topic: str, body: bytes, signer: Signer, sequence: int, now_us: int, unix_us: int
    ) -> bytes:
        """Signs and sends to all neighbours; the id, 12 bytes. The stamp takes some ten milliseconds. Of two
        of one author and topic, subscribers keep the higher sequence. Raises ValueError when it is too long
        (dht/bulletin.py)."""
        now = zeqond(unix_us // 1000)
        bulletin = bulletins.compose(topic, body, signer, now, sequence, self._difficulty)
        if not self._seen.knows(bulletin.id):
            self._seen.add(bulletin, now)
            for link in self._links.by_endpoint.values():
                link.eager = True
            self._spread(bulletin, 0, 0, now_us)
        return bulletin.id

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        """A datagram whose first byte is 0xD1."""
        try:
            message = decode_gossip(datagram[1:])
        except msgspec.MsgspecError:
            self.counters["gossip that cannot be read"] += 1
            return
        link = self._links.by_endpoint.get(source)
        if isinstance(message, Open):
            opened = self._links.on_open(message, source, now_us)
            if opened is not None:
                self._greet(opened, now_us, unix_us)
        elif link is not None and message.yours == link.mine:
            link.heard_us = now_us
            link.received += 1
            handle = _HANDLERS.get(type(message))
            if handle is not None:  # a second Opened has none
                handle(self, link, message, now_us, unix_us)
        else:
            self._from_stranger(message, source, now_us, unix_us)

    def tick(self, now_us: int, unix_us: int) -> None:
        if self._ripples.due_us <= now_us:
            self._announce(now_us)
        if self._missing.due_us <= now_us:
            self._ask(now_us)
        if self._changed and self._digest_us <= now_us:
            self._reconcile(now_us, unix_us)
        if self._links.due_us <= now_us:
            self._links.tend(now_us)

    def deadline_us(self) -> int:
        due_us = min(self._links.due_us, self._missing.due_us)
        due_us = min(due_us, self._ripples.due_us)
        if self._changed and self._digest_us < due_us:
            due_us = self._digest_us
        return due_us

    def leave(self, now_us: int) -> None:
        """Tells all neighbours that we go."""
        for link in list(self._links.by_endpoint.values()):
            self._links.close(link, now_us)

    @property
    def links(self) -> list[LinkState]:
        return [link.state() for link in self._links.by_endpoint.values()]

    @property
    def known(self) -> int:
        """How many bulletins of the last two hours came by."""
        return len(self._seen)

    # ------------------------------------------------------------------ links

    def _from_stranger(self, message: GossipMessage, source: Endpoint, now_us: int, unix_us: int) -> None:
        if isinstance(message, Opened):
            link = self._links.on_opened(message, source, now_us)
            if link is not None:
                self._greet(link, now_us, unix_us)
        elif isinstance(message, Close):
            self._links.on_refused(message, source, now_us)
        else:
            self.counters["gossip from who is no neighbour"] += 1

    def _greet(self, link: Link, now_us: int, unix_us: int) -> None:
        """The opener says what it has; the acceptor answers if that differs."""
        if link.outbound:
            self._say_digest(link, now_us, unix_us)

    def _on_close(self, link: Link, _message: Close, now_us: int, _unix_us: int) -> None:
        self._links.close(link, now_us, told=False)

    def _on_alive(self, link: Link, message: Alive, _now_us: int, _unix_us: int) -> None:
        if message.answer:
            self._say(link, Alive(link.theirs, answer=False))

    # ------------------------------------------------------------------ the tree

    def _on_push(self, link: Link, message: Push, now_us: int, unix_us: int) -> None:
        if not link.may_push(now_us):
            self.counters["bulletins over a neighbour's limit"] += 1
            if link.exceeds(now_us):
                self._links.cut_off(link, now_us, "flood")
            return
        bulletin = bulletins.parse(message.message)
        if bulletin is None:
            self._links.cut_off(link, now_us, "bulletin that cannot be read")
        elif self._seen.knows(bulletin.id):
            self._duplicate(link, bulletin.id)
        elif self._holds(link, bulletin, now_us, zeqond(unix_us // 1000)):
            self._hear(link, bulletin, now_us, unix_us)

    def _holds(self, link: Link, bulletin: Bulletin, now_us: int, now: int) -> bool:
        """Cheap checks first. That a neighbour's clock, or version, is another than ours is no fault."""
        why = ""
        if not bulletin.known:
            why = "bulletins of another version"
        elif not bulletins.timely(bulletin.zeqond, now):
            why = "bulletins out of date"
        elif self._seen.place(bulletin) is Place.NONE:
            why = "bulletins of authors that have too many"
        if why:
            self.counters[why] += 1
            self._seen.refuse(bulletin.id)
            self._missing.came(bulletin.id, link)
            return False
        if not bulletins.genuine(bulletin, self._signatures, self._difficulty):
            self._links.cut_off(link, now_us, "forged bulletin")
            return False
        return True

    def _hear(self, link: Link, bulletin: Bulletin, now_us: int, unix_us: int) -> None:
        at_once = self._seen.place(bulletin) is Place.NOW
        self._seen.add(bulletin, zeqond(unix_us // 1000))
        self._links.heard += 1
        link.useful(self._links.heard)
        link.firsts += 1
        link.eager = True
        self.events.append(bulletin)
        having = self._missing.came(bulletin.id, link) | link.bit
        self._spread(bulletin, link.bit, having, now_us, at_once=at_once)

    def _spread(
        self, bulletin: Bulletin, source: int, having: int, now_us: int, *, at_once: bool = True
    ) -> None:
        for link in self._links.by_endpoint.values() if at_once else ():
            if link.eager and not having & link.bit and link.may_send(now_us):
                having |= 0 if self._links.tells_twice(link) else link.bit
                self._say(link, Push(link.theirs, bulletin.wire))
        self._ripples.add(bulletin.id, source, having, now_us)
        self._changed = True

    def _duplicate(self, link: Link, name: bytes) -> None:
        """A loop in the tree, cut here; unless the network itself made two of one datagram."""
        self.counters["bulletins that came twice"] += 1
        spread = self._ripples.fresh.get(name)
        if spread is not None:
            if spread.source == link.bit:
                return
            if not spread.having & link.bit:
                spread.having |= link.bit
                link.useful(self._links.heard)
        self._links.make_lazy(link)

    def _on_prune(self, link: Link, _message: Prune, _now_us: int, _unix_us: int) -> None:
        link.eager = False

    def _on_graft(self, link: Link, _message: Graft, _now_us: int, _unix_us: int) -> None:
        link.eager = True

    # ------------------------------------------------------------------ ids

    def _announce(self, now_us: int) -> None:
        for link, names in self._ripples.due(self._links.by_endpoint, now_us).items():
            self._say_have(link, names)

    def _on_have(self, link: Link, message: Have, now_us: int, _unix_us: int) -> None:
        names = _split(message.ids)
        if not link.may_announce(len(names), now_us):
            self.counters["ids over a neighbour's limit"] += len(names)
            return
        for name in names:
            spread = self._ripples.fresh.get(name)
            if spread is not None:
                if not spread.having & link.bit:
                    spread.having |= link.bit
                    link.useful(self._links.heard)
            elif not self._seen.knows(name) and not self._missing.announced(name, link, now_us):
                self.counters["ids that there was no room for"] += 1

    def _ask(self, now_us: int) -> None:
        for link, names in self._missing.due(now_us):
            self._say(link, Want(link.theirs, b"".join(names)))
            if not link.eager:
                link.eager = True
                self._say(link, Graft(link.theirs))
        for link in [each for each in self._links.by_endpoint.values() if each.lies]:
            self._links.cut_off(link, now_us, "promises not kept")

    def _on_want(self, link: Link, message: Want, now_us: int, unix_us: int) -> None:
        now = zeqond(unix_us // 1000)
        for name in _split(message.ids):
            bulletin = self._seen.get(name)
            if bulletin is None or not bulletins.timely(bulletin.zeqond, now):
                continue
            if not link.may_send(now_us, pulled=True):
                self.counters["bulletins not given: too many at once"] += 1
                continue
            spread = self._ripples.fresh.get(name)
            if spread is not None:
                spread.having |= link.bit
            self._say(link, Push(link.theirs, bulletin.wire))

    # ------------------------------------------------------------------ reconciliation

    def _reconcile(self, now_us: int, unix_us: int) -> None:
        """Our digest to one neighbour, each in turn."""
        self._changed = False
        self._digest_us = now_us + RECONCILE_US
        links = list(self._links.by_endpoint.values())
        if links:
            self._turn += 1
            self._say_digest(links[self._turn % len(links)], now_us, unix_us)

    def _say_digest(self, link: Link, now_us: int, unix_us: int) -> None:
        link.digest_out_us = now_us
        self._say(link, Digest(link.theirs, self._seen.digest(zeqond(unix_us // 1000))))

    def _on_digest(self, link: Link, message: Digest, now_us: int, unix_us: int) -> None:
        if now_us - link.digest_in_us < DIGEST_US:
            self.counters["digests over a neighbour's limit"] += 1
            return
        link.digest_in_us = now_us
        now = zeqond(unix_us // 1000)
        if message.sums == self._seen.digest(now):
            return
        self._say_have(link, self._seen.differing(message.sums, now)[:IDS_OF_DIGEST])
        if now_us - link.digest_out_us >= DIGEST_US:
            self._say_digest(link, now_us, unix_us)

    # ------------------------------------------------------------------ out

    def _say_have(self, link: Link, names: list[bytes]) -> None:
        for start in range(0, len(names), IDS):
            self._say(link, Have(link.theirs, b"".join(names[start : start + IDS])))

    def _say(self, link: Link, message: GossipMessage) -> None:
        link.sent += 1
        self.outgoing.append((encode_gossip(message), link.endpoint))

    def _send(self, message: GossipMessage, to: Endpoint) -> None:
        self.outgoing.append((encode_gossip(message), to))


_HANDLERS: Final[dict[type[GossipMessage], Callable[[Gossip, Link, Any, int, int], None]]] = {
    Close: Gossip._on_close,
    Alive: Gossip._on_alive,
    Push: Gossip._on_push,
    Prune: Gossip._on_prune,
    Graft: Gossip._on_graft,
    Have: Gossip._on_have,
    Want: Gossip._on_want,
    Digest: Gossip._on_digest,
}


def _split(ids: bytes) -> list[bytes]:
    return [ids[start : start + ID_BYTES] for start in range(0, len(ids) - ID_BYTES + 1, ID_BYTES)]
