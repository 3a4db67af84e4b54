"""Sybils: forty for each honest node, who dial in, are polite, and swallow what they get."""

from __future__ import annotations

import pytest

from tests.dht.mesh_attackers import sybils
from tests.dht.mesh_world import chatter, gossip, mesh, percentile


@pytest.mark.parametrize("a_network", [40, 10])
@pytest.mark.parametrize("before", [True, False], ids=["they come later", "they are there first"])
def test_forty_sybils_for_each_honest_node_do_not_delay_bulletins(a_network: int, before: bool) -> None:
    """They dial in and swallow everything, from as many networks as honest nodes have, or four times that."""
    world = mesh(20, settle_s=30 if before else 0)
    honest = world.honest
    if before:
        chatter(world, 20)
    sybils(world, 40, a_network)
    world.run(20)
    names = chatter(world, 40, nodes=honest)
    world.run(5)
    delays = world.delays(names, honest)
    assert percentile(delays, 0.99) <= 5
    assert world.counters["passengers put out"] > 0


def test_sybils_cannot_take_the_places_of_those_whom_we_dialled() -> None:
    world = mesh(20)
    honest = world.honest
    sybils(world, 40, 10)
    chatter(world, 80, nodes=honest)
    known = {node.endpoint for node in honest}
    for node in honest:
        ours = [link for link in gossip(node).links if link.outbound]
        assert len(ours) >= 3
        assert all(link.endpoint in known for link in ours)


def test_few_links_are_of_one_network() -> None:
    """A thousand Sybils of one network are two links, once a node has four."""
    world = mesh(20)
    sybils(world, 40, 800)
    world.run(60)
    honest = {node.endpoint for node in world.honest}
    for node in world.honest:
        assert sum(link.endpoint not in honest for link in gossip(node).links) <= 2
