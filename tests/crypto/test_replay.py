"""The replay window against a slow, obvious model, and its edges one by one."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.replay import WINDOW, ReplayWindow

LAST = 2**32 - 2  # the highest sequence that a lane gives out


class Model:
    """Remembers everything: once each, and nothing that lies WINDOW or more below the highest."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def accept(self, sequence: int) -> bool:
        highest = max(self._seen, default=-1)
        if sequence in self._seen or sequence <= highest - WINDOW:
            return False
        self._seen.add(sequence)
        return True


near = st.integers(-3, 3)
edges = st.sampled_from([0, WINDOW, 2 * WINDOW, 3 * WINDOW, 2**31, LAST]).flatmap(
    lambda edge: near.map(lambda offset: min(max(edge + offset, 0), LAST))
)
# Steps from the number before: forward in order, back within and beyond the window, jumps of about a window.
steps = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([WINDOW, -WINDOW, 2 * WINDOW]).flatmap(
        lambda jump: near.map(lambda offset: jump + offset)
    ),
)


def verdicts(numbers: list[int]) -> tuple[list[bool], list[bool]]:
    window, model = ReplayWindow(), Model()
    return [window.accept(n) for n in numbers], [model.accept(n) for n in numbers]


@given(st.lists(st.one_of(st.integers(0, 40), edges), max_size=60))
def test_any_order_is_judged_as_by_the_model(numbers: list[int]) -> None:
    ours, expected = verdicts(numbers)
    assert ours == expected


@given(edges, st.lists(steps, max_size=80))
def test_a_walk_is_judged_as_by_the_model(start: int, walk: list[int]) -> None:
    numbers = [start]
    for step in walk:
        numbers.append(min(max(numbers[-1] + step, 0), LAST))
    ours, expected = verdicts(numbers)
    assert ours == expected


@pytest.mark.parametrize(
    ("before", "sequence", "accepted"),
    [
        pytest.param([], 0, True, id="the very first"),
        pytest.param([0], 0, False, id="the first again"),
        pytest.param([], LAST, True, id="the last there can be, at once"),
        pytest.param([LAST], LAST, False, id="the last again"),
        pytest.param([LAST - 1], LAST, True, id="up to the last"),
        pytest.param([WINDOW], 0, False, id="one too old"),
        pytest.param([WINDOW], 1, True, id="the oldest that counts"),
        pytest.param([WINDOW, 1], 1, False, id="the oldest that counts, again"),
        pytest.param([WINDOW - 1], 0, True, id="a whole window missing, its first"),
        pytest.param([5], 4, True, id="one late"),
        pytest.param([5, 4], 4, False, id="one late, twice"),
        pytest.param([0, 1, 2, 3 * WINDOW], 3, False, id="left behind by a jump"),
        pytest.param([0, 1, 2, 3 * WINDOW], 2 * WINDOW, False, id="just left behind by a jump"),
        pytest.param([0, 1, 2, 3 * WINDOW], 2 * WINDOW + 1, True, id="just kept after a jump"),
        pytest.param([2**31 - 1], 2**31, True, id="across the sign bit"),
        pytest.param([2**31 + 1], 2**31, True, id="back across the sign bit"),
        pytest.param([LAST], LAST - WINDOW + 1, True, id="the oldest below the last"),
        pytest.param([LAST], LAST - WINDOW, False, id="too old below the last"),
        pytest.param([LAST], 0, False, id="no wrap"),
    ],
)
def test_edges(before: list[int], sequence: int, accepted: bool) -> None:
    window = ReplayWindow()
    for number in before:
        window.accept(number)
    assert window.accept(sequence) is accepted


def test_a_whole_window_in_reverse_is_accepted_once() -> None:
    window = ReplayWindow()
    assert all(window.accept(number) for number in reversed(range(WINDOW)))
    assert not any(window.accept(number) for number in range(WINDOW))


@pytest.mark.parametrize("step", [2, 3, WINDOW - 1, WINDOW, WINDOW + 1, 2**20])
def test_memory_is_bounded_however_many_are_lost(step: int) -> None:
    window, most = ReplayWindow(), 0
    for number in range(0, min(400 * step, 40 * WINDOW + 400 * step, 2**32 - 1), step):
        assert window.accept(number)
        most = max(most, len(window._holes))
    assert most <= 2 * WINDOW
    assert sys.getsizeof(window._holes) <= 2**20
