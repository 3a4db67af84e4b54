"""Tags: patterns, public and private events, and what `subscribers_notified` counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import LocalFault
from crypto.identity import KeyBundle
from dht.calls import MAX_CALLS, Called, Sent
from dht.tags import SUBSCRIPTIONS, Notified, Tagged, Tags
from tests.callers import Node, Wire, lodged, machine_of

words = st.sampled_from(["a", "b", "vpn", "tunnel", "x-1"])
tags_of = st.lists(words, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(tags_of, tags_of.map(lambda tag: tag + ".*"), st.just("*"))


class Desk:
    """A node with its tags, and what it said to gossip."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.gossip: list[tuple[str, bytes]] = []
        self.tags = Tags(node.calls, self._say, node.machine.bundle.ed25519)

    def _say(self, topic: str, body: bytes, _now_us: int, _unix_us: int) -> None:
        self.gossip.append((topic, body))

    def publish(self, tag: str, body: bytes = b"body") -> int:
        return self.tags.publish(tag, body, self.node.wire.now_us, self.node.wire.unix_us)

    def publish_to(self, nodes: Sequence[Node], tag: str, body: bytes = b"body") -> int:
        wire = self.node.wire
        return self.tags.publish_to([one.recipient() for one in nodes], tag, body, wire.now_us, wire.unix_us)

    def settle(self, seconds: float = 30) -> list[Tagged | Notified]:
        """What the shell does: events of the calls go to the tags."""
        before = len(self.node.called)
        self.node.wire.run(seconds)
        for sent in self.node.sent.values():
            self.tags.sent(sent)
        for called in self.node.called[before:]:
            self.tags.called(called)
        events = list(self.tags.events)
        self.tags.events.clear()
        return events


def desk() -> Desk:
    return Desk(Wire().node("a", "192.0.2.1"))


# ------------------------------------------------------------------ patterns


@given(st.lists(patterns, max_size=12), st.lists(st.integers(0, 11), max_size=6), tags_of)
def test_patterns_against_a_plain_model(wanted: list[str], ended: list[int], tag: str) -> None:
    tags = desk().tags
    numbers = {tags.subscribe(pattern): pattern for pattern in wanted}
    for place in ended:
        if place < len(wanted):
            tags.unsubscribe(place + 1)
            numbers.pop(place + 1, None)
    expected = tuple(
        number
        for number, pattern in numbers.items()
        if re.fullmatch(re.escape(pattern).replace(r"\*", ".+"), tag)
    )
    assert tags.matching(tag) == expected


def test_a_prefix_is_of_whole_words() -> None:
    tags = desk().tags
    number = tags.subscribe("vpn.tunnel.*")
    assert tags.matching("vpn.tunnel.request") == tags.matching("vpn.tunnel.a.b") == (number,)
    assert tags.matching("vpn.tunnel") == tags.matching("vpn.tunnels.a") == tags.matching("vpn") == ()


@pytest.mark.parametrize("pattern", ["", ".*", "**", "a*", "*.a", "a.*.b", "A.*", "a..*", "a b"])
def test_no_such_patterns(pattern: str) -> None:
    with pytest.raises(LocalFault):
        desk().tags.subscribe(pattern)


def test_subscriptions_are_bounded() -> None:
    tags = desk().tags
    numbers = [tags.subscribe("*") for _ in range(SUBSCRIPTIONS)]
    with pytest.raises(LocalFault):
        tags.subscribe("a")
    tags.unsubscribe(numbers[0])
    tags.unsubscribe(numbers[0])
    tags.unsubscribe(10**6)
    assert tags.matching("a") == tuple(numbers[1:])
    assert tags.subscribe("a") not in numbers, "a number is never given twice"


# ------------------------------------------------------------------ public tags


def test_a_public_event_goes_to_gossip_and_to_subscribers_here() -> None:
    here = desk()
    numbers = [here.tags.subscribe(pattern) for pattern in ("market.*", "*", "other", "market.offer")]
    assert here.publish("market.offer") == 3, "subscribers_notified"
    assert here.gossip == [("tag:market.offer", b"body")]
    [event] = here.tags.events
    assert isinstance(event, Tagged)
    assert event.subscriptions == (numbers[0], numbers[1], numbers[3])
    assert (event.author, event.bundle) == (here.node.machine.bundle.ed25519, b"")
    assert here.publish("nobody.wants") == 1


def test_what_comes_from_gossip() -> None:
    here = desk()
    number = here.tags.subscribe("market.*")
    assert here.tags.heard("tag:market.offer", b"k" * 32, b"body", 7) == 1
    assert here.tags.events == [Tagged((number,), "market.offer", b"k" * 32, b"", b"body", 7)]
    for topic in ("market.offer", "tag:", "tag:market.*", "tag:market.Offer", "tag:tag:market.a", "offer"):
        assert here.tags.heard(topic, b"k" * 32, b"body", 7) == 0
    assert not here.gossip, "gossip itself passes on what it heard"


@given(st.text(max_size=80))
def test_arbitrary_topics(topic: str) -> None:
    here = desk()
    here.tags.subscribe("*")
    assert here.tags.heard(topic, bytes(32), b"", 0) in (0, 1)


def test_what_no_public_event_may_be() -> None:
    here = desk()
    for tag, body in (("no tag", b""), ("a.*", b""), ("a", bytes(901))):
        with pytest.raises(LocalFault):
            here.publish(tag, body)
    assert not here.gossip
    assert not here.tags.events


# ------------------------------------------------------------------ for some machines alone


def test_a_private_event_is_never_gossiped_and_is_counted_where_it_was_read() -> None:
    wire = Wire()
    here, there = Desk(wire.node("a", "192.0.2.1")), Desk(wire.node("b", "192.0.3.1"))
    here.tags.subscribe("*")
    number = there.tags.subscribe("vpn.tunnel.*")
    handle = here.publish_to([there.node], "vpn.tunnel.request", b"open")
    assert here.settle(5) == [Notified(handle, 1, 1, 0)]
    there.tags.called(there.node.called[0])
    bundle = here.node.machine.bundle
    [event] = there.tags.events
    assert isinstance(event, Tagged)
    assert (event.subscriptions, event.author, event.body) == ((number,), bundle.machine_id, b"open")
    assert KeyBundle.from_bytes(event.bundle).machine_id == event.author
    assert here.gossip == there.gossip == []


def test_notified_counts_machines_that_read_it_and_homes_apart() -> None:
    """One is there, one is away and has a home, one is nowhere."""
    wire = Wire()
    lodger, [_home] = lodged(wire)
    there, nowhere = wire.node("b", "192.0.3.1"), wire.node("c", "192.0.4.1")
    lodger.here = nowhere.here = False
    here = Desk(wire.node("a", "192.0.2.1"))
    handle = here.publish_to([there, lodger, nowhere], "vpn.tunnel.request")
    assert here.settle(40) == [Notified(handle, 3, 1, 1)]


def test_to_nobody() -> None:
    here = desk()
    handle = here.publish_to([], "a")
    assert here.tags.events == [Notified(handle, 0, 0, 0)]


def test_a_machine_that_cannot_be_called_is_one_that_is_not_reached() -> None:
    """Too many calls at once, or keys that are none."""
    wire = Wire()
    here, there = Desk(wire.node("a", "192.0.2.1")), wire.node("b", "192.0.3.1")
    bad = replace(there.recipient(), bundle=KeyBundle(b"\xff" * 1248))
    handle = here.tags.publish_to([bad, there.recipient()], "a", b"", wire.now_us, wire.unix_us)
    assert here.settle() == [Notified(handle, 2, 1, 0)]
    there.here = False
    for _ in range(MAX_CALLS):
        here.node.send(there.recipient())
    handle = here.publish_to([there], "a")
    assert here.settle(0.001) == [Notified(handle, 1, 0, 0)]
    with pytest.raises(LocalFault):
        here.publish_to([there], "no tag")


def test_calls_of_others_are_passed_over() -> None:
    here = desk()
    here.tags.sent(Sent(99, True, 0, 0))
    assert here.tags.called(Called("a", bytes(32), machine_of("b").bundle.raw, b"", 1, 1)) == 0
    assert not here.tags.events
