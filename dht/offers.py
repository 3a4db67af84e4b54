"""What a relay offers in the marketplace, and the records that say so.

    body  msgpack [machine_id 32, price_per_gb_zeq, price_per_zeqond_zeq, max_concurrent_tunnels,
                   accept_country_classes, country, active, capabilities, since]

An offer is one record under each country class that it accepts, and one under ANY for who asks for no class.
All have one sequence and one body. Withdrawing it (which comes first where its classes change) is an offer
that is not active (a tombstone): it is newer, so it lives longer than any offer that it ends.

That the signer is the machine that the offer names cannot be seen in the offer: machine_id is the hash of a
whole key bundle. Who means to use it fetches the bundle and compares (`Offer.is_by`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.identity import KeyBundle
from dht import records, stamps
from dht.records import SHARDS, BadRecord, Kind, Record
from dht.signatures import Signer

ANY: Final = "ANY"
MAX_CLASSES: Final = 16
MAX_AMOUNT: Final = 10**9

# Membership as of 2020: https://european-union.europa.eu/principles-countries-history/eu-countries_en
EU: Final = frozenset(
    {
        *("AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI", "FR", "DE", "GR", "HU", "IE"),
        *("IT", "LV", "LT", "LU", "MT", "NL", "PL", "PT", "RO", "SK", "SI", "ES", "SE"),
    }
)

Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
CountryClass = Annotated[str, Meta(pattern=r"\A([A-Z]{2}|ANY)\Z")]


class Offer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Prices are whole ZEQ. `accept_country_classes`: ISO 3166 codes, "EU" or "ANY", 1 to 16; `country`:
    where the relay says it stands, or "". `capabilities`: bits; `since`: Unix seconds of its listing."""

    machine_id: Annotated[bytes, Meta(min_length=32, max_length=32)]
    price_per_gb_zeq: Amount
    price_per_zeqond_zeq: Amount
    max_concurrent_tunnels: Amount
    accept_country_classes: Annotated[tuple[CountryClass, ...], Meta(min_length=1, max_length=MAX_CLASSES)]
    country: Annotated[str, Meta(pattern=r"\A([A-Z]{2})?\Z")] = ""
    active: bool = True
    capabilities: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    since: Annotated[int, Meta(ge=0, le=2**40)] = 0

    def accepts(self, country_class: str) -> bool:
        """Whether it is for who asks for this class: the class itself, ANY, or the EU of a member."""
        accepted = self.accept_country_classes
        return (
            country_class in accepted
            or ANY in accepted
            or country_class == ANY
            or ("EU" in accepted and country_class in EU)
        )

    def is_by(self, bundle: KeyBundle, signer: bytes) -> bool:
        """Whether the machine with these keys is the one that it names, and signed it."""
        return bundle.machine_id == self.machine_id and bundle.ed25519 == signer


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Offer).decode


def classes(offer: Offer) -> list[str]:
    """Under which it is published."""
    return list(dict.fromkeys((*offer.accept_country_classes, ANY)))


def make(offer: Offer, sequence: int, signer: Signer, bits: int = stamps.STAMP_BITS) -> list[Record]:
    """The offer's records, each with the `key` that it goes under, the one for ANY last. `sequence`: Unix ms.
    Takes 2^bits hashes a class, the first time in a day. Raises BadRecord for values out of their range."""
    body = _encode(offer)
    parse(body)
    made: list[Record] = []
    for name in classes(offer):
        key = records.offer_key(name, records.shard_of(signer.public))
        stamp = stamps.make(signer.public, key, sequence, bits)
        made.append(records.make(Kind.OFFER, stamp + name.encode(), sequence, body, signer))
    return made


def withdraw(offer: Offer, sequence: int, signer: Signer, bits: int = stamps.STAMP_BITS) -> list[Record]:
    """Its tombstones, under every class that it was published under."""
    return make(msgspec.structs.replace(offer, active=False), sequence, signer, bits)


def keys(country_class: str = ANY) -> Iterator[bytes]:
    """Where to look for offers of a class: eight keys, one a shard."""
    return (records.offer_key(country_class, shard) for shard in range(SHARDS))


def read(record: Record) -> Offer:
    """The offer in a record; the record's signature is not looked at.

    Raises BadRecord: no offer, one that does not belong under its key, or work that was not done."""
    if record.kind is not Kind.OFFER:
        raise BadRecord("not an offer")
    offer = parse(record.body)
    stamp, name = record.salt[: stamps.STAMP_BYTES], record.salt[stamps.STAMP_BYTES :]
    if not any(name == accepted.encode() for accepted in (*offer.accept_country_classes, ANY)):
        raise BadRecord("offer under a class that it does not accept")
    if not stamps.holds(stamp, record.public, record.key, record.sequence):
        raise BadRecord("work stamp does not hold")
    return offer


@lru_cache(maxsize=8192)  # twice what a market holds, some 300 bytes each
def parse(body: bytes) -> Offer:
    """The offer of a record's body; the same object for the same body. Raises BadRecord."""
    try:
        offer = _decode(body)
    except (ValueError, RecursionError) as error:
        raise BadRecord("not an offer") from error
    if len(set(offer.accept_country_classes)) != len(offer.accept_country_classes):
        raise BadRecord("not an offer")
    return offer
