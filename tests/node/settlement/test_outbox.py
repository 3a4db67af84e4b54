"""Notes that are repeated until they are answered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.settlement.outbox import NEVER, Outbox

S = 1_000_000


def times(outbox: Outbox, until_us: int) -> list[int]:
    """When something is sent, if every deadline is kept."""
    sent: list[int] = []
    while (at := outbox.deadline_us()) <= until_us:
        sent += [at] * len(outbox.due(at))
    return sent


def test_it_is_said_at_once_and_after_1_2_4_8_and_then_every_16_seconds() -> None:
    outbox = Outbox()
    outbox.put("end", b"e", 5 * S)
    assert times(outbox, 70 * S) == [each * S for each in (5, 6, 8, 12, 20, 36, 52, 68)]


def test_nothing_is_due_in_an_empty_one() -> None:
    outbox = Outbox()
    assert outbox.deadline_us() == NEVER
    assert outbox.due(NEVER) == []
    outbox.done("end")
    outbox.renew(1)


def test_the_newest_of_a_kind_stands_and_begins_again() -> None:
    outbox = Outbox()
    outbox.put("paid", b"1", 0)
    outbox.due(0)
    outbox.due(S)
    outbox.put("paid", b"2", 2 * S)
    assert len(outbox) == 1
    assert outbox.due(2 * S) == [b"2"]
    assert outbox.deadline_us() == 3 * S


def test_a_new_session_begins_all_again_and_what_is_done_is_gone() -> None:
    outbox = Outbox()
    outbox.put("paid", b"p", 0)
    outbox.put("end", b"e", 0)
    for at in (0, 1, 3, 7):
        outbox.due(at * S)
    outbox.done("paid")
    outbox.renew(8 * S)
    assert times(outbox, 12 * S) == [8 * S, 9 * S, 11 * S]
    outbox.clear()
    assert not outbox.has("end")
    assert outbox.deadline_us() == NEVER


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "done", "due"]), st.integers(0, 3), st.integers(0, 20)), max_size=40
    )
)
def test_it_never_says_a_kind_twice_within_a_second_nor_what_is_done(ops: list[tuple[str, int, int]]) -> None:
    outbox, now = Outbox(), 0
    alive: set[int] = set()
    last: dict[int, int] = {}
    for op, kind, wait in ops:
        now += wait * S // 4
        if op == "put":
            outbox.put(kind, bytes([kind]), now)
            alive.add(kind)
            last.pop(kind, None)
        elif op == "done":
            outbox.done(kind)
            alive.discard(kind)
        else:
            for [said] in outbox.due(now):
                assert said in alive
                assert now - last.get(said, -S) >= S
                last[said] = now
            assert outbox.deadline_us() > now
    assert len(outbox) == len(alive)
