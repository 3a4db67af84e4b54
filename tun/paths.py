"""Which address a peer is reached at, how a new one is proven, and how large a datagram may be there.

Roaming. An authentic record from a new address starts a path check: a challenge of 8 bytes goes there, and
until the peer has echoed it *from there*, that address gets at most three times the bytes that came from it
and the traffic stays on the old path. Else one record with a spoofed source would turn a download into a
flood on somebody else (RFC 9000, section 9.3).

Size. Every path starts at 1,232 bytes of UDP payload, which any IPv6 path carries, larger records taking two
datagrams. A probe padded to the full size, echoed, raises it at once; three lost probes in a row, or the
kernel's EMSGSIZE, lower it (RFC 8899).

Times are microseconds of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from tun.addresses import Address
from tun.frames import OVERHEAD_BYTES

BASE_PAYLOAD = 1232  # 1,280 - 40 (IPv6) - 8 (UDP)
FACTOR = 3  # bytes out for bytes in, before an address is proven
CHALLENGE_BYTES = 8
CHALLENGE_DATAGRAM = OVERHEAD_BYTES + CHALLENGE_BYTES
CHALLENGE_AT_US = (0, 250_000, 500_000, 1_000_000, 2_000_000)
CANDIDATE_US = 5_000_000
MAX_CANDIDATES = 4
PROBE_EVERY_US = 60_000_000
PROBE_AGAIN_US = 500_000
PROBES = 3
NEVER = 2**63 - 1


class Ask(Enum):
    """What a path wants sent: to which address is in the request."""

    CHALLENGE = "challenge"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Request:
    ask: Ask
    address: Address
    value: bytes  # the challenge, 8 bytes
    size: int = 0  # of a probe: the whole datagram


@dataclass(slots=True)
class _Candidate:
    challenge: bytes
    since_us: int
    received: int = 0
    sent: int = 0
    challenges: int = 0

    def due_us(self) -> int:
        if self.challenges >= len(CHALLENGE_AT_US):
            return self.since_us + CANDIDATE_US
        return self.since_us + CHALLENGE_AT_US[self.challenges]

    def may_send(self, size: int) -> bool:
        return self.sent + size <= FACTOR * self.received


@dataclass(slots=True)
class Paths:
    """The paths of one peer. `full_payload`: the largest UDP payload that is worth trying."""

    full_payload: int
    entropy: Callable[[int], bytes]
    endpoint: Address | None = None
    since_us: int = 0
    payload: int = BASE_PAYLOAD
    _candidates: dict[Address, _Candidate] = field(default_factory=dict)
    _probe: bytes = b""
    _probes: int = 0
    _probe_due_us: int = NEVER
    _fresh: bool = True  # the size of this path was never asked

    def adopt(self, address: Address, now_us: int) -> None:
        """This address is proven (by a handshake, or by the echo of a challenge)."""
        self._candidates.pop(address, None)
        if address == self.endpoint:
            return
        self.endpoint, self.since_us, self.payload = address, now_us, min(BASE_PAYLOAD, self.full_payload)
        self._start_probing(now_us)

    def heard(self, source: Address, size: int, now_us: int) -> None:
        """An authentic record of `size` bytes came from `source`."""
        if source == self.endpoint:
            return
        candidate = self._candidates.get(source)
        if candidate is None:
            if len(self._candidates) >= MAX_CANDIDATES:
                del self._candidates[next(iter(self._candidates))]
            candidate = self._candidates[source] = _Candidate(self.entropy(CHALLENGE_BYTES), now_us)
        candidate.received += size

    def echoed(self, source: Address, challenge: bytes, now_us: int) -> Address | None:
        """The peer's answer to a challenge: the new endpoint, or None when it proves nothing."""
        candidate = self._candidates.get(source)
        if candidate is None or candidate.challenge != challenge:
            return None
        self.adopt(source, now_us)
        return source

    def grant(self, address: Address, size: int) -> bool:
        """May `size` bytes go to `address`? To an unproven one only within three times what came from it."""
        if address == self.endpoint:
            return True
        candidate = self._candidates.get(address)
        if candidate is None or not candidate.may_send(size):
            return False
        candidate.sent += size
        return True

    def probe_echoed(self, value: bytes, size: int, now_us: int) -> None:
        if value == self._probe and size >= self.full_payload:
            self.payload, self._probes = self.full_payload, 0
            self._probe_due_us = now_us + PROBE_EVERY_US
            self._fresh = False

    def too_big(self, address: Address, now_us: int) -> None:
        """The kernel knows a smaller path MTU than we do: back to the base, and ask again in a minute."""
        if address == self.endpoint and self.payload > BASE_PAYLOAD:
            self.payload = BASE_PAYLOAD
            self._probes = 0
            self._probe_due_us = now_us + PROBE_EVERY_US

    def ask_again(self, now_us: int) -> None:
        """A new session, perhaps because nothing came back: does the size that we use still pass?"""
        if self.endpoint is not None:
            self._start_probing(now_us)

    def network_changed(self, now_us: int) -> None:
        """Our own address may be another: sizes are to be proven again."""
        if self.endpoint is not None:
            self.payload = min(BASE_PAYLOAD, self.full_payload)
            self._start_probing(now_us)

    def due(self, now_us: int, in_use: bool) -> list[Request]:
        """What is to be sent now; counts it as sent. A path that carries nothing is not asked again."""
        requests = []
        for address, candidate in list(self._candidates.items()):
            if now_us >= candidate.since_us + CANDIDATE_US:
                del self._candidates[address]
            elif now_us >= candidate.due_us() and candidate.may_send(CHALLENGE_DATAGRAM):
                candidate.challenges += 1
                candidate.sent += CHALLENGE_DATAGRAM
                requests.append(Request(Ask.CHALLENGE, address, candidate.challenge))
        if now_us >= self._probe_due_us and self.endpoint is not None:
            if in_use or self._fresh:
                requests += self._next_probe(self.endpoint, now_us)
            else:
                self._probe_due_us = now_us + PROBE_EVERY_US
        return requests

    def deadline_us(self) -> int:
        dues = [
            max(c.due_us(), c.since_us) if c.may_send(CHALLENGE_DATAGRAM) else c.since_us + CANDIDATE_US
            for c in self._candidates.values()
        ]
        return min([self._probe_due_us, *dues])

    def _start_probing(self, now_us: int) -> None:
        self._probes, self._fresh = 0, True
        self._probe_due_us = now_us if self.full_payload > BASE_PAYLOAD else NEVER

    def _next_probe(self, endpoint: Address, now_us: int) -> list[Request]:
        if self._probes >= PROBES:  # none came back: it does not pass now
            if self.payload > BASE_PAYLOAD:
                self.payload = BASE_PAYLOAD
            self._probes, self._fresh = 0, False
            self._probe_due_us = now_us + PROBE_EVERY_US
            return []
        self._probes += 1
        self._probe_due_us = now_us + PROBE_AGAIN_US
        self._probe = self.entropy(CHALLENGE_BYTES)
        return [Request(Ask.PROBE, endpoint, self._probe, self.full_payload)]
