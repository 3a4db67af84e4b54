"""What a tunnel costs: agreed once, signed with every voucher, and exact.

    terms   msgpack [version 1, pricing_unit, price_zeq, lifespan_zeqonds]     hash = SHA-256(label ‖ that)

    while it runs    gb: ⌈bytes × price / 1,000⌉ millionths    zeqond: zeqonds × price × 1,000,000 millionths
    ended in peace   gb: ⌈bytes / 10⁹⌉ × price ZEQ             zeqond: zeqonds × price ZEQ

Amounts are whole millionths of a ZEQ. A running tunnel is paid pro rata, so whoever leaves has been paid for
what was carried and no more; the seeds' sums, with a whole gigabyte at least, are for those who end it
together.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.errors import PeerFault

VERSION: Final = 1
MILLIONTHS: Final = 1_000_000
GB: Final = 1_000_000_000
MAX_PRICE_ZEQ: Final = 10**9
LEAST_LIFESPAN: Final = 10  # zeqonds
MAX_LIFESPAN: Final = 86_400
MAX_BYTES: Final = 2**52  # 4.5 petabytes in one tunnel
MAX_AMOUNT: Final = 2**62  # fits SQLite's integers, and sums of two do
_LABEL: Final = b"zeqnode terms v1"


class Unit(StrEnum):
    """The seeds' `pricing_unit`."""

    GB = "gb"
    ZEQOND = "zeqond"


class BadTerms(PeerFault):
    """Terms that cannot be read, or under which a sum could not be written down."""


class Terms(msgspec.Struct, array_like=True, frozen=True, kw_only=True, dict=True):
    """`price_zeq`: whole ZEQ for 10⁹ bytes, both ways together, or for a zeqond. Build it with `agree` or
    `parse`, which check that no sum of it is over MAX_AMOUNT."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    pricing_unit: Unit
    price_zeq: Annotated[int, Meta(ge=0, le=MAX_PRICE_ZEQ)]
    lifespan_zeqonds: Annotated[int, Meta(ge=LEAST_LIFESPAN, le=MAX_LIFESPAN)]

    @property
    def most_bytes(self) -> int:
        """Where the tunnel ends, as more could not be written down."""
        if self.pricing_unit is Unit.ZEQOND or not self.price_zeq:
            return MAX_BYTES
        return min(MAX_BYTES, MAX_AMOUNT // (MILLIONTHS * self.price_zeq) * GB)

    def amount(self, carried: int, zeqonds: int) -> int:
        """Millionths of a ZEQ for so many bytes, both ways together, in so many zeqonds; exact, rounded up to
        a millionth. 0 ≤ carried ≤ most_bytes, 0 ≤ zeqonds ≤ lifespan_zeqonds."""
        if self.pricing_unit is Unit.ZEQOND:
            return zeqonds * self.price_zeq * MILLIONTHS
        return -(-carried * self.price_zeq // (GB // MILLIONTHS))

    def final(self, carried: int, zeqonds: int) -> int:
        """Millionths of a ZEQ for a tunnel that both ended: the seeds' sum. Never below `amount`."""
        if self.pricing_unit is Unit.ZEQOND:
            return zeqonds * self.price_zeq * MILLIONTHS
        return -(-carried // GB) * self.price_zeq * MILLIONTHS

    def bytes_for(self, amount: int) -> int:
        """How many bytes cost no more than so many millionths; `most_bytes` where bytes cost nothing."""
        if self.pricing_unit is Unit.ZEQOND or not self.price_zeq:
            return self.most_bytes
        return min(self.most_bytes, amount * (GB // MILLIONTHS) // self.price_zeq)

    @cached_property
    def encoded(self) -> bytes:
        return _encode(self)

    @cached_property
    def hash(self) -> bytes:
        """32 bytes, which every voucher names."""
        return sha256(_LABEL + self.encoded).digest()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Terms).decode


def agree(unit: Unit, price_zeq: int, lifespan_zeqonds: int) -> Terms:
    """Raises BadTerms."""
    return parse(_encode(Terms(pricing_unit=unit, price_zeq=price_zeq, lifespan_zeqonds=lifespan_zeqonds)))


def parse(data: bytes) -> Terms:
    """Raises BadTerms for what is not terms, and for other bytes of the same terms: their hash is signed."""
    try:
        terms = _decode(data)
    except (ValueError, RecursionError) as error:
        raise BadTerms("not terms") from error
    if terms.encoded != data:
        raise BadTerms("terms in another encoding than ours")
    if terms.pricing_unit is Unit.ZEQOND and terms.amount(0, terms.lifespan_zeqonds) > MAX_AMOUNT:
        raise BadTerms("a price under which the sum could not be written down")
    return terms
