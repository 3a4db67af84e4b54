"""Lodging with homes: a machine that cannot be reached shows itself every 25 s to up to three that can.

    candidate ─▶ ask ─▶ token ─▶ Lodge, signed ─▶ lodged ─▶ every 25 s again
         ▲ no room, or six times no answer: barred for ten minutes, the next candidate takes its place

The key for a home is HKDF(lodging secret, home's endpoint): after a restart the handle is the same, so what
the home holds is found again, and two homes cannot tell that one machine lodges with both. At most one home
in each network: they should not fail, nor listen, together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from crypto.kem import expand
from dht.endpoints import Endpoint, network, usable
from dht.homes import LODGE_LABEL, NO_ROOM, SHOW_TOKEN, YES, handle_of, lodge_payload
from dht.messages import Lodge, Lodged, encode_call
from dht.parts import NEVER
from dht.post import HomesChanged, Host
from dht.signatures import Signer

HOMES: Final = 3
REFRESH_US: Final = 25_000_000  # what keeps a mapping of most NATs open
RETRY_US: Final = 3_000_000
MISSES: Final = 6  # a fifth of all datagrams may be lost each way, and homes stay
BARRED_US: Final = 600_000_000
BARRED: Final = 64
CANDIDATES: Final = 32
_SEED_LABEL: Final = b"zeqnode lodging v1"


class _Rent:
    """One home, or one that is asked to be."""

    __slots__ = (
        *("asked", "due_us", "endpoint", "handle", "lodged", "mine", "misses", "proof", "proved"),
        *("sequence", "signer", "token", "transaction"),
    )

    def __init__(self, endpoint: Endpoint, signer: Signer, transaction: bytes, now_us: int) -> None:
        self.endpoint = endpoint
        self.signer = signer
        self.handle = handle_of(signer.public)
        self.transaction = transaction
        self.token = self.mine = self.proof = b""
        self.sequence = 0
        self.proved = (b"", b"")  # the tokens that `proof` is of
        self.due_us = now_us
        self.misses = 0
        self.asked = False
        self.lodged = False

    def sign(self, unix_us: int) -> None:
        """A proof of the tokens as they are now; the same as long as they are."""
        if self.proved != (self.token, self.mine):
            self.proof, self.proved = self.signed(unix_us, False), (self.token, self.mine)

    def signed(self, unix_us: int, leave: bool) -> bytes:
        self.sequence = max(unix_us, self.sequence + 1)
        payload = lodge_payload(self.token, self.mine, self.sequence, leave)
        return self.signer.sign(LODGE_LABEL, payload)


class Lodging:
    """`secret`: 32 bytes, kept over restarts. `signer_of`: a key of a seed of 32 bytes."""

    __slots__ = (
        *("_barred", "_candidates", "_host", "_rents", "_secret", "_signer_of", "_told", "due_us"),
        "wanted",
    )

    def __init__(
        self, host: Host, secret: bytes, signer_of: Callable[[bytes], Signer], wanted: int = HOMES
    ) -> None:
        self.wanted = wanted
        self._host = host
        self._secret = secret
        self._signer_of = signer_of
        self._rents: dict[Endpoint, _Rent] = {}
        self._candidates: list[Endpoint] = []
        self._barred: dict[Endpoint, int] = {}  # the oldest first
        self._told: tuple[tuple[tuple[Endpoint, bytes], ...], int] = ((), 0)
        self.due_us = NEVER

    @property
    def homes(self) -> tuple[tuple[Endpoint, bytes], ...]:
        """(endpoint, handle of 16 bytes) of those where we lodge now."""
        return tuple((rent.endpoint, rent.handle) for rent in self._rents.values() if rent.lodged)

    def is_ours(self, handle: bytes, source: Endpoint) -> bool:
        """Whether it is our handle at the home that speaks."""
        rent = self._rents.get(source)
        return rent is not None and rent.handle == handle

    def lodge(self, candidates: Iterable[Endpoint], now_us: int) -> None:
        """Lodge with these, in this order, while there are fewer than `wanted`; those that are good stay."""
        fresh = [one for one in candidates if usable(one) and one not in self._rents]
        self._candidates = list(dict.fromkeys(fresh))[:CANDIDATES]
        self._fill(now_us)
        self._tell()

    def leave(self, unix_us: int) -> None:
        """Lodge nowhere any more, and have the homes forget us."""
        for rent in self._rents.values():
            if rent.lodged:
                proof = rent.signed(unix_us, True)
                self._send(rent, proof, leave=True)
        self._rents.clear()
        self._candidates.clear()
        self.due_us = NEVER
        self._tell()

    def on_lodged(self, message: Lodged, source: Endpoint, now_us: int, unix_us: int) -> None:
        rent = self._rents.get(source)
        if rent is None or not rent.asked or rent.transaction != message.t:
            self._host.count("answer to no lodge of ours")
            return
        if message.token:
            rent.token = message.token
        if message.status == YES:
            rent.asked, rent.misses, rent.lodged = False, 0, True
            self._arm(rent, now_us + REFRESH_US)
        elif message.status == SHOW_TOKEN:
            rent.misses += 1  # once is ordinary; who never has enough of it is no home
            if rent.misses < MISSES:
                self._show(rent, now_us, unix_us)
        elif message.status == NO_ROOM:
            self._bar(rent, now_us)
            self._fill(now_us)
        self._tell()

    def tick(self, now_us: int, unix_us: int) -> None:
        if now_us < self.due_us:
            return
        for rent in list(self._rents.values()):
            if rent.due_us > now_us:
                continue
            if rent.asked and rent.misses >= MISSES - 1:
                self._bar(rent, now_us)
            else:
                rent.misses += rent.asked
                self._show(rent, now_us, unix_us)
        self._fill(now_us)
        for rent in self._rents.values():
            if rent.due_us <= now_us:
                self._show(rent, now_us, unix_us)
        self.due_us = min((rent.due_us for rent in self._rents.values()), default=NEVER)
        self._tell()

    def _show(self, rent: _Rent, now_us: int, unix_us: int) -> None:
        if not rent.asked:
            rent.transaction = self._host.entropy(8)
        rent.asked = True
        rent.mine = self._host.tokens.make(rent.endpoint, now_us)
        if rent.token:
            rent.sign(unix_us)
        self._send(rent, rent.proof)
        self._arm(rent, now_us + RETRY_US)

    def _send(self, rent: _Rent, proof: bytes, leave: bool = False) -> None:
        public = rent.signer.public if proof else b""
        lodge = Lodge(rent.transaction, rent.token, rent.mine, public, rent.sequence, proof, leave)
        self._host.emit(encode_call(lodge), rent.endpoint)

    def _fill(self, now_us: int) -> None:
        """New rents for those that are missing, due at once."""
        while self._candidates and len(self._rents) < self.wanted:
            endpoint = self._candidates.pop(0)
            near = any(network(one) == network(endpoint) for one in self._rents)
            if near or self._barred.get(endpoint, 0) > now_us:
                continue
            signer = self._signer_of(expand(self._secret, _SEED_LABEL, endpoint))
            self._rents[endpoint] = _Rent(endpoint, signer, self._host.entropy(8), now_us)
            self.due_us = min(self.due_us, now_us)

    def _bar(self, rent: _Rent, now_us: int) -> None:
        del self._rents[rent.endpoint]
        self._barred[rent.endpoint] = now_us + BARRED_US
        if len(self._barred) > BARRED:
            del self._barred[next(iter(self._barred))]

    def _arm(self, rent: _Rent, when_us: int) -> None:
        rent.due_us = when_us
        self.due_us = min(self.due_us, when_us)

    def _tell(self) -> None:
        now = (self.homes, self.wanted - len(self._rents))
        if now != self._told:
            self._told = now
            self._host.event(HomesChanged(*now))
