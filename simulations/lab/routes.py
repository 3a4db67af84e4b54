"""Static routes from a topology. Pure.

Each node gets a route to each subnet that is not its own, by the fewest hops, ties broken by the file's
order. A host has a default route besides (the first router, or NAT from its inside, on its first link that
has one) and leaves out what that covers. IPv4 behind a NAT is not visible from its outside; IPv6 is routed
through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from simulations.lab.topology import End, Link, Node, Topology

Family = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Route:
    """destination: "default" or a prefix; via: the gateway's address; device: name of the link."""

    destination: str
    via: str
    device: str


def routes(topology: Topology, node: Node, family: Family) -> tuple[Route, ...]:
    """Those that `node` needs for `family`; the default route, if any, comes first."""
    own = {network for link, _ in _attached(topology, node.name) for network in link.subnets}
    found: dict[str, Route] = {}
    default = None
    queue: deque[tuple[Node, Route | None]] = deque([(node, None)])
    seen = {node.name}
    while queue:
        here, first = queue.popleft()
        for link, gateway, address in _gateways(topology, here, family):
            hop = first or Route("default", address, link.name)
            default = default or hop
            if gateway.name in seen:
                continue
            seen.add(gateway.name)
            queue.append((gateway, hop))
            for beyond, _ in _attached(topology, gateway.name):
                for network in beyond.subnets:
                    if network.version == family and network not in own:
                        found.setdefault(str(network), hop)
    if node.forwards or default is None:
        return tuple(Route(prefix, hop.via, hop.device) for prefix, hop in found.items())
    special = (Route(prefix, hop.via, hop.device) for prefix, hop in found.items() if hop != default)
    return (default, *special)


def _attached(topology: Topology, name: str) -> Iterator[tuple[Link, End]]:
    for link in topology.links:
        for end in link.ends:
            if end.node == name:
                yield link, end


def _gateways(topology: Topology, node: Node, family: Family) -> Iterator[tuple[Link, Node, str]]:
    """Each router or NAT one hop from `node` that takes its packets further, with its address on that
    link."""
    for link, _ in _attached(topology, node.name):
        for end in link.ends:
            gateway = topology.node(end.node)
            if gateway.name == node.name or not gateway.forwards:
                continue
            if family == 4 and gateway.nat is not None and gateway.nat.inside != link.name:
                continue
            for interface in end.interfaces:
                if interface.version == family:
                    yield link, gateway, str(interface.ip)
