"""What the tests of records share: machines whose keys are fixed, and signatures that cost nothing."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2s, shake_256

from crypto.identity import MachineKeys
from dht import offers, records
from dht.offers import Offer
from dht.records import Kind, Record
from dht.signatures import MachineSigner, Signer

UNIX = 1_800_000_000
NOW_MS = UNIX * 1000


class ToySignatures:
    """Anyone can sign as anyone: for tests that are about something else. Counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def holds(self, public: bytes, label: bytes, payload: bytes, signature: bytes) -> bool:
        self.asked += 1
        return signature == ToySigner(public).sign(label, payload)


class ToySigner:
    def __init__(self, public: bytes) -> None:
        self.public = public

    def sign(self, label: bytes, payload: bytes) -> bytes:
        return blake2s(label + payload, key=self.public).digest() * 2


def entropy(size: int) -> bytes:
    return shake_256(b"entropy").digest(size)


def network(number: int) -> bytes:
    """A /24."""
    return b"\x0a" + number.to_bytes(2, "big")


def toy(number: int, shard: int = 0) -> ToySigner:
    """The toy signer of this number, in a shard of its own choice."""
    return ToySigner(bytes([shard]) + number.to_bytes(4, "big").rjust(31, b"\0"))


@lru_cache
def machine(number: int) -> MachineKeys:
    return MachineKeys.from_bytes(shake_256(b"machine" + bytes([number])).digest(128))


def signer(number: int) -> MachineSigner:
    return MachineSigner(machine(number))


def an_offer(
    number: int = 0, per_gb: int = 50, active: bool = True, accept: tuple[str, ...] = ("EU",)
) -> Offer:
    return Offer(
        machine_id=number.to_bytes(32, "big"),
        price_per_gb_zeq=per_gb,
        price_per_zeqond_zeq=1,
        max_concurrent_tunnels=8,
        accept_country_classes=accept,
        country="DE",
        active=active,
        since=UNIX,
    )


def offer_record(
    number: int, sequence: int = NOW_MS, bits: int = 0, per_gb: int = 50, active: bool = True
) -> Record:
    """Under ANY, signed by a toy signer of shard 0."""
    return offers.make(an_offer(number, per_gb, active), sequence, toy(number), bits)[-1]


def word(locator: Signer, sequence: int = NOW_MS, body: bytes = b"sealed") -> Record:
    """What a locator key (any signer) says, under the one key that is its own."""
    return records.make(Kind.LOCATION, b"", sequence, body, locator)
