"""Where hosts of a simulated world are: continents, distances, and addresses as on the internet."""

from __future__ import annotations

from typing import Final

from dht.endpoints import Endpoint
from simulations.dice import Dice

PORT: Final = (51_777).to_bytes(2, "big")
REGIONS: Final = (
    "North America, east",
    "North America, west",
    "Europe",
    "South America",
    "Asia, east",
    "Asia, south",
    "Oceania",
    "Africa",
)
_WEIGHTS: Final = (18, 12, 34, 8, 12, 8, 4, 4)  # of a hundred hosts
# Round trips in ms between data centres of such places, as clouds publish them, rounded; half a triangle.
_ROUND_TRIPS_MS: Final = (
    (15,),
    (65, 15),
    (80, 140, 20),
    (120, 175, 190, 30),
    (160, 105, 220, 255, 30),
    (190, 220, 120, 300, 120, 30),
    (200, 140, 260, 310, 105, 150, 20),
    (225, 285, 155, 340, 355, 275, 410, 40),
)
ONE_WAY_US: Final = tuple(
    tuple(_ROUND_TRIPS_MS[max(here, there)][min(here, there)] * 500 for there in range(len(REGIONS)))
    for here in range(len(REGIONS))
)
ACCESS_US: Final = (2_000, 12_000)  # one way between a host and its continent's data centre
_NEIGHBOURS_PPM: Final = 125_000  # of a million hosts: those in a /24 where another one is already
_SPECIAL: Final = (10, 100, 127)  # first octets that are not, or not all, global unicast (RFC 6890)


def shares(count: int) -> tuple[int, ...]:
    """Which of `count` processes, 1 to 8, runs which region: as many hosts for each as can be."""
    assert 1 <= count <= len(REGIONS)
    hosts, of = [0] * count, [0] * len(REGIONS)
    for region in sorted(range(len(REGIONS)), key=lambda region: -_WEIGHTS[region]):
        process = hosts.index(min(hosts))
        of[region] = process
        hosts[process] += _WEIGHTS[region]
    return tuple(of)


def soonest_us(of: tuple[int, ...]) -> int:
    """No datagram is under way for less between regions that different processes run."""
    ways = [
        ONE_WAY_US[here][there]
        for here, one in enumerate(of)
        for there, other in enumerate(of)
        if one != other
    ]
    return min(ways, default=0) + 2 * ACCESS_US[0]


class Places:
    """Gives out addresses, each once."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._networks: list[bytes] = []
        self._taken: set[bytes] = set()

    def region(self) -> int:
        return self._dice.weighted(_WEIGHTS)

    def access_us(self) -> int:
        return self._dice.between(*ACCESS_US)

    def address(self) -> bytes:
        """Four bytes, global; one host in eight has a neighbour in its /24."""
        while True:
            if self._networks and self._dice.happens(_NEIGHBOURS_PPM):
                network = self._dice.one_of(self._networks)
            else:
                network = self._network()
            address = network + bytes([self._dice.between(1, 254)])
            if address not in self._taken:
                self._taken.add(address)
                self._networks.append(network)
                return address

    def beside(self, address: bytes) -> bytes:
        """One more in the /24 of that one; anywhere where the /24 is full."""
        for last in range(1, 255):
            other = address[:3] + bytes([last])
            if other not in self._taken:
                self._taken.add(other)
                return other
        return self.address()

    def endpoint6(self) -> Endpoint:
        """In a /48 of its own, under 2a00::/12."""
        prefix = b"\x2a" + bytes([self._dice.below(16)]) + self._dice.bits(32).to_bytes(4, "big")
        return prefix + bytes(9) + b"\x01" + PORT

    def _network(self) -> bytes:
        while True:
            octets = self._dice.bits(24).to_bytes(3, "big")
            if 11 <= octets[0] < 168 and octets[0] not in _SPECIAL:
                return octets
