"""The user-space link as a machine, in virtual time."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from simulations.lab.impairment import Impairment
from simulations.lab.userlink import QUEUE, Wire

A, B, C = (bytes([2, 0, 0, 0, 0, last]) for last in (1, 2, 3))
BROADCAST = b"\xff" * 6

impairments = st.builds(
    lambda loss, duplicate, delay, jitter, reorder: Impairment(
        loss=loss,
        duplicate=duplicate,
        delay_ms=delay,
        jitter_ms=delay * jitter,
        reorder=reorder if delay else 0,
    ),
    *[st.floats(0, 1)] * 2,
    st.floats(0, 500),
    *[st.floats(0, 1)] * 2,
)


def frame(target: bytes, source: bytes, number: int = 0) -> bytes:
    return target + source + b"\x08\x00" + number.to_bytes(4, "big")


def play(wire: Wire, count: int, step: float = 0.001) -> list[tuple[float, int, int]]:
    """(time, port, number) of all that comes out when `count` frames go in at port 0, one each step (s)."""
    out: list[tuple[float, int, int]] = []
    for number in range(count + 1):
        now = number * step if number < count else inf
        while (deadline := wire.deadline()) is not None and deadline <= now:
            out += ((deadline, port, int.from_bytes(data[14:], "big")) for port, data in wire.due(deadline))
        if number < count:
            wire.offer(now, 0, frame(B, A, number))
    return out


@given(impairments, st.integers(0, 2**32), st.integers(0, 60))
def test_every_frame_is_accounted_for_and_the_seed_decides(
    impairment: Impairment, seed: int, count: int
) -> None:
    runs = []
    for _ in range(2):
        wire = Wire(2, seed)
        wire.impairment = impairment
        runs.append((play(wire, count), wire.counters))
    assert runs[0] == runs[1]
    out, counters = runs[0]
    assert len(out) == count - counters["dropped"] + counters["duplicated"]
    assert {port for _, port, _ in out} <= {1}


@given(impairments, st.integers(0, 2**32))
def test_a_frame_waits_within_the_jitter_and_keeps_its_order(impairment: Impairment, seed: int) -> None:
    wire = Wire(2, seed)
    wire.impairment = Impairment(delay_ms=impairment.delay_ms, jitter_ms=impairment.jitter_ms)
    out = play(wire, 50, step=0.01)
    assert [number for _, _, number in out] == list(range(50))
    least = (impairment.delay_ms - impairment.jitter_ms) / 1000
    assert all(time - number * 0.01 >= least - 1e-9 for time, _, number in out)
    most = (impairment.delay_ms + impairment.jitter_ms) / 1000
    assert all(time - number * 0.01 <= most + 1e-9 for time, _, number in out)


def test_reordering_lets_frames_overtake() -> None:
    wire = Wire(2, 1)
    wire.impairment = Impairment(delay_ms=20, reorder=0.25)
    numbers = [number for _, _, number in play(wire, 200)]
    assert sorted(numbers) == list(range(200))
    assert numbers != sorted(numbers)
    assert 20 < wire.counters["reordered"] < 100


def test_frames_go_to_the_port_where_their_target_was_seen_and_else_to_all_others() -> None:
    wire = Wire(3, 0)

    def ports(source: int, data: bytes) -> list[int]:
        wire.offer(0.0, source, data)
        return [port for port, _ in wire.due(0.0)]

    assert ports(0, frame(B, A)) == [1, 2]
    assert ports(1, frame(A, B)) == [0]
    assert ports(2, frame(B, C)) == [1]
    assert ports(1, frame(BROADCAST, B)) == [0, 2]
    assert ports(0, frame(A, C)) == []  # its target is where it came from
    assert ports(1, frame(C, B)) == [0]  # C moved


def test_a_full_link_loses_frames_and_its_memory_stays_bounded() -> None:
    wire = Wire(2, 0)
    wire.impairment = Impairment(delay_ms=1000)
    for number in range(QUEUE + 10):
        wire.offer(0.0, 0, frame(B, A, number))
    assert wire.counters["dropped"] == 10
    assert len(list(wire.due(1.0))) == QUEUE
