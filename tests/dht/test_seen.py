"""What is known: by age, bounded, summed up in 256 bytes, and fair to authors when there is a flood."""

from __future__ import annotations

from collections import Counter
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from crypto.pulse import ZEQOND_MS
from dht import seen as seen_module
from dht.bulletin import AHEAD_ZEQONDS, LIFE_ZEQONDS, Bulletin, compose
from dht.seen import BLOCK_ZEQONDS, CALM, DIGEST_BYTES, HELD_BYTES, KNOWN, OF_ONE_AUTHOR, REFUSED, Place, Seen
from simulations.toycrypto import ToySigner

NOW = 2_293_617_891
AUTHOR = ToySigner(bytes(32))


def bulletin(number: int, zeqond: int = NOW, author: int = 0, size: int = 0) -> Bulletin:
    signer = AUTHOR if not author else ToySigner(author.to_bytes(32, "big"))
    return compose("news", bytes(size), signer, zeqond, number, 0)


def filled(*bulletins: Bulletin, now: int = NOW) -> Seen:
    seen = Seen(Counter())
    for each in bulletins:
        seen.add(each, now)
    return seen


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, LIFE_ZEQONDS)), max_size=40))
def test_it_knows_what_was_added_and_nothing_else(added: list[tuple[int, int]]) -> None:
    """Against a set, and a digest worked out as it is drawn."""
    some = {each.id: each for each in (bulletin(number, NOW - age) for number, age in added)}
    seen = filled(*some.values())
    assert len(seen) == len(some)
    assert seen.held_bytes == sum(len(each.wire) for each in some.values())
    assert all(seen.knows(name) and seen.get(name) is each for name, each in some.items())
    assert not seen.knows(bytes(12))
    first = NOW - LIFE_ZEQONDS + 155
    comparable = [n for n, each in some.items() if each.zeqond // BLOCK_ZEQONDS * BLOCK_ZEQONDS >= first]
    sums = [
        reduce(
            lambda a, b: a ^ b, (int.from_bytes(n[1:5], "big") for n in comparable if n[0] >> 2 == bucket), 0
        )
        for bucket in range(64)
    ]
    assert seen.digest(NOW) == b"".join(each.to_bytes(4, "big") for each in sums)


@given(st.sets(st.integers(0, 300), max_size=60), st.sets(st.integers(0, 300), max_size=60))
def test_two_digests_tell_what_differs(mine: set[int], theirs: set[int]) -> None:
    """All that the other lacks is among what is named, and nothing is named when nothing differs."""
    here = filled(*(bulletin(number) for number in sorted(mine)))
    there = filled(*(bulletin(number) for number in sorted(theirs)))
    named = set(here.differing(there.digest(NOW), NOW))
    assert named >= {bulletin(number).id for number in mine - theirs}
    assert (mine == theirs) == (here.digest(NOW) == there.digest(NOW))
    assert named <= {bulletin(number).id for number in mine}
    assert mine != theirs or not named
    assert len(here.digest(NOW)) == DIGEST_BYTES


def test_the_order_of_coming_does_not_matter_to_a_digest() -> None:
    some = [bulletin(number, NOW - 40 * number) for number in range(100)]
    assert filled(*some).digest(NOW) == filled(*reversed(some)).digest(NOW)


def test_an_id_is_known_for_longer_than_its_bulletin_is_timely() -> None:
    old, kept = bulletin(1, NOW), bulletin(2, NOW + 5000)
    seen = filled(old, kept)
    late = NOW + LIFE_ZEQONDS + AHEAD_ZEQONDS
    seen.add(bulletin(3, late), late)
    assert seen.knows(old.id), "a replay is refused as a duplicate, or else by its date"
    later = NOW + LIFE_ZEQONDS + 2 * AHEAD_ZEQONDS + 2 * BLOCK_ZEQONDS
    seen.add(bulletin(4, later), later)
    assert not seen.knows(old.id)
    assert seen.knows(kept.id)
    assert len(seen) == 3


def test_what_a_newcomer_would_not_take_in_is_not_compared() -> None:
    """So that an old node and a new one have equal digests."""
    past = bulletin(1, NOW - LIFE_ZEQONDS + 10)
    assert filled(past).digest(NOW) == bytes(DIGEST_BYTES)
    assert filled(past, bulletin(2)).digest(NOW) == filled(bulletin(2)).digest(NOW)


def test_bulletins_and_ids_are_bounded() -> None:
    counters: Counter[str] = Counter()
    seen = Seen(counters)
    big = (len(bulletin(0, size=900).wire) * 7000) // HELD_BYTES + 1
    for number in range(big * 8000):
        seen.add(bulletin(number, NOW - number % 3000, size=900), NOW)
        assert seen.held_bytes <= HELD_BYTES
    assert len(seen) == big * 8000, "their ids are still known"
    assert counters["bulletins dropped for want of room"] > 0
    for number in range(KNOWN):
        seen.add(bulletin(number, NOW - 1, author=1), NOW)
        assert len(seen) <= KNOWN
    assert seen.knows(bulletin(KNOWN - 1, NOW - 1, author=1).id), "the newest stay"


def test_after_shedding_the_digest_is_still_that_of_what_is_known() -> None:
    seen = Seen(Counter())
    for number in range(KNOWN + 1):
        seen.add(bulletin(number, NOW), NOW)
    left = [bulletin(number, NOW) for number in range(KNOWN + 1) if seen.knows(bulletin(number, NOW).id)]
    assert len(left) == len(seen) < KNOWN
    assert seen.digest(NOW) == filled(*left).digest(NOW)


def test_few_refusals_are_remembered() -> None:
    seen = Seen(Counter())
    names = [number.to_bytes(12, "big") for number in range(2 * REFUSED)]
    for name in names:
        seen.refuse(name)
    assert [seen.knows(name) for name in names] == [False] * REFUSED + [True] * REFUSED
    assert seen.get(names[-1]) is None


def test_in_a_calm_block_everybody_is_served_at_once() -> None:
    seen = filled(*(bulletin(number) for number in range(CALM - 1)))
    assert seen.place(bulletin(CALM)) is Place.NOW


def test_in_a_flood_an_author_has_a_share_and_the_known_come_first() -> None:
    known = bulletin(1, NOW - BLOCK_ZEQONDS, author=7)
    flood = [bulletin(number, author=1000 + number) for number in range(CALM)]
    seen = filled(known, *flood)
    assert seen.place(bulletin(2, author=7)) is Place.NOW
    assert seen.place(bulletin(2, author=8)) is Place.LATER
    assert seen.place(bulletin(2, author=1000)) is Place.LATER
    for number in range(OF_ONE_AUTHOR):
        seen.add(bulletin(100 + number, author=7), NOW)
    assert seen.place(bulletin(2, author=7)) is Place.NONE
    assert seen.place(bulletin(2, NOW - 2 * BLOCK_ZEQONDS, author=7)) is Place.NOW, "its share is the block's"


def test_blocks_are_thirteen_minutes() -> None:
    assert BLOCK_ZEQONDS * ZEQOND_MS // 1000 == 795
    assert seen_module.BUCKETS * 4 == DIGEST_BYTES
