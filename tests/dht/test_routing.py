"""The routing table: who gets in, who stays, and who is close, against sorting everybody."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dht import contacts
from dht.contacts import Contact
from dht.routing import (
    IN_BUCKET,
    IN_TABLE,
    LONELY_S,
    REPLACEMENTS,
    SILENCES,
    STALE_S,
    K,
    RoutingTable,
)

OWN = int.from_bytes(bytes(range(32)), "big")


def contact(number: int, network: int | None = None) -> Contact:
    """Of a network of its own, unless one is named."""
    draw = Random(f"{number} {network}")
    place = draw.randrange(1 << 20) if network is None else network
    address = bytes([11 + (place >> 16), place >> 8 & 255, place & 255, 1 + number % 250])
    return contacts.at(draw.randbytes(24), address + b"\xca\x41")


def shared(one: int, other: int) -> int:
    return 256 - (one ^ other).bit_length()


def filled(count: int, own: int = OWN, ksize: int = K) -> RoutingTable:
    table = RoutingTable(own, 0, ksize)
    for number in range(count):
        table.add_contact(contact(number), 0)
    return table


def in_bucket(table: RoutingTable, level: int, start: int = 0) -> Contact:
    """The first contact from `start` on that shares `level` bits with us."""
    return next(
        c for n in range(start, start + 10**6) if shared((c := contact(n)).long_id, table.own) == level
    )


def check(table: RoutingTable) -> None:
    assert table.size == sum(len(bucket) for bucket in table.buckets) == len(list(table))
    last = len(table.buckets) - 1
    for level, bucket in enumerate(table.buckets):
        assert len(bucket) <= table.ksize
        assert len(bucket.seen) == len(bucket.nodes)
        assert bucket.ids == [known.id for known in bucket.nodes]
        assert len(bucket.replacement_nodes) <= REPLACEMENTS
        for known in [*bucket.nodes, *bucket.replacement_nodes]:
            bits = shared(known.long_id, table.own)
            assert bits == level if level < last else bits >= level
        networks = [known.network for known in bucket.nodes]
        assert max(map(networks.count, networks), default=0) <= IN_BUCKET
    networks = [known.network for known in table]
    assert list(table._crowds) == [sum(one[-1] == last for one in networks) for last in range(256)]
    assert max(map(networks.count, networks), default=0) <= IN_TABLE
    assert all(any(node_id in bucket.ids for bucket in table.buckets) for node_id in table.failures)


def test_buckets_share_as_many_bits_as_their_place_says() -> None:
    table = filled(2000)
    check(table)
    assert len(table.buckets) >= 7
    assert [len(bucket) for bucket in table.buckets[:5]] == [K] * 5


@given(
    own=st.integers(0, 2**256 - 1),
    count=st.integers(0, 300),
    target=st.integers(0, 2**256 - 1),
    near=st.booleans(),
    k=st.integers(1, 30),
    failing=st.sets(st.integers(0, 299), max_size=20),
)
def test_neighbours_are_those_that_sorting_everybody_gives(
    own: int, count: int, target: int, near: bool, k: int, failing: set[int]
) -> None:
    table = filled(count, own, 8)
    if near:
        target = own ^ (target >> 250)
    for number in sorted(failing):
        one = contact(number)
        if one in table:
            table.failures[one.id] = 1
    found = table.find_neighbors(target, k)
    living = [one for one in table if one.id not in table.failures]
    order = sorted(table, key=lambda one: (one.id in table.failures, one.long_id ^ target))
    assert set(found) == set(order[:k])
    assert len(found) == min(k, table.size)
    assert len(set(found) & set(living)) == min(k, len(living))


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "fail", "drop", "turn"]), st.integers(0, 120)), max_size=200
    )
)
def test_whatever_happens_the_table_keeps_its_rules(steps: list[tuple[str, int]]) -> None:
    table = RoutingTable(OWN, 0, 4)
    for second, (what, number) in enumerate(steps):
        one = contact(number, number % 40)
        if what == "add":
            table.add_contact(one, second)
        elif what == "fail":
            table.failed(one, second)
        elif what == "drop":
            table.remove_contact(one)
        else:
            table.turn(contact(1000 + number).long_id, second)
        check(table)


def test_only_three_ids_of_one_network_get_in_and_two_into_a_bucket() -> None:
    """A Sybil that makes 10,000 ids has one address, or a few."""
    table = filled(100)
    before = table.size
    for number in range(10_000):
        table.add_contact(contact(number, network=7), 0)
    check(table)
    assert table.size - before <= IN_TABLE
    assert sum(len(bucket.replacement_nodes) for bucket in table.buckets) <= 100


def test_a_full_bucket_keeps_who_it_knows_and_has_the_oldest_asked_when_stale() -> None:
    table = filled(1000)
    bucket = table.buckets[0]
    known = list(bucket.nodes)
    newcomer = in_bucket(table, 0, 5000)
    assert table.add_contact(newcomer, STALE_S - 1) is None
    for one in known[1:]:
        table.add_contact(one, STALE_S)
    assert table.add_contact(newcomer, STALE_S) is known[0]
    assert bucket.get_nodes() == known
    assert newcomer in bucket.replacement_nodes
    assert table.failed(known[0], STALE_S)
    assert newcomer in table
    assert known[0] not in table
    assert bucket.oldest() == (newcomer, 0), "it is asked soon"
    check(table)


def test_who_is_silent_twice_goes_and_an_answer_in_between_forgives() -> None:
    table = filled(10)
    one = contact(3)
    assert SILENCES == 2
    assert not table.failed(one, 1)
    assert one not in table.find_neighbors(one.long_id, 9)
    assert one in table.find_neighbors(one.long_id, 10), "sooner than nobody"
    table.add_contact(one, 2)
    assert one in table.find_neighbors(one.long_id, 9)
    assert not table.failed(one, 3)
    assert table.failed(one, 4)
    assert one not in table
    assert not table.failures


def test_wanted_is_who_would_get_in() -> None:
    table = filled(300)
    for number in range(300, 800):
        one = contact(number)
        wanted, size = table.wants(one), table.size
        full = (
            len(table.buckets[table.level(one.long_id)]) == K
            and table.level(one.long_id) < len(table.buckets) - 1
        )
        assert wanted is not full
        table.add_contact(one, 0)
        assert table.size - size <= wanted


def test_we_are_not_in_our_own_table() -> None:
    one = contact(1)
    table = RoutingTable(one.long_id, 0)
    assert not table.wants(one)
    table.add_contact(one, 0)
    assert table.size == 0


def test_the_longest_silent_are_asked_first() -> None:
    table = RoutingTable(OWN, 0)
    for number in range(30):
        table.add_contact(contact(number), number)
    assert table.stale(STALE_S + 4, STALE_S, 8) == [contact(n) for n in range(5)]
    assert table.stale(STALE_S + 29, STALE_S, 8) == [contact(n) for n in range(8)]


def test_buckets_that_no_lookup_touched_for_an_hour_are_lonely_and_get_ids_of_their_own() -> None:
    table = filled(300)
    last = len(table.buckets) - 1
    assert table.lonely_buckets(0) == list(range(last)), "after a start all of them"
    for index in range(last):
        target = table.id_in(index, Random(index).randbytes(32))
        assert table.level(target) == index
        table.touched(target, 10)
    assert table.lonely_buckets(LONELY_S + 9) == []
    assert table.lonely_buckets(LONELY_S + 10) == list(range(last))


def test_a_new_id_sorts_everybody_anew() -> None:
    table = filled(200)
    known = set(table)
    own = in_bucket(table, 0, 9000).long_id
    table.turn(own, 5)
    check(table)
    assert set(table) <= known
    assert table.size == 2 * K, "who was far is near now, and the others all share no bit with us"
