"""Who a node's neighbours in the mesh are: how links open, stay, are exchanged, and resist Sybils.

    A opens           B
    Open(a) ───────▶  ◀─ Opened(a, token, not taken)   the token is a MAC of A's address: B keeps nothing
    Open(a, token) ▶  ◀─ Opened(a, token, taken)       linked: A shows the token in all that it sends, B a
                      ◀─ Close(a)                      no room; at either step

Every node opens three links itself, a fourth where it has no more in all, and keeps 36 places for strangers;
a third link of one network is refused, unless links are few. Nobody but us decides whom we dial, and who
dials in cannot take those places, so nodes that only swallow what they get cost bytes, not delivery:

- Of use is a neighbour that brings a bulletin first, or announces one that it does not have from us. A
  passenger gave nothing while 24 bulletins came by others (8, if it never gave any). Its place goes to the
  next stranger when all are taken, and its network is barred for half an hour: one try for each.
- A branch of the tree below us gives nothing either. So a passenger that we push to is made lazy first: it
  then hears from others, and announces. Who comes as the thirteenth or later is lazy until it was of use.
- Among strangers of whom nothing is known, a secret order of networks decides, not who asks most often.
- Friends, whom the owner named (who invited us, our peers), are called first, and have a place in any case;
  whoever is in our routing table goes before who is not, until the latter has given something.
- Where fewer than two of those we dialled are of use, their passengers are exchanged; eight may be dialled.

Every four minutes one link more is opened, and half a minute later the least useful goes; while nothing at
all is heard, the oldest is exchanged. So two halves of a mesh do not stay apart. A link that is silent for
25 s is asked for an answer; three unanswered questions end it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import IntEnum
from hashlib import blake2s
from typing import Final

from dht import endpoints
from dht.dialling import Dials
from dht.endpoints import Endpoint
from dht.link import SECOND_US, Link
from dht.messages import Alive, Close, GossipMessage, Open, Opened, Prune
from dht.parts import NEVER
from dht.shunned import Shunned
from dht.tokens import Tokens

OUTBOUND: Final = 3  # so that links are six on average, gossipsub's D
OUTBOUND_CROWDED: Final = 8
SOURCES: Final = 2  # of use among those we dialled, else they are exchanged
LOW: Final = 4
INBOUND: Final = 36  # room for the many behind NAT, who can only dial
EASY: Final = 12  # links in all; who comes in after them is lazy until it has proven useful
PER_NETWORK: Final = 2
IDLE_US: Final = 25 * SECOND_US
PROBE_US: Final = 3 * SECOND_US
PROBES: Final = 3
AVOID_US: Final = 60 * SECOND_US  # an address that refused, left or did not answer
BAR_US: Final = 1800 * SECOND_US
EXCHANGE_US: Final = 240 * SECOND_US
EXTRA_US: Final = 30 * SECOND_US  # how long a link may be one too many
BESIEGED_US: Final = 10 * SECOND_US  # between exchanges, while nothing is heard and all places are taken
EXCHANGE_SOONEST_US: Final = 5 * SECOND_US


class Known(IntEnum):
    """What is known of an address, before anything comes from it."""

    NOT = 0
    TABLE = 1  # it is in our routing table, where each network has but a few places
    FRIEND = 2  # the owner told us: of an invitation, a peer, a seed


class Links:
    """`candidates(n)`: up to n addresses of other nodes; `known(address)`: what we know of it;
    `send(message, to)` sends; `by_endpoint` is for reading. `due_us`: when `tend` wants to be called."""

    __slots__ = (
        *("_avoided", "_barred", "_bits", "_dials", "_entropy", "_exchange_pause_us", "_exchange_us"),
        *("_extra", "_heard_at_exchange", "_known", "_leaving", "_secret", "_send", "_tokens"),
        *("by_endpoint", "counters", "due_us", "heard"),
    )

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        now_us: int,
        candidates: Callable[[int], Iterable[Endpoint]],
        send: Callable[[GossipMessage, Endpoint], None],
        counters: Counter[str],
        known: Callable[[Endpoint], Known] = lambda _endpoint: Known.NOT,
    ) -> None:
        self._entropy, self._send, self._known = entropy, send, known
        self._tokens = Tokens(entropy, now_us)
        self._secret = entropy(16)
        self.counters = counters
        self.by_endpoint: dict[Endpoint, Link] = {}
        self._dials = Dials(entropy, now_us, candidates, send)
        self._barred, self._avoided = Shunned(BAR_US), Shunned(AVOID_US)
        self._bits = 0
        self.heard = 0  # genuine bulletins, from anybody
        self._leaving: Link | None = None
        self._heard_at_exchange = 0
        self._exchange_pause_us = 2 * EXCHANGE_SOONEST_US
        self._extra = False  # one link more than usual is wanted, on trial
        self._exchange_us = now_us + self._exchange_pause_us
        self.due_us = now_us

    # ------------------------------------------------------------------ opening and closing

    def on_open(self, message: Open, source: Endpoint, now_us: int) -> Link | None:
        """Somebody wants to be our neighbour; the new link if that is so from now on."""
        dial = self._dials.pending.get(source)
        if dial is not None and dial.mine <= message.mine:
            return None  # both at once: the lower cookie's Open counts, on both sides; our own has the same
        link = self.by_endpoint.get(source)
        if not message.yours:
            if link is None and not self._room(source, now_us, evict=False):
                self._send(Close(message.mine), source)
            else:
                token = self._tokens.make(source, now_us)
                self._send(Opened(message.mine, token, taken=False), source)
            return None
        if not self._tokens.holds(message.yours, source, now_us):
            self.counters["links opened with a wrong token"] += 1
            return None
        if link is not None and link.theirs == message.mine:
            self._send(Opened(message.mine, link.mine, taken=True), source)  # the first one was lost
            return None
        if link is not None:
            self._drop(link)  # it forgot us: it began anew
        elif not self._room(source, now_us, evict=True):
            self._send(Close(message.mine), source)
            return None
        self._dials.pending.pop(source, None)
        self._send(Opened(message.mine, message.yours, taken=True), source)
        link = self._add(source, message.yours, message.mine, now_us, outbound=False)
        if len(self.by_endpoint) > EASY and link.known is not Known.FRIEND:
            link.tested = True  # nothing to find out by making it lazy again
            self.make_lazy(link)
        return link

    def on_opened(self, message: Opened, source: Endpoint, now_us: int) -> Link | None:
        """An answer to our Open; the new link if we are neighbours now."""
        dial = self._dials.pending.get(source)
        if dial is None or dial.mine != message.yours:
            self.counters["answers to no Open of ours"] += 1
            return None
        if not message.taken:
            self._dials.show(source, dial, message.mine, now_us)
            return None
        self._dials.answered(source)
        self._extra = False
        if self._leaving is not None:
            self.close(self._leaving, now_us)
        return self._add(source, dial.mine, message.mine, now_us, outbound=True)

    def on_refused(self, message: Close, source: Endpoint, now_us: int) -> None:
        """A Close from who is no neighbour."""
        dial = self._dials.pending.get(source)
        if dial is not None and dial.mine == message.yours:
            del self._dials.pending[source]
            self._avoided.add(source, now_us)

    def close(self, link: Link, now_us: int, *, told: bool = True) -> None:
        """Ends a link; `told`: and says so to the other side."""
        if told:
            self._send(Close(link.theirs), link.endpoint)
        self._drop(link)
        self._avoided.add(link.endpoint, now_us)
        self.due_us = min(self.due_us, self._dials.next_us)

    def cut_off(self, link: Link, now_us: int, why: str) -> None:
        """Ends a link with who broke the rules; its network is barred, both ways."""
        self.counters[f"neighbours cut off: {why}"] += 1
        self.close(link, now_us)
        self._barred.add(link.network, now_us)

    def make_lazy(self, link: Link) -> None:
        """From now on only ids go over it, both ways."""
        link.eager = False
        link.sent += 1
        self._send(Prune(link.theirs), link.endpoint)

    def _add(self, endpoint: Endpoint, mine: bytes, theirs: bytes, now_us: int, *, outbound: bool) -> Link:
        bit = ~self._bits & (self._bits + 1)  # the lowest that is free
        self._bits |= bit
        link = Link(endpoint, mine, theirs, now_us, outbound=outbound, bit=bit, mark=self.heard)
        link.known = self._known(endpoint)
        self.by_endpoint[endpoint] = link
        self.due_us = min(self.due_us, now_us + IDLE_US)
        return link

    def _drop(self, link: Link) -> None:
        link.open = False
        self._bits &= ~link.bit
        del self.by_endpoint[link.endpoint]
        if self._leaving is link:
            self._leaving = None

    # ------------------------------------------------------------------ who may come in

    def _room(self, source: Endpoint, now_us: int, *, evict: bool) -> bool:
        """Whether there is a place for a stranger; `evict`: make it, if a passenger has it."""
        network = endpoints.network(source)
        if self._barred.until(network) > now_us:
            self.counters["links refused: barred network"] += 1
            return False
        if self._crowded(network):
            self.counters["links refused: two of that network"] += 1
            return False
        inbound = [link for link in self.by_endpoint.values() if not link.outbound]
        if len(inbound) < INBOUND:
            return True
        idle = [link for link in inbound if self._idle(link)]
        if idle and (not evict or self._put_out(min(idle, key=_use), now_us)):
            return True
        # Whoever announces may have what it announces or not: only who gave something keeps its place from
        # those that are known, and a friend has one in any case.
        known = self._known(source)
        place = min(inbound, key=self._worth)
        if (known is Known.FRIEND, False, known, False, self._luck(network)) > self._worth(place):
            if evict:
                self.close(place, now_us)
            return True
        self.counters["links refused: no room"] += 1
        return False

    def _worth(self, link: Link) -> tuple[bool, bool, int, bool, int]:
        """What earns a place, first things first."""
        friend, gave = link.known is Known.FRIEND, link.firsts + link.kept > 0
        return friend, gave, link.known, link.proven, self._luck(link.network)

    def _luck(self, network: bytes) -> int:
        """Among strangers of whom nothing is known, a lottery that nobody wins by asking more often."""
        return -int.from_bytes(blake2s(network, key=self._secret, digest_size=8).digest(), "big")

    def tells_twice(self, link: Link) -> bool:
        """Whether it is told a bulletin's id although that was pushed to it, and may have been lost: where
        all places are taken, friends may have nobody but us."""
        return link.known is Known.FRIEND and len(self.by_endpoint) >= INBOUND

    def _idle(self, link: Link) -> bool:
        """Whether it is a passenger. A friend is none, whatever it gives."""
        return link.known is not Known.FRIEND and link.idle(self.heard)

    def _crowded(self, network: bytes) -> bool:
        links = self.by_endpoint.values()
        return len(links) >= LOW and sum(link.network == network for link in links) >= PER_NETWORK

    # ------------------------------------------------------------------ what time brings

    def tend(self, now_us: int) -> None:
        """Questions to silent neighbours, calls that got no answer, new links, exchanges."""
        due_us = min([self._probe(link, now_us) for link in list(self.by_endpoint.values())], default=NEVER)
        for endpoint in self._dials.repeat(now_us):
            self._avoided.add(endpoint, now_us)
        if now_us >= self._exchange_us:
            self._exchange(now_us)
        need = self._need()
        if need > 0 and now_us >= self._dials.next_us:
            self._dial(need, now_us)
        if need > 0:
            due_us = min(due_us, self._dials.next_us)
        self.due_us = min(due_us, self._exchange_us, self._dials.due_us)

    def _probe(self, link: Link, now_us: int) -> int:
        """When to look at it again. Who was dialled waits a little longer: one question serves both."""
        idle_us = IDLE_US if link.outbound else IDLE_US + 2 * PROBE_US
        if link.heard_us + idle_us > now_us:
            link.probes = 0
            return link.heard_us + idle_us
        due_us = link.heard_us + idle_us + link.probes * PROBE_US
        if now_us < due_us:
            return due_us
        if link.probes >= PROBES:
            self.counters["neighbours that went silent"] += 1
            self.close(link, now_us, told=False)
            return NEVER
        link.probes += 1
        link.sent += 1
        self._send(Alive(link.theirs, answer=True), link.endpoint)
        return due_us + PROBE_US

    def _need(self) -> int:
        """How many links more to open."""
        inbound = sum(not link.outbound for link in self.by_endpoint.values())
        outbound = len(self.by_endpoint) - inbound - (self._leaving is not None)
        few = inbound + outbound < LOW  # one at a time: others are dialling us, too
        return max(self._goal(inbound) - outbound, int(few), int(self._extra)) - len(self._dials.pending)

    def _goal(self, inbound: int) -> int:
        return OUTBOUND_CROWDED if inbound >= INBOUND and self._sources() < SOURCES else OUTBOUND

    def _dial(self, need: int, now_us: int) -> None:
        outbound = sum(link.outbound for link in self.by_endpoint.values())
        needy = outbound < self._goal(len(self.by_endpoint) - outbound)

        def welcome(endpoint: Endpoint) -> bool:
            network = endpoints.network(endpoint)
            barred_us = max(self._barred.until(network), self._avoided.until(endpoint))
            return endpoint not in self.by_endpoint and barred_us <= now_us and not self._crowded(network)

        self._dials.begin(need, now_us, welcome, needy=needy)

    def _exchange(self, now_us: int) -> None:
        """Looks at the links that we opened: are they of use, are they more than needed, is it time to try
        another? A new one that proves useless is the first to go."""
        outbound = [link for link in self.by_endpoint.values() if link.outbound]
        idle = [link for link in outbound if self._idle(link)]
        quiet = self.heard == self._heard_at_exchange
        self._heard_at_exchange = self.heard
        pause_us = EXCHANGE_US
        if idle and self._sources() < SOURCES:
            self._put_out(min(idle, key=_use), now_us)
            pause_us = EXCHANGE_SOONEST_US
        elif quiet:
            besieged = len(self.by_endpoint) - len(outbound) >= INBOUND
            pause_us = min(2 * self._exchange_pause_us, BESIEGED_US if besieged else EXCHANGE_US)
            strangers = [link for link in outbound if link.known is not Known.FRIEND]
            self._leaving = min(strangers, key=lambda link: link.opened_us, default=None)
        elif len(outbound) > OUTBOUND and len(self.by_endpoint) > LOW:
            lazy = [link for link in outbound if not link.eager]
            if idle:
                self._put_out(min(idle, key=_use), now_us)
            elif lazy:
                self.close(min(lazy, key=_use), now_us)
        else:
            self._extra = True
            pause_us = EXTRA_US
        self._exchange_pause_us = pause_us
        self._exchange_us = now_us + pause_us + self._entropy(1)[0] * pause_us // 1024

    def _sources(self) -> int:
        """How many of those that we dialled are of use."""
        links = self.by_endpoint.values()
        return sum(link.outbound and link.proven and not link.idle(self.heard) for link in links)

    def _put_out(self, passenger: Link, now_us: int) -> bool:
        """Whether it is gone. A branch of the tree below us gives nothing either, so it first gets a chance:
        made lazy, a node of the mesh hears from others and announces; a Sybil that swallows does not."""
        if passenger.eager and not passenger.tested:
            passenger.tested, passenger.mark = True, self.heard
            self.make_lazy(passenger)
            return False
        self.counters["passengers put out"] += 1
        self.close(passenger, now_us)
        self._barred.add(passenger.network, now_us)
        return True


def _use(link: Link) -> int:
    return link.mark
