"""What the DHT stores: small signed records, each under the one key that follows from it.

    record  ├ msgpack [version 1, kind, public 32, salt, sequence, body] ┼ signature 64 ┤

    kind      signed by              salt                                       key: SHA-256(label ‖ kind ‖ …)
    LOCATION  the day's locator key  empty                                      public
    BUNDLE    the day's locator key  empty                                      public
    SLUG      the machine            slug, 14                                   slug
    OFFER     the machine            ├ stamp: bits 1, nonce 8 ┼ class 2 or 3 ┤  shard ‖ class

`sequence` is when the record was made, in Unix milliseconds (and one more than the last where the clock went
back). So a sequence from the future can be told and refused, and nobody who may write under a key, as anyone
may under a listed machine's (dht/locations.py), ends it with the largest number there is. Every record lives
two hours from then: what is newer also lives longer, and no tombstone dies before what it withdraws. The idea
of signed, numbered records under keys that follow from them is BEP 44's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, Final
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta

from crypto.identity import SIGNATURE_BYTES
from dht.signatures import Signatures, Signer
from dht.stamps import STAMP_BYTES

LIFE_S: Final = 7200
SKEW_S: Final = 600  # how far another's clock may be ahead of ours
SHARDS: Final = 8  # of a country class: 8 x 64 offers can be read for it
SLUG_BYTES: Final = 14
_SIGN_LABEL: Final = b"zeqnode record v1"
_KEY_LABEL: Final = b"zeqnode key v1"
_SHORTEST: Final = SIGNATURE_BYTES + 48


class Kind(IntEnum):
    LOCATION = 1
    BUNDLE = 2
    SLUG = 3
    OFFER = 4


KIND_BYTES: Final = {Kind.LOCATION: 600, Kind.BUNDLE: 1400, Kind.SLUG: 1400, Kind.OFFER: 600}
RECORD_BYTES: Final = max(KIND_BYTES.values())  # far below the 8 KB that BEP 44's kind of store allows


class BadRecord(ValueError):
    """A record that nobody may store or believe; its text is one of a few, fit for a counter's name."""


class _Envelope(msgspec.Struct, array_like=True, gc=False):
    version: Annotated[int, Meta(ge=1, le=1)]
    kind: Kind
    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    salt: Annotated[bytes, Meta(max_length=64)]
    sequence: Annotated[int, Meta(ge=0, le=2**62)]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Envelope).decode


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Record:
    """One record as read; only `Records` tells whether its signature holds. `raw` is all of its bytes."""

    raw: bytes
    kind: Kind
    public: bytes
    salt: bytes
    sequence: int  # Unix ms
    key: bytes
    body_at: int
    body_bytes: int

    @property
    def body(self) -> bytes:
        """Cut out of `raw` when it is asked for: who stores a record mostly does not read it."""
        return self.raw[self.body_at : self.body_at + self.body_bytes]

    @property
    def expires(self) -> int:
        """Unix seconds; from then on the record is nothing."""
        return self.sequence // 1000 + LIFE_S

    def check_time(self, unix: int) -> None:
        """Raises BadRecord when it has expired by `unix` (s), or was made in the future."""
        if self.expires <= unix:
            raise BadRecord("expired")
        if self.sequence > (unix + SKEW_S) * 1000:
            raise BadRecord("sequence from the future")


def read(raw: bytes) -> Record:
    """The fields of one record, its signature not looked at. Raises BadRecord."""
    if not _SHORTEST <= len(raw) <= RECORD_BYTES:
        raise BadRecord("wrong size")
    try:
        fields = _decode(raw[:-SIGNATURE_BYTES])
    except (ValueError, RecursionError) as error:  # the latter: arrays in each other, in a field read past
        raise BadRecord("not a record") from error
    if len(raw) > KIND_BYTES[fields.kind]:
        raise BadRecord("wrong size")
    key = _key(fields.kind, fields.public, fields.salt)
    at, size = raw.index(fields.body), len(fields.body)
    return Record(raw, fields.kind, fields.public, fields.salt, fields.sequence, key, at, size)


def make(kind: Kind, salt: bytes, sequence: int, body: bytes, signer: Signer) -> Record:
    """A new record. Raises BadRecord when it would be too long, or its salt is not one of its kind."""
    signed = _encode(_Envelope(1, kind, signer.public, salt, sequence, body))
    return read(signed + signer.sign(_SIGN_LABEL, signed))


def locator_key(kind: Kind, public: bytes) -> bytes:
    """32 bytes: where the LOCATION or BUNDLE of this locator key is."""
    return _hash(kind, public)


def slug_key(slug: str) -> bytes:
    """32 bytes: where claims of a slug are."""
    return _hash(Kind.SLUG, slug.encode())


def offer_key(country_class: str, shard: int) -> bytes:
    """32 bytes: where the offers of a class are whose signers have this shard, 0 to 7."""
    return _hash(Kind.OFFER, bytes([shard]) + country_class.encode())


def shard_of(public: bytes) -> int:
    """The signer decides, not its wish; a reader asks for all eight."""
    return public[0] % SHARDS


def _key(kind: Kind, public: bytes, salt: bytes) -> bytes:
    if kind in (Kind.LOCATION, Kind.BUNDLE):
        fits, rest = not salt, public
    elif kind is Kind.SLUG:
        fits, rest = len(salt) == SLUG_BYTES, salt
    else:
        fits, rest = len(salt) > STAMP_BYTES, bytes([shard_of(public)]) + salt[STAMP_BYTES:]
    if not fits:
        raise BadRecord("wrong salt")
    return _hash(kind, rest)


def _hash(kind: Kind, rest: bytes) -> bytes:
    return sha256(_KEY_LABEL + bytes([kind]) + rest).digest()


class Records:
    """Reads records and checks their signatures, each once as long as somebody keeps it.

    The same bytes give the same object: nodes of one world share a `Records`, and so what they store."""

    __slots__ = ("_known", "_signatures")

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures
        self._known: WeakValueDictionary[bytes, Record] = WeakValueDictionary()

    def read(self, raw: bytes) -> Record:
        """As `read`, but what was found good before is that object. Raises BadRecord."""
        return self._known.get(raw) or read(raw)

    def verify(self, record: Record) -> None:
        """Raises BadRecord when its signature does not hold."""
        if self._known.get(record.raw) is record:
            return
        signed, signature = record.raw[:-SIGNATURE_BYTES], record.raw[-SIGNATURE_BYTES:]
        if not self._signatures.holds(record.public, _SIGN_LABEL, signed, signature):
            raise BadRecord("bad signature")
        self._known[record.raw] = record

    def parse(self, raw: bytes) -> Record:
        """Read and verified. Raises BadRecord."""
        record = self.read(raw)
        self.verify(record)
        return record
