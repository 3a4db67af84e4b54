"""What was announced and has not come: asked of one after the other, never of all, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht import endpoints
from dht.link import RETRY_US, SECOND_US, Link
from dht.missing import HOLDERS, LATER_US, MISSING, MISSING_OF_ONE, WAIT_US, WINDOW, Missing
from dht.parts import NEVER


def link(number: int) -> Link:
    where = endpoints.pack(f"198.51.{number}.1", 51777)
    return Link(where, b"", b"", 0, outbound=True, bit=1 << number, mark=0)


def name(number: int) -> bytes:
    return number.to_bytes(12, "big")


def test_it_waits_a_moment_and_then_asks_who_announced_it_first() -> None:
    missing, a, b = Missing(), link(1), link(2)
    missing.announced(name(1), a, 0)
    missing.announced(name(1), b, 10)
    assert missing.due_us == WAIT_US
    assert missing.due(WAIT_US - 1) == []
    assert missing.due(WAIT_US) == [(a, [name(1)])]
    assert missing.due_us == WAIT_US + RETRY_US


def test_what_comes_in_time_is_never_asked_for() -> None:
    missing, a, b = Missing(), link(1), link(2)
    missing.announced(name(1), a, 0)
    assert missing.came(name(1), b) == a.bit, "a has it already"
    assert missing.due(SECOND_US) == []
    assert missing.due_us == NEVER
    assert (a.kept, a.broken, a.claims, a.asked) == (0, 0, 0, 0)


def test_who_does_not_give_it_is_remembered_and_the_next_is_asked() -> None:
    missing, a, b = Missing(), link(1), link(2)
    missing.announced(name(1), a, 0)
    missing.announced(name(1), b, 0)
    missing.due(WAIT_US)
    assert missing.due(WAIT_US + RETRY_US) == [(b, [name(1)])]
    assert (a.broken, a.asked, b.asked) == (1, 0, 1)
    assert missing.came(name(1), b) == b.bit
    assert (b.kept, b.asked, len(missing)) == (1, 0, 0)


def test_when_nobody_gives_it_it_is_forgotten_until_somebody_announces_it_again() -> None:
    missing, a = Missing(), link(1)
    missing.announced(name(1), a, 0)
    missing.due(WAIT_US)
    assert missing.due(WAIT_US + RETRY_US) == []
    assert len(missing) == 0
    assert a.claims == 0
    assert missing.announced(name(1), a, 9 * SECOND_US)
    assert missing.due(10 * SECOND_US) == [(a, [name(1)])]


def test_a_link_that_is_gone_is_not_asked() -> None:
    missing, a, b = Missing(), link(1), link(2)
    missing.announced(name(1), a, 0)
    missing.announced(name(1), b, 0)
    a.open = False
    assert missing.due(WAIT_US) == [(b, [name(1)])]


def test_few_are_asked_of_one_at_a_time() -> None:
    missing, a = Missing(), link(1)
    for number in range(100):
        missing.announced(name(number), a, 0)
    [(_, asked)] = missing.due(WAIT_US)
    assert asked == [name(number) for number in range(WINDOW)]
    for each in asked:
        missing.came(each, a)
    [(_, more)] = missing.due(WAIT_US + LATER_US)
    assert len(more) == WINDOW
    assert not set(more) & set(asked)


def test_a_busy_moment_counts_as_one_broken_promise() -> None:
    missing, a = Missing(), link(1)
    for number in range(WINDOW):
        missing.announced(name(number), a, 0)
    missing.due(WAIT_US)
    missing.due(WAIT_US + RETRY_US)
    assert a.broken == 1


def test_room_is_bounded_and_nobody_takes_all_of_it() -> None:
    missing = Missing()
    liars = [link(number) for number in range(1, 6)]
    taken = [
        sum(missing.announced(bytes([each.bit.bit_length()]) + name(n)[1:], each, 0) for n in range(3000))
        for each in liars
    ]
    assert taken == [MISSING_OF_ONE, MISSING - MISSING_OF_ONE, 0, 0, 0]
    assert len(missing) == MISSING


def test_few_holders_are_remembered() -> None:
    missing = Missing()
    for number in range(1, 20):
        missing.announced(name(1), link(number), 0)
    found = missing.came(name(1), link(30))
    assert found.bit_count() == HOLDERS


@given(st.lists(st.tuples(st.sampled_from("hcd"), st.integers(0, 5), st.integers(0, 3)), max_size=80))
def test_what_is_counted_stays_true(steps: list[tuple[str, int, int]]) -> None:
    """Whatever comes in whatever order: nobody is asked for what is here, and all counts come to nothing."""
    missing, links = Missing(), [link(number) for number in range(4)]
    here: set[bytes] = set()
    now_us = 0
    for step, number, who in steps:
        if step == "h" and name(number) not in here:
            missing.announced(name(number), links[who], now_us)
        elif step == "c":
            missing.came(name(number), links[who])
            here.add(name(number))
        else:
            now_us += 400_000
            asked = [each for _, names in missing.due(now_us) for each in names]
            assert not set(asked) & here
            assert len(set(asked)) == len(asked)
    for _ in range(HOLDERS + 2):
        now_us += 2 * SECOND_US
        missing.due(now_us)
    assert len(missing) == 0
    assert all(each.asked == each.claims == 0 for each in links)
