"""What the mesh costs and how fast it is, measured: hundreds of nodes, 1 % loss, links of 20 to 150 ms."""

from __future__ import annotations

import pytest

from dht.links import INBOUND, OUTBOUND
from tests.dht.mesh_world import HOUR, World, chatter, gossip, mesh, percentile

NODES = 200


def test_a_bulletin_costs_little_more_than_one_push_and_three_small_datagrams() -> None:
    world = mesh(NODES)
    chatter(world, 40)
    world.run(5)
    world.kinds.clear()
    names = chatter(world, 80)
    world.run(5)
    each = NODES * len(names)
    pushes = world.kinds["Push"] / each
    assert 0.98 <= pushes <= 1.3
    assert (world.kinds.total() - world.kinds["Push"]) / each <= 3.1
    delays = world.delays(names)
    assert percentile(delays, 0.5) < 1
    assert percentile(delays, 0.99) < 2.5
    assert delays[-1] < 10, "every bulletin came to everybody"


def test_five_percent_of_churn_a_minute_hardly_slows_it() -> None:
    world = mesh(NODES)
    chatter(world, 20)
    names, number = [], NODES
    for _ in range(40):
        names += chatter(world, 2)
        if world.random.random() < NODES * 0.05 / 30:  # each two seconds
            world.remove(world.random.choice(world.honest))
            world.add(number)
            number += 1
    world.run(10)
    early = [node for node in world.honest if node.born_us == 0]
    assert percentile(world.delays(names, early), 0.99) < 3
    late = [node for node in world.honest if node.born_us]
    assert all(len(node.heard) >= len(names) for node in late), "newcomers get what they missed"


def test_an_idle_link_costs_next_to_nothing() -> None:
    world = mesh(60)
    world.run(HOUR)
    world.kinds.clear()
    world.bytes = 0
    world.run(600)
    assert world.kinds.total() / 60 / 10 <= 20, "datagrams a node and minute, for six links"
    assert world.bytes / 60 / 600 < 10, "bytes a node and second"


def test_links_are_six_on_average_and_half_of_them_our_own() -> None:
    world = mesh(NODES)
    links = [gossip(node).links for node in world.honest]
    assert all(sum(link.outbound for link in each) >= OUTBOUND for each in links)
    assert all(sum(not link.outbound for link in each) <= INBOUND for each in links)
    assert 5.5 <= sum(len(each) for each in links) / NODES <= 7


def test_the_same_seed_is_the_same_mesh() -> None:
    def trace(seed: int) -> bytes:
        world = mesh(25, seed)
        world.duplicated = 0.02
        chatter(world, 20)
        return world.trace.digest()

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


def test_a_network_that_makes_two_of_a_datagram_breaks_no_tree() -> None:
    world = mesh(60)
    world.duplicated = 0.2
    chatter(world, 20)
    world.kinds.clear()
    names = chatter(world, 60)
    world.run(5)
    assert world.kinds["Graft"] / 60 / len(names) < 0.1, "the tree stands"
    assert percentile(world.delays(names), 0.99) < 2.5


@pytest.mark.parametrize("minutes", [1, 60])
def test_both_sides_of_a_partition_get_what_they_missed(minutes: int) -> None:
    world = mesh(40)
    nodes = world.honest
    for node in nodes[::2]:
        node.group = 1
    names = chatter(world, minutes * 60, every_s=10)
    across = [node for node in nodes if node.heard]
    assert any(name not in node.heard for name in names for node in across)
    for node in nodes:
        node.group = 0
    world.run(420)
    assert all(name in node.heard for name in names for node in nodes)


def test_clocks_that_are_ten_minutes_off_are_borne() -> None:
    """Whose clock is fast and whose is slow hear everybody whose clock is right, and are heard."""
    world = World(5)
    for number in range(60):
        world.add(number, skew_s=(0, 0, 0, 598, -598)[number % 5])
    world.run(30)
    right = [node for node in world.honest if not node.skew_us]
    names = chatter(world, 40, nodes=right)
    by_fast = chatter(world, 20, nodes=[node for node in world.honest if node.skew_us > 0])
    by_slow = chatter(world, 20, nodes=[node for node in world.honest if node.skew_us < 0])
    world.run(10)
    assert percentile(world.delays(names), 0.99) < 3
    assert percentile(world.delays(by_fast + by_slow, right), 0.99) < 3
    assert not [why for why in world.counters if "cut off" in why]


def test_nobody_is_left_out_when_all_dial_one() -> None:
    """A node that everybody knows takes in as many as it has room for; the others find others."""
    world = World(3)
    hub = world.add(0)
    world.listed *= 200
    for number in range(1, 60):
        world.add(number)
    world.run(180)
    assert sum(not link.outbound for link in gossip(hub).links) <= INBOUND
    names = chatter(world, 20)
    world.run(5)
    assert percentile(world.delays(names), 0.99) < 3
