"""Notes: what who settles with a peer says to it, in one record of the session there is, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.session import REKEY_ZEQONDS, ZEQOND_US
from tests.forgery import connected, current, deliver
from tests.pair import LOOKUP, SECOND, Node, Wire
from tun import control
from tun.control import MAX_NOTE_BYTES, Hello, Note
from tun.conversation import NOTE_BURST, NOTES_PER_SECOND
from tun.doorkeeper import Invited
from tun.events import Noted
from tun.frames import MESSAGE1, Kind, inner, outer


def two() -> tuple[Wire, Node, Node]:
    wire = Wire(seed=2)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    wire.introduce(a, b)
    return wire, a, b


def talking() -> tuple[Wire, Node, Node]:
    wire, a, b = two()
    wire.send(a, b)
    wire.run(2)
    assert connected(a, b)
    return wire, a, b


def note(wire: Wire, here: Node, there: Node, body: bytes) -> bool:
    told = here.core.note(there.id, body, wire.now_us, wire.unix_us(here))
    wire.collect(here)
    return told


def noted(node: Node) -> list[Noted]:
    return [event for event in node.events if isinstance(event, Noted)]


@pytest.mark.parametrize("size", [0, 1, MAX_NOTE_BYTES])
def test_a_note_arrives_as_it_was_said_either_way(size: int) -> None:
    wire, a, b = talking()
    body = bytes(range(256)) * 4
    assert note(wire, a, b, body[:size])
    assert note(wire, b, a, body[1 : size + 1])
    wire.run(1)
    assert noted(b) == [Noted(a.id, body[:size])]
    assert noted(a) == [Noted(b.id, body[1 : size + 1])]


def test_without_a_session_a_note_is_not_said_and_asks_for_none() -> None:
    wire, a, b = two()
    assert not note(wire, a, b, b"too early")
    wire.run(3)
    assert wire.log == []
    wire.send(a, b)
    assert not note(wire, a, b, b"while it begins")
    wire.run(2)
    assert connected(a, b)
    assert not noted(b), "nothing was kept for later"
    assert not a.core.note(b"nobody" * 5 + b"..", b"", wire.now_us, wire.unix_us(a))


def test_after_the_keys_are_gone_a_note_is_not_said() -> None:
    wire, a, b = talking()
    wire.run(400)
    wire.log.clear()
    assert not note(wire, a, b, b"too late")
    wire.run(3)
    assert wire.log == []


def test_a_lost_note_is_not_said_again() -> None:
    wire, a, b = talking()
    wire.filter = lambda _datagram, _source, _target: []
    assert note(wire, a, b, b"lost")
    wire.filter = None
    wire.run(60)
    assert not noted(b)


def test_who_says_notes_only_keeps_the_session() -> None:
    """The initiator calls anew at the age at which a packet would have made it."""
    wire, a, b = talking()
    keypair = current(a, b)
    assert keypair is not None
    assert keypair.initiator
    wire.run(REKEY_ZEQONDS * ZEQOND_US / SECOND)
    before = len([1 for _, _, datagram in wire.log if datagram[0] == MESSAGE1])
    assert note(wire, a, b, b"still here")
    wire.run(1)
    assert len([1 for _, _, datagram in wire.log if datagram[0] == MESSAGE1]) > before
    assert current(a, b) is not keypair
    assert connected(a, b)


def test_a_guests_notes_go_nowhere() -> None:
    wire = Wire(seed=4)
    guest, host = wire.node("guest", "192.0.2.1"), wire.node("host", "198.51.100.1")
    guest.core.hello_to = lambda _machine_id: Hello(bytes(16), "guest", LOOKUP, ())
    guest.core.add_peer(host.peer_config(token=bytes(16), token_id=b"i" * 16), [], 0)
    host.core.door.invited = lambda _token_id, _unix_us: Invited.GOOD
    wire.run(1)
    assert guest.id in host.core.guests
    assert note(wire, guest, host, b"let me in")
    wire.run(1)
    assert not noted(host)
    assert host.core.counters["note before the invitation was redeemed"] == 1
    assert not host.core.note(guest.id, b"", wire.now_us, wire.unix_us(host)), "nor is a guest told any"


def test_a_note_that_is_too_long_is_refused_here_and_there() -> None:
    wire, a, b = talking()
    with pytest.raises(AssertionError):
        note(wire, a, b, bytes(MAX_NOTE_BYTES + 1))
    keypair = current(a, b)
    assert keypair is not None
    fields = b"\x92\x07\xc5" + (MAX_NOTE_BYTES + 1).to_bytes(2, "big") + bytes(MAX_NOTE_BYTES + 1)
    iv, sealed = keypair.lane.seal(inner(Kind.CONTROL, fields), wire.now_us)
    deliver(wire, b, outer(iv, sealed, 1400), a.address)
    assert not noted(b)
    assert b.core.counters["control message refused"] == 1


def test_a_flood_of_notes_is_heard_so_often_and_no_more() -> None:
    """Whoever is a peer may be a stranger that pays: what it says must not fill our memory."""
    wire, a, b = talking()
    c = wire.node("c", "203.0.113.1")
    wire.introduce(b, c)
    wire.send(c, b)
    wire.run(1)
    for second in range(3):
        for _ in range(1000):
            assert note(wire, a, b, b"%d" % second)
        wire.run(1)
    assert len(noted(b)) in range(NOTE_BURST + 2 * NOTES_PER_SECOND - 2, NOTE_BURST + 3 * NOTES_PER_SECOND)
    assert b.core.counters["note over the rate limit"] == 3000 - len(noted(b))
    assert note(wire, c, b, b"another")
    wire.run(1)
    assert noted(b)[-1] == Noted(c.id, b"another"), "each peer has a rate of its own"


@given(st.binary(max_size=MAX_NOTE_BYTES))
@settings(max_examples=50)
def test_every_body_is_one_record_and_parses(body: bytes) -> None:
    encoded = control.encode(Note(body))
    assert len(encoded) <= len(body) + 5 <= control.MAX_CONTROL_BYTES
    assert control.decode(encoded) == Note(body)
