"""A world in one heap: hosts whose cores run in virtual time. One seed, one course, on every machine.

    heap    (time in µs, order, call, arguments): what is due first comes first
    order   of what happens to the world as a whole: a number, as it was put
            of what a host does: (its index + 1) << 32 | how many things it did before
    trace   the sum modulo 2^128, over all datagrams that arrived, of BLAKE2b-128(time 8 ‖ length 2 ‖ source ‖
            destination ‖ datagram)

Nothing here reads a clock, and nothing that decides is a float or the order of a set. A host has one timer on
the heap, of its core's deadline; it is put again when the deadline became earlier, or when it has fired.

A world may be run by several processes. Each has all hosts and does all that happens to the world as a whole,
but has the cores of its own regions alone. Time goes by in rounds, each less than half as long as a datagram
is under way between regions of two processes:

    round       n               n + 1           n + 2
                sent in n ─────────────────────▶ arrives here at the earliest
    after it    give away what was sent in n, take what the others sent in n - 1, so that nobody waits for
                who is slower in this round alone (`Exchange`)

As neither an order nor a host's chance hangs on what other hosts do, it is one course, whoever runs which
part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, Final, Protocol, TypeAlias

from dht.endpoints import Endpoint
from simulations.dice import Dice
from simulations.host import Core, Host, Site
from simulations.network import Conditions, Network
from simulations.places import shares, soonest_us

START_UNIX_US: Final = 1_767_268_800_000_000  # 2026-01-01 12:00 UTC: no day ends in an ordinary run
SPIN_US: Final = 1_000  # between two ticks of a core at least, unless something came
NEWS_US: Final = 500_000  # from something's being told to its being known; longer than any way takes
_TRACE_BYTES: Final = 16
_TRACES: Final = 1 << 8 * _TRACE_BYTES

OnEvents = Callable[[Host], None]
Letter: TypeAlias = tuple[int, int, bytes, Endpoint, Endpoint]
"""Arrival in µs, order, datagram, source, destination. Without a destination it is news: the host's index in
four bytes is the datagram."""


class Exchange(Protocol):
    """`number`, of `count` processes: this one."""

    number: int
    count: int

    def swap(self, letters: list[list[Letter]]) -> list[Letter]:
        """A round is over: give each other process its letters, and take those that the others gave away
        after the round before; none after the first."""

    def end(self) -> None:
        """There is no further round."""


class World:
    """`seed`: 0 to 2⁶⁴ - 1. `on_events`: called when a host's core has events; it empties them. `exchange`:
    with the processes that run the rest of it."""

    def __init__(
        self, seed: int, conditions: Conditions, on_events: OnEvents, exchange: Exchange | None = None
    ) -> None:
        self.seed = seed
        self.now_us = 0
        self.delivered = 0
        self.network = Network(conditions, self._put)
        self.hosts: dict[int, Host] = {}
        """Those that are there, by index, in the order in which they came."""
        self.told: Callable[[int], None] = lambda _index: None
        """Takes news of a host, by its index; in each process at the same virtual time."""
        self._on_events = on_events
        self._waking = self._wake  # bound once: each host has some timers on the heap
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._trace = 0
        self._exchange = exchange
        self._processes = exchange.count if exchange else 1
        self._here = exchange.number if exchange else 0
        self._of = shares(self._processes)
        self._round_us = (soonest_us(self._of) - 1) // 2
        self._letters: list[list[Letter]] = [[] for _ in range(self._processes)]

    # ------------------------------------------------------------------ hosts

    def runs(self, host: Host) -> bool:
        """Whether its core is in this process."""
        return self._of[host.site.region] == self._here

    def add(self, host: Host, core: Core | None) -> None:
        """It is there from now on, and what its core wants to send or do is done. `core`: None where another
        process has it."""
        host.chance = Dice(self.seed, f"network {host.index}").bits(64)
        host.born_us = self.now_us
        self.hosts[host.index] = host
        self.network.attach(host)
        if core is not None:
            host.core = core
            self.settle(host)

    def remove(self, host: Host) -> None:
        """It vanishes without a word."""
        host.died_us = self.now_us
        host.wake_us = None
        del self.hosts[host.index]
        self.network.detach(host)

    def settle(self, host: Host, earliest_us: int = 0) -> None:
        """After anything was done with its core: send, hand events on, set its timer (from `earliest_us`)."""
        core = host.core
        if core.outgoing:
            post, now_us = self.network.post, self.now_us
            for datagram, destination in core.outgoing:
                post(host, datagram, destination, now_us)
            core.outgoing.clear()
        if core.events:
            self._on_events(host)
        deadline_us = core.deadline_us()
        if host.wake_us is None or deadline_us < host.wake_us:
            self._wake_at(host, max(deadline_us, self.now_us, earliest_us))

    def tell(self, host: Host) -> None:
        """Have `told` called with its index, everywhere, a moment from now."""
        news: Letter = (self.now_us + NEWS_US, _act(host), host.index.to_bytes(4, "big"), b"", b"")
        for number, letters in enumerate(self._letters):
            if number == self._here:
                self._take(news)
            else:
                letters.append(news)

    def unix_us(self, host: Host) -> int:
        """What its clock shows."""
        return START_UNIX_US + self.now_us + host.skew_us

    # ------------------------------------------------------------------ time

    def call_at(self, time_us: int, call: Callable[..., None], *arguments: Any) -> None:
        """Have something done at a time that does not hang on any core, so in every process: not before what
        is already due then."""
        self._number += 1
        heappush(self._heap, (max(time_us, self.now_us), self._number, call, arguments))

    def run(self, until_us: int) -> None:
        """All that is due up to this time, and it is this time."""
        if self._exchange is None:
            self._pass(until_us + 1)
        else:
            while self.now_us < until_us:
                end_us = min(self.now_us + self._round_us, until_us)
                self._pass(end_us + 1)
                self.now_us = end_us
                self._swap(self._exchange)
        self.now_us = until_us

    def end(self) -> None:
        """Nothing will happen any more."""
        if self._exchange is not None:
            self._exchange.end()

    @property
    def trace(self) -> str:
        """32 hex digits for the course so far, in this process's part."""
        return f"{self._trace:032x}"

    def absorb(self, trace: str, delivered: int) -> None:
        """Another process's part."""
        self._trace = (self._trace + int(trace, 16)) % _TRACES
        self.delivered += delivered

    def _pass(self, before_us: int) -> None:
        heap = self._heap
        while heap and heap[0][0] < before_us:
            self.now_us, _, call, arguments = heappop(heap)
            call(*arguments)

    def _swap(self, exchange: Exchange) -> None:
        for letter in exchange.swap(self._letters):
            self._take(letter)
        self._letters = [[] for _ in range(self._processes)]

    def _take(self, letter: Letter) -> None:
        time_us, order, datagram, source, destination = letter
        sender = self.hosts.get((order >> 32) - 1)
        if sender is not None and source == sender.endpoint:
            source = sender.endpoint  # one object for all who keep it
        if destination:
            arguments = (self.network.site_at(destination), datagram, source, destination)
            heappush(self._heap, (time_us, order, self._deliver, arguments))
        else:
            heappush(self._heap, (time_us, order, self._tell, (int.from_bytes(datagram, "big"),)))

    def _tell(self, index: int) -> None:
        self.told(index)

    def _put(
        self, time_us: int, host: Host, site: Site, datagram: bytes, source: Endpoint, destination: Endpoint
    ) -> None:
        host.acts = acts = host.acts + 1
        order = (host.index + 1) << 32 | acts  # as `_act`, whose call would be 1 % of a course
        number = self._of[site.region]
        if number == self._here:
            heappush(self._heap, (time_us, order, self._deliver, (site, datagram, source, destination)))
        else:
            self._letters[number].append((time_us, order, datagram, source, destination))

    def _deliver(self, site: Site, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        now_us = self.now_us
        host = self.network.arrive(site, source, destination, now_us)
        if host is None:
            return
        self.delivered += 1
        counts = host.counts
        counts.received += 1
        counts.received_bytes += len(datagram)
        head = (now_us << 16 | len(datagram)).to_bytes(10, "big")
        digest = blake2b(b"".join((head, source, destination, datagram)), digest_size=_TRACE_BYTES).digest()
        self._trace = (self._trace + int.from_bytes(digest, "big")) % _TRACES
        host.core.receive(datagram, source, now_us, START_UNIX_US + now_us + host.skew_us)
        self.settle(host)

    def _wake_at(self, host: Host, time_us: int) -> None:
        host.wake_us = time_us
        heappush(self._heap, (time_us, _act(host), self._waking, (host, time_us)))

    def _wake(self, host: Host, time_us: int) -> None:
        """Nothing where another timer took this one's place; no tick where the deadline was put off."""
        if host.wake_us != time_us:
            return
        deadline_us = host.core.deadline_us()
        if deadline_us <= time_us:
            host.wake_us = None
            host.core.tick(time_us, self.unix_us(host))
            self.settle(host, time_us + SPIN_US)
        else:
            self._wake_at(host, deadline_us)


def _act(host: Host) -> int:
    host.acts += 1
    return (host.index + 1) << 32 | host.acts
