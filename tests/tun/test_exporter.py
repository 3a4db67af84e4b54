"""What other protocols may have of a session: its transcript, and a secret that lives as long as its keys."""

from __future__ import annotations

from tests.forgery import connected, current
from tests.pair import Node, Wire
from tun.events import Connected


def two() -> tuple[Wire, Node, Node]:
    wire = Wire(seed=6)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    wire.introduce(a, b)
    return wire, a, b


def talking() -> tuple[Wire, Node, Node]:
    wire, a, b = two()
    wire.send(a, b)
    wire.run(1)
    assert connected(a, b)
    return wire, a, b


def renew(wire: Wire, here: Node, there: Node) -> None:
    here.core.peers[there.id].handshakes.connect(wire.now_us, wire.unix_us(here))
    wire.run(1)


def transcripts(node: Node) -> list[bytes]:
    return [event.transcript for event in node.events if isinstance(event, Connected)]


def test_both_sides_are_told_the_same_transcript_and_have_the_same_secret() -> None:
    _, a, b = talking()
    [transcript] = transcripts(a)
    assert len(transcript) == 32
    assert transcripts(b) == [transcript]
    assert a.core.transcripts(b.id) == b.core.transcripts(a.id) == (transcript,)
    secret = a.core.exporter(b.id, transcript)
    assert secret is not None
    assert len(secret) == 32
    assert b.core.exporter(a.id, transcript) == secret
    assert secret != transcript


def test_the_secret_stands_in_no_event_and_no_repr() -> None:
    _, a, b = talking()
    secret = a.core.exporter(b.id, a.core.transcripts(b.id)[0])
    assert secret is not None
    shown = repr(a.events) + repr(a.core.peers[b.id].keypairs.all())
    assert secret.hex() not in shown
    assert repr(secret) not in shown


def test_the_session_before_is_still_known_and_the_one_before_that_is_not() -> None:
    wire, a, b = talking()
    [first] = a.core.transcripts(b.id)
    before = a.core.exporter(b.id, first)
    renew(wire, a, b)
    second, other = a.core.transcripts(b.id)
    assert other == first != second
    assert b.core.transcripts(a.id) == (second, first)
    assert a.core.exporter(b.id, first) == before
    assert a.core.exporter(b.id, second) not in (None, before)
    renew(wire, b, a)
    assert a.core.transcripts(b.id)[1:] == (second,)
    assert a.core.exporter(b.id, first) is None
    assert transcripts(a) == transcripts(b)


def test_a_session_that_nobody_confirmed_gives_nothing() -> None:
    wire, a, b = two()
    wire.filter = lambda datagram, source, _: (
        [] if source == a.address and datagram[0] == 0xC0 else [datagram]
    )
    wire.send(a, b)
    wire.run(0.2)
    [unconfirmed] = b.core.peers[a.id].keypairs.unconfirmed
    assert b.core.transcripts(a.id) == ()
    assert b.core.exporter(a.id, unconfirmed.session.transcript) is None


def test_secrets_end_with_the_keys() -> None:
    wire, a, b = talking()
    [transcript] = a.core.transcripts(b.id)
    keypair = current(a, b)
    assert keypair is not None
    wire.run(400)
    assert a.core.transcripts(b.id) == ()
    assert a.core.exporter(b.id, transcript) is None
    assert keypair.exporter == b""


def test_a_peer_that_is_forgotten_or_said_goodbye_leaves_none() -> None:
    wire, a, b = talking()
    [transcript] = a.core.transcripts(b.id)
    a.core.remove_peer(b.id, wire.now_us, wire.unix_us(a))
    assert a.core.transcripts(b.id) == ()
    assert a.core.exporter(b.id, transcript) is None
    wire.run(1)
    assert b.core.exporter(a.id, transcript) is None
