"""Peers whose new address somebody else tells: they are called there, and nothing else changes."""

from __future__ import annotations

from tests.forgery import connected
from tests.pair import Node, Wire, at
from tun.caller import MAX_ADDRESSES

NOWHERE = at("203.0.113.9")


def lost() -> tuple[Wire, Node, Node]:
    """b knows a, which knows b only where it no longer is."""
    wire = Wire(seed=8)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    a.core.add_peer(b.peer_config(addresses=[NOWHERE]), [], 0)
    b.core.add_peer(a.peer_config(eager=False), [], 0)
    return wire, a, b


def found(wire: Wire, a: Node, b: Node, *where: Node) -> None:
    addresses = [node.address for node in where]
    a.core.peers[b.id].handshakes.found_at(addresses, wire.now_us, wire.unix_us(a))
    wire.collect(a)


def test_an_attempt_under_way_goes_to_the_new_address_at_once() -> None:
    wire, a, b = lost()
    wire.run(3.5)
    assert a.core.peers[b.id].handshakes.attempt is not None
    found(wire, a, b, b)
    wire.run(0.1)
    assert connected(a, b)


def test_without_an_attempt_one_begins() -> None:
    wire, a, b = lost()
    wire.run(20)
    assert a.core.peers[b.id].handshakes.attempt is None
    found(wire, a, b, b)
    wire.run(0.1)
    assert connected(a, b)


def test_a_session_that_is_up_stays() -> None:
    wire, a, b = lost()
    found(wire, a, b, b)
    wire.run(1)
    sent = len(wire.log)
    found(wire, a, b, b)
    wire.run(1)
    assert len(wire.log) == sent
    assert connected(a, b)


def test_the_newest_addresses_stand_first_and_are_eight_at_most() -> None:
    wire, a, b = lost()
    many = [wire.node(f"n{number}", f"203.0.113.{number}") for number in range(20, 27)]
    found(wire, a, b, *many)
    known = a.core.peers[b.id].config.addresses
    assert known == [*(node.address for node in many), NOWHERE]
    found(wire, a, b, b, many[3])
    known = a.core.peers[b.id].config.addresses
    assert known[:3] == [b.address, many[3].address, many[0].address]
    assert len(known) == MAX_ADDRESSES
