"""A world in one heap: hosts whose cores run in virtual time. One seed, one course, on every machine.

    heap    (time in µs, number, call, arguments): what is due first comes first, then what was put first
    trace   SHA-256 over, for every datagram that arrived: time 8 ‖ length 2 ‖ source ‖ destination ‖ datagram

Nothing here reads a clock, and nothing that decides is a float or the order of a set. A host has one timer on
the heap, of its core's deadline; it is put again when the deadline became earlier, or when it has fired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from dht.endpoints import Endpoint
from simulations.dice import Dice
from simulations.host import Core, Host, Site
from simulations.network import Conditions, Network

START_UNIX_US: Final = 1_767_268_800_000_000  # 2026-01-01 12:00 UTC: no day ends in an ordinary run
SPIN_US: Final = 1_000  # between two ticks of a core at least, unless something came
_TRACE_CHUNKS: Final = 20_000

OnEvents = Callable[[Host], None]


class World:
    """`seed`: 0 to 2⁶⁴ - 1. `on_events`: called when a host's core has events; it empties them."""

    def __init__(self, seed: int, conditions: Conditions, on_events: OnEvents) -> None:
        self.seed = seed
        self.now_us = 0
        self.delivered = 0
        self.network = Network(conditions, Dice(seed, "network"), self._put)
        self.hosts: dict[int, Host] = {}
        """Those that are there, by index, in the order in which they came."""
        self._on_events = on_events
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._hash = hashlib.sha256()
        self._trace: list[bytes] = []

    # ------------------------------------------------------------------ hosts

    def add(self, host: Host, core: Core) -> None:
        """It is there from now on, and what its core wants to send or do is done."""
        host.core = core
        host.born_us = self.now_us
        self.hosts[host.index] = host
        self.network.attach(host)
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
            host.wake_us = time_us = max(deadline_us, self.now_us, earliest_us)
            self.call_at(time_us, self._wake, host, time_us)

    def unix_us(self, host: Host) -> int:
        """What its clock shows."""
        return START_UNIX_US + self.now_us + host.skew_us

    # ------------------------------------------------------------------ time

    def call_at(self, time_us: int, call: Callable[..., None], *arguments: Any) -> None:
        """Have something done at a time, not before what is already due then."""
        self._number += 1
        heappush(self._heap, (max(time_us, self.now_us), self._number, call, arguments))

    def run(self, until_us: int) -> None:
        """All that is due up to this time, and it is this time."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, call, arguments = heappop(heap)
            call(*arguments)
        self.now_us = until_us

    @property
    def trace(self) -> str:
        """64 hex digits for the course so far."""
        self._flush_trace()
        return self._hash.copy().hexdigest()

    def _put(
        self, time_us: int, site: Site, datagram: bytes, source: Endpoint, destination: Endpoint
    ) -> None:
        self._number += 1
        heappush(self._heap, (time_us, self._number, self._deliver, (site, datagram, source, destination)))

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
        self._trace += (head, source, destination, datagram)
        if len(self._trace) >= _TRACE_CHUNKS:
            self._flush_trace()
        host.core.receive(datagram, source, now_us, START_UNIX_US + now_us + host.skew_us)
        self.settle(host)

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
            host.wake_us = deadline_us
            self.call_at(deadline_us, self._wake, host, deadline_us)

    def _flush_trace(self) -> None:
        self._hash.update(b"".join(self._trace))
        self._trace.clear()
