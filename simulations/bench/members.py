"""A crowd's members: who they are and where inside, worked out alike by all that need to know. Pure.

Each member reaches the hub at an address of the hub's that is the member's own (its gate): so the crowd's one
TUN knows by the destination of a packet which member it comes from, as a node knows who it goes to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import shake_256
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from crypto.identity import SEEDS_BYTES, MachineKeys, ula
from tun.names4 import DEFAULT_POOL

LOOKUP_SECRET: Final = bytes(range(16))  # nobody is to be kept out of a bench
HUB_PORT: Final = 51777
GATES: Final = IPv6Network("fd66::/64")
MESH: Final = IPv6Network("fd5a:6571::/32")
NETWORKS: Final = 50  # outside, so that no limit for each source is met: members share them in turn


@dataclass(frozen=True, eq=False)
class Member:
    """number: from 0."""

    seed: str
    number: int

    @cached_property
    def keys(self) -> MachineKeys:
        return MachineKeys.from_bytes(shake_256(f"{self.seed} {self.number}".encode()).digest(SEEDS_BYTES))

    @property
    def id(self) -> bytes:
        return self.keys.machine_id

    @property
    def address(self) -> IPv6Address:
        return ula(self.id)

    @property
    def gate(self) -> IPv6Network:
        """The hub's address for this member, as a network."""
        return IPv6Network(GATES[self.number + 1])

    @property
    def name4(self) -> bytes:
        """The hub as the crowd's worker names it for this member, in IPv4."""
        return DEFAULT_POOL[self.number + 2].packed

    @property
    def network(self) -> int:
        return self.number % NETWORKS


def outside(network: int, host: int) -> IPv4Address:
    """10.100.0.1 and 10.100.0.2 of the first network, the hub's and the crowd's; 10.101.0.1, …"""
    return IPv4Address(f"10.{100 + network}.0.{host}")


def number_of(packet: bytes) -> int:
    """Of the member whose gate an IPv6 packet from the crowd's TUN goes to."""
    return int.from_bytes(packet[32:40], "big") - 1
