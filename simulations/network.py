"""What a datagram meets between two hosts of a simulated world: distance, loss, NATs, a cut.

Chance is drawn once for each datagram, from its sender's own: 64 bits, 32 for loss, 10 each for a copy and
for lateness, 12 for jitter. Distances come from simulations/places.py; all times are integers, microseconds
of virtual time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dht.endpoints import IPV4_BYTES, Endpoint
from simulations.dice import MILLION, chance
from simulations.host import Host, Site
from simulations.places import ONE_WAY_US

LATE_US: Final = 100_000
"""A reordered datagram, and the copy of one, come up to this later."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of every way. In millionths of all datagrams: those that are lost, come twice, are overtaken."""

    loss_ppm: int = 0
    duplicate_ppm: int = 0
    reorder_ppm: int = 0
    jitter_us: int = 4_000


Put = Callable[[int, Host, Site, bytes, Endpoint, Endpoint], None]
"""put(arrival_us, sender, site, datagram, source, destination)"""


class Network:
    """`put`: who brings a datagram to a site when it is time. What does not arrive is counted, with why."""

    def __init__(self, conditions: Conditions, put: Put) -> None:
        self.counters: Counter[str] = Counter()
        self.kinds: Counter[bytes] = Counter()
        """Datagrams that honest hosts sent, by their first three bytes: whose they are, a msgpack array's
        head, the kind."""
        self.hostile = 0
        """Datagrams that attackers sent."""
        self.cut_below = 0
        """While above 0, sites whose lot is below it, and the others, do not hear each other."""
        self._put = put
        self._sites: dict[bytes, Site] = {}
        self._lost_below = (conditions.loss_ppm << 32) // MILLION
        self._twice_below = (conditions.duplicate_ppm << 10) // MILLION
        self._late_below = (conditions.reorder_ppm << 10) // MILLION
        self._jitter_us = conditions.jitter_us

    def attach(self, host: Host) -> None:
        """Its addresses lead to its site, and its endpoints to it."""
        nat = host.site.nat
        self._sites[host.endpoint[:-2] if nat is None else nat.address] = host.site
        host.site.hosts.append(host)
        if host.endpoint6:
            self._sites[host.endpoint6[:-2]] = host.site

    def detach(self, host: Host) -> None:
        """It is gone without a word; the site stays, as does what its NAT remembers."""
        host.site.hosts.remove(host)

    def post(self, host: Host, datagram: bytes, destination: Endpoint, now_us: int) -> None:
        """Out of a host's socket."""
        counts = host.counts
        counts.sent += 1
        counts.sent_bytes += len(datagram)
        if host.hostile:
            self.hostile += 1
        else:
            self.kinds[datagram[:3]] += 1
        site = host.site
        is_ipv4 = len(destination) == IPV4_BYTES
        source = host.endpoint if is_ipv4 else host.endpoint6
        if is_ipv4 and site.nat is not None:
            source = site.nat.outward(source, destination, now_us)
        target = self._sites.get(destination[:-2])
        if target is None or not source:
            self.counters["no such address"] += 1
            return
        if self.cut_below and (site.lot < self.cut_below) != (target.lot < self.cut_below):
            self.counters["cut off"] += 1
            return
        host.chance, drawn = chance(host.chance)
        if drawn & 0xFFFF_FFFF < self._lost_below:
            self.counters["lost"] += 1
            return
        delay_us = ONE_WAY_US[site.region][target.region] + site.access_us + target.access_us
        delay_us += (drawn >> 52) * self._jitter_us >> 12
        if drawn >> 32 & 0x3FF < self._late_below:
            delay_us += _late_us(host)
        self._put(now_us + delay_us, host, target, datagram, source, destination)
        if drawn >> 42 & 0x3FF < self._twice_below:
            self.counters["duplicated"] += 1
            self._put(now_us + delay_us + _late_us(host), host, target, datagram, source, destination)

    def arrive(self, site: Site, source: Endpoint, destination: Endpoint, now_us: int) -> Host | None:
        """Whose socket a datagram comes to; None where a NAT drops it, or nobody is there any more."""
        nat = site.nat
        if nat is None or len(destination) != IPV4_BYTES:
            host = site.hosts[0] if site.hosts else None  # its one line's one
            if host is not None and destination != host.endpoint and destination != host.endpoint6:
                host = None
        elif source[:-2] == nat.address and not nat.hairpin:
            self.counters["no hairpin"] += 1
            return None
        else:
            inside = nat.inward(destination[-2:], source, now_us)
            if inside is None:
                self.counters["not let in by a NAT"] += 1
                return None
            host = site.at(inside)
        if host is None:
            self.counters["nobody there"] += 1
        return host

    def site_at(self, destination: Endpoint) -> Site:
        """Where a datagram that was posted goes to."""
        return self._sites[destination[:-2]]


def _late_us(host: Host) -> int:
    host.chance, drawn = chance(host.chance)
    return drawn * LATE_US >> 64
