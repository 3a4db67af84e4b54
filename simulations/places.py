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
SOONEST_US: Final = min(map(min, ONE_WAY_US)) + 2 * ACCESS_US[0]
"""No datagram is under way between two sites for less."""
_NEIGHBOURS_PPM: Final = 125_000  # of a million hosts: those in a /24 where another one is already
_SPECIAL: Final = (10, 100, 127)  # first octets that are not, or not all, global unicast (RFC 6890)


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

    def endpoint6(self) -> Endpoint:
        """In a /48 of its own, under 2a00::/12."""
        prefix = b"\x2a" + bytes([self._dice.below(16)]) + self._dice.bits(32).to_bytes(4, "big")
        return prefix + bytes(9) + b"\x01" + PORT

    def _network(self) -> bytes:
        while True:
            octets = self._dice.bits(24).to_bytes(3, "big")
            if 11 <= octets[0] < 168 and octets[0] not in _SPECIAL:
                return octets
