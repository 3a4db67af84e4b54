"""Records: their layout, their keys, what is refused, and that a signature is checked once."""

from __future__ import annotations

import gc
from hashlib import sha256

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import slug, verify
from dht import offers, records, slugs
from dht.records import LIFE_S, RECORD_BYTES, SKEW_S, BadRecord, Kind, Record, Records, make, read
from dht.signatures import Ed25519Signatures, SeedSigner
from tests.dht.record_kit import (
    NOW_MS,
    UNIX,
    ToySignatures,
    an_offer,
    machine,
    offer_record,
    signer,
    toy,
    word,
)

LOCATOR = SeedSigner(bytes(range(32)))


def resigned(fields: list[object]) -> bytes:
    """A record of these fields, whatever they are, with a signature that holds."""
    signed = msgpack.packb(fields)
    return bytes(signed) + LOCATOR.sign(b"zeqnode record v1", signed)


def of_kinds() -> list[Record]:
    return [
        make(Kind.LOCATION, b"", NOW_MS, b"sealed", LOCATOR),
        make(Kind.BUNDLE, b"", NOW_MS, b"sealed", LOCATOR),
        slugs.make(machine(1).bundle, NOW_MS, signer(1)),
        offers.make(an_offer(1), NOW_MS, signer(1), bits=4)[0],
    ]


# ------------------------------------------------------------------ layout


def test_a_record_is_laid_out_as_drawn() -> None:
    for record in of_kinds():
        signed, signature = record.raw[:-64], record.raw[-64:]
        assert msgpack.unpackb(signed) == [
            *(1, record.kind.value, record.public),
            *(record.salt, record.sequence, record.body),
        ]
        verify(record.public, b"zeqnode record v1", signed, signature)


def test_keys_are_hashes_of_what_is_drawn() -> None:
    def key(kind: int, rest: bytes) -> bytes:
        return sha256(b"zeqnode key v1" + bytes([kind]) + rest).digest()

    location, bundle, claim, offer = of_kinds()
    name = slug(machine(1).machine_id)
    shard = signer(1).public[0] % 8
    assert location.key == key(1, LOCATOR.public) == records.locator_key(Kind.LOCATION, LOCATOR.public)
    assert bundle.key == key(2, LOCATOR.public) == records.locator_key(Kind.BUNDLE, LOCATOR.public)
    assert claim.key == key(3, name.encode()) == records.slug_key(name)
    assert offer.key == key(4, bytes([shard]) + b"EU") == records.offer_key("EU", shard)
    assert offer.key in list(offers.keys("EU"))
    assert len(set(offers.keys("EU")) | set(offers.keys())) == 16


VECTORS = {
    Kind.LOCATION: "bcc6595ef1609242a6b63502959c2f3496a66c7ac92e505952b8f9275c3a1be0",
    Kind.BUNDLE: "e5a296087b9d2744505629773fb49db777f1769b148efa4b415dd16d19e13424",
    Kind.SLUG: "09a29e919e43af3884bf83532264f50a8b2196e22341166f9a94bc25389f745d",
    Kind.OFFER: "4bd9a9ccd6d482fd08ba70cc4c7dba4b6b24e4f5b2db0ef8fdfb0b3849a5dc53",
}


def test_fixed_vectors_of_every_kind() -> None:
    """Of the whole record, by its hash: Ed25519 signs the same bytes the same way."""
    for record in of_kinds():
        assert sha256(record.raw).hexdigest() == VECTORS[record.kind], record.kind


def test_a_location_record_byte_by_byte() -> None:
    raw = make(Kind.LOCATION, b"", NOW_MS, b"sealed", LOCATOR).raw
    head = "960101c420" + "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert raw[:-64].hex() == head + "c400" + "cf000001a3185c5000" + "c406" + b"sealed".hex()


# ------------------------------------------------------------------ what is refused


def test_a_record_changed_in_any_byte_is_refused() -> None:
    for record in of_kinds()[:1] + of_kinds()[3:]:
        for place in range(len(record.raw)):
            changed = record.raw[:place] + bytes([record.raw[place] ^ 1]) + record.raw[place + 1 :]
            with pytest.raises(BadRecord):
                Records(Ed25519Signatures()).parse(changed)


def test_a_signature_by_another_key_is_refused() -> None:
    good = word(LOCATOR)
    other = SeedSigner(bytes(32))
    with pytest.raises(BadRecord, match="bad signature"):
        Records(Ed25519Signatures()).parse(good.raw[:-64] + other.sign(b"zeqnode record v1", good.raw[:-64]))


def test_a_signature_under_another_label_is_refused() -> None:
    good = word(LOCATOR)
    with pytest.raises(BadRecord, match="bad signature"):
        Records(Ed25519Signatures()).parse(
            good.raw[:-64] + LOCATOR.sign(b"zeqnode gossip v1", good.raw[:-64])
        )


def test_records_over_their_size_are_refused() -> None:
    make(Kind.LOCATION, b"", NOW_MS, bytes(400), LOCATOR)
    with pytest.raises(BadRecord, match="wrong size"):
        make(Kind.LOCATION, b"", NOW_MS, bytes(600), LOCATOR)
    with pytest.raises(BadRecord, match="wrong size"):
        make(Kind.BUNDLE, b"", NOW_MS, bytes(8192), LOCATOR)
    with pytest.raises(BadRecord, match="wrong size"):
        read(bytes(RECORD_BYTES + 1))


@pytest.mark.parametrize(
    "fields",
    [
        [2, 1, LOCATOR.public, b"", NOW_MS, b"x"],  # a version to come
        [1, 5, LOCATOR.public, b"", NOW_MS, b"x"],  # a kind to come
        [1, 1, LOCATOR.public[:-1], b"", NOW_MS, b"x"],
        [1, 1, LOCATOR.public, b"salted", NOW_MS, b"x"],
        [1, 3, LOCATOR.public, b"ZEQ0700000001", NOW_MS, b"x"],
        [1, 4, LOCATOR.public, bytes(9), NOW_MS, b"x"],
        [1, 1, LOCATOR.public, b"", -1, b"x"],
        [1, 1, LOCATOR.public, b"", 2**63, b"x"],
        [1, 1, LOCATOR.public, b"", 1.5, b"x"],
        [1, 1, LOCATOR.public, b"", True, b"x"],
        [1, 1, LOCATOR.public, b"", NOW_MS, "text"],
        [1, 1, LOCATOR.public, b"", NOW_MS],
    ],
)
def test_fields_that_are_not_what_they_should_be_are_refused(fields: list[object]) -> None:
    with pytest.raises(BadRecord):
        read(resigned(fields))


def test_arrays_nested_a_thousand_deep_are_refused() -> None:
    """In a field that this version reads past; Python's stack is not for strangers to end."""
    fields = bytes(msgpack.packb([1, 2, LOCATOR.public, b"", NOW_MS, b""]))
    with pytest.raises(BadRecord, match="not a record"):
        read(b"\x97" + fields[1:] + b"\x91" * 1200 + b"\xc0" + bytes(64))
    assert read(b"\x97" + fields[1:] + b"\xc0" + bytes(64)).body == b"", (
        "a later version's field is read past"
    )


@given(st.binary(max_size=RECORD_BYTES + 100))
def test_arbitrary_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(BadRecord):
        Records(Ed25519Signatures()).parse(data)


@given(place=st.integers(0, 10**6), put=st.binary(min_size=1, max_size=8), which=st.integers(0, 3))
def test_damaged_records_are_refused_and_nothing_else(place: int, put: bytes, which: int) -> None:
    raw = of_kinds()[which].raw
    place %= len(raw)
    damaged = raw[:place] + put + raw[place + len(put) :]
    if damaged != raw:
        with pytest.raises(BadRecord):
            Records(Ed25519Signatures()).parse(damaged)


# ------------------------------------------------------------------ time


def test_a_record_lives_two_hours_from_its_making() -> None:
    record = word(toy(1))
    assert record.expires == UNIX + LIFE_S == UNIX + 7200
    record.check_time(UNIX + LIFE_S - 1)
    with pytest.raises(BadRecord, match="expired"):
        record.check_time(UNIX + LIFE_S)


def test_a_sequence_from_the_future_is_refused_beyond_ten_minutes_of_skew() -> None:
    record = word(toy(1))
    record.check_time(UNIX - SKEW_S)
    with pytest.raises(BadRecord, match="future"):
        record.check_time(UNIX - SKEW_S - 1)
    with pytest.raises(BadRecord, match="future"):
        word(toy(1), sequence=2**62).check_time(UNIX)


# ------------------------------------------------------------------ checked once


def test_the_same_bytes_are_the_same_record_and_verified_once() -> None:
    signatures = ToySignatures()
    reader = Records(signatures)
    first = reader.parse(word(toy(1)).raw)
    assert reader.parse(bytes(bytearray(first.raw))) is first
    assert signatures.asked == 1


def test_what_nobody_keeps_is_forgotten() -> None:
    signatures = ToySignatures()
    reader = Records(signatures)
    for _ in range(3):
        reader.parse(offer_record(1).raw)
        gc.collect()
    assert signatures.asked == 3
    assert len(reader._known) == 0


def test_a_record_read_but_not_verified_is_not_taken_as_good() -> None:
    reader = Records(ToySignatures())
    forged = word(toy(1)).raw[:-1] + b"!"
    kept = reader.read(forged)
    with pytest.raises(BadRecord, match="bad signature"):
        reader.parse(forged)
    with pytest.raises(BadRecord, match="bad signature"):
        reader.verify(kept)
