"""What a core tells its data-path workers, and what it makes of what they say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import pytest

from crypto.session import Session, SessionKeys
from tests.pair import SECOND, Node, Wire, at
from tun.briefing import NO_SESSION
from tun.events import Connected, Roamed
from tun.keypairs import Keypair
from tun.seam import (
    Aim,
    Carried,
    Message,
    PeerGone,
    PeerIs,
    Reader,
    Serves,
    SessionClosed,
    SessionOpened,
    Stray,
    Unsent,
    pack,
)

M = TypeVar("M")
NOTHING = Carried(b"", 0, 0, 0, 0, 0, 0, 0, 0, 0, span=False, loss=-1.0)


def briefed() -> tuple[Wire, Node, Node]:
    wire = Wire(7)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    a.core.briefing.on = b.core.briefing.on = True
    wire.introduce(a, b)
    return wire, a, b


def connected() -> tuple[Wire, Node, Node, list[Message]]:
    wire, a, b = briefed()
    wire.send(a, b)
    wire.run(1)
    return wire, a, b, list(a.core.briefing.messages())


def told(messages: Iterable[Message], kind: type[M]) -> list[M]:
    return [each for each in messages if isinstance(each, kind)]


def current(node: Node, other: Node) -> Keypair | None:
    return node.core.peers[other.id].keypairs.current


def sent_by_a_worker(to: Node, now: int) -> Carried:
    return replace(NOTHING, machine_id=to.id, sent_packets=1, first_sent_us=now, last_sent_us=now)


def test_peers_sessions_and_aims_are_told_in_an_order_that_works() -> None:
    _, a, b, messages = connected()
    (peer,) = told(messages, PeerIs)
    (opened,) = told(messages, SessionOpened)
    aims = told(messages, Aim)
    assert peer == PeerIs(
        b.id, a.core.pool.assign(b.id).packed, [f"{a.core.pool.assign(b.id)}/32", f"{b.ula}/128"]
    )
    assert opened.receives
    assert (aims[-1].local_index, aims[-1].host, aims[-1].port) == (opened.local_index, *b.address)
    assert aims[-1].room == a.core.full_payload, "the probe came back"
    assert messages.index(peer) < messages.index(opened) < messages.index(aims[-1])


def test_without_workers_nothing_is_kept() -> None:
    wire = Wire(7)
    a, b = wire.node("a", "192.0.2.1"), wire.node("b", "198.51.100.1")
    wire.introduce(a, b)
    wire.send(a, b)
    wire.run(1)
    assert a.core.briefing.messages() == []


def test_an_aim_is_told_once() -> None:
    wire, a, b, _ = connected()
    wire.send(a, b)
    wire.send(b, a)
    wire.run(5)
    assert a.core.briefing.messages() == []


def test_the_keys_that_are_told_are_those_of_the_session() -> None:
    wire, a, b, messages = connected()
    (opened,) = told(messages, SessionOpened)
    session = Session(
        SessionKeys(
            opened.initiator,
            opened.root,
            opened.zeqond_base,
            b"",
            opened.local_index,
            opened.remote_index,
            opened.started_us,
            opened.epoch,
        ),
        opened.started_us,
        opened.epoch,
    )
    iv, sealed = session.open_lane(5).seal(b"from a worker", wire.now_us)
    theirs = b.core.peers[a.id].keypairs.current
    assert theirs is not None
    assert theirs.session.open(iv, sealed, wire.now_us) == b"from a worker"
    assert opened.root.hex() not in repr(opened)


def test_a_worker_that_comes_later_learns_everything_with_keys_that_still_hold() -> None:
    wire, a, b, _ = connected()
    for _ in range(10):
        wire.send(a, b)
        wire.send(b, a)
        wire.run(10)  # over two epochs
    messages = a.core.briefing.whole(receives=False)
    assert [type(each) for each in messages] == [Serves, PeerIs, SessionOpened, Aim]
    opened = messages[2]
    assert isinstance(opened, SessionOpened)
    assert opened.epoch >= 1
    assert not opened.receives


def test_an_unconfirmed_session_is_told_and_confirmed_by_what_a_worker_hears() -> None:
    """The initiator's confirming record is lost; its data came on a lane that only the worker opens."""
    wire, a, b = briefed()
    wire.filter = lambda datagram, source, _: (
        [] if source == a.address and datagram[0] == 0xC0 else [datagram]
    )
    wire.send(a, b)
    wire.run(0.2)
    assert current(b, a) is None
    (opened,) = told(b.core.briefing.messages(), SessionOpened)
    b.core.heard(opened.local_index, a.address, 100, wire.now_us, wire.unix_us(b))
    wire.collect(b)
    assert current(b, a) is not None
    assert any(isinstance(event, Connected) for event in b.events)
    aims = told(b.core.briefing.messages(), Aim)
    assert aims[-1].local_index == opened.local_index


def test_what_a_worker_hears_from_a_new_address_starts_a_path_check() -> None:
    wire, a, b, _ = connected()
    b.core.briefing.messages()
    moved = at("203.0.113.9")
    a.address = moved
    keypair = current(b, a)
    assert keypair is not None
    b.core.heard(keypair.session.local_index, moved, 2_000, wire.now_us, wire.unix_us(b))
    wire.run(1)
    assert any(isinstance(event, Roamed) and event.new == moved for event in b.events)
    aims = told(b.core.briefing.messages(), Aim)
    assert (aims[-1].host, aims[-1].port) == moved


def test_heard_in_a_session_that_is_gone_is_nothing() -> None:
    wire, a, _, _ = connected()
    a.core.heard(0xFFFF_FFC0, at("203.0.113.9"), 100, wire.now_us, wire.unix_us(a))
    assert a.core.briefing.messages() == []


def test_a_removed_peer_is_gone_with_its_sessions() -> None:
    wire, a, b, _ = connected()
    a.core.remove_peer(b.id, wire.now_us, wire.unix_us(a))
    messages = a.core.briefing.messages()
    assert PeerGone(b.id) in messages
    assert len(told(messages, SessionClosed)) == 1


def test_the_aim_ends_with_the_session() -> None:
    wire, a, _, _ = connected()
    wire.run(400)
    aims = told(a.core.briefing.messages(), Aim)
    assert aims[-1].local_index == NO_SESSION


# ---------------------------------------------------------------------- timers that follow a worker's word


def test_data_that_a_worker_sent_and_nobody_answered_brings_a_new_handshake() -> None:
    wire, a, b, _ = connected()
    wire.run(2)
    wire.filter = lambda datagram, source, _: [] if source == b.address else [datagram]
    now = wire.now_us
    a.core.carried(
        replace(
            NOTHING, machine_id=b.id, sent_bytes=100, sent_packets=1, first_sent_us=now, last_sent_us=now
        ),
        now,
        wire.unix_us(a),
    )
    wire.log.clear()
    wire.run(14.5)
    assert not [1 for _, _, datagram in wire.log if datagram[0] == 0xC8]
    wire.run(1)
    assert [1 for _, _, datagram in wire.log if datagram[0] == 0xC8]


def test_what_another_worker_heard_counts_as_an_answer() -> None:
    wire, a, b, _ = connected()
    wire.run(2)
    now = wire.now_us
    a.core.carried(sent_by_a_worker(b, now), now, wire.unix_us(a))
    heard = replace(NOTHING, machine_id=b.id, last_heard_us=now + SECOND // 10)
    a.core.carried(heard, now + SECOND // 2, wire.unix_us(a))
    wire.log.clear()
    wire.run(30)
    assert not [1 for _, _, datagram in wire.log if datagram[0] == 0xC8]


def test_data_that_a_worker_received_is_owed_two_keepalives() -> None:
    wire, a, b, _ = connected()
    wire.run(30)
    now = wire.now_us
    got = replace(
        NOTHING,
        machine_id=b.id,
        received_packets=1,
        last_heard_us=now,
        first_received_us=now,
        last_received_us=now,
    )
    a.core.carried(got, now, wire.unix_us(a))
    wire.log.clear()
    wire.run(29)
    sent = [datagram for source, _, datagram in wire.log if source == a.address]
    assert [len(datagram) for datagram in sent] == [32, 32]


def test_traffic_counts_what_workers_carried() -> None:
    wire, a, b, _ = connected()
    before = replace(a.core.peers[b.id].traffic)
    report = replace(
        NOTHING, machine_id=b.id, sent_bytes=5_000, sent_packets=4, received_bytes=70, received_packets=1
    )
    a.core.carried(replace(report, span=True, loss=0.25), wire.now_us, wire.unix_us(a))
    peer = a.core.peers[b.id]
    assert peer.traffic.sent_bytes == before.sent_bytes + 5_000
    assert peer.traffic.received_packets == before.received_packets + 1
    assert (peer.span, peer.loss) == (True, 0.25)
    assert peer.traffic.lost_bytes == 1_250


@pytest.mark.parametrize(("loss", "lost"), [(-1.0, 0.0), (0.0, 0.0), (0.5, 50.0), (1.0, 100.0), (7.0, 100.0)])
def test_lost_bytes_are_what_the_peer_reports_and_never_more_than_was_sent(loss: float, lost: float) -> None:
    wire, a, b, _ = connected()
    for _ in range(2):
        report = replace(NOTHING, machine_id=b.id, sent_bytes=100, sent_packets=1, loss=loss)
        a.core.carried(report, wire.now_us, wire.unix_us(a))
    assert a.core.peers[b.id].traffic.lost_bytes == 2 * lost


def test_the_initiator_rekeys_at_the_age_that_was_set() -> None:
    wire, a, b = briefed()
    a.core.rekey_zeqonds = 7  # 5.4 s
    wire.send(a, b)
    wire.run(1)
    handshakes = []
    for _ in range(20):
        now = wire.now_us
        a.core.carried(sent_by_a_worker(b, now), now, wire.unix_us(a))
        wire.run(1)
        handshakes.append(a.core.peers[b.id].last_handshake_us)
    assert 3 <= len(set(handshakes)) <= 5


def test_after_a_worker_is_lost_every_session_is_renewed() -> None:
    wire, a, b, _ = connected()
    wire.run(2)
    before = a.core.peers[b.id].last_handshake_us
    a.core.renew(wire.now_us, wire.unix_us(a))
    wire.run(1)
    assert a.core.peers[b.id].last_handshake_us > before


# ---------------------------------------------------------------------- the seam's encoding

MESSAGES: list[Message] = [
    PeerIs(b"m" * 32, b"\xc6\x12\0\2", ["fd00::/8", "10.0.0.0/8"]),
    PeerIs(b"m" * 32, b"\xc6\x12\0\2", [], held=True),
    SessionOpened(b"m" * 32, 64, 128, True, b"k" * 32, 3, 2**32 - 1, 10**15, False),
    Stray(b"\xc0" * 2000, "::ffff:192.0.2.1", 51777),
    Unsent([b"a" * 60_000, b""]),
    replace(NOTHING, loss=0.5, span=True),
]


@pytest.mark.parametrize("piece", [1, 7, 4096, 10**6])
def test_messages_come_out_of_the_stream_as_they_went_in(piece: int) -> None:
    data, reader, found = pack(MESSAGES), Reader(), []
    for start in range(0, len(data), piece):
        found += list(reader.feed(data[start : start + piece]))
    assert found == MESSAGES
