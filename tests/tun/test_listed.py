"""Calling a listed machine: who knows its keys, and no lookup secret, is let in if it is a peer."""

from __future__ import annotations

import pytest

from crypto.cookies import mac1_key
from tests.forgery import connected, payloads
from tests.pair import LOOKUP, Node, Wire
from tun import fragments
from tun.control import Hello
from tun.doorkeeper import Invited
from tun.events import Introduced
from tun.frames import COOKIE, MESSAGE1, MESSAGE2
from tun.guard import LOAD_PER_SECOND


def scene(known: bool = True) -> tuple[Wire, Node, Node]:
    """`payer` has the relay's keys off the market; the relay has taken it as a peer, or not."""
    wire = Wire(seed=8)
    payer, relay = wire.node("payer", "192.0.2.1"), wire.node("relay", "198.51.100.1")
    payer.core.add_peer(relay.peer_config(lookup_secret=b"", eager=False), [], 0)
    if known:
        relay.core.add_peer(payer.peer_config(lookup_secret=b"", eager=False, addresses=[]), [], 0)
    return wire, payer, relay


def test_a_peer_that_knows_no_lookup_secret_reaches_a_listed_machine_and_is_answered() -> None:
    wire, payer, relay = scene()
    relay.core.door.be_listed(True)
    wire.send(payer, relay, b"to the relay")
    wire.run(2)
    assert connected(payer, relay)
    wire.send(relay, payer, b"and back")
    wire.run(1)
    assert (payloads(relay), payloads(payer)) == ([b"to the relay"], [b"and back"])


def test_a_machine_that_is_not_listed_does_not_answer_it() -> None:
    wire, payer, relay = scene()
    for listed in (False, True, False):
        relay.core.door.be_listed(listed)
    wire.send(payer, relay)
    wire.run(3)
    assert not [1 for source, _, _ in wire.log if source == relay.address]
    assert relay.core.counters["mac1 refused"] > 0


def test_a_stranger_is_no_peer_for_calling_a_listed_machine() -> None:
    wire, payer, relay = scene(known=False)
    relay.core.door.be_listed(True)
    wire.send(payer, relay)
    wire.run(3)
    assert not [1 for source, _, _ in wire.log if source == relay.address]
    assert relay.core.counters["message 1 of a stranger"] > 0
    assert not relay.core.peers
    assert not relay.core.guests


def test_an_invitation_works_without_the_lookup_secret_too() -> None:
    wire, guest, relay = scene(known=False)
    relay.core.door.be_listed(True)
    relay.core.door.invited = lambda _token_id, _unix_us: Invited.GOOD
    guest.core.hello_to = lambda _machine_id: Hello(bytes(16), "guest", LOOKUP, ())
    config = relay.peer_config(lookup_secret=b"", token=bytes(16), token_id=b"i" * 16)
    guest.core.add_peer(config, [], 0)
    wire.run(1)
    assert [event.machine_id for event in relay.events if isinstance(event, Introduced)] == [guest.id]


@pytest.mark.parametrize("secret", [b"", LOOKUP], ids=["machine_id alone", "lookup secret"])
def test_under_a_flood_of_who_knows_machine_id_a_peer_proves_its_address_and_gets_in(secret: bytes) -> None:
    wire, payer, relay = scene()
    payer.core.peers[relay.id].config.lookup_secret = secret
    relay.core.door.be_listed(True)
    flood = fragments.cut(MESSAGE1, bytes(3646))[:1]
    [datagram] = [fragments.seal(bare, mac1_key(relay.id, b"")) for bare in flood]
    for number in range(LOAD_PER_SECOND + 1):
        relay.core.receive(datagram, ("::ffff:203.0.113.9", number + 1), 0, wire.unix_us(relay))
    wire.send(payer, relay, b"through")
    wire.run(0.9)
    assert connected(payer, relay)
    assert payloads(relay) == [b"through"]
    kinds = [each[0] for source, to, each in wire.log if (source, to) == (relay.address, payer.address)]
    assert kinds.index(COOKIE) < kinds.index(MESSAGE2)


def test_the_session_is_renewed_without_a_lookup_secret() -> None:
    wire, payer, relay = scene()
    relay.core.door.be_listed(True)
    wire.send(payer, relay)
    wire.run(1)
    for _ in range(20):
        wire.send(payer, relay)
        wire.run(10)
    assert connected(payer, relay)
    assert payer.core.peers[relay.id].last_handshake_us > 100_000_000
