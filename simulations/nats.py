"""A NAT as RFC 4787 describes it, in integers: which outside port an inside socket has, and who gets in.

    kind              one outside port for       lets in
    full_cone         all destinations           everybody
    restricted        all destinations           the addresses that were sent to
    port_restricted   all destinations           the addresses and ports that were sent to
    symmetric         each destination alone     that destination

Only what goes out keeps a mapping and a permission alive: the stricter of what RFC 4787 (REQ-6) allows.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from dht.endpoints import Endpoint

FIRST_PORT: Final = 1024
PORTS: Final = 65_536 - FIRST_PORT
_SWEEP_AT: Final = 512  # entries at which a table is first searched for old ones


class Kind(StrEnum):
    FULL_CONE = "full_cone"
    RESTRICTED = "restricted"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"


class _Mapping:
    """`allowed`: who may answer, and when something last went there."""

    __slots__ = ("allowed", "inside", "key", "last_us", "port", "sweep_at")

    def __init__(self, key: bytes, inside: Endpoint, port: bytes) -> None:
        self.key = key
        self.inside = inside
        self.port = port
        self.last_us = 0
        self.allowed: dict[bytes, int] = {}
        self.sweep_at = _SWEEP_AT


class Nat:
    """`address`: its public one, 4 bytes. `timeout_us`: the silence after which it forgets. `hairpin`:
    whether those inside reach each other through outside ports. `first`: the port that it gives out first."""

    __slots__ = ("_by_inside", "_by_port", "_next", "_sweep_at", "address", "hairpin", "kind", "timeout_us")

    def __init__(
        self, kind: Kind, address: bytes, timeout_us: int, *, hairpin: bool = False, first: int = FIRST_PORT
    ) -> None:
        self.kind = kind
        self.address = address
        self.timeout_us = timeout_us
        self.hairpin = hairpin
        self._next = first - FIRST_PORT
        self._by_inside: dict[bytes, _Mapping] = {}
        self._by_port: dict[bytes, _Mapping] = {}
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        """Mappings that are kept, old ones that were not yet met included."""
        return len(self._by_port)

    def outward(self, inside: Endpoint, destination: Endpoint, now_us: int) -> Endpoint:
        """The public endpoint that what `inside` sends to `destination` comes from."""
        key = inside + destination if self.kind is Kind.SYMMETRIC else inside
        mapping = self._by_inside.get(key)
        if mapping is None or self._is_old(mapping.last_us, now_us):
            mapping = self._map(key, inside, now_us)
        mapping.last_us = now_us
        if self.kind is not Kind.FULL_CONE:
            mapping.allowed[self._party(destination)] = now_us
            if len(mapping.allowed) >= mapping.sweep_at:
                self._sweep_allowed(mapping, now_us)
        return self.address + mapping.port

    def inward(self, port: bytes, source: Endpoint, now_us: int) -> Endpoint | None:
        """Who inside gets what `source` sends to this port of ours (2 bytes); None: nobody."""
        mapping = self._by_port.get(port)
        if mapping is None or self._is_old(mapping.last_us, now_us):
            return None
        if self.kind is Kind.FULL_CONE:
            return mapping.inside
        sent_us = mapping.allowed.get(self._party(source))
        return None if sent_us is None or self._is_old(sent_us, now_us) else mapping.inside

    def _party(self, endpoint: Endpoint) -> bytes:
        return endpoint[:-2] if self.kind is Kind.RESTRICTED else endpoint

    def _is_old(self, since_us: int, now_us: int) -> bool:
        return now_us - since_us > self.timeout_us

    def _map(self, key: bytes, inside: Endpoint, now_us: int) -> _Mapping:
        self._drop(self._by_inside.get(key))
        if len(self._by_port) >= self._sweep_at:
            self._sweep(now_us)
        mapping = _Mapping(key, inside, self._free_port(now_us))
        self._by_inside[key] = self._by_port[mapping.port] = mapping
        return mapping

    def _free_port(self, now_us: int) -> bytes:
        """The next that no living mapping has; after a whole round the next one, whoever has it."""
        for _ in range(PORTS + 1):
            port = (FIRST_PORT + self._next).to_bytes(2, "big")
            self._next = (self._next + 1) % PORTS
            holder = self._by_port.get(port)
            if holder is None or self._is_old(holder.last_us, now_us):
                break
        self._drop(holder)
        return port

    def _drop(self, mapping: _Mapping | None) -> None:
        if mapping is not None:
            del self._by_inside[mapping.key], self._by_port[mapping.port]

    def _sweep(self, now_us: int) -> None:
        for mapping in [each for each in self._by_port.values() if self._is_old(each.last_us, now_us)]:
            self._drop(mapping)
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._by_port))

    def _sweep_allowed(self, mapping: _Mapping, now_us: int) -> None:
        mapping.allowed = {
            party: sent_us for party, sent_us in mapping.allowed.items() if not self._is_old(sent_us, now_us)
        }
        mapping.sweep_at = max(_SWEEP_AT, 2 * len(mapping.allowed))
