"""Both machines call at the same moment: one session wins on both sides, and nothing staged gets lost."""

from __future__ import annotations

import pytest

from tests.forgery import connected, current, payloads
from tests.pair import SECOND, Node, Wire

MS = 1000


def pair(there_ms: int, back_ms: int, seed: int) -> tuple[Wire, Node, Node]:
    """`lower` has the lower machine_id; the times are one way, lower to higher and back."""
    wire = Wire(seed)
    nodes = [wire.node("x", "192.0.2.1"), wire.node("y", "198.51.100.1")]
    lower, higher = sorted(nodes, key=lambda node: node.id)
    wire.introduce(lower, higher)
    wire.delays[lower.address, higher.address] = there_ms * MS
    wire.delays[higher.address, lower.address] = back_ms * MS
    return wire, lower, higher


def talk_at_once(wire: Wire, lower: Node, higher: Node, higher_later_ms: int) -> None:
    """Three packets from each side before anybody has a session."""
    first, second = (lower, higher) if higher_later_ms >= 0 else (higher, lower)
    for number in range(3):
        wire.send(first, second, bytes([number]))
    wire.run(abs(higher_later_ms) / 1000)
    for number in range(3):
        wire.send(second, first, bytes([number]))
    wire.run(10)


@pytest.mark.parametrize("higher_later_ms", [-5, 0, 5])
@pytest.mark.parametrize(
    ("there_ms", "back_ms"),
    [(10, 10), (200, 200), (10, 400), (400, 10), (10, 600), (600, 10), (700, 700), (1500, 20), (20, 1500)],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_when_both_call_at_once_the_lower_machines_session_wins_on_both_sides(
    there_ms: int, back_ms: int, higher_later_ms: int, seed: int
) -> None:
    wire, lower, higher = pair(there_ms, back_ms, seed)
    talk_at_once(wire, lower, higher, higher_later_ms)
    assert connected(lower, higher)
    winner = current(lower, higher)
    assert winner is not None
    assert winner.initiator, "the lower machine_id's handshake wins"
    for node in (lower, higher):
        assert sorted(payloads(node)) == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize("seed", [1, 2])
def test_after_glare_both_directions_go_on_undisturbed(seed: int) -> None:
    wire, lower, higher = pair(700, 700, seed)
    talk_at_once(wire, lower, higher, 0)
    session = current(lower, higher)
    for number in range(3, 100):
        wire.send(lower, higher, bytes([number]))
        wire.send(higher, lower, bytes([number]))
        wire.run(1)
    wire.run(2)
    for node in (lower, higher):
        assert sorted(payloads(node)) == [bytes([number]) for number in range(100)]
    assert current(lower, higher) is session


def test_glare_during_a_rekey_loses_nothing() -> None:
    """Two machines with a session both decide to renew it in the same moment."""
    wire, lower, higher = pair(40, 40, 1)
    wire.send(lower, higher, b"\0")
    wire.run(1)
    for node, other in ((lower, higher), (higher, lower)):
        node.core.peers[other.id].handshakes.connect(wire.now_us, wire.unix_us(node))
    for number in range(1, 20):
        wire.send(lower, higher, bytes([number]))
        wire.send(higher, lower, bytes([number]))
        wire.run(0.01)
    wire.run(3)
    assert sorted(payloads(higher)) == [bytes([number]) for number in range(20)]
    assert sorted(payloads(lower)) == [bytes([number]) for number in range(1, 20)]
    assert connected(lower, higher)
    renewed = current(lower, higher)
    assert renewed is not None
    assert renewed.initiator
    assert renewed.born_us > SECOND


def test_glare_where_the_lower_machines_message_1_is_lost() -> None:
    """It ignores the other's first message 1, but not the resend half a second later."""
    wire, lower, higher = pair(10, 10, 1)
    lost: list[bytes] = []

    def lose_first(datagram: bytes, source: object, _target: object) -> list[bytes]:
        if source == lower.address and datagram[0] == 0xC8 and len(lost) < 4:
            lost.append(datagram)
            return []
        return [datagram]

    wire.filter = lose_first
    talk_at_once(wire, lower, higher, 0)
    assert len(lost) == 4
    assert connected(lower, higher)
    for node in (lower, higher):
        assert sorted(payloads(node)) == [b"\0", b"\1", b"\2"]
    connected_at = min(at for node in (lower, higher) for at, _ in node.packets)
    assert connected_at < SECOND


@pytest.mark.parametrize("up_after_ms", [60, 300, 450])
def test_who_starts_a_moment_later_does_not_wait_for_a_resend(up_after_ms: int) -> None:
    """Both machines boot: the one called before it was up calls too, and so shows that it is there."""
    wire, lower, higher = pair(10, 10, 1)
    wire.filter = lambda datagram, _, target: (
        [] if target == higher.address and wire.now_us < up_after_ms * MS else [datagram]
    )
    wire.send(lower, higher, b"\0")
    wire.run(up_after_ms / 1000)
    wire.send(higher, lower, b"\1")
    wire.run(0.045)  # its message 1, ours again, its message 2, our first record: 10 ms each, and a bit
    assert payloads(higher) == [b"\0"]
    assert connected(lower, higher)


def test_a_nudge_is_no_flood() -> None:
    """However often the other's message 1 comes, ours goes out again every 50 ms at most."""
    wire, lower, higher = pair(10, 10, 1)
    wire.filter = lambda datagram, _, target: [] if target == higher.address else [datagram]
    wire.send(lower, higher, b"\0")
    wire.send(higher, lower, b"\1")
    wire.run(0.4)
    (theirs,) = {
        datagram for source, _, datagram in wire.log if source == higher.address and datagram[1] == 0
    }
    fragments = [datagram for source, _, datagram in wire.log if source == higher.address]
    assert theirs in fragments
    wire.log.clear()
    for _ in range(400):
        for fragment in fragments:
            wire.inject(fragment, higher.address, lower.address)
        wire.run(0.001)
    ours = [datagram for source, _, datagram in wire.log if source == lower.address and datagram[0] == 0xC8]
    assert len(ours) <= (0.4 / 0.05 + 2) * len({datagram[1] for datagram in ours})
