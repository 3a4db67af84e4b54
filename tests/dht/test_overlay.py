"""Whole overlays together: they find what is closest, keep what they get, and live with loss and death."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.contacts import node_id
from dht.endpoints import Endpoint
from dht.messages import Ping, decode_dht
from dht.outcomes import Got, Moved, Put
from dht.overlay import Overlay
from dht.queries import PARKED_US
from dht.routing import K
from tests.dht.overlay_world import SECOND, UNIX_US, Node, Shelf, World, entropy

N = 200


def grown(count: int = N, loss: int = 0, seed: int = 7) -> World:
    world = World(seed, loss)
    world.grow(count, 0.1)
    world.run(120)
    return world


def recall(world: World, node: Node, target: bytes) -> float:
    found = {contact.endpoint for contact in world.find(node, target).contacts}
    truth = [endpoint for endpoint in world.closest(target, K + 1) if endpoint != node.endpoint][:K]
    return len(found & set(truth)) / len(truth)


def kill(world: World, percent: int) -> None:
    for node in world.random.sample(world.living(), len(world.nodes) * percent // 100):
        node.alive = False


# ------------------------------------------------------------------ finding


def test_the_true_closest_are_found() -> None:
    world = grown()
    messages, hops = [], []
    for _ in range(40):
        target, node = world.random.randbytes(32), world.random.choice(world.living())
        assert recall(world, node, target) == 1
        found = world.find(node, target)
        messages.append(found.messages)
        hops.append(found.hops)
    assert sum(messages) / len(messages) <= 50
    assert sum(hops) / len(hops) <= 3


def test_with_one_percent_lost_and_a_fifth_dead_all_is_still_found() -> None:
    world = grown(loss=10)
    keys = []
    for number in range(40):
        key, record = world.random.randbytes(32), b"%d:" % number + bytes(300)
        put = world.put(world.random.choice(world.living()), [record], key)
        assert put.asked == K
        assert put.stored >= K - 2
        keys.append((key, record))
    kill(world, 20)
    good = 0.0
    for key, record in keys:
        records, last = world.get(world.random.choice(world.living()), key)
        assert records == [record]
        assert last.messages <= 60
        good += recall(world, world.random.choice(world.living()), key)
    assert good / len(keys) >= 0.95
    for number in range(10):
        put = world.put(world.random.choice(world.living()), [b"x:%d" % number], keys[number][0])
        assert put.stored >= K - 3


def test_two_runs_of_one_seed_are_the_same_to_the_byte() -> None:
    def trace(seed: int) -> str:
        world, running = World(seed, loss=20), sha256()

        def note(datagram: bytes, source: Endpoint, target: Endpoint) -> bool:
            running.update(b"%d" % world.now_us + source + target + datagram)
            return True

        world.filter = note
        nodes = world.grow(40)
        key = world.random.randbytes(32)
        world.put(nodes[3], [b"a:1", b"b:2"], key)
        world.get(nodes[7], key, enough=False)
        world.run(60)
        return running.hexdigest()

    assert trace(1) == trace(1) != trace(2)


def test_an_idle_network_is_quiet() -> None:
    world = grown(60)
    world.run(1800)
    sent, size = world.sent, world.bytes
    world.run(1800)
    per_minute = (world.sent - sent) / 60 / 30
    assert per_minute <= 30
    assert (world.bytes - size) / 60 / 1800 <= 100, "bytes a second; the budget of an idle node is 1,000"


# ------------------------------------------------------------------ storing and getting


def test_large_records_and_many_of_them_arrive_whole() -> None:
    world = grown(40)
    nodes, key = world.living(), bytes(range(32))
    records = [b"%02d:" % number + bytes([number]) * (8192 - 3) for number in range(7)]
    put = world.put(nodes[0], records, key)
    assert (put.stored, put.asked) == (K, K)
    found, last = world.get(nodes[-1], key, enough=False)
    assert sorted(found) == records, "each once, from however many"
    assert last.final


def test_what_is_refused_is_not_counted_as_stored() -> None:
    world = grown(30)
    put = world.put(world.living()[0], [b"good:", b"bad"], bytes(32))
    assert (put.stored, put.asked) == (0, K)


def test_who_is_close_stores_too_and_finds_its_own() -> None:
    world = grown(40)
    node = world.living()[5]
    key = node.overlay.where.id
    assert world.put(node, [b"mine:"], key).asked == K
    assert node.shelf.kept[key]
    records, last = world.get(node, key)
    assert records == [b"mine:"]
    assert (last.hops, last.messages) == (0, 0)


def test_values_that_change_between_pages_are_read_anew_once() -> None:
    world = grown(2)
    one, other = world.living()
    key = bytes(32)
    one.shelf.put(key, b"a:" + bytes(3000), b"", 0)
    handle = other.overlay.get(key, world.now_us)
    other.settle()
    world.run(0.35)
    one.shelf.put(key, b"a:" + bytes([1]) * 2500, b"", 0)
    world.run(10)
    got = [event for event in other.events if isinstance(event, Got) and event.handle == handle]
    assert [record for event in got for record in event.records] == [b"a:" + bytes([1]) * 2500]
    assert [event.final for event in got] == [False, True]


def test_who_has_enough_or_cancels_causes_no_more() -> None:
    world = grown(60)
    node, key = world.living()[3], bytes(32)
    world.put(node, [b"a:"], key)
    asker = world.living()[40]
    _, early = world.get(asker, key)
    _, late = world.get(asker, key, enough=False)
    assert early.messages < late.messages / 2
    handle = asker.overlay.get(key, world.now_us)
    asker.settle()
    asker.overlay.cancel(handle)
    asker.events.clear()
    world.run(10)
    assert asker.events == []


def test_a_newcomer_who_is_closer_is_handed_the_record() -> None:
    world = grown(60)
    key = world.random.randbytes(32)
    world.put(world.living()[0], [b"a:record"], key)
    number = int.from_bytes(key, "big")
    best = world.nodes[world.closest(key, 1)[0]].id
    while True:
        endpoint = world.endpoint()
        node = Node(world, endpoint)
        if node.id ^ number < best ^ number:
            break
    node = world.join(world.living()[0].endpoint, endpoint)
    world.run(90)
    assert node.shelf.kept[key] == {b"a": b"a:record"}


def test_who_does_not_serve_is_in_nobodys_table_and_gets_all_the_same() -> None:
    world = grown(40)
    node = world.join(world.living()[0].endpoint, serving=False)
    world.run(60)
    assert node.overlay.size > K
    assert world.put(node, [b"a:"], bytes(32)).stored == K
    assert world.get(node, bytes(32))[0] == [b"a:"]
    assert not any(
        node.endpoint == known.endpoint for other in world.living() for known in other.overlay.table
    )
    node.overlay.serve(True)
    node.settle()
    world.run(30)
    assert any(node.endpoint == known.endpoint for other in world.living() for known in other.overlay.table)


def test_with_two_nodes_a_lost_datagram_is_no_failure() -> None:
    world = World(3, loss=100)
    one, other = world.grow(2, 20)
    world.put(one, [b"a:"], bytes(32))
    one.shelf.put(bytes(32), b"a:", b"", 0)
    found = [bool(world.get(other, bytes(32), enough=False)[0]) for _ in range(40)]
    assert sum(found) >= 37, "one of a hundred questions twice lost"


# ------------------------------------------------------------------ starting, moving, losing the network


def test_a_search_before_the_first_answer_waits_for_it() -> None:
    world = grown(40)
    world.put(world.living()[0], [b"a:"], bytes(32))
    node = world.join(world.living()[0].endpoint)
    records, last = world.get(node, bytes(32))
    assert records == [b"a:"]
    alone = world.join()
    assert world.get(alone, bytes(32))[0] == []
    assert last.final
    hoping = world.join(bytes([99, 9, 9, 9, 0, 9]))
    began_us = world.now_us
    assert world.find(hoping, bytes(32)).contacts == []
    assert world.now_us - began_us <= PARKED_US + SECOND


def test_a_dead_bootstrap_is_called_less_and_less() -> None:
    world = World(2)
    node = world.join(bytes([99, 9, 9, 9, 0, 9]))
    counts = []
    for _ in range(6):
        sent = world.sent
        world.run(600)
        counts.append(world.sent - sent)
    assert counts[0] >= 6
    assert counts[1:] == [2] * 5, "every five minutes"
    node.overlay.bootstrap([world.join().endpoint], world.now_us)
    node.settle()
    world.run(2)
    assert node.overlay.size == 1


def test_a_first_answer_that_is_lost_does_not_leave_one_alone() -> None:
    """A seventh of all datagrams is lost while ten join."""
    world = grown(60)
    start = world.living()[0].endpoint
    world.loss = 150
    nodes = [world.join(start) for _ in range(10)]
    world.run(120)
    assert all(node.overlay.size >= K // 2 for node in nodes)


def test_when_others_see_us_elsewhere_we_move_and_say_so() -> None:
    world = grown(40)
    node = world.living()[9]
    before = node.overlay.where.id
    del world.nodes[node.endpoint]
    node.endpoint = world.endpoint()
    world.nodes[node.endpoint] = node
    node.events.clear()
    world.find(node, bytes(32))
    world.run(60)
    assert node.overlay.endpoint == node.endpoint
    assert node.overlay.where.id == node_id(node.overlay.where.tail, node.endpoint) != before
    assert node.shelf.middle == node.overlay.where.id
    assert node.overlay.table.own == node.overlay.where.long_id
    assert recall(world, world.living()[0], node.overlay.where.id) == 1


def test_the_news_of_a_move_is_an_event() -> None:
    world = World(1)
    node = world.join()
    here = bytes([60, 1, 1, 1, 0, 9])
    node.overlay.believe(here, 0)
    node.overlay.believe(here, 0)
    assert node.overlay.events == [Moved(here)]


def test_a_table_outlives_a_restart() -> None:
    world = grown(60)
    node = world.living()[7]
    saved = node.overlay.save()
    node.alive = False
    del world.nodes[node.endpoint]
    again = world.join(endpoint=node.endpoint)
    again.overlay.load(saved, world.now_us)
    again.settle()
    world.run(20)
    known = {contact.endpoint for contact in node.overlay.table}
    assert {contact.endpoint for contact in again.overlay.table} >= known


@given(st.binary(max_size=200))
def test_what_is_no_saved_table_is_counted(data: bytes) -> None:
    overlay = Overlay(4, bytes(24), entropy("x"), 0, Shelf(), serving=True)
    overlay.load(data, 0)
    assert overlay.size == 0


def test_while_our_own_link_is_down_nobody_is_forgotten() -> None:
    world = grown(40)
    node = world.living()[3]
    size = node.overlay.size
    world.filter = lambda datagram, source, target: node.endpoint not in (source, target)
    for _ in range(6):
        world.find(node, world.random.randbytes(32))
        world.run(300)
    assert node.overlay.size >= size - 8, "an answer or two came late"
    world.filter = lambda datagram, source, target: True
    world.run(60)
    assert recall(world, node, bytes(32)) >= 0.9


def test_two_halves_that_lost_each_other_for_an_hour_meet_again() -> None:
    world = grown(40)
    halves = {endpoint: place % 2 for place, endpoint in enumerate(world.nodes)}
    world.filter = lambda datagram, source, target: halves[source] == halves[target]
    world.run(3600)
    world.filter = lambda datagram, source, target: True
    world.run(1800)
    for _ in range(10):
        assert recall(world, world.random.choice(world.living()), world.random.randbytes(32)) >= 0.95


def test_contacts_are_drawn_by_lot() -> None:
    world = grown(60)
    overlay = world.living()[0].overlay
    drawn = [frozenset(overlay.contacts(5)) for _ in range(20)]
    assert all(len(some) == 5 for some in drawn)
    assert len(set(drawn)) > 10
    assert set(overlay.contacts(1000)) == set(overlay.table)
    assert overlay.contacts(0) == []


@pytest.mark.parametrize("family", [4, 6])
def test_the_other_family_is_not_listened_to(family: int) -> None:
    overlay = Overlay(family, bytes(24), entropy("x"), 0, Shelf(), serving=True)
    overlay.bootstrap([bytes([60, 1, 1, 1, 0, 9]), bytes([0x20, 1, *bytes(14), 0, 9])], 0)
    overlay.tick(0, UNIX_US)
    assert [len(to) for _, to in overlay.outgoing] == [overlay.endpoint_bytes]
    assert isinstance(decode_dht(overlay.outgoing[0][0][1:]), Ping)
    overlay.receive(overlay.outgoing[0][0], bytes(24 - overlay.endpoint_bytes), 0, UNIX_US)
    assert overlay.counters["from the other family"] == 1


def test_a_put_to_nobody_ends() -> None:
    world = World(1)
    node = world.join()
    handle = node.overlay.put([b"a:"], bytes(32), 0)
    assert node.overlay.events == [Put(handle, 1, 1)], "here alone"
    node.overlay.serve(False)
    handle = node.overlay.put([b"a:"], bytes(32), 0)
    assert node.overlay.events[-1] == Put(handle, 0, 0)
