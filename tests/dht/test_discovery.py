"""Whole discoveries with each other, in virtual time: find, offer, withdraw, call through homes, tags."""

from __future__ import annotations

import gc
import heapq
from collections.abc import Iterator
from hashlib import shake_256
from itertools import count

import pytest

from crypto.identity import MachineKeys, slug
from crypto.kem import HybridKey, RealPrimitives
from dht import endpoints, locations
from dht.calls import Machine, Recipient, Sent
from dht.discovery import Discovery
from dht.endpoints import Endpoint
from dht.finding import MachineFound, MarketRefreshed, SlugFound
from dht.marketplace import Probe
from dht.offers import Offer
from dht.signatures import MachineSigner
from dht.tags import Tagged

SECOND = 1_000_000
UNIX = 1_795_000_000 * SECOND  # not near midnight
LATENCY = 30_000


class Node:
    def __init__(self, world: Mesh, number: int, public: bool | None = None, behind: bool = False) -> None:
        self.keys = MachineKeys.generate(world.entropy(number))
        self.secret = world.entropy(number, b"secret")(16)
        self.endpoint = endpoints.pack(f"203.{number}.7.1", 51777)
        self.own = endpoints.pack(f"192.168.{number}.2", 51777) if behind else self.endpoint
        self.behind = behind
        self.asked: set[Endpoint] = set()
        machine = Machine(
            self.keys.bundle,
            HybridKey(self.keys.x25519_key, self.keys.ml_kem_key),
            MachineSigner(self.keys),
            RealPrimitives(),
        )
        lodging = world.entropy(number, b"lodging")(32)
        self.core = Discovery(
            *(machine, self.secret, lodging, world.entropy(number, b"core"), world.now),
            families=(4, 6),
            public=public,
            work=(0, 2),
        )

    @property
    def recipient(self) -> Recipient:
        return Recipient(self.keys.bundle, self.secret)


class Mesh:
    """Nodes in networks of their own, 30 ms apart; who is `behind` hears only from whom it wrote to."""

    def __init__(self, size: int, *, behind: int = 0) -> None:
        self.now = 10**9
        self._order = count()
        self._heap: list[tuple[int, int, Endpoint, bytes, Endpoint]] = []
        self.nodes = [Node(self, number) for number in range(1, size + 1)]
        self.nodes += [Node(self, 100 + number, behind=True) for number in range(behind)]
        self.at = {node.endpoint: node for node in self.nodes}
        for node in self.nodes:
            if node is not self.nodes[0]:
                node.core.bootstrap([self.nodes[0].endpoint], self.now)
            node.core.publish([node.own], False, self.now, self.unix)
        self.run(150)

    @property
    def unix(self) -> int:
        return UNIX + self.now

    def entropy(self, number: int, what: bytes = b""):  # type: ignore[no-untyped-def]
        calls: Iterator[int] = count()
        return lambda size: shake_256(what + bytes([number]) + next(calls).to_bytes(8, "big")).digest(size)

    def flush(self, node: Node) -> None:
        for datagram, to in node.core.outgoing:
            node.asked.add(to)
            heapq.heappush(self._heap, (self.now + LATENCY, next(self._order), to, datagram, node.endpoint))
        node.core.outgoing.clear()  # as the shell does

    def run(self, seconds: float) -> None:
        until = self.now + int(seconds * SECOND)
        for node in self.nodes:
            self.flush(node)
        while True:
            due, who = min((max(self.now, node.core.deadline_us()), n) for n, node in enumerate(self.nodes))
            arrives = self._heap[0][0] if self._heap else 2**62
            if min(due, arrives) > until:
                self.now = until
                return
            if arrives <= due:
                self.now, _, to, datagram, source = heapq.heappop(self._heap)
                found = self.at.get(to)
                if found is None or (found.behind and source not in found.asked):
                    continue
                node = found
                node.core.receive(datagram, source, self.now, self.unix)
            else:
                self.now, node = due, self.nodes[who]
                node.core.tick(self.now, self.unix)
            self.flush(node)

    def ask(self, node: Node, handle: int, kind: type, seconds: float = 20) -> object:
        self.flush(node)
        for _ in range(int(seconds * 10)):
            for event in node.core.events:
                if isinstance(event, kind) and getattr(event, "handle", None) == handle:
                    return event
            self.run(0.1)
        raise AssertionError(f"no {kind.__name__} in {seconds} s")

    def find(self, node: Node, other: Node, secret: bytes) -> locations.Location | None:
        key = other.keys.bundle.ed25519
        handle = node.core.lookup_machine(other.keys.machine_id, key, secret, self.now, self.unix)
        found = self.ask(node, handle, MachineFound)
        assert isinstance(found, MachineFound)
        return found.location


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """Twelve that can be reached, two that cannot."""
    return Mesh(12, behind=2)


def offer_of(node: Node, price: int = 50) -> Offer:
    return Offer(node.keys.machine_id, price, 1, 8, ("EU",), "DE", since=1)


def test_who_has_the_lookup_secret_finds_a_machine(mesh: Mesh) -> None:
    location = mesh.find(mesh.nodes[3], mesh.nodes[8], mesh.nodes[8].secret)
    assert location is not None
    assert mesh.nodes[8].endpoint in location.endpoints


def test_without_the_secret_nothing_is_found(mesh: Mesh) -> None:
    other = mesh.nodes[8]
    assert mesh.find(mesh.nodes[3], other, bytes(16)) is None
    assert mesh.find(mesh.nodes[3], other, locations.listed_secret(other.keys.machine_id)) is None


def test_nodes_that_can_be_reached_serve_and_others_lodge(mesh: Mesh) -> None:
    serving = [node.core.overlays[0].serving for node in mesh.nodes]
    assert serving == [True] * 12 + [False] * 2
    for hidden in mesh.nodes[12:]:
        assert len(hidden.core.calls.homes) == 3
        location = mesh.find(mesh.nodes[0], hidden, hidden.secret)
        assert location is not None
        assert location.homes == hidden.core.calls.homes


def test_a_machine_behind_a_nat_is_called_through_its_homes(mesh: Mesh) -> None:
    caller, hidden = mesh.nodes[5], mesh.nodes[12]
    location = mesh.find(caller, hidden, hidden.secret)
    assert location is not None
    number = hidden.core.subscribe("vpn.call")
    to = Recipient(hidden.keys.bundle, hidden.secret, location.endpoints, location.homes)
    handle = caller.core.send_event(to, "vpn.call", b"here I am", mesh.now, mesh.unix)
    sent = mesh.ask(caller, handle, Sent)
    assert isinstance(sent, Sent)
    assert sent.delivered
    heard = [event for event in hidden.core.events if isinstance(event, Tagged)]
    assert [(event.tag, event.author, event.body) for event in heard] == [
        ("vpn.call", caller.keys.machine_id, b"here I am")
    ]
    hidden.core.unsubscribe(number)


def test_an_answer_finds_a_machine_that_nobody_could_look_up_at_the_places_that_it_named(mesh: Mesh) -> None:
    """As who asks tells it to who answers, with a secret for the answer; publishing again changes nothing."""
    answerer, hidden = mesh.nodes[4], mesh.nodes[13]
    given = b"given for answer"
    hidden.core.answer_to((given,))
    hidden.core.publish([hidden.own], False, mesh.now, mesh.unix)
    where, homes = hidden.core.places()
    assert len(homes) == 3
    location = mesh.find(answerer, hidden, hidden.secret)
    assert location is not None
    assert (where, homes) == (location.endpoints, location.homes)
    number = hidden.core.subscribe("vpn.answer")
    for secret, arrives in ((given, True), (b"given to another", False)):
        to = Recipient(hidden.keys.bundle, secret, where, homes)
        handle = answerer.core.send_event(to, "vpn.answer", b"accepted", mesh.now, mesh.unix)
        sent = mesh.ask(answerer, handle, Sent, seconds=30)
        assert isinstance(sent, Sent)
        assert sent.delivered is arrives
    heard = [event for event in hidden.core.events if isinstance(event, Tagged)]
    assert [event.body for event in heard if event.tag == "vpn.answer"] == [b"accepted"]
    hidden.core.unsubscribe(number)
    hidden.core.answer_to(())


def test_an_offer_reaches_everybody_is_read_from_the_dht_and_withdrawn(mesh: Mesh) -> None:
    relay = mesh.nodes[2]
    relay.core.publish([relay.own], True, mesh.now, mesh.unix)
    relay.core.offer(offer_of(relay), mesh.now, mesh.unix)
    mesh.run(5)
    for node in mesh.nodes:
        assert [one.offer for one in node.core.market("EU", None, mesh.unix)] == [offer_of(relay)]
        assert node.core.market("EU", 49, mesh.unix) == []
        assert node.core.market("US", None, mesh.unix) == []
    mesh.run(10)
    late = Node(mesh, 90)
    mesh.nodes.append(late)
    mesh.at[late.endpoint] = late
    late.core.bootstrap([mesh.nodes[4].endpoint], mesh.now)
    mesh.run(3)
    mesh.ask(late, late.core.refresh_market("DE", mesh.now, mesh.unix), MarketRefreshed)
    listing = late.core.market("DE", None, mesh.unix)[0]
    assert listing.offer == offer_of(relay)
    late.core.checked(listing.signer, Probe(True, 42, mesh.unix // SECOND))
    assert late.core.market("DE", None, mesh.unix)[0].checked is not None

    relay.core.withdraw(offer_of(relay), mesh.now, mesh.unix)
    mesh.run(5)
    assert not any(node.core.market("ANY", None, mesh.unix) for node in mesh.nodes)


def test_who_joins_a_moment_after_its_start_is_found_soon() -> None:
    """It wanted to publish before it knew anybody: that is no reason to wait long once it does."""
    mesh = Mesh(4)
    late = Node(mesh, 90)
    mesh.nodes.append(late)
    mesh.at[late.endpoint] = late
    late.core.publish([late.own], False, mesh.now, mesh.unix)
    mesh.run(1)
    late.core.bootstrap([mesh.nodes[0].endpoint], mesh.now)
    mesh.run(4)
    assert mesh.find(mesh.nodes[1], late, late.secret) is not None


def test_a_mesh_that_grows_has_its_first_records_on_more_shelves_soon() -> None:
    """Who began it published to two others, and would have said so again in an hour."""
    mesh = Mesh(3)
    first = mesh.nodes[0]
    for number in range(60, 90):
        late = Node(mesh, number)
        mesh.nodes.append(late)
        mesh.at[late.endpoint] = late
        late.core.bootstrap([mesh.nodes[1].endpoint], mesh.now)
    mesh.run(1)
    assert first.core.presence.announcer.stored("location 0") <= 3
    mesh.run(310)
    assert first.core.presence.announcer.stored("location 0") >= 10


def test_a_withdrawal_does_not_wait_for_the_offer_to_settle() -> None:
    mesh = Mesh(4)
    relay, reader = mesh.nodes[1], mesh.nodes[2]
    relay.core.offer(offer_of(relay), mesh.now, mesh.unix)
    mesh.run(1)
    assert relay.core.presence.announcer.stored("offer") >= 3
    put_us = mesh.now
    relay.core.withdraw(offer_of(relay), mesh.now, mesh.unix)
    mesh.run(1)
    reader.core.offers.expire(2**40)  # what gossip said
    assert len(reader.core.offers) == 0
    mesh.ask(reader, reader.core.refresh_market("DE", mesh.now, mesh.unix), MarketRefreshed)
    assert reader.core.market("DE", None, mesh.unix) == []
    assert len(reader.core.offers) == 1, "the withdrawal, out of the DHT"
    assert mesh.now - put_us < 5 * SECOND


def test_a_listed_machine_is_found_by_its_slug_and_by_its_id(mesh: Mesh) -> None:
    relay, stranger = mesh.nodes[6], mesh.nodes[9]
    relay.core.publish([relay.own], True, mesh.now, mesh.unix)
    mesh.run(20)
    assert relay.core.presence.announcer.stored("slug") > 1, "a record of two datagrams, kept by others too"
    name = slug(relay.keys.machine_id)
    handle = stranger.core.lookup_slug(name, mesh.now, mesh.unix)
    found = mesh.ask(stranger, handle, SlugFound)
    assert isinstance(found, SlugFound)
    assert found.claims == (relay.keys.bundle,)
    secret = locations.listed_secret(relay.keys.machine_id)
    handle = stranger.core.lookup_machine(relay.keys.machine_id, None, secret, mesh.now, mesh.unix)
    machine = mesh.ask(stranger, handle, MachineFound)
    assert isinstance(machine, MachineFound)
    assert machine.location is not None


def test_a_public_tag_is_heard_by_who_subscribed(mesh: Mesh) -> None:
    number = mesh.nodes[7].core.subscribe("news.*")
    assert mesh.nodes[1].core.publish_tag("news.today", b"rain", mesh.now, mesh.unix) == 0
    mesh.run(5)
    heard = [event for event in mesh.nodes[7].core.events if isinstance(event, Tagged)]
    assert [(event.tag, event.body) for event in heard] == [("news.today", b"rain")]
    mesh.nodes[7].core.unsubscribe(number)


def test_what_is_found_is_told_after_the_shell_has_emptied_the_events(mesh: Mesh) -> None:
    """It takes the list away and leaves another."""
    asker, other = mesh.nodes[3], mesh.nodes[8]
    asker.core.events.clear()
    asker.core.outgoing.clear()
    assert mesh.find(asker, other, other.secret) is not None


def test_tables_survive_a_restart(mesh: Mesh) -> None:
    saved = mesh.nodes[4].core.save()
    again = Node(mesh, 91)
    again.core.load(saved, mesh.now)
    mesh.nodes.append(again)
    mesh.at[again.endpoint] = again
    mesh.run(10)
    assert again.core.overlays[0].size >= 5
    with pytest.raises(ValueError, match="Expected"):
        again.core.load(b"rubbish", mesh.now)


def test_no_sequence_goes_back_over_a_restart_with_the_clock_set_back(mesh: Mesh) -> None:
    node = mesh.nodes[4]
    last = node.core.presence.next(mesh.unix)
    again = Node(mesh, 92)
    again.core.load(node.core.save(), mesh.now)
    assert again.core.presence.next(mesh.unix - 3600 * SECOND) > last


def test_nobody_waits_for_a_family_in_which_nobody_is_known(mesh: Mesh) -> None:
    """As where a machine has IPv6 addresses, and none of the others answers there."""
    node = mesh.nodes[3]
    node.core.bootstrap([endpoints.pack("2001:db8::1", 51777)], mesh.now)
    mesh.run(0.5)
    began = mesh.now
    mesh.ask(node, node.core.refresh_market("DE", mesh.now, mesh.unix), MarketRefreshed)
    assert mesh.now - began < 2 * SECOND


def test_an_idle_node_is_quiet(mesh: Mesh) -> None:
    """At most 1 kB a second, sent and received (DESIGN section 15)."""
    mesh.run(60)
    node = mesh.nodes[10]
    sent = received = 0
    receive = node.core.receive

    def counting(datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        nonlocal received
        received += len(datagram) + 28
        receive(datagram, source, now_us, unix_us)

    flush = mesh.flush

    def tallying(one: Node) -> None:
        nonlocal sent
        if one is node:
            sent += sum(len(datagram) + 28 for datagram, _ in one.core.outgoing)
        flush(one)

    node.core.receive, mesh.flush = counting, tallying  # type: ignore[method-assign, assignment]
    mesh.run(300)
    assert (sent + received) / 300 < 1000
    assert sent + received > 0


def test_status_says_what_a_person_wants_to_know(mesh: Mesh) -> None:
    status = mesh.nodes[0].core.status(mesh.now)
    assert status["families"][0]["contacts"] >= 11
    assert status["families"][0]["endpoint"] == endpoints.text(mesh.nodes[0].endpoint)
    assert len(status["links"]) >= 3
    assert status["records"] > 0


def test_what_has_ended_is_freed_at_once(mesh: Mesh) -> None:
    """A node of a simulated world cannot wait for Python's collector, which looks at all nodes."""
    mesh.run(30)
    gc.collect()
    gc.disable()
    try:
        mesh.find(mesh.nodes[3], mesh.nodes[8], mesh.nodes[8].secret)
        mesh.run(120)
        assert gc.collect() == 0
    finally:
        gc.enable()
