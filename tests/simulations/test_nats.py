"""NATs of every kind beside a slow and obvious one that remembers all that ever went out."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.endpoints import Endpoint, parse
from simulations.nats import PORTS, Kind, Nat

PUBLIC: Final = bytes([11, 22, 33, 44])
TIMEOUT_US: Final = 30_000_000
HOME, DESK = parse("192.168.1.1:51777"), parse("192.168.1.2:51777")
ALICE, ALICE_OTHER_PORT, BOB = parse("9.9.9.9:1000"), parse("9.9.9.9:2000"), parse("8.8.8.8:1000")


class Sent(NamedTuple):
    at_us: int
    inside: Endpoint
    destination: Endpoint
    port: bytes


class Model:
    """Answers from the list of all that was sent."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.sent: list[Sent] = []

    def port(self, inside: Endpoint, destination: Endpoint, now_us: int) -> bytes | None:
        """That must be kept; None: a new one is due."""
        for old in reversed(self.sent):
            same = old.inside == inside and (
                self.kind is not Kind.SYMMETRIC or old.destination == destination
            )
            if same:
                return old.port if now_us - old.at_us <= TIMEOUT_US else None
        return None

    def ports_in_use(self, now_us: int) -> set[bytes]:
        return {old.port for old in self.sent if now_us - old.at_us <= TIMEOUT_US}

    def inward(self, port: bytes, source: Endpoint, now_us: int) -> Endpoint | None:
        for old in reversed(self.sent):
            is_alive = old.port == port and now_us - old.at_us <= TIMEOUT_US
            if is_alive and self.lets_in(old.destination, source):
                return old.inside
        return None

    def lets_in(self, sent_to: Endpoint, source: Endpoint) -> bool:
        if self.kind is Kind.FULL_CONE:
            return True
        return sent_to[:4] == source[:4] if self.kind is Kind.RESTRICTED else sent_to == source


INSIDE = st.sampled_from([HOME, DESK])
OUTSIDE = st.sampled_from([ALICE, ALICE_OTHER_PORT, BOB])
STEPS = st.lists(
    st.tuples(st.booleans(), INSIDE, OUTSIDE, st.integers(0, 40), st.integers(0, 5)), max_size=60
)


@pytest.mark.parametrize("kind", list(Kind))
@given(steps=STEPS, first=st.sampled_from([1024, 65_534]))
def test_like_the_model(
    kind: Kind, steps: list[tuple[bool, Endpoint, Endpoint, int, int]], first: int
) -> None:
    nat, model, now_us = Nat(kind, PUBLIC, TIMEOUT_US, first=first), Model(kind), 0
    for is_outward, inside, outside, seconds, back in steps:
        now_us += seconds * 1_000_000
        if is_outward:
            due, taken = model.port(inside, outside, now_us), model.ports_in_use(now_us)
            seen = nat.outward(inside, outside, now_us)
            assert seen[:4] == PUBLIC
            assert seen[4:] == due if due else seen[4:] not in taken
            model.sent.append(Sent(now_us, inside, outside, seen[4:]))
        elif model.sent:
            port = model.sent[-1 - back % len(model.sent)].port
            assert nat.inward(port, outside, now_us) == model.inward(port, outside, now_us)


@pytest.mark.parametrize(
    ("kind", "alice", "other_port", "bob"),
    [
        (Kind.FULL_CONE, True, True, True),
        (Kind.RESTRICTED, True, True, False),
        (Kind.PORT_RESTRICTED, True, False, False),
        (Kind.SYMMETRIC, True, False, False),
    ],
)
def test_who_gets_in_after_one_word_to_alice(kind: Kind, alice: bool, other_port: bool, bob: bool) -> None:
    nat = Nat(kind, PUBLIC, TIMEOUT_US)
    port = nat.outward(HOME, ALICE, 0)[4:]
    got_in = [nat.inward(port, source, 1) == HOME for source in (ALICE, ALICE_OTHER_PORT, BOB)]
    assert got_in == [alice, other_port, bob]


@pytest.mark.parametrize("kind", list(Kind))
def test_only_a_symmetric_one_shows_each_destination_another_port(kind: Kind) -> None:
    nat = Nat(kind, PUBLIC, TIMEOUT_US)
    seen = {nat.outward(HOME, destination, 0) for destination in (ALICE, ALICE_OTHER_PORT, BOB)}
    assert len(seen) == (3 if kind is Kind.SYMMETRIC else 1)


@pytest.mark.parametrize("kind", list(Kind))
def test_silence_closes_the_way_in_and_only_what_goes_out_keeps_it(kind: Kind) -> None:
    nat = Nat(kind, PUBLIC, TIMEOUT_US)
    port = nat.outward(HOME, ALICE, 0)[4:]
    assert nat.inward(port, ALICE, TIMEOUT_US) == HOME
    assert nat.inward(port, ALICE, TIMEOUT_US + 1) is None
    assert nat.outward(HOME, ALICE, TIMEOUT_US)[4:] == port, "it was just in time"
    assert nat.inward(port, ALICE, 2 * TIMEOUT_US) == HOME
    assert nat.outward(HOME, ALICE, 9 * TIMEOUT_US)[4:] != port


def test_memory_is_bounded_by_what_is_alive() -> None:
    nat = Nat(Kind.SYMMETRIC, PUBLIC, TIMEOUT_US)
    for number in range(20_000):
        nat.outward(HOME, number.to_bytes(4, "big") + b"\x10\x00", number * TIMEOUT_US // 100)
        assert len(nat) <= 513


def test_when_all_ports_are_taken_the_oldest_goes() -> None:
    nat = Nat(Kind.SYMMETRIC, PUBLIC, TIMEOUT_US)
    first = nat.outward(HOME, ALICE, 0)
    for number in range(PORTS):
        seen = nat.outward(HOME, number.to_bytes(4, "big") + b"\x10\x00", 0)
    assert seen == first
    assert nat.inward(first[4:], ALICE, 0) is None
