"""Nodes that vanish leave nothing behind, without Python's collector: worlds run with it switched off."""

from __future__ import annotations

import gc
from collections import Counter

from simulations import scenario
from simulations.course import Course
from simulations.discoverers import Discoverers
from simulations.scenario import SECOND_US

SHARED = {"Contact", "Record", "Bulletin", "Held", "Offer"}  # many have one, or a cache remembers it
TEXT = """
nodes = 24
minutes = 1
joining_seconds = 10
[network]
ipv6 = 0.3
[nats]
port_restricted = 0.3
[work]
lookup_minutes = 1
offers_per_minute = 30
"""


def parts() -> Counter[str]:
    found = (type(each) for each in gc.get_objects() if str(type(each).__module__).startswith("dht."))
    return Counter(kind.__qualname__ for kind in found if kind.__qualname__ not in SHARED)


def test_a_node_that_vanishes_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        before = parts()
        course = Course(scenario.parse(TEXT, "test.toml"), Discoverers())
        # In the middle of everything: questions, lookups, pulls and calls are under way.
        course.world.run(course.begin_us + 20 * SECOND_US + 123_456)
        hosts = list(course.world.hosts.values())
        assert parts()["RoutingTable"] - before["RoutingTable"] >= len(hosts) == 24
        for host in hosts:
            course.population.leave(host)
        left = parts() - before
        assert not left - Counter({"Records": 1}), "what all share may stay"
    finally:
        gc.enable()
