"""Offers: their layout, what is no offer, under which classes they stand, and the work stamps they carry."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import offers, records, stamps
from dht.offers import Offer
from dht.records import BadRecord, Kind, Record, Records
from dht.signatures import Ed25519Signatures
from tests.dht.record_kit import NOW_MS, UNIX, an_offer, machine, signer, toy

DAY_MS = 86_400_000


def refuses(**changes: object) -> bool:
    body = msgspec.msgpack.encode(msgspec.structs.replace(an_offer(), **changes))
    try:
        offers.parse(body)
    except BadRecord:
        return True
    return False


# ------------------------------------------------------------------ layout


def test_an_offer_is_laid_out_as_drawn() -> None:
    body = offers.make(an_offer(7), NOW_MS, toy(7), 0)[0].body
    assert msgpack.unpackb(body) == [
        *((7).to_bytes(32, "big"), 50, 1, 8),
        *(["EU"], "DE", True, 0, UNIX),
    ]
    assert (
        body.hex()
        == "99c420" + "00" * 31 + "07" + "320108" + "91a2" + "4555" + "a2" + "4445" + "c300ce6b49d200"
    )


def test_the_records_of_an_offer_are_one_a_class_and_one_for_any() -> None:
    offer = an_offer(accept=("EU", "CH"))
    made = offers.make(offer, NOW_MS, signer(1), bits=4)
    shard = records.shard_of(signer(1).public)
    assert [record.key for record in made] == [records.offer_key(name, shard) for name in ("EU", "CH", "ANY")]
    reader = Records(Ed25519Signatures())
    for record, name in zip(made, (b"EU", b"CH", b"ANY"), strict=True):
        assert record.salt[9:] == name
        assert record.salt[0] == 4
        assert offers.read(reader.parse(record.raw)) == offer
    assert len(offers.make(an_offer(accept=("EU", "ANY")), NOW_MS, signer(1), 0)) == 2


def test_a_withdrawal_stands_wherever_the_offer_stood_and_outlives_it() -> None:
    offer = an_offer(accept=("EU", "CH"))
    made = offers.make(offer, NOW_MS, signer(1), 0)
    gone = offers.withdraw(offer, NOW_MS + 1000, signer(1), 0)
    assert [record.key for record in gone] == [record.key for record in made]
    assert not any(offers.read(record).active for record in gone)
    assert all(record.expires > made[0].expires for record in gone)


def test_the_largest_offer_fits() -> None:
    most = offers.MAX_AMOUNT
    accept = tuple("A" + chr(65 + n) for n in range(offers.MAX_CLASSES))
    offer = Offer(bytes(32), most, most, most, accept, "DE", True, 0xFFFFFFFF, 2**40)
    assert all(len(record.raw) <= 600 for record in offers.make(offer, NOW_MS, signer(1), 0))


# ------------------------------------------------------------------ what is no offer


@pytest.mark.parametrize(
    "changes",
    [
        {"machine_id": bytes(31)},
        {"price_per_gb_zeq": -1},
        {"price_per_gb_zeq": 10**9 + 1},
        {"price_per_gb_zeq": 1.5},
        {"price_per_gb_zeq": True},
        {"price_per_gb_zeq": "50"},
        {"price_per_zeqond_zeq": -1},
        {"max_concurrent_tunnels": 2**63},
        {"accept_country_classes": ()},
        {"accept_country_classes": ("EU", "EU")},
        {"accept_country_classes": ("eu",)},
        {"accept_country_classes": ("EU\n",)},
        {"accept_country_classes": ("\nEU",)},
        {"accept_country_classes": ("EUR",)},
        {"accept_country_classes": ("ЕU",)},
        {"accept_country_classes": ("\x1b[",)},
        {"accept_country_classes": tuple("A" + chr(65 + n) for n in range(17))},
        {"country": "DEU"},
        {"country": "DE\n"},
        {"country": "d\x00"},
        {"active": 1},
        {"capabilities": 2**32},
        {"since": -1},
    ],
)
def test_what_is_out_of_range_is_no_offer(changes: dict[str, object]) -> None:
    assert refuses(**changes)
    with pytest.raises(BadRecord):
        offers.make(msgspec.structs.replace(an_offer(), **changes), NOW_MS, toy(1), 0)


def test_a_later_versions_fields_are_read_past() -> None:
    fields = msgpack.unpackb(msgspec.msgpack.encode(an_offer()))
    assert offers.parse(msgpack.packb([*fields, "new"])) == an_offer()


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_no_offer(data: bytes) -> None:
    with pytest.raises(BadRecord):
        offers.parse(data)


def test_arrays_nested_a_thousand_deep_are_no_offer() -> None:
    fields = bytes(msgspec.msgpack.encode(an_offer()))
    with pytest.raises(BadRecord):
        offers.parse(b"\x9a" + fields[1:] + b"\x91" * 5000 + b"\xc0")


@given(st.binary(min_size=10, max_size=64), st.binary(max_size=100))
def test_whatever_salt_and_body_a_signer_signs_reading_raises_nothing_else(salt: bytes, body: bytes) -> None:
    with pytest.raises(BadRecord):
        offers.read(records.make(Kind.OFFER, salt, NOW_MS, body, toy(1)))


def test_other_kinds_hold_no_offer() -> None:
    with pytest.raises(BadRecord):
        offers.read(records.make(Kind.LOCATION, b"", NOW_MS, msgspec.msgpack.encode(an_offer()), toy(1)))


# ------------------------------------------------------------------ classes


@pytest.mark.parametrize(
    ("accept", "asked", "fits"),
    [
        (("EU",), "EU", True),
        (("EU",), "DE", True),
        (("EU",), "CH", False),
        (("DE",), "EU", False),
        (("ANY",), "CH", True),
        (("US", "CH"), "CH", True),
        (("US",), "ANY", True),
    ],
)
def test_an_offer_is_for_who_asks_for_its_class(accept: tuple[str, ...], asked: str, fits: bool) -> None:
    assert an_offer(accept=accept).accepts(asked) is fits


def test_the_eu_has_27_members() -> None:
    assert len(offers.EU) == 27
    assert "GB" not in offers.EU


def test_an_offer_in_anothers_name_shows_once_the_keys_are_there() -> None:
    bundle = machine(1).bundle
    own = msgspec.structs.replace(an_offer(), machine_id=bundle.machine_id)
    assert own.is_by(bundle, signer(1).public)
    assert not own.is_by(bundle, signer(2).public)
    assert not own.is_by(machine(2).bundle, signer(2).public)


# ------------------------------------------------------------------ work stamps


def test_a_stamp_is_the_hash_that_is_drawn() -> None:
    stamp = stamps.make(b"s" * 32, b"k" * 32, NOW_MS, bits=10)
    day = (NOW_MS // DAY_MS).to_bytes(8, "big")
    found = sha256(b"zeqnode stamp v1" + b"s" * 32 + b"k" * 32 + day + stamp[1:]).digest()
    assert int.from_bytes(found, "big") >> 246 == 0
    assert stamp.hex() == "0a000000000000013f"


def test_a_stamp_is_for_one_signer_key_and_day_and_claims_no_more_than_was_done() -> None:
    signer_, key = b"s" * 32, b"k" * 32
    stamp = stamps.make(signer_, key, NOW_MS, bits=12)
    day_begins = NOW_MS // DAY_MS * DAY_MS
    assert stamps.holds(stamp, signer_, key, NOW_MS)
    assert stamps.holds(stamp, signer_, key, day_begins)
    assert not stamps.holds(stamp, b"S" * 32, key, NOW_MS)
    assert not stamps.holds(stamp, signer_, b"K" * 32, NOW_MS)
    assert not stamps.holds(stamp, signer_, key, day_begins + DAY_MS)
    assert not stamps.holds(bytes([200]) + stamp[1:], signer_, key, NOW_MS)
    assert not stamps.holds(bytes([255]) + stamp[1:], signer_, key, NOW_MS)
    assert stamps.holds(bytes(9), b"any", b"thing", 0)


def test_all_records_of_a_day_share_their_stamps() -> None:
    def stamp(record: Record) -> bytes:
        return record.salt[:9]

    first = offers.make(an_offer(), NOW_MS, signer(1), bits=8)
    later = offers.withdraw(an_offer(), NOW_MS + 3_600_000, signer(1), bits=8)
    assert list(map(stamp, first)) == list(map(stamp, later))
