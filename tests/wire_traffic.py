"""Reads of a TUN and trains of a socket for tun/reference.py and tun/plane.py: Hypothesis strategies."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.virtio_packets import ACK, CWR, FIN, PSH, SYN, TCP, UDP, Shape

NOISE = random.Random(0).randbytes(140_000)
HOP_BY_HOP = b"\x11\0\1\4\0\0\0\0"  # then UDP
ROOMS = st.one_of(st.sampled_from([1200, 1232, 1280, 1452, 8952]), st.integers(1100, 9000))
FIRSTS = st.one_of(
    st.sampled_from([0, 200, 255, 65_500, 65_535, 2**24 - 20]),
    st.integers(0, 300),
    st.integers(0, 2**31 - 9999),
)


class Read(bytes):
    """Shown as the beginning of it: Hypothesis writes down every example."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, {self[:70].hex()}…>"


def noise(size: int, start: int) -> bytes:
    return NOISE[start : start + size]


def reads() -> st.SearchStrategy[bytes]:
    return _reads().map(Read)


@st.composite
def _reads(draw: st.DrawFn) -> bytes:
    """One read, virtio_net_hdr ‖ packet, of any kind that a kernel gives, and of some that it should not."""
    kind = draw(st.sampled_from(["small", "small", "small", "packet", "super", "super", "odd"]))
    shape = Shape(
        version=draw(st.sampled_from([4, 6])),
        protocol=draw(st.sampled_from([TCP, UDP])),
        options=b"\1\1\1\1" * draw(st.sampled_from([0, 3, 10])),
        flags=ACK | draw(st.sampled_from([0, PSH, FIN | PSH, CWR])),
        sequence=draw(st.sampled_from([7, 2**32 - 3000])),
        ident=draw(st.sampled_from([7, 0xFFF0])),
    )
    start = draw(st.integers(0, 70_000))
    if kind == "small":
        size = draw(st.one_of(st.integers(0, 200), st.integers(480, 560)))
        gso = draw(st.sampled_from([0, 0, 0, 0, 100]))
        if gso and size <= gso:
            gso = 0
        return replace(shape, payload=noise(size, start), gso=gso).build(gso > 0 or draw(st.booleans()))
    if kind == "packet":
        size = draw(st.one_of(st.integers(500, 2000), st.integers(1300, 1460), st.integers(0, 65_000)))
        return replace(shape, payload=noise(size, start)).build(draw(st.booleans()))
    gso = draw(
        st.one_of(st.integers(1, 100), st.integers(500, 1500), st.sampled_from([1000, 1352, 1404, 8000]))
    )
    segments = draw(st.one_of(st.integers(1, 8), st.integers(1, 64 if kind == "super" else 70)))
    size = min(gso * (segments - 1) + draw(st.one_of(st.just(gso), st.integers(1, gso))), 65_400)
    shape = replace(shape, payload=noise(size, start), gso=gso)
    if kind == "odd":  # cannot travel as it is: options in between, or a flag that no segments share
        if shape.version == 6 and shape.protocol == UDP:
            shape = replace(shape, ip_options=HOP_BY_HOP)
        else:
            shape = replace(shape, flags=ACK | SYN)
    return shape.build()


wakeups = st.lists(reads(), max_size=12)


@dataclass(frozen=True)
class Damage:
    """What a network does to datagrams; and, as far as hints go, what anybody on the way can do."""

    lost: frozenset[int] = frozenset()
    doubled: frozenset[int] = frozenset()
    moved: tuple[tuple[int, int], ...] = ()
    changed: tuple[tuple[int, int, int], ...] = ()  # datagram, byte, value
    cut: tuple[tuple[int, int], ...] = ()  # datagram, size
    foreign: tuple[tuple[int, bytes], ...] = ()

    def to(self, datagrams: list[bytes]) -> list[bytes]:
        if not datagrams:
            return [datagram for _, datagram in self.foreign]
        after = list(datagrams)
        for number, at, value in self.changed:
            old = after[number % len(after)]
            at %= len(old)
            after[number % len(after)] = old[:at] + bytes([value]) + old[at + 1 :]
        for number, size in self.cut:
            after[number % len(after)] = after[number % len(after)][:size]
        lost = {number % len(after) for number in self.lost}
        doubled = {number % len(after) for number in self.doubled}
        kept: list[bytes] = []
        for number, datagram in enumerate(after):
            kept += [datagram] * ((number not in lost) + (number in doubled))
        for origin, to in self.moved if kept else ():
            kept.insert(to % len(kept), kept.pop(origin % len(kept)))
        for number, datagram in self.foreign:
            kept.insert(number % (len(kept) + 1), datagram)
        return kept


_places = st.integers(0, 200)
_few = st.sampled_from([0, 0, 1, 1, 2, 5])


@st.composite
def damages(draw: st.DrawFn, hostile: bool) -> Damage:
    def some(each: st.SearchStrategy[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return tuple(draw(each) for _ in range(draw(_few)))

    honest = Damage(
        lost=frozenset(draw(_places) for _ in range(draw(_few))),
        doubled=frozenset(draw(_places) for _ in range(draw(_few))),
        moved=some(st.tuples(_places, _places)),  # type: ignore[arg-type]
    )
    if not hostile:
        return honest
    values = st.one_of(st.integers(0, 70), st.integers(0, 255))
    hint = st.tuples(_places, st.integers(1, 3), values)
    anywhere = st.tuples(_places, st.integers(4, 2000), values)
    kind = st.tuples(_places, st.just(0), st.integers(0xC0, 0xC2))
    return replace(
        honest,
        changed=some(st.one_of(hint, hint, anywhere, kind)),  # type: ignore[arg-type]
        cut=some(st.tuples(_places, st.one_of(st.integers(1, 70), st.integers(1, 1500)))),  # type: ignore[arg-type]
        foreign=tuple(
            (draw(_places), bytes([draw(st.integers(0xC0, 0xC2))]) + noise(draw(st.integers(0, 1500)), 5))
            for _ in range(draw(_few))
        ),
    )


def trains(datagrams: list[bytes], cuts: list[int], most: int = 64) -> list[list[bytes]]:
    """As UDP_GRO gives them: one ends with a shorter one, before a larger one, after 64, and at `cuts`."""
    result: list[list[bytes]] = []
    for number, datagram in enumerate(datagrams):
        last = result[-1] if result else []
        joins = last and len(last) < most and len(last[-1]) == len(last[0]) >= len(datagram)
        fits = len(last) * len(last[0]) + len(datagram) <= 65_507 if last else False
        if joins and fits and number not in cuts and datagram:
            last.append(datagram)
        else:
            result.append([datagram])
    return result
