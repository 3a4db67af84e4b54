"""Sealed records of where a machine is: who can open them, whom they name, and what forgers get."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import verify
from crypto.kem import expand, hmac_sha256
from dht import endpoints, locations, records
from dht.locations import Location, Locator, listed_secret, open_all, open_bundle, seal, seal_bundle
from dht.records import BadRecord, Kind, Record, Records
from dht.signatures import Ed25519Signatures, SeedSigner
from tests.dht.record_kit import NOW_MS, UNIX, ToySignatures, ToySigner, machine, signer, word

SECRET = bytes(range(16))
DAY = UNIX // 86_400
OWNER = machine(1)
V4 = endpoints.pack("192.0.2.1", 51777)
V6 = endpoints.pack("2001:db8::1", 51777)
HOMES = ((endpoints.pack("198.51.100.7", 4000), b"h" * 16),)
SIGNATURES = Ed25519Signatures()


def locator(day: int = DAY, secret: bytes = SECRET, machine_id: bytes = OWNER.machine_id) -> Locator:
    return Locator(Kind.LOCATION, machine_id, secret, day)


def location(sequence: int = NOW_MS) -> Location:
    return Location(sequence, (V4, V6), HOMES, 5)


def opened(raws: list[bytes], day: int = DAY, unix: int = UNIX, known: int = -1) -> Location | None:
    return open_all(raws, locator(day), OWNER.bundle.ed25519, SIGNATURES, unix, known)


# ------------------------------------------------------------------ layout


def test_a_location_is_sealed_as_drawn() -> None:
    record = seal(location(), locator(), signer(1))
    prk = hmac_sha256(b"zeqnode locator v1" + bytes(14), SECRET + OWNER.machine_id)
    context = b"\x01" + DAY.to_bytes(8, "big")
    public = SeedSigner(expand(prk, b"locator seed", context)).public
    delay = int.from_bytes(expand(prk, b"delay", context)[:8], "big") % 600_000
    assert (record.kind, record.public, record.salt) == (Kind.LOCATION, public, b"")
    assert record.sequence == NOW_MS - delay
    assert record.key == locator().key == records.locator_key(Kind.LOCATION, public)
    Records(SIGNATURES).parse(record.raw)

    plain = AESGCM(expand(prk, b"cipher key", context)).decrypt(record.body[:12], record.body[12:], public)
    assert record.body[:12] == hmac_sha256(expand(prk, b"nonce key", context), plain)[:12]
    size = int.from_bytes(plain[64:66], "big")
    inner, padding = plain[66 : 66 + size], plain[66 + size :]
    assert len(plain) == 384
    assert padding == bytes(len(padding))
    assert msgpack.unpackb(inner) == [NOW_MS, [V4, V6], [[HOMES[0][0], b"h" * 16]], 5]
    verify(OWNER.bundle.ed25519, b"zeqnode location v1", OWNER.machine_id + inner, plain[:64])


def test_fixed_vectors() -> None:
    bundle_locator = Locator(Kind.BUNDLE, OWNER.machine_id, SECRET, DAY)
    found = {
        "listed secret": listed_secret(bytes(32)).hex(),
        "location key": locator().key.hex(),
        "bundle key": bundle_locator.key.hex(),
        "location": sha256(seal(location(), locator(), signer(1)).raw).hexdigest(),
        "bundle": sha256(seal_bundle(OWNER.bundle, bundle_locator, NOW_MS).raw).hexdigest(),
    }
    assert found == VECTORS


VECTORS = {
    "listed secret": "fcf9bf1249a0fc234ce5463d587b95dd",
    "location key": "11a3dd7fbb46e1067866b2df56f88c277dc848ca29beea600b993326b11dff07",
    "bundle key": "bc0117298922eefe5bf194f1f5a2e89b1e51bc97d17081321ced97ece928a27c",
    "location": "3ca99198fac0192690f985d85ca4a5875cd4b05ab6323866545d8285ece510fc",
    "bundle": "91e41f74ce82f79ca0e3e3295f67fa6f4c1c45083e74bc481720e5f4eb62508a",
}


def test_what_is_sealed_opens() -> None:
    assert opened([seal(location(), locator(), signer(1)).raw]) == location()
    assert opened([]) is None


def test_a_bundle_is_sealed_and_opens() -> None:
    where = Locator(Kind.BUNDLE, OWNER.machine_id, SECRET, DAY)
    record = seal_bundle(OWNER.bundle, where, NOW_MS)
    assert len(record.raw) == 1391
    assert OWNER.bundle.ed25519 not in record.raw
    assert open_bundle([record.raw], where) == OWNER.bundle
    assert open_bundle([], where) is None
    assert where.key != locator().key


def test_a_world_may_have_cheaper_signatures() -> None:
    where = Locator(Kind.LOCATION, bytes(32), SECRET, DAY, ToySigner)
    owner = ToySigner(bytes(range(32)))
    record = seal(location(), where, owner)
    Records(ToySignatures()).parse(record.raw)
    assert open_all([record.raw], where, owner.public, ToySignatures(), UNIX) == location()


# ------------------------------------------------------------------ privacy


def test_all_locations_have_one_size() -> None:
    least = Location(NOW_MS, ())
    most = Location(NOW_MS, (V6,) * 8, ((V6, b"h" * 16),) * 3, 0xFFFFFFFF)
    for each in (least, location(), most):
        record = seal(each, locator(), signer(1))
        assert len(record.raw) == 527
        assert opened([record.raw]) == each


def test_a_location_with_too_much_in_it_is_not_sealed() -> None:
    for bad in (
        Location(NOW_MS, (V6,) * 9),
        Location(NOW_MS, (), ((V6, b"h" * 16),) * 4),
        Location(NOW_MS, (), ((V6, b"short"),)),
        Location(NOW_MS, (b"nowhere",)),
        Location(NOW_MS, (endpoints.pack("224.0.0.1", 1),)),
    ):
        with pytest.raises(BadRecord):
            seal(bad, locator(), signer(1))


def test_attack_a_crawler_finds_nothing_in_two_days_records_that_is_alike() -> None:
    """Not a key, not a time, not a run of eight bytes, but what all records have."""
    today, tomorrow = (seal(location(), locator(day), signer(1)) for day in (DAY, DAY + 1))
    other = seal(Location(NOW_MS, ()), locator(secret=b"s" * 16, machine_id=bytes(32)), signer(2))
    assert today.key != tomorrow.key
    assert today.sequence != tomorrow.sequence

    def runs(record: Record) -> set[bytes]:
        return {record.raw[at : at + 8] for at in range(len(record.raw) - 7)}

    assert not runs(today) & runs(tomorrow) - runs(other)
    for record in (today, tomorrow):
        for told in (OWNER.machine_id, OWNER.bundle.ed25519, V4[:4], V6[:8], b"h" * 8):
            assert told not in record.raw


def test_attack_a_stranger_without_the_secret_neither_finds_nor_opens() -> None:
    record = seal(location(), locator(), signer(1))
    for secret in (bytes(16), listed_secret(OWNER.machine_id), SECRET[:-1] + b"\0"):
        stranger = locator(secret=secret)
        assert stranger.key != record.key
        assert open_all([record.raw], stranger, OWNER.bundle.ed25519, SIGNATURES, UNIX) is None
    assert opened([record.raw], DAY + 1) is None
    assert (
        open_all([record.raw], locator(machine_id=bytes(32)), OWNER.bundle.ed25519, SIGNATURES, UNIX) is None
    )


def test_a_locators_repr_shows_no_secret() -> None:
    assert SECRET.hex() not in repr(locator())


# ------------------------------------------------------------------ forgers who have the secret


def forged(plaintext: bytes, sequence: int = NOW_MS) -> bytes:
    return locator().seal(plaintext, sequence).raw


def test_attack_squatters_records_beside_the_owners_are_passed_over() -> None:
    """A listed machine's secret is public: who has it signs as the locator, but not as the machine."""
    true = seal(location(), locator(), signer(1)).raw
    theirs = [
        seal(location(NOW_MS + 500), locator(), signer(2)).raw,
        forged(bytes(384)),
        forged(b""),
        forged(bytes(64) + b"\xff\xff" + bytes(318)),
        word(locator()._signer, NOW_MS, b"short").raw,
        word(locator()._signer, NOW_MS, bytes(412)).raw,
        b"junk",
    ]
    assert opened([*theirs, true, *theirs]) == location()
    assert opened(theirs) is None


def test_attack_rollback_is_undone_by_the_inner_sequence() -> None:
    old, new = (seal(location(NOW_MS + later), locator(), signer(1)).raw for later in (0, 5000))
    resealed = forged(locator().open(old), NOW_MS + 9000)
    assert opened([new, old, resealed]) == location(NOW_MS + 5000)
    assert opened([resealed, old], known=NOW_MS + 5000) is None, "a reader is not taken back either"


def test_attack_an_old_location_sealed_anew_by_who_has_the_secret_expires_all_the_same() -> None:
    old = seal(location(NOW_MS - 7_200_000), locator(), signer(1)).raw
    assert opened([forged(locator().open(old))]) is None


def test_attack_a_location_from_the_future_is_passed_over() -> None:
    """By a machine whose clock was wrong once: its records must not outdo its later ones for good."""
    ahead = seal(location(NOW_MS + 601_000), locator(), signer(1)).raw
    true = seal(location(), locator(), signer(1)).raw
    assert opened([ahead, true]) == location()


def test_attack_another_machines_location_does_not_pass_as_this_ones() -> None:
    """Signed by its true owner, moved to another's key by who has both secrets."""
    theirs = Locator(Kind.LOCATION, machine(2).machine_id, SECRET, DAY)
    moved = theirs.open(seal(location(), theirs, signer(1)).raw)
    assert opened([forged(moved)]) is None


def test_attack_anothers_bundle_is_not_taken_for_the_machines() -> None:
    where = Locator(Kind.BUNDLE, OWNER.machine_id, SECRET, DAY)
    wrong = [seal_bundle(machine(2).bundle, where, NOW_MS).raw, where.seal(bytes(1248), NOW_MS).raw, b""]
    wrong.append(where.seal(OWNER.bundle.to_bytes()[:-1], NOW_MS).raw)
    good = seal_bundle(OWNER.bundle, where, NOW_MS).raw
    assert open_bundle(wrong, where) is None
    assert open_bundle([*wrong, good], where) == OWNER.bundle


def test_a_location_changed_in_any_byte_does_not_open() -> None:
    raw = seal(location(), locator(), signer(1)).raw
    for place in range(len(raw) - 64):  # behind them is the signature that is for the storing node
        assert opened([raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]]) in (None, location())
    body = raw.index(Records(SIGNATURES).parse(raw).body)
    for place in range(body, len(raw) - 64):
        assert opened([raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]]) is None


@given(st.lists(st.binary(max_size=700), max_size=5))
def test_arbitrary_bytes_hold_no_location_and_no_bundle(data: list[bytes]) -> None:
    assert opened(data) is None
    assert open_bundle(data, locator()) is None


@given(st.binary(max_size=400), st.booleans())
def test_whatever_who_has_the_secret_seals_raises_nothing(plaintext: bytes, padded: bool) -> None:
    raw = forged(plaintext.ljust(384, b"\0")[:384] if padded else plaintext)
    assert opened([raw]) is None
    assert open_bundle([raw], locator()) is None


@given(st.binary(max_size=318))
def test_whatever_the_machine_itself_signs_raises_nothing(inner: bytes) -> None:
    signature = signer(1).sign(b"zeqnode location v1", OWNER.machine_id + inner)
    raw = forged((signature + len(inner).to_bytes(2, "big") + inner).ljust(384, b"\0"))
    assert opened([raw]) is None


# ------------------------------------------------------------------ days


def test_around_midnight_two_days_are_written_and_read() -> None:
    midnight = 20_000 * 86_400
    for offset, written, read in (
        (-4201, [19_999], [19_999]),
        (-4200, [19_999, 20_000], [19_999]),
        (-601, [19_999, 20_000], [19_999]),
        (-600, [19_999, 20_000], [19_999, 20_000]),
        (0, [19_999, 20_000], [19_999, 20_000]),
        (599, [19_999, 20_000], [19_999, 20_000]),
        (600, [20_000], [20_000]),
        (40_000, [20_000], [20_000]),
    ):
        assert locations.days_to_write(midnight + offset) == written
        assert locations.days_to_read(midnight + offset) == read


@given(st.integers(10**9, 2 * 10**9), st.integers(-600, 600), st.integers(0, 3600))
def test_a_reader_looks_where_the_record_is_whatever_the_clocks_say(unix: int, skew: int, later: int) -> None:
    """Written within the last hour by a clock up to ten minutes off: the reader's own day was written."""
    assert (unix + later) // 86_400 in locations.days_to_write(unix + skew)
    assert set(locations.days_to_read(unix + later)) & set(locations.days_to_write(unix + skew))
