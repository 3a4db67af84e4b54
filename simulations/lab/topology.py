"""A laboratory as a TOML file: hosts, routers, NATs and the links between them. Pure.

[hosts.home]                       # no keys
[routers.r1]                       # forwards IPv4 and IPv6
[nats.n1]
kind = "cone"                      # or "symmetric": a new outside port for each destination
inside = "lan"                     # the two links that it joins
outside = "wire"
udp_timeout = 30                   # s, for a UDP mapping that nothing passes; default 30
[links.wire]
ends = ["n1", "cafe"]              # two or more
subnet = "10.80.0.0/24"            # one of subnet and subnet6, or both
subnet6 = "fd80::/64"
addresses = { cafe = "10.80.0.9" } # else in the order of ends, from the subnet's first
addresses6 = { cafe = "fd80::9" }
mtu = 1500                         # bytes
offload = "veth"                   # "nic", "bare"; see `Link`
seed = 0                           # of the user-space link
rate = "15mbit"                    # this and the rest: see `Impairment`
loss = 0.01
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, Literal, cast, get_args

from simulations.lab.errors import TopologyError
from simulations.lab.impairment import Impairment
from simulations.lab.table import Table

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
NatKind = Literal["cone", "symmetric"]
Offload = Literal["veth", "nic", "bare"]

_IMPAIRMENTS = tuple(field.name for field in fields(Impairment))


@dataclass(frozen=True, slots=True)
class End:
    """Where a node is attached to a link, and its addresses there, IPv4 before IPv6."""

    node: str
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Nat:
    """udp_timeout: seconds; inside, outside: names of links."""

    kind: NatKind
    inside: str
    outside: str
    udp_timeout: int


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    forwards: bool
    nat: Nat | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """offload: None follows the impairment. What the ends' devices do with trains of datagrams and segments:

    veth    a train crosses whole, as one skb of up to 64 KiB
    nic     the sender's kernel cuts it to frames, the receiver's GRO joins them again (a card without USO)
    bare    frames only, nothing joins them: the one where loss per frame means what it says
    """

    name: str
    ends: tuple[End, ...]
    subnets: tuple[Network, ...]
    mtu: int
    offload: Offload | None
    seed: int
    impairment: Impairment


@dataclass(frozen=True, slots=True)
class Topology:
    """source: what errors call the file. Nodes and links in the file's order."""

    source: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


def load(text_or_path: str | Path) -> Topology:
    """A path, or a string that ends in ".toml" and has no newline, is read; any other string is the TOML
    itself.

    Raises TopologyError."""
    if isinstance(text_or_path, str) and ("\n" in text_or_path or not text_or_path.endswith(".toml")):
        return parse(text_or_path, "the laboratory's TOML")
    path = Path(text_or_path)
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise TopologyError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    except UnicodeDecodeError:
        raise TopologyError(f"{path} is not a text file: save it as UTF-8.") from None


def parse(text: str, source: str) -> Topology:
    """Raises TopologyError, whose text begins with `source` and the table."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TopologyError(f"{source} is not valid TOML: {error}.") from None
    top = Table(source, "", document)
    hosts, routers, nats, links = (top.tables(key) for key in ("hosts", "routers", "nats", "links"))
    top.finish()
    nodes = [
        *(_node(table, forwards=False) for table in hosts),
        *(_node(table, forwards=True) for table in routers),
        *(_nat(table) for table in nats),
    ]
    names = [node.name for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise TopologyError(f"{source}: {name} is the name of two nodes: rename one.")
    topology = Topology(source, tuple(nodes), tuple(_link(table, names) for table in links))
    _check_nats(topology)
    return topology


def _node(table: Table, *, forwards: bool) -> Node:
    table.finish()
    return Node(table.short, forwards)


def _nat(table: Table) -> Node:
    kind = table.take("kind", str, "a string", "cone")
    if kind not in get_args(NatKind):
        raise table.fail(f"kind must be one of {', '.join(get_args(NatKind))}, not {kind!r}.")
    inside = table.take("inside", str, "the name of a link")
    outside = table.take("outside", str, "the name of a link")
    if inside is None or outside is None or inside == outside:
        raise table.fail("inside and outside must name the two links that the NAT joins.")
    timeout = table.take("udp_timeout", int, "a whole number of seconds", 30)
    if timeout < 1:
        raise table.fail(f"udp_timeout must be at least 1 second, not {timeout}.")
    table.finish()
    return Node(table.short, True, Nat(cast(NatKind, kind), inside, outside, timeout))


def _link(table: Table, nodes: list[str]) -> Link:
    ends = table.take("ends", list, "a list of nodes", [])
    for end in ends:
        if end not in nodes:
            raise table.fail(f"ends: there is no host, router or NAT called {end!r}.")
    if len(ends) < 2 or len(set(ends)) < len(ends):
        raise table.fail("ends must name two or more nodes, each once.")
    subnet = _network(table, "subnet", IPv4Network)
    subnet6 = _network(table, "subnet6", IPv6Network)
    subnets = tuple(network for network in (subnet, subnet6) if network is not None)
    if not subnets:
        raise table.fail('give it a subnet, a subnet6, or both, like subnet = "10.80.0.0/24".')
    explicit = {4: _addresses(table, "addresses", ends), 6: _addresses(table, "addresses6", ends)}
    given = [_assign(table, network, ends, explicit[network.version]) for network in subnets]
    mtu = table.take("mtu", int, "a whole number of bytes", 1500)
    least = 1280 if subnet6 else 576
    if not least <= mtu <= 65_535:
        raise table.fail(f"mtu must lie between {least} and 65535 bytes here, not {mtu}.")
    offload = table.take("offload", str, "a string")
    if offload is not None and offload not in get_args(Offload):
        raise table.fail(f"offload must be one of {', '.join(get_args(Offload))}, not {offload!r}.")
    seed = table.take("seed", int, "a whole number", 0)
    link = Link(
        name=table.short,
        ends=tuple(End(name, tuple(hand_out[name] for hand_out in given)) for name in ends),
        subnets=subnets,
        mtu=mtu,
        offload=cast("Offload | None", offload),
        seed=seed,
        impairment=_impairment(table),
    )
    table.finish()
    try:
        check_offload(link, link.impairment)
    except TopologyError as error:
        raise table.fail(str(error)) from None
    return link


def check_offload(link: Link, impairment: Impairment) -> None:
    """Raises TopologyError where the offload that the file asks for would make the impairment's numbers
    untrue."""
    if impairment.counts_frames and link.offload not in (None, "bare"):
        raise TopologyError(
            f'loss, duplicate and delay_ms count frames, and offload = "{link.offload}" carries trains: '
            f'leave offload out or set it to "bare".'
        )


def _impairment(table: Table) -> Impairment:
    given: dict[str, Any] = {"rate": table.take("rate", str, 'a string like "15mbit"')}
    for key in _IMPAIRMENTS[1:]:
        given[key] = float(table.take(key, (int, float), "a number", 0.0))
    try:
        return Impairment(**given)
    except TopologyError as error:
        raise table.fail(str(error)) from None


def _network(table: Table, key: str, kind: type[Network]) -> Network | None:
    text = table.take(key, str, "a string")
    try:
        network = None if text is None else kind(text)
    except ValueError as error:
        raise table.fail(f"{key}: {error}.") from None
    return network


def _addresses(table: Table, key: str, ends: list[str]) -> dict[str, str]:
    given = table.take(key, dict, "a table of node = address", {})
    for name in given:
        if name not in ends:
            raise table.fail(f"{key}: {name!r} is not one of the link's ends.")
    return cast(dict[str, str], given)


def _assign(
    table: Table, network: Network, ends: list[str], explicit: dict[str, str]
) -> dict[str, Interface]:
    """The explicit addresses, and for the others the subnet's hosts in order, past those taken."""
    taken: dict[str, IPv4Address | IPv6Address] = {}
    for name, text in explicit.items():
        try:
            address = IPv4Address(text) if network.version == 4 else IPv6Address(text)
        except ValueError as error:
            raise table.fail(f"the address of {name}: {error}.") from None
        if address not in network or address in taken.values():
            raise table.fail(f"the address of {name}, {address}, must lie in {network} and be given once.")
        taken[name] = address
    chosen = frozenset(taken.values())
    free = (address for address in network.hosts() if address not in chosen)
    for name in ends:
        if name not in taken:
            candidate = next(free, None)
            if candidate is None:
                raise table.fail(
                    f"{network} has fewer addresses than the link has ends: take a larger subnet."
                )
            taken[name] = candidate
    kind = IPv4Interface if network.version == 4 else IPv6Interface
    return {name: kind(f"{address}/{network.prefixlen}") for name, address in taken.items()}


def _check_nats(topology: Topology) -> None:
    for node in topology.nodes:
        if node.nat is None:
            continue
        attached = {link.name for link in topology.links for end in link.ends if end.node == node.name}
        if attached != {node.nat.inside, node.nat.outside}:
            raise TopologyError(
                f"{topology.source}: [nats.{node.name}]: a NAT must be an end of its inside and its outside "
                f"link and of no other; it is an end of {', '.join(sorted(attached)) or 'none'}."
            )
