"""The laboratory: a topology made real, for as long as a `with` block lasts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType

from simulations.lab import nat, reaper
from simulations.lab.errors import LabError
from simulations.lab.links import LiveLink
from simulations.lab.namespaces import GRACE, Namespace
from simulations.lab.routes import Family, routes
from simulations.lab.topology import Interface, Link, Node, Topology, load

_SYSCTLS = {
    "ipv4/conf/all/rp_filter": 0,  # the same on every distribution; a host that wants it sets it
    "ipv4/conf/default/rp_filter": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/accept_dad": 0,  # link-local addresses are usable at once
}
_FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv6/conf/default/forwarding": 1}
_CARRIER = 10.0  # s
_FAMILIES: tuple[Family, ...] = (4, 6)


class Host(Namespace):
    """A host, router or NAT. Its device on a link has the link's name."""

    def __init__(self, node: Node, topology: Topology, marker: Mapping[str, str]) -> None:
        super().__init__(node.name, marker)
        self.node = node
        self._topology = topology
        self._links: dict[str, Link] = {}
        self._interfaces: dict[str, list[Interface]] = {}
        for link in topology.links:
            for end in link.ends:
                if end.node == node.name:
                    self._links[link.name] = link
                    self._interfaces[link.name] = list(end.interfaces)

    @property
    def links(self) -> tuple[str, ...]:
        return tuple(self._links)

    def interface(self, link: str) -> str:
        """The device inside; raises LabError where the node is not an end of the link."""
        if link not in self._links:
            raise LabError(
                f"{self.name} is not on a link {link!r}: it has {', '.join(self._links) or 'none'}."
            )
        return link

    def address(self, link: str) -> str:
        """IPv4, without the prefix length."""
        return self._address(link, 4)

    def address6(self, link: str) -> str:
        return self._address(link, 6)

    def addresses(self, link: str) -> tuple[str, ...]:
        """All of them, with prefix lengths."""
        return tuple(map(str, self._interfaces[self.interface(link)]))

    def set_address(self, link: str, address: str) -> None:
        """Move: the address of that family on the link is replaced, and the routes through it put back.

        address: within the link's subnet, its prefix length with or without. Raises LabError."""
        device = self.interface(link)
        try:
            wanted = ip_interface(address)
        except ValueError as error:
            raise LabError(f"{address!r} is not an address: {error}.") from None
        subnet = next((net for net in self._links[link].subnets if net.version == wanted.version), None)
        if subnet is None or wanted.ip not in subnet:
            raise LabError(
                f"{wanted.ip} does not lie in the subnet of {link} ({subnet or 'none of that family'})."
            )
        new = ip_interface(f"{wanted.ip}/{subnet.prefixlen}")
        old = next(known for known in self._interfaces[link] if known.version == wanted.version)
        if new == old:
            return
        # Out with the old one first: a second address of the same subnet would go when the first goes.
        batch = [f"address del {old} dev {device}", _add_address(new, device), *self._routes(new.version)]
        self.run(["ip", "-batch", "-"], input="\n".join(batch))
        self._interfaces[link] = [new if known == old else known for known in self._interfaces[link]]

    def bring_up(self) -> None:
        """The devices, which are there already."""
        batch = [f"link set dev {device} up" for device in ("lo", *self._links)]
        self.run(["ip", "-batch", "-"], input="\n".join(batch))

    def configure(self) -> None:
        """Addresses, routes, NAT."""
        batch = []
        for link, interfaces in self._interfaces.items():
            batch += [_add_address(interface, link) for interface in interfaces]
        for family in _FAMILIES:
            batch += self._routes(family)
        self.run(["ip", "-batch", "-"], input="\n".join(batch))
        if self.node.nat is not None:
            nat.configure(self.node.nat, self)

    def prepare(self) -> None:
        """What new devices take over as they come: before they come."""
        for key, value in (_SYSCTLS | _FORWARDING if self.node.forwards else _SYSCTLS).items():
            self.sysctl(key, value)

    def _routes(self, family: Family) -> list[str]:
        found = routes(self._topology, self.node, family)
        return [f"route replace {r.destination} via {r.via} dev {r.device}" for r in found]

    def _address(self, link: str, version: int) -> str:
        for interface in self._interfaces[self.interface(link)]:
            if interface.version == version:
                return str(interface.ip)
        raise LabError(
            f"{self.name} has no IPv{version} address on {link}: give the link a subnet of that family."
        )


class Lab:
    """Everything is made on entering and removed on leaving, by whatever way: see `reaper` for the hard ones.

    Synchronous; each call may come from another thread."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.marker = reaper.new_marker()
        self.hosts = {node.name: Host(node, topology, self._marked(node.name)) for node in topology.nodes}
        self.links = {link.name: LiveLink(link, self._marked(link.name)) for link in topology.links}
        self._reaper: subprocess.Popen[bytes] | None = None

    @classmethod
    def from_toml(cls, text_or_path: str | Path) -> Lab:
        """See `topology.load`. Raises TopologyError; nothing is made yet."""
        return cls(load(text_or_path))

    def host(self, name: str) -> Host:
        """A host, router or NAT."""
        if name not in self.hosts:
            raise LabError(
                f"There is no host {name!r} in {self.topology.source}: it has {', '.join(self.hosts)}."
            )
        return self.hosts[name]

    def link(self, name: str) -> LiveLink:
        if name not in self.links:
            raise LabError(
                f"There is no link {name!r} in {self.topology.source}: it has {', '.join(self.links)}."
            )
        return self.links[name]

    def __enter__(self) -> Lab:
        reaper.sweep_dead()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """SIGTERM to what was started by popen, 3 s at most for it to end, SIGKILL to all that is left.

        The hosts' programs first: their last words still cross the links and stand in the captures.
        Idempotent."""
        try:
            for group in (list[Namespace](self.hosts.values()), list[Namespace](self.links.values())):
                for place in group:
                    place.terminate()
                deadline = time.monotonic() + GRACE
                for place in group:
                    place.collect(deadline)
        finally:
            for place in self._places():
                place.close()
            if self._reaper is not None:
                with self._reaper:  # closes its pipe, which is its signal, and waits for it
                    self._reaper = None

    def _build(self) -> None:
        for place in self._places():
            place.create()
        self._reaper = reaper.start(self.marker, [place.fd for place in self._places()])
        for host in self.hosts.values():
            host.prepare()
        for link in self.links.values():
            link.build(self.hosts)
        for host in self.hosts.values():
            host.bring_up()
        # Until the kernel has noticed that a wire has two ends it drops all that is sent on it.
        deadline = time.monotonic() + _CARRIER
        for link in self.links.values():
            link.wait_until_running([end.node for end in link.spec.ends], deadline)
        for host in self.hosts.values():
            host.wait_until_running(host.links, deadline)
            host.configure()

    def _places(self) -> list[Namespace]:
        return [*self.hosts.values(), *self.links.values()]

    def _marked(self, place: str) -> dict[str, str]:
        return {reaper.VARIABLE: self.marker, reaper.PLACE: place}


def _add_address(interface: Interface, device: str) -> str:
    return f"address add {interface} dev {device}{' nodad' if interface.version == 6 else ''}"
