"""What a node stores for strangers, and what strangers may try to do to it."""

from __future__ import annotations

from collections.abc import Iterable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import offers, records, sets, slugs
from dht.records import KIND_BYTES, LIFE_S, Kind, Record, Records
from dht.sets import MAX_ENTRIES, MAX_WORDS, merge
from dht.signatures import Ed25519Signatures, SeedSigner
from dht.storage import KEPT, MAX_RECORDS, NO_ROOM, OLDER, REFUSED, VALUES_BYTES, Storage
from tests.dht.record_kit import (
    NOW_MS,
    UNIX,
    ToySignatures,
    an_offer,
    entropy,
    machine,
    network,
    offer_record,
    signer,
    toy,
    word,
)

HOME = network(65_000)


def store(secret: bytes = b"") -> Storage:
    return Storage(Records(ToySignatures()), lambda size: (secret or entropy(size)).ljust(size, b"\0"))


def put(storage: Storage, record: Record, source: bytes = HOME, unix: int = UNIX) -> int:
    return storage.put(record.key, record.raw, source, unix)


def there(storage: Storage, key: bytes, unix: int = UNIX) -> list[bytes]:
    shown = storage.values(key, unix)
    return list(msgpack.unpackb(shown)) if shown else []


# ------------------------------------------------------------------ what it is for


def test_what_is_put_is_there_until_it_expires() -> None:
    storage = store()
    record = offer_record(1)
    assert put(storage, record) == KEPT
    assert put(storage, record) == KEPT, "once more is no error"
    assert there(storage, record.key) == [record.raw]
    assert storage.keys() == [record.key]
    assert there(storage, record.key, UNIX + LIFE_S - 1) == [record.raw]
    assert there(storage, record.key, UNIX + LIFE_S) == []
    storage.expire(UNIX + LIFE_S - 1)
    assert len(storage) == 1
    storage.expire(UNIX + LIFE_S)
    assert len(storage) == 0 == len(storage.keys())


def test_values_of_nothing_are_nothing() -> None:
    assert store().values(bytes(32), UNIX) == b""


def test_a_newer_record_takes_the_place_of_its_signers_last() -> None:
    storage = store()
    assert put(storage, offer_record(1)) == KEPT
    newer = offer_record(1, NOW_MS + 1, per_gb=60)
    assert put(storage, newer) == KEPT
    assert there(storage, newer.key) == [newer.raw]
    assert len(storage) == 1


def test_full_sets_fit_into_what_pages_can_count() -> None:
    for kind, most in {**MAX_ENTRIES, Kind.LOCATION: MAX_WORDS, Kind.BUNDLE: MAX_WORDS}.items():
        assert 3 + most * (3 + KIND_BYTES[kind]) <= VALUES_BYTES


def test_storing_in_any_order_from_networks_of_their_own_gives_the_merge() -> None:
    secret = entropy(16)
    found = [offer_record(number, bits=number % 3) for number in range(100)]
    storage = store(secret)
    for number, record in enumerate(found):
        put(storage, record, network(number))
    expected = merge(found, [], secret)
    assert set(there(storage, found[0].key)) == {r.raw for r in expected}


# ------------------------------------------------------------------ bad records


def test_a_forged_record_is_refused_and_takes_no_others_place() -> None:
    storage = Storage(Records(Ed25519Signatures()), entropy)
    good = offers.make(an_offer(), NOW_MS, signer(1), 0)[-1]
    assert put(storage, good) == KEPT
    newer = offers.make(an_offer(per_gb=1), NOW_MS + 1, signer(1), 0)[-1]
    forged = newer.raw[:-64] + SeedSigner(bytes(32)).sign(b"zeqnode record v1", newer.raw[:-64])
    assert storage.put(good.key, forged, HOME, UNIX) == REFUSED
    assert there(storage, good.key) == [good.raw]
    assert storage.counters == {"record refused: bad signature": 1}


def test_a_record_under_a_key_that_does_not_follow_from_it_is_refused() -> None:
    storage = store()
    assert storage.put(bytes(32), offer_record(1).raw, HOME, UNIX) == REFUSED
    assert storage.counters["record refused: wrong key"] == 1


def test_an_expired_record_is_refused() -> None:
    assert put(store(), offer_record(1), unix=UNIX + LIFE_S) == REFUSED


def test_a_record_over_8_kilobytes_is_refused_unread() -> None:
    storage = store()
    assert storage.put(bytes(32), bytes(8193), HOME, UNIX) == REFUSED
    assert storage.counters["record refused: wrong size"] == 1


def test_a_slug_claimed_for_another_name_or_by_another_key_is_refused() -> None:
    storage = store()
    bundle = machine(1).bundle
    claim = slugs.make(bundle, NOW_MS, signer(1))
    other_name = records.make(Kind.SLUG, b"ZEQ07000000001", NOW_MS, bundle.to_bytes(), signer(1))
    by_other = records.make(Kind.SLUG, claim.salt, NOW_MS, bundle.to_bytes(), toy(1))
    assert put(storage, other_name) == REFUSED
    assert put(storage, by_other) == REFUSED
    assert sum(storage.counters.values()) == 2


def test_an_offer_under_a_class_that_it_does_not_accept_is_refused() -> None:
    own = offer_record(1)
    stray = records.make(Kind.OFFER, own.salt[:9] + b"US", NOW_MS, own.body, toy(1))
    assert put(store(), stray) == REFUSED


def test_an_offer_whose_work_was_not_done_is_refused() -> None:
    own = offer_record(1)
    boast = records.make(Kind.OFFER, bytes([40]) + own.salt[1:], NOW_MS, own.body, toy(1))
    storage = store()
    assert put(storage, boast) == REFUSED
    assert storage.counters["record refused: work stamp does not hold"] == 1


def test_junk_costs_no_signature_check() -> None:
    """Size, key, time, content and room come first: a signature costs a hundred times as much."""
    signatures = ToySignatures()
    storage = Storage(Records(signatures), entropy)
    assert put(storage, offer_record(1, NOW_MS + 5)) == KEPT
    asked = signatures.asked
    assert put(storage, offer_record(1, NOW_MS)) == OLDER
    assert put(storage, offer_record(2), unix=UNIX + LIFE_S) == REFUSED
    assert storage.put(bytes(32), offer_record(2).raw, HOME, UNIX) == REFUSED
    assert signatures.asked == asked


@given(st.binary(max_size=1500), st.binary(min_size=32, max_size=32))
def test_arbitrary_bytes_are_refused(data: bytes, key: bytes) -> None:
    storage = store()
    assert storage.put(key, data, HOME, UNIX) == REFUSED
    assert len(storage) == 0


# ------------------------------------------------------------------ attack: rollback


def test_attack_rollback_of_an_offer_is_older_from_wherever_it_comes() -> None:
    storage = store()
    old, new = offer_record(1, per_gb=10), offer_record(1, NOW_MS + 1000, per_gb=90)
    assert put(storage, old) == KEPT
    assert put(storage, new) == KEPT
    for number in range(10):
        assert put(storage, old, network(number)) == OLDER
    assert there(storage, new.key) == [new.raw]


def test_attack_rollback_of_a_location_takes_no_place_from_the_newer_in_its_network() -> None:
    storage = store()
    old, new = word(toy(1)), word(toy(1), NOW_MS + 1000)
    assert put(storage, new) == KEPT
    assert put(storage, old, unix=UNIX + 11) == OLDER
    assert there(storage, new.key) == [new.raw]


def test_attack_two_records_of_one_moment_end_alike_everywhere() -> None:
    """A signer that equivocates cannot split the stores."""
    one, other = offer_record(1, per_gb=1), offer_record(1, per_gb=2)
    first, second = store(), store()
    for record in (one, other):
        put(first, record)
    for record in (other, one):
        put(second, record)
    assert there(first, one.key) == there(second, one.key)


# ------------------------------------------------------------------ attack: future-dated records


def test_attack_a_record_from_the_future_is_refused() -> None:
    """The largest sequence there is would shut the owner out of its own key for good."""
    storage = store()
    assert put(storage, word(toy(1), 2**62)) == REFUSED
    assert put(storage, word(toy(1), NOW_MS + 601_000)) == REFUSED
    assert put(storage, offer_record(1, NOW_MS + 3_600_000)) == REFUSED
    assert storage.counters == {"record refused: sequence from the future": 3}


def test_attack_ten_minutes_ahead_shut_nobody_out_for_longer_than_that() -> None:
    storage = store()
    ahead = word(toy(1), NOW_MS + 599_000, b"junk")
    assert put(storage, ahead) == KEPT
    assert put(storage, word(toy(1), NOW_MS, b"true"), unix=UNIX + 11) == OLDER, (
        "in the very same network only"
    )
    later = word(toy(1), NOW_MS + 600_000, b"true")
    assert put(storage, later, unix=UNIX + 600) == KEPT
    assert there(storage, later.key, UNIX + 600) == [later.raw]


# ------------------------------------------------------------------ attack: squatting


def test_attack_squatting_from_one_network_takes_one_place_of_four() -> None:
    """A listed machine's locator key is public: anyone signs as it. One network has one word that others do
    not take, however often it writes and whatever sequence it takes."""
    storage = store()
    own = [word(toy(1), body=b"own%d" % number) for number in range(3)]
    for number in range(1000):
        put(storage, word(toy(1), NOW_MS + number, b"junk%d" % number), network(1))
    for number, record in enumerate(own):
        assert put(storage, record, network(100 + number)) == KEPT
    for number in range(1000, 2000):
        put(storage, word(toy(1), NOW_MS + number, b"junk%d" % number), network(1), UNIX + number // 100)
    assert all(record.raw in there(storage, record.key) for record in own)
    assert len(storage) == MAX_WORDS


def test_a_machine_that_announces_itself_again_has_one_word() -> None:
    storage = store()
    for minute in range(5):
        put(storage, word(toy(1), NOW_MS + minute * 60_000), unix=UNIX + minute * 60)
    assert len(storage) == 1


def test_attack_a_squatters_newer_word_does_not_end_the_owners_where_a_node_hands_both_on() -> None:
    """New replicas get what they store from old ones, so all from one network; whichever comes first."""
    own, junk = word(toy(1), body=b"own"), word(toy(1), NOW_MS + 599_000, b"junk")
    for order in ((own, junk), (junk, own)):
        storage = store()
        for record in order:
            assert put(storage, record, unix=UNIX + 1) == KEPT
        assert put(storage, junk, network(1), UNIX + 60) == KEPT
        assert sorted(there(storage, own.key)) == sorted([own.raw, junk.raw])


def test_words_handed_on_give_their_places_to_networks_of_their_own() -> None:
    storage = store()
    for number in range(4):
        assert put(storage, word(toy(1), body=b"handed%d" % number)) == KEPT
    direct = [word(toy(1), body=b"direct%d" % number) for number in range(3)]
    for number, record in enumerate(direct):
        assert put(storage, record, network(number)) == KEPT
    found = there(storage, direct[0].key)
    assert len(found) == MAX_WORDS
    assert all(record.raw in found for record in direct)


def test_attack_squatting_before_the_owner_comes_wins_nothing() -> None:
    """Who stays is the storing node's own secret's choice: first or last, the same four are there."""
    words = [(word(toy(1), body=b"word%d" % number), network(number)) for number in range(12)]
    one, other = store(), store()
    for record, source in words:
        put(one, record, source)
    for record, source in reversed(words):
        put(other, record, source)
    assert sorted(there(one, words[0][0].key)) == sorted(there(other, words[0][0].key))
    assert len(one) == MAX_WORDS


def test_attack_squatting_from_twenty_networks_hides_a_machine_from_few_replicas_of_twenty() -> None:
    """Every replica has a secret of its own: the odds are 4 in 21 at each, and others are lucky there."""
    own = word(toy(1), body=b"own")
    found = 0
    for replica in range(200):
        storage = store(replica.to_bytes(16, "big"))
        put(storage, own)
        for number in range(20):
            put(storage, word(toy(1), NOW_MS + 60_000, b"junk%d" % number), network(number))
        found += own.raw in there(storage, own.key)
    assert 20 <= found <= 60, "of 200, and 38 by the odds: of any 20 some have it"


def test_attack_the_owners_own_record_copied_takes_no_places() -> None:
    storage = store()
    own = word(toy(1))
    for number in range(20):
        assert put(storage, own, network(number)) == KEPT
    assert put(storage, own) == KEPT
    assert len(storage) == 1


def test_attack_a_copy_from_an_unlucky_network_does_not_make_the_owner_unlucky() -> None:
    """What two networks bring is the luckier one's: the copies change nothing of who stays."""
    own, junk = word(toy(1), body=b"own"), [word(toy(1), body=b"junk%d" % n) for n in range(3, 9)]
    for replica in range(50):
        plain, copied = (store(replica.to_bytes(16, "big")) for _ in range(2))
        for number in range(3):
            put(copied, own, network(number))
        for storage in (plain, copied):
            put(storage, own)
            for number, record in enumerate(junk, 3):
                put(storage, record, network(number))
        assert own.raw not in there(plain, own.key) or own.raw in there(copied, own.key)


# ------------------------------------------------------------------ attack: flooding a key


def flood(storage: Storage, size: int, source: bytes, bits: int = 0, first: int = 1000) -> list[int]:
    return [put(storage, offer_record(first + n, bits=bits), source) for n in range(size)]


def test_attack_flooding_a_key_from_one_network_leaves_room_for_everybody_else() -> None:
    storage = store()
    flood(storage, 500, network(1))
    honest = [offer_record(number) for number in range(60)]
    for number, record in enumerate(honest):
        assert put(storage, record, network(100 + number)) == KEPT
    flood(storage, 500, network(1), first=5000)
    found = there(storage, honest[0].key)
    assert all(record.raw in found for record in honest)
    assert len(found) == MAX_ENTRIES[Kind.OFFER]


def test_attack_work_does_not_help_a_network_beyond_its_four() -> None:
    storage = store()
    honest = [offer_record(number) for number in range(60)]
    for number, record in enumerate(honest):
        put(storage, record, network(100 + number))
    flood(storage, 100, network(1), bits=6)
    found = there(storage, honest[0].key)
    assert all(record.raw in found for record in honest)


def test_of_too_many_from_many_networks_the_least_work_goes_first() -> None:
    storage = store()
    lazy = [offer_record(number) for number in range(64)]
    for number, record in enumerate(lazy):
        assert put(storage, record, network(number)) == KEPT
    diligent = [offer_record(100 + number, bits=4) for number in range(10)]
    for number, record in enumerate(diligent):
        assert put(storage, record, network(100 + number)) == KEPT
    assert put(storage, lazy[0], network(0)) in (KEPT, NO_ROOM)
    found = there(storage, lazy[0].key)
    assert all(record.raw in found for record in diligent)
    assert len(found) == 64


def test_a_network_may_have_more_than_four_while_nobody_wants_the_room() -> None:
    """Homes behind one provider's NAT, and who hands a set on to a new replica."""
    storage = store()
    assert flood(storage, 64, HOME) == [KEPT] * 64


def test_attack_bringing_others_offers_again_does_not_make_them_count_as_the_attackers() -> None:
    storage = store()
    honest = [offer_record(number) for number in range(50)]
    for number, record in enumerate(honest):
        put(storage, record, network(100 + number))
    for record in honest:
        assert put(storage, record, network(1)) == KEPT
    flood(storage, 200, network(1))
    for number in range(10):
        put(storage, offer_record(200 + number), network(300 + number))
    found = there(storage, honest[0].key)
    assert all(record.raw in found for record in honest)


def test_attack_an_offer_brought_by_a_crowded_network_is_its_own_networks_once_it_comes_from_there() -> None:
    storage = store()
    own = offer_record(1)
    flood(storage, 20, network(1))
    put(storage, own, network(1))
    put(storage, own, HOME)
    for number in range(60):
        put(storage, offer_record(200 + number), network(300 + number))
    assert own.raw in there(storage, own.key)
    assert sum(1 for raw in there(storage, own.key)) == 64


# ------------------------------------------------------------------ attack: tombstones


def test_attack_a_withdrawn_offer_is_not_brought_back_by_replay() -> None:
    storage = store()
    active = offer_record(1)
    gone = offer_record(1, NOW_MS + 1000, active=False)
    put(storage, active)
    assert put(storage, gone) == KEPT
    for later in range(0, LIFE_S, 600):
        storage.expire(UNIX + later)
        assert put(storage, active, network(1), UNIX + later) == OLDER
    assert there(storage, gone.key, UNIX + LIFE_S) == [gone.raw], "it outlives what it withdraws"
    assert put(storage, active, network(1), UNIX + LIFE_S) == REFUSED


def test_attack_only_the_signer_withdraws_an_offer() -> None:
    storage = store()
    active = offer_record(1)
    put(storage, active)
    stranger = offers.make(an_offer(1, active=False), NOW_MS + 1, toy(2), 0)[-1]
    put(storage, stranger)
    assert active.raw in there(storage, active.key)


def test_attack_a_flood_from_one_network_does_not_push_a_tombstone_out() -> None:
    storage = store()
    gone = offer_record(1, active=False)
    put(storage, gone)
    flood(storage, 300, network(1), bits=4)
    assert gone.raw in there(storage, gone.key)


# ------------------------------------------------------------------ attack: filling the store


def fill(storage: Storage, source: bytes, numbers: Iterable[int]) -> None:
    for number in numbers:
        put(storage, word(toy(number)), source)


def test_attack_one_network_fills_the_store_and_nobody_else_loses_anything() -> None:
    storage = store()
    storage.center(bytes(32))
    honest = [word(toy(number)) for number in range(200)]
    for number, record in enumerate(honest):
        put(storage, record, network(100 + number % 50))
    fill(storage, network(1), range(10_000, 10_000 + MAX_RECORDS + 500))
    assert len(storage) <= MAX_RECORDS
    assert all(there(storage, record.key) for record in honest)
    assert storage.counters["record dropped for want of room"] > 0


def test_of_one_networks_records_the_farthest_go_first() -> None:
    storage = store()
    center = bytes([0xFF]) * 32
    storage.center(center)
    made = [word(toy(number)) for number in range(MAX_RECORDS + 1)]
    for record in made:
        put(storage, record)

    def distance(key: bytes) -> int:
        return int.from_bytes(key, "big") ^ int.from_bytes(center, "big")

    left = set(storage.keys())
    gone = [record.key for record in made if record.key not in left]
    assert max(map(distance, left)) < min(map(distance, gone))


def test_attack_grinding_keys_next_to_a_node_takes_no_more_than_a_networks_share() -> None:
    """Keys that lie closer to us than all others are cheap to find; each network loses its own farthest."""
    storage = store()
    storage.center(bytes(32))
    ground = sorted((word(toy(number)) for number in range(6000)), key=lambda record: record.key)
    far = ground[-100:]
    for number, record in enumerate(far):
        put(storage, record, network(100 + number))
    for record in ground[:-100]:
        put(storage, record, network(1))
    assert all(there(storage, record.key) for record in far)


# ------------------------------------------------------------------ merging


small = st.lists(
    st.builds(
        lambda number, sequence, bits, price: offer_record(number, NOW_MS + sequence, bits, price),
        *(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)),
    ),
    max_size=12,
)


@pytest.fixture
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that sets that Hypothesis can think of are too many."""
    monkeypatch.setitem(sets.MAX_ENTRIES, Kind.OFFER, 3)


def raws(found: Iterable[Record]) -> list[bytes]:
    return [record.raw for record in found]


@pytest.mark.usefixtures("room_for_three")
class TestMerge:
    @given(small, small)
    def test_is_commutative(self, a: list[Record], b: list[Record]) -> None:
        assert raws(merge(a, b)) == raws(merge(b, a))

    @given(small, small, small)
    def test_is_associative(self, a: list[Record], b: list[Record], c: list[Record]) -> None:
        assert raws(merge(merge(a, b), c)) == raws(merge(a, merge(b, c)))

    @given(small)
    def test_is_idempotent(self, a: list[Record]) -> None:
        once = merge(a, [])
        assert raws(merge(once, once)) == raws(once)
        assert raws(merge(a, a)) == raws(once)

    @given(small)
    def test_keeps_every_signers_best_of_the_strongest_three(self, a: list[Record]) -> None:
        """Against the obvious: no signer twice, and who is left out has done no more work."""
        kept = merge(a, [])
        assert len(kept) == min(3, len({record.public for record in a}))
        assert len({record.public for record in kept}) == len(kept)
        for record in a:
            own = [other for other in kept if other.public == record.public]
            if own:
                assert (sets.work(own[0]), own[0].sequence) >= (sets.work(record), record.sequence)
            else:
                assert all(sets.work(record) <= sets.work(other) for other in kept)


def test_merge_of_nothing_is_nothing() -> None:
    assert merge([], []) == []


# ------------------------------------------------------------------ whatever comes


actions = st.lists(
    st.tuples(st.integers(0, 6), st.integers(-3, 3), st.integers(0, 3), st.integers(0, 12), st.booleans()),
    max_size=60,
)


@given(actions)
def test_every_bound_holds_whatever_comes(steps: list[tuple[int, int, int, int, bool]]) -> None:
    storage = store()
    unix = UNIX
    for number, hours, source, minutes, is_word in steps:
        unix += minutes * 60
        sequence = unix * 1000 + hours * 1_800_000
        record = word(toy(number), sequence) if is_word else offer_record(number, sequence)
        status = put(storage, record, network(source), unix)
        assert (record.raw in there(storage, record.key, unix)) == (status == KEPT)
        storage.expire(unix)
        keys = storage.keys()
        assert len([raw for key in keys for raw in there(storage, key, unix)]) == len(storage)
        for key in keys:
            kept = [records.read(raw) for raw in there(storage, key, unix)]
            assert all(one.key == key and one.expires > unix for one in kept)
            assert len(kept) <= (MAX_WORDS if kept[0].kind is Kind.LOCATION else 7)
