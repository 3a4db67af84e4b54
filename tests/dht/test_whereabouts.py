"""Where others see us: who is believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht import contacts
from dht.whereabouts import AGREEING, VOTERS, Whereabouts

TAIL = bytes(range(24))


def at(number: int, network: int = 0) -> bytes:
    return bytes([192, 0, network, number, 0xCA, 0x41])


def test_one_alone_is_not_believed_and_two_of_different_networks_are() -> None:
    where = Whereabouts(TAIL, 6)
    assert where.id == contacts.node_id(TAIL, bytes(6))
    assert not where.vote(at(1, 10), at(9, 1))
    assert not where.vote(at(2, 10), at(9, 1)), "the same network has one vote"
    assert where.network == b""
    assert where.vote(at(1, 11), at(9, 1))
    assert where.endpoint == at(9, 1)
    assert where.network == at(9, 1)[:3]
    assert where.id == contacts.node_id(TAIL, at(9, 1))
    assert where.long_id == int.from_bytes(where.id, "big")


def test_liars_must_be_more_than_those_who_say_the_truth() -> None:
    where = Whereabouts(TAIL, 6)
    for network in range(10, 15):
        where.vote(at(1, network), at(9, 1))
    for network in range(20, 23):
        assert not where.vote(at(1, network), at(66, 66))
    assert where.endpoint == at(9, 1)


def test_after_a_move_a_few_answers_do() -> None:
    where = Whereabouts(TAIL, 6)
    for network in range(10, 18):
        where.vote(at(1, network), at(9, 1))
    moved = [where.vote(at(1, network), at(9, 2)) for network in range(20, 28)]
    assert moved.index(True) <= VOTERS // 2
    assert sum(moved) == 1
    assert where.endpoint == at(9, 2)


def test_a_symmetric_nat_gives_nothing_to_believe() -> None:
    where = Whereabouts(TAIL, 6)
    assert not any(where.vote(at(1, network), at(network, 9)) for network in range(10, 40))
    assert where.endpoint is None


def test_nowhere_is_not_believed() -> None:
    where = Whereabouts(TAIL, 6)
    for seen in (bytes(6), bytes([224, 0, 0, 1, 0, 1]), b""):
        assert not any(where.vote(at(1, network), seen) for network in range(10, 20))
    assert where.endpoint is None


def test_who_knows_is_believed_at_once() -> None:
    where = Whereabouts(TAIL, 18)
    here = bytes.fromhex("20010db8000000000000000000000001ca41")
    assert where.believe(here)
    assert not where.believe(here)
    assert where.id == contacts.node_id(TAIL, here)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=100))
def test_it_moves_only_to_where_enough_of_the_last_say(votes: list[tuple[int, int]]) -> None:
    where = Whereabouts(TAIL, 6)
    said: dict[int, int] = {}
    for network, seen in votes:
        said.pop(network, None)
        said[network] = seen
        said = dict(list(said.items())[-VOTERS:])
        if where.vote(at(1, network), at(seen)):
            counts = [list(said.values()).count(other) for other in range(1, 5)]
            assert counts[seen - 1] >= AGREEING
            assert counts.count(max(counts)) == 1
            assert counts[seen - 1] == max(counts)
            assert where.endpoint == at(seen)
