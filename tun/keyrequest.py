"""Fetching a machine's key bundle by its machine_id, before the first handshake.

    request   480 bytes: ├0xCE┼ 0 0 0 ┼ nonce 16 ┼ zeros ┼ mac1 16 ┼ mac2 16 ┤
    answer    1,400 bytes: the bundle (1,248) ‖ tag 16 as fragments of type 0xCF that answer the nonce's first
              8 bytes, their mac1 keyed by machine_id ‖ nonce

The bundle is sealed by AES-256-GCM under a key from the mac1 key, which serves this one plaintext (IV zero):
who only sees the wire learns neither the keys nor, as their hash, machine_id.

Whoever answers proves nothing and need not: the bundle is checked against machine_id. The request is padded
so that the answer is under three times its size: a forged source gains nobody a flood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.cookies import answer_mac1_key
from crypto.identity import BadKeys, KeyBundle
from tun import fragments
from tun.addresses import Address
from tun.caller import Caller, Outgoing
from tun.events import Event, KeysArrived, KeysMissing
from tun.frames import KEY_REQUEST, KEYS
from tun.guard import KEY_NONCE, KEY_REQUEST_BYTES

SEND_AT_US = (0, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000)
GIVE_UP_US = 12_000_000
_BARE_BYTES = KEY_REQUEST_BYTES - 32


def nonce_of(request: bytes) -> bytes:
    """16 bytes."""
    return bytes(request[KEY_NONCE])


def answer(bundle: KeyBundle, request: bytes) -> list[bytes]:
    """The datagrams that answer a request which passed the guard."""
    nonce = nonce_of(request)
    key = answer_mac1_key(bundle.machine_id, nonce)
    sealed = _cipher(key).encrypt(bytes(12), bundle.to_bytes(), None)
    return [fragments.seal(bare, key) for bare in fragments.cut(KEYS, sealed, nonce[:8])]


def _cipher(answer_key: bytes) -> AESGCM:
    return AESGCM(blake2s(answer_key, person=b"zqkeysv1").digest())


class KeyRequest:
    """One machine's keys, asked for at every address given."""

    def __init__(
        self,
        machine_id: bytes,
        lookup_secret: bytes,
        addresses: Sequence[Address],
        entropy: Callable[[int], bytes],
        now_us: int,
    ) -> None:
        nonce = entropy(16)
        self.machine_id = machine_id
        self.answers = nonce[:8]
        self._caller = Caller(machine_id, lookup_secret, addresses)
        self._caller.bare = [(bytes([KEY_REQUEST, 0, 0, 0]) + nonce).ljust(_BARE_BYTES, b"\0")]
        self._answer_key = answer_mac1_key(machine_id, nonce)
        self._partial = fragments.Reassembly()
        self._since_us = now_us
        self._sent = 0

    def due(self, now_us: int) -> Outgoing:
        if self._sent < len(SEND_AT_US) and now_us >= self._since_us + SEND_AT_US[self._sent]:
            self._sent += 1
            return self._caller.everywhere(now_us)
        return []

    def deadline_us(self) -> int:
        after = SEND_AT_US[self._sent] if self._sent < len(SEND_AT_US) else GIVE_UP_US
        return self._since_us + after

    def gave_up(self, now_us: int) -> bool:
        return now_us >= self._since_us + GIVE_UP_US

    def on_cookie(self, datagram: bytes, source: Address, now_us: int) -> Outgoing:
        return self._caller.on_cookie(datagram, source, now_us)

    def on_keys(self, datagram: bytes, source: Address, now_us: int) -> KeyBundle | None:
        """The bundle, once whole and if it is the one that machine_id names."""
        if len(datagram) < 64 or not fragments.mac1_holds(datagram, self._answer_key):
            return None
        data = self._partial.add(datagram, source, now_us)
        if data is None:
            return None
        try:
            bundle = KeyBundle.from_bytes(_cipher(self._answer_key).decrypt(bytes(12), data, None))
        except (BadKeys, InvalidTag):
            return None
        return bundle if bundle.machine_id == self.machine_id else None


class KeyRequests:
    """Those of one core that are under way."""

    def __init__(self) -> None:
        self._by_nonce: dict[bytes, KeyRequest] = {}  # by its first 8 bytes

    def start(self, request: KeyRequest) -> None:
        self._by_nonce[request.answers] = request

    def on_cookie(self, datagram: bytes, source: Address, now_us: int) -> list[tuple[bytes, Address]]:
        """What is to be sent again."""
        requests = self._by_nonce.values()
        return [each for request in requests for each in request.on_cookie(datagram, source, now_us)]

    def on_keys(self, datagram: bytes, source: Address, now_us: int) -> list[Event]:
        request = self._by_nonce.get(datagram[12:20])
        bundle = request.on_keys(datagram, source, now_us) if request is not None else None
        if request is None or bundle is None:
            return []
        del self._by_nonce[request.answers]
        return [KeysArrived(bundle, source)]

    def due(self, now_us: int) -> tuple[list[tuple[bytes, Address]], list[Event]]:
        """What is to be sent now, and whose keys are missing."""
        datagrams: list[tuple[bytes, Address]] = []
        events: list[Event] = []
        for request in list(self._by_nonce.values()):
            if request.gave_up(now_us):
                del self._by_nonce[request.answers]
                events.append(KeysMissing(request.machine_id))
            else:
                datagrams += request.due(now_us)
        return datagrams, events

    def deadline_us(self) -> int:
        return min((each.deadline_us() for each in self._by_nonce.values()), default=2**63 - 1)
