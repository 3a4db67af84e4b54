"""Overlays among liars: poisoned answers, forged ones, an eclipse, floods; and arbitrary bytes."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht import contacts, endpoints
from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.messages import (
    DhtMessage,
    Find,
    Get,
    Nodes,
    Ping,
    Pong,
    Reached,
    Store,
    Stored,
    Values,
    decode_dht,
    encode_dht,
)
from dht.outcomes import Found, Got, Put
from dht.overlay import Overlay
from dht.routing import K
from dht.searches import PAGE_LEAST, VALUES_BYTES
from tests.dht.overlay_world import SECOND, UNIX_US, Node, Shelf, World, entropy

TOKEN = b"token 8b"


class Liar(Node):
    """Answers every Find and Get with its accomplices and addresses where nobody is, every Get with values
    that nobody stored too. Else it is an ordinary node, and so in the tables of others."""

    accomplices: list[Liar]
    target = 0  # of the last question

    def hear(self, datagram: bytes) -> None:
        message = decode_dht(datagram[1:])
        if isinstance(message, Find | Get):
            wanted = message.target if isinstance(message, Find) else message.key
            self.target = int.from_bytes(wanted, "big")
            self.asked_for_values = isinstance(message, Get)

    def settle(self) -> None:
        out = self.overlay.outgoing
        for place, (datagram, to) in enumerate(out):
            message = decode_dht(datagram[1:])
            if isinstance(message, Nodes | Values):
                out[place] = encode_dht(self.lie(message)), to
        super().settle()

    def lie(self, message: Nodes | Values) -> DhtMessage:
        near = sorted(self.accomplices, key=lambda one: one.id ^ self.target)[:10]
        wires = [one.overlay.where.tail + one.endpoint for one in near]
        wires += [
            self.world.random.randbytes(24) + bytes([99]) + self.world.random.randbytes(5) for _ in range(6)
        ]
        head = (message.t, message.tail, message.you, message.token, b"".join(wires))
        if not self.asked_for_values:
            return Nodes(*head)
        lies = msgspec.msgpack.encode([b"forged:" + self.world.random.randbytes(100)])
        return Values(*head, len(lies), bytes(8), 0, lies)

    asked_for_values = False


def with_liars(count: int, percent: int, seed: int = 11) -> World:
    world = World(seed, loss=10)
    liars: list[Liar] = []
    truthful = [world.join().endpoint]
    for _ in range(count):
        if world.random.randrange(100) < percent:
            liar = Liar(world, world.endpoint())
            liar.accomplices = liars
            liars.append(liar)
            world.nodes[liar.endpoint] = liar
            liar.overlay.bootstrap([world.random.choice(truthful)], world.now_us)
            liar.settle()
        else:
            node = world.join()
            # One of the three who invited it is honest: among liars alone nobody could be helped.
            starts = [world.random.choice(some) for some in (list(world.nodes), list(world.nodes), truthful)]
            node.overlay.bootstrap(starts, world.now_us)
            truthful.append(node.endpoint)
            node.settle()
        world.run(0.1)
    original = world._deliver

    def deliver(datagram: bytes, source: Endpoint, target: Endpoint) -> None:
        node = world.nodes.get(target)
        if isinstance(node, Liar):
            node.hear(datagram)
        original(datagram, source, target)

    world._deliver = deliver  # type: ignore[method-assign]
    world.run(120)
    return world


def honest(world: World) -> list[Node]:
    return [node for node in world.living() if not isinstance(node, Liar)]


def test_with_a_fifth_of_liars_the_true_record_is_found() -> None:
    """The caller knows a forged record when it sees one (in the product by its signature) and so goes on."""
    world = with_liars(200, 20)
    right = 0
    for number in range(60):
        key, record = world.random.randbytes(32), b"true:%d" % number
        world.put(world.random.choice(honest(world)), [record], key)
        found, last = world.get(world.random.choice(honest(world)), key, enough=False)
        right += record in found
        assert last.messages <= 200
    assert right == 60


def test_a_victim_that_begins_among_liars_still_finds() -> None:
    """An eclipse: two of the three whom it meets first are attackers; a twentieth of all are."""
    world = with_liars(200, 5)
    liars = [node.endpoint for node in world.living() if isinstance(node, Liar)]
    key = world.random.randbytes(32)
    world.put(world.random.choice(honest(world)), [b"true:"], key)
    right = 0
    for _ in range(20):
        victim = world.join()
        victim.overlay.bootstrap([*liars[:2], world.random.choice(honest(world)).endpoint], world.now_us)
        victim.settle()
        world.run(10)
        records, _ = world.get(victim, key, enough=False)
        right += b"true:" in records
    assert right >= 19


# ------------------------------------------------------------------ one liar, word by word


class Stranger:
    """Who talks to one overlay, from wherever it likes."""

    def __init__(self) -> None:
        self.overlay = Overlay(4, bytes(range(24)), entropy("victim"), 0, Shelf(), serving=True)
        self.now_us = 0
        self.endpoint = bytes([60, 1, 1, 1, 0xCA, 0x41])
        self.tail = bytes([7]) * 24

    def out(self) -> list[tuple[DhtMessage, Endpoint]]:
        self.overlay.tick(self.now_us, UNIX_US)
        found = [(decode_dht(datagram[1:]), to) for datagram, to in self.overlay.outgoing]
        self.overlay.outgoing.clear()
        return found

    def say(self, message: DhtMessage, source: Endpoint | None = None) -> None:
        self.now_us += 1000
        self.overlay.receive(encode_dht(message), source or self.endpoint, self.now_us, UNIX_US)

    def enter(self) -> Contact:
        """Into the table, as bootstraps are."""
        self.overlay.bootstrap([self.endpoint], self.now_us)
        [(ping, _)] = self.out()
        self.say(Pong(ping.t, self.tail, bytes([50, 1, 1, 1, 0, 9]), TOKEN))
        self.answer_all(b"")
        return contacts.at(self.tail, self.endpoint)

    def answer_all(self, named: bytes) -> list[Endpoint]:
        """Every Find gets these contacts; whom else it asks meanwhile."""
        asked: list[Endpoint] = []
        while messages := self.out():
            for message, to in messages:
                if to != self.endpoint:
                    asked.append(to)
                elif isinstance(message, Find):
                    self.say(Nodes(message.t, self.tail, bytes([50, 1, 1, 1, 0, 9]), TOKEN, named))
        return asked


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    stranger = Stranger()
    tail, you = bytes(24), bytes([50, 1, 1, 1, 0, 9])
    for number in range(100):
        source = bytes([61, number, 1, 1, 0xCA, 0x41])
        t = number.to_bytes(8, "big")
        stranger.say(Pong(t, tail, you, TOKEN), source)
        stranger.say(Nodes(t, tail, you, TOKEN, tail + source), source)
        stranger.say(Stored(t, tail, you, TOKEN, 0), source)
        stranger.say(Reached(t), source)
    assert stranger.overlay.size == 0
    assert stranger.overlay.endpoint is None
    assert stranger.overlay.counters["answer that nobody asked for"] == 300
    assert stranger.overlay.counters["reached, but nobody waits for it"] == 100
    assert stranger.out() == []


def test_only_contacts_of_the_liars_own_scope_are_called() -> None:
    """A node on the Internet names loopback, private, link-local, multicast and unusable addresses."""
    stranger = Stranger()
    stranger.enter()
    hosts = [
        [127, 0, 0, 1],
        [10, 0, 0, 1],
        [192, 168, 1, 1],
        [169, 254, 1, 1],
        [100, 64, 0, 1],
        [224, 0, 0, 1],
    ]
    bad = [
        bytes([number]) * 24 + bytes([*host, 0, 53])
        for number, host in enumerate([*hosts, [0] * 4, [255] * 4])
    ]
    good = bytes([99]) * 24 + bytes([61, 1, 1, 1, 0, 53])
    stranger.overlay.find(bytes(32), stranger.now_us)
    asked = stranger.answer_all(b"".join([*bad, bytes(24) + bytes([61, 2, 1, 1, 0, 0]), good]))
    assert set(asked) == {good[24:]}
    assert stranger.overlay.counters["named contacts that we may not call"]


def test_on_a_lan_nodes_name_each_other() -> None:
    stranger = Stranger()
    stranger.endpoint = bytes([192, 168, 1, 5, 0xCA, 0x41])
    stranger.enter()
    other = bytes([192, 168, 1, 6, 0xCA, 0x41])
    stranger.overlay.find(bytes(32), stranger.now_us)
    asked = stranger.answer_all(bytes([9]) * 24 + other)
    assert other in asked


def test_contacts_cut_short_are_none() -> None:
    stranger = Stranger()
    stranger.enter()
    stranger.overlay.find(bytes(32), stranger.now_us)
    assert stranger.answer_all(bytes([9]) * 24 + bytes([61, 1, 1, 1, 0])) == []


def test_who_answers_under_another_id_is_not_who_was_asked() -> None:
    stranger = Stranger()
    known = stranger.enter()
    assert known in stranger.overlay.table
    stranger.tail = bytes([8]) * 24
    handle = stranger.overlay.find(known.id, stranger.now_us)
    stranger.answer_all(b"")
    assert known not in stranger.overlay.table
    assert stranger.overlay.counters["answered under another id"] == 1
    found = [event for event in stranger.overlay.events if isinstance(event, Found)]
    true = contacts.at(stranger.tail, stranger.endpoint)
    assert [(event.handle, event.contacts) for event in found] == [(handle, [true])]


def test_nodes_named_by_false_ids_are_found_by_their_true_ones() -> None:
    """A liar names the closest of all under ids that they do not have, before anybody names them truly."""
    world = World(5)
    nodes = world.grow(40)
    world.run(60)
    key = world.random.randbytes(32)
    world.put(nodes[0], [b"true:"], key)
    holders = [node for node in nodes if key in node.shelf.kept]
    asker = next(node for node in nodes if node not in holders)
    asker.overlay.table.turn(asker.overlay.table.own, 0)
    for contact in list(asker.overlay.table):
        asker.overlay.table.remove_contact(contact)
    for node in holders:
        false = contacts.at(bytes([node.overlay.where.tail[0]]) + bytes(23), node.endpoint)
        asker.overlay.table.add_contact(false, 0)
    records, _ = world.get(asker, key)
    assert b"true:" in records
    found = world.find(asker, key)
    assert {contact.endpoint for contact in found.contacts} == set(world.closest(key))
    assert asker.overlay.counters["answered under another id"] >= len(holders) // 2


@pytest.mark.parametrize(
    ("total", "pages"),
    [
        (0xFFFFFF, [bytes(1000)] * 100),
        (VALUES_BYTES + 1, [bytes(1000)] * 100),
        (5000, [b"x"] * 5000),  # one byte at a time
        (5000, [bytes(PAGE_LEAST - 1)] * 100),
        (5000, [b""] * 100),
        (100, [bytes(1000)]),
        (1000, [bytes(1000)]),  # no records
        (2000, [bytes(1000)] * 2),
    ],
)
def test_values_that_never_end_or_are_none_are_dropped(total: int, pages: list[bytes]) -> None:
    stranger = Stranger()
    stranger.enter()
    handle = stranger.overlay.get(bytes(32), stranger.now_us)
    offset = served = 0
    while messages := stranger.out():
        for message, _ in messages:
            if isinstance(message, Get):
                assert message.offset == offset
                page = pages[served]
                served += 1
                stranger.say(
                    Values(message.t, stranger.tail, bytes(6), TOKEN, b"", total, bytes(8), offset, page)
                )
                offset += len(page)
    [got] = [event for event in stranger.overlay.events if isinstance(event, Got)]
    assert (got.handle, got.records, got.final) == (handle, [], True)
    assert served <= 2
    counters = stranger.overlay.counters
    assert counters["page of values that does not fit"] + counters["values that are no records"] == 1


def test_who_takes_parts_for_ever_is_left() -> None:
    """STORE is answered with `more parts are missing` each time, then with nonsense."""
    for status in (1, 2, 3, 4, 0xFFFF):
        stranger = Stranger()
        stranger.enter()
        stranger.overlay.put([bytes(2000)], bytes(32), stranger.now_us)
        stores = 0
        while messages := stranger.out():
            for message, _ in messages:
                if isinstance(message, Find):
                    stranger.say(Nodes(message.t, stranger.tail, bytes(6), TOKEN, b""))
                elif isinstance(message, Store):
                    stores += 1
                    stranger.say(Stored(message.t, stranger.tail, bytes(6), TOKEN, status))
        assert stores <= 3
        [put] = [event for event in stranger.overlay.events if isinstance(event, Put)]
        assert (put.stored, put.asked) == (1, 2)


def test_who_gives_no_token_is_not_pinged_for_ever() -> None:
    stranger = Stranger()
    stranger.enter()
    stranger.now_us += 400 * SECOND
    stranger.overlay.put([b"record:"], bytes(32), stranger.now_us)
    pings = 0
    for _ in range(50):
        for message, _ in stranger.out():
            if isinstance(message, Find):
                stranger.say(Nodes(message.t, stranger.tail, bytes(6), b"", b""))
            elif isinstance(message, Ping):
                pings += 1
                stranger.say(Pong(message.t, stranger.tail, bytes(6), b"1234567"))
    assert pings <= 2
    assert any(isinstance(event, Put) for event in stranger.overlay.events)


# ------------------------------------------------------------------ arbitrary bytes


def _busy() -> Stranger:
    stranger = Stranger()
    stranger.enter()
    stranger.overlay.put([bytes(3000)], bytes(32), stranger.now_us)
    stranger.overlay.get(bytes([1]) * 32, stranger.now_us)
    stranger.overlay.check_reach(stranger.now_us)
    return stranger


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(min_size=6, max_size=6), st.integers(0, 10**7))))
def test_arbitrary_datagrams_do_no_harm(arrivals: list[tuple[bytes, bytes, int]]) -> None:
    stranger = _busy()
    for data, source, after_us in arrivals:
        stranger.now_us += after_us
        for datagram in (data, b"\xd0" + data):
            stranger.overlay.receive(datagram, source, stranger.now_us, UNIX_US)
        stranger.out()
        assert stranger.overlay.deadline_us() > stranger.now_us - 1


message_bytes = st.one_of(
    st.builds(
        lambda kind, fields: b"\xd0" + msgspec.msgpack.encode([kind, *fields]),
        st.integers(0, 21),
        st.lists(
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from([bytes(8), bytes(24), bytes(32), bytes(6), b"", TOKEN]),
                st.integers(0, 70_000),
                st.none(),
            ),
            max_size=9,
        ),
    ),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(message_bytes, st.integers(0, 3)), max_size=30), st.integers(0, 2**32))
def test_messages_of_any_content_do_no_harm(arrivals: list[tuple[bytes, int]], seed: int) -> None:
    """Well-formed and not, under transactions that are under way and others, from those asked and others."""
    stranger, draw = _busy(), Random(seed)
    for datagram, source in arrivals:
        out = stranger.out()
        if out and draw.randrange(2):
            datagram = datagram.replace(bytes(8), out[draw.randrange(len(out))][0].t, 1)
        stranger.now_us += draw.randrange(2 * SECOND)
        where = stranger.endpoint if source else bytes([draw.randrange(1, 240), 1, 1, 1, 0, 53])
        stranger.overlay.receive(datagram, where, stranger.now_us, UNIX_US)
        assert all(len(datagram) <= 1200 for datagram, _ in stranger.overlay.outgoing)
        assert all(endpoints.usable(to) or to == where for _, to in stranger.overlay.outgoing)
    stranger.now_us += 60 * SECOND
    for _ in range(30):
        stranger.out()
        stranger.now_us += 2 * SECOND
    assert stranger.overlay.size <= K


def test_a_flood_of_questions_leaves_nothing_behind() -> None:
    """Twenty thousand questions of as many addresses: no state for any of them."""
    stranger = Stranger()
    stranger.enter()
    question = encode_dht(Get(bytes(8), b"", b"", bytes(32)))
    for number in range(20_000):
        source = bytes([11 + number % 80, number >> 8 & 255, number & 255, 1, 0, 53])
        stranger.overlay.receive(question, source, stranger.now_us, UNIX_US)
    assert len(stranger.overlay.outgoing) == 20_000
    assert stranger.overlay.size == 1
    assert len(stranger.overlay._questions._under_way) < 40
