"""Homes: who is called through them, what they hold, what they learn, and what nobody can make them do."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.calls import Calls
from dht.endpoints import Endpoint
from dht.homes import LEASE_US, LODGE_LABEL, LODGERS, LODGERS_PER_NETWORK, handle_of, lodge_payload
from dht.keeping import HELD_BYTES, HELD_PER_CALLER, HELD_PER_HANDLE, HELD_PER_NETWORK
from dht.messages import Event, Lodge, Lodged, Taken, decode_call, encode_call
from dht.parts import PART_BYTES, event_id
from dht.post import Status
from dht.signatures import SeedSigner
from tests.callers import SECOND, SECRET, Wire, at, entropy_of, lodged, machine_of

T, MINE = b"transact", b"my token"


def lodge(
    home: Calls, seed: int, source: Endpoint, now_us: int = 0, sequence: int = 1, leave: bool = False
) -> bytes:
    """A right Lodge, as who has the key and receives at `source` can make it."""
    signer = SeedSigner(seed.to_bytes(32, "big"))
    token = home.tokens.make(source, now_us)
    proof = signer.sign(LODGE_LABEL, lodge_payload(token, MINE, sequence, leave))
    return encode_call(Lodge(T, token, MINE, signer.public, sequence, proof, leave))


def handle(seed: int) -> bytes:
    return handle_of(SeedSigner(seed.to_bytes(32, "big")).public)


def core(name: str = "home") -> Calls:
    home = Calls(machine_of(name), (SECRET,), bytes(32), entropy_of(name), 0)
    home.serve(True)
    return home


def answers(home: Calls, datagram: bytes, source: Endpoint, now_us: int = 0) -> list[object]:
    """What it sends because of it: messages to the source, and endpoints of what goes elsewhere."""
    home.outgoing.clear()
    home.receive(datagram, source, now_us, 0)
    home.tick(now_us, 0)
    return [decode_call(one[1:]) if to == source else to for one, to in home.outgoing]


def lodged_status(found: list[object]) -> int:
    assert isinstance(found[0], Lodged)
    return found[0].status


def event(
    home: Calls, seed: int, source: Endpoint, number: int, parts: int = 2, now_us: int = 0
) -> int | None:
    """Send a whole event of that many parts for a lodger: what the home answers."""
    sealed = random.Random(number).randbytes(PART_BYTES * parts)
    found: list[object] = []
    for part in range(parts):
        chunk = sealed[part * PART_BYTES : (part + 1) * PART_BYTES]
        token = home.tokens.make(source, now_us)
        message = Event(T, token, handle(seed), event_id(sealed), part, parts, chunk)
        found += answers(home, encode_call(message), source, now_us)
    statuses = [one.status for one in found if isinstance(one, Taken)]
    return statuses[-1] if statuses else None


# ------------------------------------------------------------------ called through a home


def test_a_hidden_machine_is_called_through_its_home() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    sent = caller.send(lodger.recipient(), body=b"hello")
    wire.run(2)
    assert [called.body for called in lodger.called] == [b"hello"]
    assert (caller.sent[sent].delivered, caller.sent[sent].held) == (True, 0)
    assert home.calls.held == (0, 0)
    assert home.calls.lodgers == 1


def test_a_home_is_not_asked_when_the_machine_answers_itself() -> None:
    """So it does not learn of the call."""
    wire = Wire()
    lodger, [home] = lodged(wire)
    lodger.hidden = False
    caller = wire.node("caller", "192.0.2.1")
    sent = caller.send(lodger.recipient())
    wire.run(10)
    assert caller.sent[sent].delivered
    assert not wire.traffic(caller.endpoint, home.endpoint)


def test_three_homes_bring_one_event_once() -> None:
    wire = Wire()
    lodger, homes = lodged(wire, homes=3)
    caller = wire.node("caller", "192.0.2.1")
    wire.loss = 10
    for number in range(8):
        caller.send(lodger.recipient(), body=bytes([number]))
    wire.run(30)
    assert sorted(called.body[0] for called in lodger.called) == list(range(8))
    assert all(sent.delivered for sent in caller.sent.values())
    assert all(home.calls.held == (0, 0) for home in homes)


def test_an_event_is_held_while_the_lodger_is_away_and_brought_when_it_is_back() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    lodger.here = False
    first = caller.send(lodger.recipient(), body=b"one")
    wire.run(30)
    wire.run(100)
    second = caller.send(lodger.recipient(direct=False), body=b"two")
    wire.run(1)
    assert caller.sent[second].held == 1, "at once: the home knows already that it is away"
    wire.run(3000)
    for sent in (first, second):
        assert (caller.sent[sent].delivered, caller.sent[sent].held) == (False, 1)
    assert home.calls.held == (2, 2 * 2700)
    lodger.restart()
    lodger.here = True
    lodger.calls.lodge([home.endpoint], wire.now_us)
    wire.run(2)
    assert sorted(called.body for called in lodger.called) == [b"one", b"two"], "also after a restart"
    assert home.calls.held == (0, 0)


def test_held_for_an_hour_and_no_longer() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    lodger.here = False
    caller.send(lodger.recipient())
    wire.run(3550)
    assert home.calls.held[0] == 1
    wire.run(100)
    assert home.calls.held == (0, 0)
    assert home.calls.counters["event that nobody fetched in an hour"] == 1
    wire.run(3600)
    assert home.calls.lodgers == 0
    assert home.calls.deadline_us() == 1 << 62


def test_a_lodger_that_moves_is_called_where_it_is() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    wire.move(lodger, "198.51.200.9")
    sent = caller.send(lodger.recipient(direct=False))
    wire.run(30)
    assert len(lodger.called) == 1, "held meanwhile, and brought to the new address"
    again = caller.send(lodger.recipient(direct=False))
    wire.run(1)
    assert caller.sent[again].delivered
    assert sent in caller.sent
    assert home.calls.lodgers == 1


def test_a_refusal_comes_back_too() -> None:
    """Made without the lookup secret: the lodger cannot open it, and the home keeps nothing of it."""
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    sent = caller.send(replace(lodger.recipient(direct=False), secret=bytes(16)))
    wire.run(10)
    assert (caller.sent[sent].delivered, caller.sent[sent].refused) == (False, 1)
    assert home.calls.held == (0, 0)


def test_nobody_of_that_handle() -> None:
    wire = Wire()
    home, caller = wire.node("home 0", "203.0.113.1"), wire.node("caller", "192.0.2.1")
    home.calls.serve(True)
    absent = wire.node("absent", "198.51.100.7")
    sent = caller.send(absent.recipient([(home.endpoint, b"handle, 16 bytes")], direct=False))
    wire.run(5)
    assert (caller.sent[sent].delivered, caller.sent[sent].held, caller.sent[sent].refused) == (False, 0, 0)
    assert home.calls.held == (0, 0)


# ------------------------------------------------------------------ what a home learns, and can do


def test_a_home_sees_who_calls_and_never_what() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    for body in (b"a secret that nobody may read", b"x"):
        caller.send(lodger.recipient(), "vpn.tunnel.request", body)
    wire.run(5)
    seen = b"".join(datagram for datagram, _ in home.heard)
    keys = [caller.machine.bundle, lodger.machine.bundle]
    secrets = [b"a secret", b"vpn.tunnel", SECRET, *(one.machine_id for one in keys)]
    secrets += [part for one in keys for part in (one.ed25519, one.x25519, one.ml_kem[:64])]
    assert not [one for one in secrets if one in seen]
    assert len(seen) > 5000
    parts = {len(datagram) for datagram, source in home.heard if source == caller.endpoint}
    assert parts == {47, 956}, "nor how long it was, but in parts of 900"


def test_two_homes_cannot_tell_that_they_have_one_lodger() -> None:
    wire = Wire()
    lodger, _ = lodged(wire, homes=3)
    assert len({handle for _, handle in lodger.calls.homes}) == 3


def test_a_home_that_says_delivered_and_is_not() -> None:
    """It swallows the event and claims the best: the caller is not fooled, and another home brings it."""
    wire = Wire()
    lodger, homes = lodged(wire, homes=2)
    caller = wire.node("caller", "192.0.2.1")
    liar = homes[0].endpoint

    def lie(datagram: bytes, source: Endpoint, to: Endpoint) -> bytes | None:
        message = decode_call(datagram[1:])
        if source == liar and to == lodger.endpoint and isinstance(message, Event):
            return None
        if source != liar or not isinstance(message, Taken) or message.status != Status.UNDER_WAY:
            return datagram
        return encode_call(Taken(message.t, message.token, Status.DELIVERED, 0, b"honest!!"))

    wire.change = lie
    sent = caller.send(lodger.recipient([lodger.calls.homes[0]], direct=False))
    wire.run(30)
    assert not caller.sent[sent].delivered
    assert not lodger.called
    both = caller.send(lodger.recipient(direct=False))
    wire.run(30)
    assert caller.sent[both].delivered
    assert len(lodger.called) == 1


def test_a_home_cannot_bring_an_event_twice() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    caller = wire.node("caller", "192.0.2.1")
    caller.send(lodger.recipient())
    wire.run(2)
    parts = [one for one in wire.traffic(home.endpoint, lodger.endpoint) if len(one) > 900]
    for later in (1, 1800, 1800):
        wire.run(later)
        for part in parts:
            event = decode_call(part[1:])
            token = lodger.calls.tokens.make(home.endpoint, wire.now_us)
            again = encode_call(msgspec.structs.replace(event, token=token))
            lodger.calls.receive(again, home.endpoint, wire.now_us, wire.unix_us)
    wire.flush()
    assert len(lodger.called) == 1


def test_who_is_not_my_home_brings_me_nothing() -> None:
    wire = Wire()
    lodger, [home] = lodged(wire)
    [(_, handle)] = lodger.calls.homes
    stranger = at("203.0.113.200")
    token = lodger.calls.tokens.make(stranger, wire.now_us)
    lodger.calls.receive(
        encode_call(Event(T, token, handle, b"event 8b", 0, 2, bytes(900))),
        stranger,
        wire.now_us,
        wire.unix_us,
    )
    answer = decode_call(lodger.calls.outgoing[-1][0][1:])
    assert isinstance(answer, Taken)
    assert answer.status == Status.NOBODY
    assert home.calls.lodgers == 1


# ------------------------------------------------------------------ taking over a handle


def test_who_has_not_the_key_takes_nothing_over() -> None:
    home, mine, thief = core(), at("192.0.2.1"), at("203.0.113.9")
    assert lodged_status(answers(home, lodge(home, 1, mine), mine)) == 0
    signer, other = SeedSigner(bytes(31) + b"\1"), SeedSigner(bytes(31) + b"\2")
    token = home.tokens.make(thief, 0)
    forged = other.sign(LODGE_LABEL, lodge_payload(token, MINE, 9, False))
    for proof in (forged, bytes(64), forged[:-1]):
        assert not answers(home, encode_call(Lodge(T, token, MINE, signer.public, 9, proof)), thief)
    for public in (b"", b"\xff" * 32, bytes(31)):
        assert not answers(home, encode_call(Lodge(T, token, MINE, public, 9, forged)), thief)
    assert home._home._lodgers[handle(1)].endpoint == mine
    assert home.lodgers == 1
    assert home.counters["lodge with a bad signature"] == 6


def test_who_listened_on_the_path_takes_nothing_over() -> None:
    """What a lodger sends is good from its own address only: it proves a token that others cannot show."""
    home, mine, thief = core(), at("192.0.2.1"), at("203.0.113.9")
    recorded = lodge(home, 1, mine)
    answers(home, recorded, mine)
    message = decode_call(recorded[1:])
    assert isinstance(message, Lodge)
    for token in (message.token, home.tokens.make(thief, 0)):
        replayed = msgspec.structs.replace(message, token=token, sequence=7)
        found = answers(home, encode_call(replayed), thief)
        assert not found or lodged_status(found) == 2
    for changed in (
        msgspec.structs.replace(message, mine=b"another!"),
        msgspec.structs.replace(message, sequence=2),
        msgspec.structs.replace(message, leave=True),
    ):
        assert not answers(home, encode_call(changed), mine), "every field is signed"
    assert home._home._lodgers[handle(1)].endpoint == mine
    assert home._home._lodgers[handle(1)].mine == MINE


def test_an_old_lodge_moves_nobody_back() -> None:
    """A spoofed source, and a Lodge recorded before the lodger moved on: its token still holds."""
    home, before, now = core(), at("192.0.2.1"), at("198.51.100.1")
    old, left = lodge(home, 1, before, sequence=5), lodge(home, 1, before, sequence=4, leave=True)
    answers(home, old, before)
    answers(home, lodge(home, 1, now, sequence=6), now)
    assert not answers(home, old, before)
    assert not answers(home, left, before)
    assert home._home._lodgers[handle(1)].endpoint == now
    assert home.counters["lodge that is older than the lodger's last"] == 2


def test_who_leaves_is_forgotten() -> None:
    home, mine = core(), at("192.0.2.1")
    answers(home, lodge(home, 1, mine), mine)
    assert event(home, 1, at("203.0.113.9"), 1) == Status.UNDER_WAY
    assert not answers(home, lodge(home, 1, mine, sequence=2, leave=True), mine)
    assert (home.lodgers, home.held) == (0, (0, 0))
    assert event(home, 1, at("203.0.113.9"), 1) == Status.NOBODY


def test_an_unproven_lodge_gets_little_and_leaves_nothing() -> None:
    home, source = core(), at("192.0.2.1")
    for message in (Lodge(T, b"", b""), Lodge(T, b"guessed!", MINE, bytes(32), 1, bytes(64))):
        found = answers(home, encode_call(message), source)
        assert lodged_status(found) == 2
        assert sum(len(one) for one, _ in home.outgoing) <= 3 * len(encode_call(message))
    assert home.lodgers == 0
    assert home.deadline_us() == 1 << 62


# ------------------------------------------------------------------ room


def test_256_lodgers_and_eight_of_a_network() -> None:
    home = core()
    for number in range(12):
        source = at(f"192.0.2.{1 + number}")
        status = lodged_status(answers(home, lodge(home, number, source), source))
        assert status == (0 if number < LODGERS_PER_NETWORK else 1)
    for number in range(1000, 1300):
        source = at(f"203.{number % 256}.{number // 256}.1")
        answers(home, lodge(home, number, source), source)
    assert home.lodgers == LODGERS
    assert home.counters["lodge for which there is no room"] >= 300 - LODGERS


def test_who_is_away_gives_way_unless_something_is_kept_for_it() -> None:
    home, caller = core(), at("203.0.113.9")
    for number in range(LODGERS_PER_NETWORK):
        source = at(f"192.0.2.{1 + number}")
        answers(home, lodge(home, number, source), source)
    later = LEASE_US + 1
    assert event(home, 0, caller, 1, now_us=later) == Status.HELD
    for number in range(20, 40):
        source = at(f"192.0.2.{1 + number}")
        answers(home, lodge(home, number, source, later), source, later)
    assert home.lodgers == LODGERS_PER_NETWORK
    assert home._home.knows(handle(0)), "it is away, and its event is safe"
    assert home.held[0] == 1


def test_a_node_that_is_no_home_lets_nobody_in() -> None:
    home, source = core(), at("192.0.2.1")
    home.serve(False)
    assert lodged_status(answers(home, lodge(home, 1, source), source)) == 1
    assert home.lodgers == 0


def away(home: Calls, seeds: range) -> int:
    """Lodgers that have been away for long: the time at which they are."""
    for seed in seeds:
        source = at(f"198.{seed // 200}.{seed % 200}.1")
        assert lodged_status(answers(home, lodge(home, seed, source), source)) == 0
    return LEASE_US + 1


def test_sixteen_events_are_held_for_a_lodger_and_four_of_one_caller() -> None:
    home = core()
    now_us = away(home, range(1))
    statuses = [event(home, 0, at("203.0.113.9"), number, now_us=now_us) for number in range(8)]
    assert statuses == [Status.HELD] * HELD_PER_CALLER + [Status.REFUSED] * 4
    for number in range(10, 60):
        event(home, 0, at(f"203.0.{number}.9"), number, now_us=now_us)
    assert home.held == (HELD_PER_HANDLE, HELD_PER_HANDLE * 1800)
    assert home.counters["event for which there is no room"] > 0
    again = event(home, 0, at("203.0.113.9"), 0, now_us=now_us)
    assert again == Status.HELD, "what it said it holds it does hold"


def test_a_network_of_callers_has_64_events_at_a_home() -> None:
    home = core()
    now_us = away(home, range(40))
    for number in range(160):
        event(home, number // 4, at("203.0.113.9"), number, now_us=now_us + number * 2 * SECOND // 2)
    assert home.held[0] == HELD_PER_NETWORK


def test_four_megabytes_are_held_in_all() -> None:
    home = core()
    now_us = away(home, range(60))
    for number in range(60 * 16):
        event(home, number // 16, at(f"203.{number % 256}.{number // 256}.9"), number, 9, now_us)
    assert HELD_BYTES - 8100 < home.held[1] <= HELD_BYTES
    assert home.held[0] == home.held[1] // 8100


def test_one_caller_gets_one_event_a_second_forwarded() -> None:
    home = core()
    now_us = away(home, range(60))
    for number in range(60):
        event(home, number, at("203.0.113.9"), number, now_us=now_us)
    assert home.held[0] == 10
    assert home.counters["event above the rate that is forwarded"] > 0
    assert event(home, 59, at("203.0.114.9"), 99, now_us=now_us) == Status.HELD, "others are not kept out"


def test_only_a_proven_caller_makes_a_home_forward() -> None:
    home, mine, caller = core(), at("192.0.2.1"), at("203.0.113.9")
    answers(home, lodge(home, 1, mine), mine)
    sealed = bytes(900)
    for token in (b"", b"guessed!", home.tokens.make(at("203.0.113.8"), 0)):
        message = Event(T, token, handle(1), event_id(sealed), 0, 1, sealed)
        [found] = answers(home, encode_call(message), caller)
        assert isinstance(found, Taken)
        assert found.status == Status.SHOW_TOKEN
    assert home.held == (0, 0)


def test_parts_that_do_not_make_their_whole() -> None:
    home, mine, caller = core(), at("192.0.2.1"), at("203.0.113.9")
    answers(home, lodge(home, 1, mine), mine)
    message = Event(T, home.tokens.make(caller, 0), handle(1), b"event 8b", 0, 1, bytes(900))
    [found] = answers(home, encode_call(message), caller)
    assert isinstance(found, Taken)
    assert found.status == Status.REFUSED
    assert home.held == (0, 0)


def test_a_lodger_that_never_acknowledges_is_not_flooded() -> None:
    """It lodges and never says Taken: for each of its lodges a home tries a bounded number of bytes."""
    home, mine = core(), at("192.0.2.1")
    answers(home, lodge(home, 1, mine), mine)
    for number in range(16):
        event(home, 1, at(f"203.0.{number}.9"), number, 9)
    sent = 0
    now_us = 0
    for _ in range(100):
        home.outgoing.clear()
        now_us += SECOND // 2
        home.tick(now_us, 0)
        sent += sum(len(one) for one, to in home.outgoing if to == mine)
    assert sent < 16 * 9 * 960
    assert home.held[0] == 16


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["lodge", "leave", "event", "late", "answer", "serve"]),
            *(st.integers(0, 5), st.integers(0, 20), st.integers(0, 120)),
        ),
        max_size=40,
    )
)
def test_what_is_counted_is_what_is_there(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever happens, the sums of events and bytes are those of the lodgers' events."""
    home, now_us = core(), 0
    for step, (what, seed, number, seconds) in enumerate(steps):
        source = at(f"192.0.{seed}.1")
        if what in ("lodge", "leave"):
            answers(home, lodge(home, seed, source, now_us, step, what == "leave"), source, now_us)
        elif what == "event":
            event(home, seed, at(f"203.0.{number}.9"), number, 1 + number % 3, now_us)
        elif what == "late":
            now_us += seconds * SECOND * 10
            home.tick(now_us, 0)
        elif what == "answer":
            for one, to in list(home.outgoing):
                told = decode_call(one[1:])
                if isinstance(told, Event):
                    answers(home, encode_call(Taken(told.t, b"", 1 + number % 4, 0, bytes(8))), to, now_us)
        else:
            home.serve(bool(number % 2))
        held = [one for lodger in home._home._lodgers.values() for one in lodger.held.values()]
        assert home.held == (len(held), sum(len(one.parcel) for one in held))
        flying = sum(one.delivery is not None for one in held)
        assert len(home._post) == flying
    home.tick(now_us + 3 * 3600 * SECOND, 0)
    assert home.held == (0, 0)
    assert len(home._post) == 0


def test_the_handle_of_a_fixed_key_and_what_a_lodge_signs() -> None:
    assert handle_of(bytes(32)).hex() == "d6f0419133e9ed9dc0048911405134ff"
    assert (
        lodge_payload(b"token 8b", b"mine, 8b", 258, True).hex()
        == "08746f6b656e203862086d696e652c203862000000000000010201"
    )
