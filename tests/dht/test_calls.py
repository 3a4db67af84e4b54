"""Calls between machines that reach each other: delivered in truth, once, through loss, and under attack."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import LocalFault
from crypto.identity import KeyBundle
from crypto.kem import expand
from dht.calls import MAX_ANSWERS, MAX_CALLS, Calls, Recipient
from dht.endpoints import Endpoint
from dht.homes import handle_of
from dht.messages import Event, Taken, decode_call, encode_call
from dht.parts import event_id
from dht.post import LIFE_US, Status
from dht.signatures import SeedSigner
from tests.callers import SECOND, SECRET, Node, Wire, at, entropy_of, lodged, machine_of

T = b"transact"


def pair(wire: Wire) -> tuple[Node, Node]:
    return wire.node("a", "192.0.2.1"), wire.node("b", "192.0.3.1")


def taken(datagram: bytes) -> Taken | None:
    message = decode_call(datagram[1:])
    return message if isinstance(message, Taken) else None


# ------------------------------------------------------------------ what a call is


def test_a_call_arrives_and_proves_it() -> None:
    wire = Wire()
    a, b = pair(wire)
    handle = a.send(b.recipient(), "vpn.tunnel.request", b"open")
    wire.run(1)
    [called] = b.called
    assert (called.tag, called.body, called.author_id) == (
        "vpn.tunnel.request",
        b"open",
        a.machine.bundle.machine_id,
    )
    assert KeyBundle.from_bytes(called.author_bundle) == a.machine.bundle
    assert (a.sent[handle].delivered, a.sent[handle].held, a.sent[handle].refused) == (True, 0, 0)
    assert len(wire.traffic(a.endpoint, b.endpoint)) == 1 + 3, "a question, three parts"
    assert not a.calls.counters
    assert not b.calls.counters


def test_an_idle_core_does_nothing() -> None:
    wire = Wire()
    a, b = pair(wire)
    a.send(b.recipient())
    wire.run(60)
    sent = len(wire.log)
    wire.run(3600)
    assert len(wire.log) == sent
    assert a.calls.deadline_us() == b.calls.deadline_us() == 1 << 62


def test_the_largest_event() -> None:
    wire = Wire()
    a, b = pair(wire)
    handle = a.send(b.recipient(), "a" * 60, bytes(range(256)) * 16)
    wire.run(1)
    assert a.sent[handle].delivered
    assert b.called[0].body == bytes(range(256)) * 16


def test_several_events_in_order_have_rising_sequences() -> None:
    wire = Wire()
    a, b = pair(wire)
    for number in range(5):
        a.send(b.recipient(), body=bytes([number]))
    wire.run(5)
    assert sorted(called.body for called in b.called) == [bytes([number]) for number in range(5)]
    by_sequence = sorted(b.called, key=lambda called: called.sequence)
    assert [called.body[0] for called in by_sequence] == list(range(5))
    assert len({called.sequence for called in b.called}) == 5


def test_who_is_not_there_is_not_called() -> None:
    wire = Wire()
    a, b = pair(wire)
    b.here = False
    handle = a.send(b.recipient())
    wire.run(30)
    assert (a.sent[handle].delivered, a.sent[handle].held, a.sent[handle].refused) == (False, 0, 0)
    assert len(wire.traffic(a.endpoint, b.endpoint)) == 4, "after 0, 0.5, 1.5 and 3.5 s"
    assert all(len(datagram) < 50 for datagram in wire.traffic(a.endpoint, b.endpoint)), "questions only"


def test_who_has_no_address_is_not_called() -> None:
    wire = Wire()
    a, b = pair(wire)
    handle = a.send(b.recipient(direct=False))
    wire.run(1)
    assert not a.sent[handle].delivered


def test_the_first_address_that_answers_is_enough() -> None:
    wire = Wire()
    a, b = pair(wire)
    to = b.recipient()
    endpoints = (*(at(f"203.0.113.{number}") for number in range(1, 5)), b.endpoint, b"\0" * 6, b"")
    handle = a.send(Recipient(to.bundle, to.secret, endpoints))
    wire.run(1)
    assert a.sent[handle].delivered
    before = len(wire.log)
    wire.run(30)
    assert len(wire.log) == before, "the others are left alone from then on"


def test_what_no_event_may_have_is_the_callers_fault() -> None:
    wire = Wire()
    a, b = pair(wire)
    for tag, body in (("no tag", b""), ("a", bytes(4097))):
        with pytest.raises(LocalFault):
            a.send(b.recipient(), tag, body)
    for _ in range(MAX_CALLS):
        a.send(b.recipient())
    with pytest.raises(LocalFault):
        a.send(b.recipient())


# ------------------------------------------------------------------ a wire as it is


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 25), st.integers(0, 50), st.integers(0, 300_000), st.booleans())
def test_through_loss_duplicates_and_reordering(
    seed: int, loss: int, twice: int, jitter_us: int, through_home: bool
) -> None:
    """Whatever the wire does, nothing comes twice, and what is called delivered was read."""
    wire = Wire(seed)
    a = wire.node("a", "192.0.2.1")
    b = lodged(wire)[0] if through_home else wire.node("b", "192.0.3.1")
    wire.loss, wire.twice, wire.jitter_us = loss, twice, jitter_us
    handles = {number: a.send(b.recipient(), body=bytes([number]) * 2000) for number in range(3)}
    wire.run(60)
    got = [called.body[0] for called in b.called]
    assert len(got) == len(set(got))
    for number, handle in handles.items():
        assert not a.sent[handle].delivered or number in got
        if loss <= 5:
            assert a.sent[handle].delivered


def test_a_fifth_is_lost_and_nearly_all_arrive() -> None:
    delivered = 0
    for seed in range(60):
        wire = Wire(seed, loss=20)
        a, b = pair(wire)
        handle = a.send(b.recipient())
        wire.run(LIFE_US / SECOND + 10)
        delivered += a.sent[handle].delivered
    assert delivered >= 58


def test_a_call_ends_whatever_happens() -> None:
    """Answers that get nothing on do not keep it alive, nor make it send for ever."""
    for status in range(9):
        wire = Wire()
        a, b = pair(wire)
        handle = a.send(b.recipient())
        b.here = False
        for step in range(400):
            wire.run(0.1)
            transactions = [decode_call(one[1:]).t for one in wire.traffic(a.endpoint, b.endpoint)]
            answer = Taken(transactions[-1], b"token 8b", status, step % 8, b"receipt!")
            a.calls.receive(encode_call(answer), b.endpoint, wire.now_us, wire.unix_us)
        assert handle in a.sent, status
        assert not a.sent[handle].delivered
        assert len(wire.traffic(a.endpoint, b.endpoint)) <= 16 * 4 + 30, status


# ------------------------------------------------------------------ who lies


def test_delivered_cannot_be_faked() -> None:
    """An address that says so, with no receipt, a wrong one, or that of another event."""
    for receipt in (b"", bytes(8), b"guessed!"):
        wire = Wire()
        a, b = pair(wire)

        def lie(
            datagram: bytes, source: Endpoint, _to: Endpoint, b: Node = b, receipt: bytes = receipt
        ) -> bytes:
            message = taken(datagram)
            if source != b.endpoint or message is None or message.status != Status.DELIVERED:
                return datagram
            return encode_call(msgspec.structs.replace(message, receipt=receipt))

        wire.change = lie
        handle = a.send(b.recipient())
        wire.run(30)
        assert not a.sent[handle].delivered
        assert a.sent[handle].refused == 1
        assert a.calls.counters["said to be delivered, without the receipt of who opened it"] == 1


def test_the_receipt_of_one_event_is_none_for_another() -> None:
    wire = Wire()
    a, b = pair(wire)
    first = a.send(b.recipient())
    wire.run(1)
    old = next(m for m in map(taken, wire.traffic(b.endpoint, a.endpoint)) if m and m.receipt)

    def repeat(datagram: bytes, _source: Endpoint, _to: Endpoint) -> bytes:
        message = taken(datagram)
        return encode_call(msgspec.structs.replace(message, receipt=old.receipt)) if message else datagram

    wire.change = repeat
    second = a.send(b.recipient())
    wire.run(30)
    assert a.sent[first].delivered
    assert not a.sent[second].delivered


def test_a_liar_does_not_keep_the_true_one_from_being_heard() -> None:
    wire = Wire()
    a, b = pair(wire)
    liar = wire.node("liar", "203.0.113.9")

    def lie(datagram: bytes, source: Endpoint, _to: Endpoint) -> bytes:
        message = taken(datagram)
        if source != liar.endpoint or message is None:
            return datagram
        return encode_call(Taken(message.t, message.token, 1, 0, b"a lie..."))

    wire.change = lie
    to = b.recipient()
    handle = a.send(Recipient(to.bundle, to.secret, (liar.endpoint, b.endpoint)))
    wire.run(5)
    assert a.sent[handle].delivered


def test_only_the_address_that_was_asked_answers() -> None:
    wire = Wire()
    a, b = pair(wire)
    b.here = False
    handle = a.send(b.recipient())
    wire.run(0.1)
    [ask] = wire.traffic(a.endpoint, b.endpoint)
    t = decode_call(ask[1:]).t
    for source, transaction in ((at("203.0.113.9"), t), (b.endpoint, T)):
        for status in range(8):
            answer = encode_call(Taken(transaction, b"token 8b", status, 0, bytes(8)))
            a.calls.receive(answer, source, wire.now_us, wire.unix_us)
    assert not a.calls.outgoing
    assert a.calls.counters["answer to no event that we sent"] == 16
    wire.run(30)
    assert a.sent[handle].refused == 0


# ------------------------------------------------------------------ who asks


def test_an_unlisted_machine_answers_as_if_it_were_another() -> None:
    """Who has its key bundle and its address, but not its lookup secret, learns nothing from it."""
    wire = Wire()
    a, b = pair(wire)
    stranger = wire.node("stranger", "203.0.113.9")
    bundle = b.machine.bundle
    for node in (b, stranger):
        a.send(Recipient(bundle, bytes(16), (node.endpoint,)))
    wire.run(30)
    said: list[list[tuple[int, int, bytes]]] = []
    for node in (b, stranger):
        answers = [message for message in map(taken, wire.traffic(node.endpoint, a.endpoint)) if message]
        said.append([(message.status, message.have, message.receipt) for message in answers])
    assert said[0] == said[1]
    assert [len(one) for one in wire.traffic(b.endpoint, a.endpoint)] == [
        len(one) for one in wire.traffic(stranger.endpoint, a.endpoint)
    ]
    assert not b.called
    assert all(sent.refused == 1 for sent in a.sent.values())


def test_a_listed_machine_opens_for_either_secret() -> None:
    wire = Wire()
    a, b = pair(wire)
    b.calls.listen((SECRET, b"published secret"))
    handles = [
        a.send(Recipient(b.machine.bundle, one, (b.endpoint,))) for one in (SECRET, b"published secret")
    ]
    wire.run(5)
    assert all(a.sent[handle].delivered for handle in handles)


def opens(wire: Wire, a: Node, b: Node, secret: bytes) -> bool:
    handle = a.send(Recipient(b.machine.bundle, secret, (b.endpoint,)))
    wire.run(5)
    return a.sent[handle].delivered


def test_an_answer_opens_under_the_secret_that_was_given_for_it_until_others_are() -> None:
    wire = Wire()
    a, b = pair(wire)
    given, another = b"given for answer", b"given to another"
    assert not opens(wire, a, b, given)
    b.calls.answer_to((another, given))
    assert all(opens(wire, a, b, secret) for secret in (given, another, SECRET))
    b.calls.listen((SECRET, b"published secret"))
    assert all(opens(wire, a, b, secret) for secret in (given, another, b"published secret"))
    b.calls.answer_to((another,))
    assert not opens(wire, a, b, given)
    assert all(opens(wire, a, b, secret) for secret in (another, SECRET, b"published secret"))
    b.calls.answer_to(())
    b.calls.listen((SECRET,))
    assert [opens(wire, a, b, secret) for secret in (another, b"published secret", SECRET)] == [
        False,
        False,
        True,
    ]


def test_so_many_answers_may_be_awaited_and_no_more() -> None:
    wire = Wire()
    a, b = pair(wire)
    secrets = tuple(number.to_bytes(16, "big") for number in range(MAX_ANSWERS + 1))
    b.calls.answer_to(secrets[1:])
    with pytest.raises(LocalFault, match="64 answers"):
        b.calls.answer_to(secrets)
    assert [opens(wire, a, b, secret) for secret in (secrets[0], secrets[1], secrets[-1])] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("token", [b"", b"guessed!", b"short"])
def test_an_unproven_address_gets_little_and_leaves_nothing(token: bytes) -> None:
    """A forged source: at most three times its bytes, in all no state."""
    core = Calls(machine_of("b"), (SECRET,), bytes(32), entropy_of("b"), 0)
    for handle in (bytes(16), b"handle, 16 bytes"):
        for size in (0, 1, 900):
            datagram = encode_call(Event(T, token, handle, b"event 8b", 0, 1, bytes(size)))
            core.receive(datagram, at("192.0.2.1"), 0, 0)
            [(answer, target)] = core.outgoing
            core.outgoing.clear()
            assert target == at("192.0.2.1")
            assert len(answer) <= 3 * len(datagram)
            assert decode_call(answer[1:]).status == Status.SHOW_TOKEN  # type: ignore[union-attr]
    assert core.deadline_us() == 1 << 62
    assert not core.events
    assert len(core._inbox.partials) == len(core._home.partials) == 0


def test_a_token_is_of_one_address() -> None:
    core = Calls(machine_of("b"), (SECRET,), bytes(32), entropy_of("b"), 0)
    token = core.tokens.make(at("192.0.2.1"), 0)
    datagram = encode_call(Event(T, token, bytes(16), b"event 8b", 0, 2, bytes(900)))
    core.receive(datagram, at("192.0.2.2"), 0, 0)
    assert decode_call(core.outgoing[0][0][1:]).status == Status.SHOW_TOKEN  # type: ignore[union-attr]
    assert len(core._inbox.partials) == 0
    core.receive(datagram, at("192.0.2.1"), 0, 0)
    assert len(core._inbox.partials) == 1


# ------------------------------------------------------------------ replays


def test_an_event_that_is_sent_again_is_taken_once() -> None:
    """By somebody who recorded it and shows a token of its own: acknowledged, not heard again."""
    wire = Wire()
    a, b = pair(wire)
    a.send(b.recipient())
    wire.run(1)
    replayer = at("203.0.113.9")
    parts = [decode_call(one[1:]) for one in wire.traffic(a.endpoint, b.endpoint) if len(one) > 900]
    for later in (0, 60, 3600, 2 * 3600):
        b.calls._inbox._receipts.clear()  # as after many other events
        wire.run(later)
        for part in parts:
            token = b.calls.tokens.make(replayer, wire.now_us)
            again = encode_call(msgspec.structs.replace(part, token=token))
            b.calls.receive(again, replayer, wire.now_us, wire.unix_us)
    wire.flush()
    assert len(b.called) == 1
    assert b.calls.counters["event that was here before"] == 3
    assert b.calls.counters["event out of its time"] == 1


def test_a_restart_does_not_make_old_events_new() -> None:
    wire = Wire()
    a, b = pair(wire)
    a.send(b.recipient())
    wire.run(1)
    parts = [decode_call(one[1:]) for one in wire.traffic(a.endpoint, b.endpoint) if len(one) > 900]
    b.restart(b.calls.save())
    for part in parts:
        token = b.calls.tokens.make(a.endpoint, wire.now_us)
        again = encode_call(msgspec.structs.replace(part, token=token))
        b.calls.receive(again, a.endpoint, wire.now_us, wire.unix_us)
    wire.flush()
    assert len(b.called) == 1


def test_a_clock_ten_minutes_off_still_calls() -> None:
    for skew, fine in ((9, True), (-69, True), (11, False), (-71, False)):
        wire = Wire()
        a, b = pair(wire)
        unix_us = wire.unix_us + skew * 60 * SECOND
        handle = a.calls.send(b.recipient(), "a", b"", wire.now_us, unix_us)
        wire.run(10)
        assert a.sent[handle].delivered is fine
        assert len(b.called) == fine


# ------------------------------------------------------------------ floods


def flooded(core: Calls, networks: int, count: int) -> int:
    """Whole junk events at one moment, from proven addresses: how many were opened."""
    for number in range(count):
        source = at(f"203.{number % networks}.113.{1 + number // networks % 250}")
        token = core.tokens.make(source, 0)
        sealed = number.to_bytes(4, "big") + b"\t" * 896 + bytes(900)
        event = Event(T, token, bytes(16), event_id(sealed), 0, 2, sealed[:900])
        core.receive(encode_call(event), source, 0, 0)
        core.receive(encode_call(msgspec.structs.replace(event, part=1, chunk=bytes(900))), source, 0, 0)
    return core.counters["the box does not open"]


@pytest.mark.parametrize(("networks", "opened"), [(1, 10), (5, 50), (50, 100)])
def test_a_flood_is_opened_at_a_bounded_rate(networks: int, opened: int) -> None:
    core = Calls(machine_of("b"), (SECRET,), bytes(32), entropy_of("b"), 0)
    assert flooded(core, networks, 500) == opened
    assert core.counters["event above the rate that is read"] >= 400


def test_a_flood_from_one_network_keeps_nobody_out() -> None:
    wire = Wire()
    a, b = pair(wire)
    for number in range(300):
        source = at(f"203.0.113.{1 + number % 250}")
        token = b.calls.tokens.make(source, wire.now_us)
        event = Event(T, token, bytes(16), number.to_bytes(8, "big"), 0, 9, bytes(900))
        b.calls.receive(encode_call(event), source, wire.now_us, wire.unix_us)
    handle = a.send(b.recipient())
    wire.run(2)
    assert a.sent[handle].delivered


@given(st.binary(max_size=1200), st.sampled_from(["192.0.2.1", "203.0.113.1"]))
def test_arbitrary_datagrams(data: bytes, host: str) -> None:
    core = Calls(machine_of("b"), (SECRET,), bytes(32), entropy_of("b"), 0)
    core.receive(b"\xd2" + data, at(host), 0, 0)
    core.receive(b"\xd2", at(host), 0, 0)
    assert sum(len(one) for one, _ in core.outgoing) <= 3 * (len(data) + 1)
    assert core.counters["call that does not parse"] >= 1


_MINE = handle_of(SeedSigner(expand(bytes(32), b"zeqnode lodging v1", at("203.0.113.1"))).public)
_EVENTS = st.builds(
    Event,
    *(st.sampled_from([T, b"another8"]), st.just(b""), st.sampled_from([bytes(16), _MINE])),
    *(st.just(b"event 8b"), st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([b"", bytes(900), b"\1" * 900, b"short"]),
)
_TAKEN = st.builds(Taken, st.just(T), st.just(b""), st.integers(0, 9), st.integers(0, 0xFFFF))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.one_of(_EVENTS, _TAKEN), st.booleans()), max_size=12))
def test_arbitrary_messages_with_a_good_token(messages: list[tuple[Event | Taken, bool]]) -> None:
    """Well-formed and proven: nothing raises, nothing is believed, and one gets one answer at most."""
    core = Calls(machine_of("b"), (SECRET,), bytes(32), entropy_of("b"), 0)
    core.serve(True)
    core.lodge([at("203.0.113.1")], 0)
    core.tick(0, 0)
    core.events.clear()
    for now_us, (message, home) in enumerate(messages):
        source = at("203.0.113.1" if home else "192.0.2.1")
        proven = msgspec.structs.replace(message, token=core.tokens.make(source, now_us))
        core.outgoing.clear()
        core.receive(encode_call(proven), source, now_us, 0)
        assert len(core.outgoing) <= 1
    assert not core.events
