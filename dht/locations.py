"""Where a machine is, sealed: who does not know its lookup secret finds no record, nor whose a record is.

    prk         HKDF-Extract(label, lookup secret 16 ‖ machine_id 32)
    of a day    locator's Ed25519 seed, cipher key, nonce key, delay = HKDF-Expand(prk, …, kind ‖ day)
    body        ├ nonce 12 ┼ AES-256-GCM (plaintext) ┼ tag 16 ┤   authenticated with it: locator's public key

    plaintext of a LOCATION, always 384 bytes         of a BUNDLE
    ├ signature 64 ┼ n 2 ┼ msgpack, n bytes ┼ 0 … ┤   ├ key bundle, 1,248 bytes ┤
      msgpack [sequence, endpoints, homes [endpoint, handle 16], capabilities]
      signed by the machine: machine_id ‖ msgpack

Each day and kind has a locator key of its own, and every LOCATION one size, so that nothing in two days'
records says that they are of one machine. Not even their time does: the record is dated back by a delay of up
to ten minutes that is the day's own, the true time stands inside. (Who publishes two days' records does it at
two times.) A day is ⌊Unix s / 86400⌋.

A listed machine's lookup secret is no secret, so that strangers find it. Then anyone may sign as its locator,
as may anyone who was ever invited to an unlisted one: the record counts for nothing, the signature inside for
all, and a reader opens every record of the key and takes the newest that the machine itself has signed. A
bundle needs no signature: machine_id is its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Meta

from crypto.identity import SIGNATURE_BYTES, BadKeys, KeyBundle
from crypto.kem import expand, hmac_sha256
from dht import endpoints, records
from dht.records import LIFE_S, SKEW_S, BadRecord, Kind, Record
from dht.signatures import SeedSigner, Signatures, Signer

LOOKUP_SECRET_BYTES: Final = 16
DAY_S: Final = 86_400
MAX_ENDPOINTS: Final = 8
MAX_HOMES: Final = 3
PLAIN_BYTES: Final = 384
_DELAY_MS: Final = 600_000
_NONCE_BYTES: Final = 12
_EXTRACT: Final = b"zeqnode locator v1".ljust(32, b"\0")  # RFC 5869's salt, filled up as HMAC does
_LISTED_LABEL: Final = b"zeqnode listed v1"
_SIGN_LABEL: Final = b"zeqnode location v1"

Where = Annotated[bytes, Meta(min_length=endpoints.IPV4_BYTES, max_length=endpoints.IPV6_BYTES)]
Handle = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Location(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`sequence`: Unix ms of its making. `homes`: who forwards to the machine, and under which handle
    (dht/homes.py). `capabilities`: bits."""

    sequence: Annotated[int, Meta(ge=0, le=2**62)]
    endpoints: Annotated[tuple[Where, ...], Meta(max_length=MAX_ENDPOINTS)]
    homes: Annotated[tuple[tuple[Where, Handle], ...], Meta(max_length=MAX_HOMES)] = ()
    capabilities: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Location).decode


def listed_secret(machine_id: bytes) -> bytes:
    """16 bytes: the lookup secret of a machine that wants to be found by anyone who has heard of it."""
    return sha256(_LISTED_LABEL + machine_id).digest()[:LOOKUP_SECRET_BYTES]


def days_to_write(unix: int) -> list[int]:
    """Under which days' keys a record of now will be looked for until the next is written, in an hour."""
    return list(range((unix - SKEW_S) // DAY_S, (unix + LIFE_S // 2 + SKEW_S) // DAY_S + 1))


def days_to_read(unix: int) -> list[int]:
    """The day, and near midnight the one that it is by the clock of who wrote."""
    return list(range((unix - SKEW_S) // DAY_S, (unix + SKEW_S) // DAY_S + 1))


class Locator:
    """What the lookup secret (16 bytes) gives for one machine, kind (LOCATION or BUNDLE) and day.

    `key` is where to look. `signer_of` makes a signer of a seed of 32 bytes."""

    __slots__ = ("_cipher", "_delay_ms", "_nonce_key", "_signer", "key", "kind", "machine_id")

    def __init__(
        self,
        kind: Kind,
        machine_id: bytes,
        lookup_secret: bytes,
        day: int,
        signer_of: Callable[[bytes], Signer] = SeedSigner,
    ) -> None:
        assert len(lookup_secret) == LOOKUP_SECRET_BYTES
        prk = hmac_sha256(_EXTRACT, lookup_secret + machine_id)
        context = bytes([kind]) + day.to_bytes(8, "big")
        self._signer = signer_of(expand(prk, b"locator seed", context))
        self._cipher = AESGCM(expand(prk, b"cipher key", context))
        self._nonce_key = expand(prk, b"nonce key", context)
        self._delay_ms = int.from_bytes(expand(prk, b"delay", context)[:8], "big") % _DELAY_MS
        self.kind = kind
        self.machine_id = machine_id
        self.key = records.locator_key(kind, self._signer.public)

    def seal(self, plaintext: bytes, sequence: int) -> Record:
        """The nonce is a MAC of the plaintext: a pure function, and no two plaintexts share one."""
        nonce = hmac_sha256(self._nonce_key, plaintext)[:_NONCE_BYTES]
        body = nonce + self._cipher.encrypt(nonce, plaintext, self._signer.public)
        return records.make(self.kind, b"", sequence - self._delay_ms, body, self._signer)

    def open(self, raw: bytes) -> bytes:
        """The plaintext of a record; its signature says nothing that the tag does not. Raises BadRecord."""
        record = records.read(raw)
        if record.key != self.key:
            raise BadRecord("wrong key")
        nonce, sealed = record.body[:_NONCE_BYTES], record.body[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, record.public)
        except (InvalidTag, ValueError) as error:
            raise BadRecord("does not open") from error


def seal(location: Location, locator: Locator, machine: Signer) -> Record:
    """The day's record, 527 bytes, signed inside by the machine. Raises BadRecord for more endpoints or homes
    than there may be."""
    inner = _encode(location)
    _read(inner)
    signature = machine.sign(_SIGN_LABEL, locator.machine_id + inner)
    plaintext = signature + len(inner).to_bytes(2, "big") + inner
    return locator.seal(plaintext.ljust(PLAIN_BYTES, b"\0"), location.sequence)


def open_all(
    raws: Iterable[bytes],
    locator: Locator,
    ed25519: bytes,
    signatures: Signatures,
    unix: int,
    known: int = -1,
) -> Location | None:
    """The newest good location in what was found under `locator.key`; `ed25519` (32 bytes) is the machine's.

    `known` is the sequence of the location that we have: what is not newer is not looked at, so nobody who
    hands us old records takes us back."""
    best = None
    for raw in dict.fromkeys(raws):
        try:
            location = _open(locator.open(raw), locator.machine_id, ed25519, signatures, unix, known)
        except BadRecord:
            continue
        best, known = location, location.sequence
    return best


def seal_bundle(bundle: KeyBundle, locator: Locator, sequence: int) -> Record:
    """The day's record, 1,391 bytes."""
    return locator.seal(bundle.to_bytes(), sequence)


def open_bundle(raws: Iterable[bytes], locator: Locator) -> KeyBundle | None:
    """The machine's bundle, if one of the records has it."""
    for raw in dict.fromkeys(raws):
        try:
            bundle = KeyBundle.from_bytes(locator.open(raw))
        except (BadRecord, BadKeys):
            continue
        if bundle.machine_id == locator.machine_id:
            return bundle
    return None


def _open(
    plaintext: bytes, machine_id: bytes, ed25519: bytes, signatures: Signatures, unix: int, known: int
) -> Location:
    if len(plaintext) != PLAIN_BYTES:
        raise BadRecord("not a location")
    signature, rest = plaintext[:SIGNATURE_BYTES], plaintext[SIGNATURE_BYTES:]
    inner = rest[2 : 2 + int.from_bytes(rest[:2], "big")]
    location = _read(inner)
    made_s = location.sequence // 1000
    if location.sequence <= known or not unix - LIFE_S < made_s <= unix + SKEW_S:
        raise BadRecord("not of its time")
    if not signatures.holds(ed25519, _SIGN_LABEL, machine_id + inner, signature):
        raise BadRecord("bad signature")
    return location


def _read(inner: bytes) -> Location:
    try:
        location = _decode(inner)
    except (ValueError, RecursionError) as error:
        raise BadRecord("not a location") from error
    named = (*location.endpoints, *(home for home, _ in location.homes))
    if not all(endpoints.usable(endpoint) for endpoint in named):
        raise BadRecord("not a location")
    return location
