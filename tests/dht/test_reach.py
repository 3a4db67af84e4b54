"""Reach, Dial, Reached: who finds out that strangers get through, and what liars can make of it."""

from __future__ import annotations

import pytest

from dht.endpoints import Endpoint, network
from dht.messages import Dial, Ping, Pong, Reach, Reached, Stored, decode_dht, encode_dht
from dht.outcomes import Reachable
from dht.reach import ALL, ASKED, EVERY_US, NOBODY, TRIES, TRY_US
from tests.dht.overlay_world import SECOND, UNIX_US, Node, World

T = b"transact"


def world(count: int = 12) -> tuple[World, list[Node]]:
    made = World(5)
    nodes = made.grow(count)
    made.run(10)
    return made, nodes


def newcomer(made: World, start: Node) -> Node:
    """It knows one node, and has called nobody else."""
    node = made.join(serving=False)
    node.overlay.where.believe(node.endpoint)
    contact = next(iter(one for one in made.nodes[start.endpoint].overlay.table))
    helper = made.nodes[contact.endpoint]
    known = helper.overlay.where
    node.overlay.table.add_contact(type(contact)(known.tail + helper.endpoint), 0)
    return node


def check(made: World, node: Node, seconds: float = 12) -> list[Reachable]:
    assert node.overlay.check_reach(made.now_us)
    node.settle()
    made.run(seconds)
    return [event for event in node.events if isinstance(event, Reachable)]


def nat(made: World, inside: Node) -> None:
    """What goes in must have been written to before, to the port."""
    open_to: set[Endpoint] = set()

    def passes(datagram: bytes, source: Endpoint, target: Endpoint) -> bool:
        if source == inside.endpoint:
            open_to.add(target)
        return target != inside.endpoint or source in open_to

    made.filter = passes


def test_a_public_node_learns_that_it_is_reached() -> None:
    made, nodes = world()
    node = newcomer(made, nodes[0])
    seen: list[tuple[Endpoint, bytes]] = []

    def noted(datagram: bytes, source: Endpoint, _target: Endpoint) -> bool:
        seen.append((source, datagram))
        return True

    made.filter = noted
    assert check(made, node) == [Reachable(True, node.endpoint)]
    helper = next(iter(node.overlay.table)).endpoint
    diallers = [source for source, datagram in seen if isinstance(decode_dht(datagram[1:]), Reached)]
    assert diallers
    assert all(network(dialler) != network(helper) for dialler in diallers)


def test_behind_a_nat_nobody_gets_through() -> None:
    made, nodes = world()
    node = newcomer(made, nodes[0])
    nat(made, node)
    assert check(made, node, 2 * TRIES * TRY_US // SECOND) == [Reachable(False, node.endpoint)]


def test_where_all_have_been_called_nobody_can_tell() -> None:
    """In a mesh of three, the dialler is one that the NAT lets in anyway."""
    made, nodes = world(3)
    assert check(made, nodes[2], 20)[-1].reachable is None


def test_alone_nobody_can_tell() -> None:
    made = World(1)
    node = made.join()
    assert check(made, node, 1) == [Reachable(None, None)]


def test_a_check_is_made_only_so_often() -> None:
    made, nodes = world()
    node = newcomer(made, nodes[0])
    check(made, node)
    assert not node.overlay.check_reach(made.now_us)
    made.run(EVERY_US // SECOND)
    assert node.overlay.check_reach(made.now_us)


@pytest.mark.parametrize("helper_dials", [False, True], ids=["a stranger guesses", "the helper itself"])
def test_who_was_not_asked_to_dial_proves_nothing(helper_dials: bool) -> None:
    made, nodes = world()
    node = newcomer(made, nodes[0])
    nonces: list[bytes] = []

    def passes(datagram: bytes, source: Endpoint, target: Endpoint) -> bool:
        message = decode_dht(datagram[1:])
        if isinstance(message, Reach):
            nonces.append(message.t)
        return not isinstance(message, Reached)

    made.filter = passes
    node.overlay.check_reach(made.now_us)
    node.settle()
    made.run(2)
    [helper] = node.overlay.table
    for nonce in [bytes(8)] if not helper_dials else nonces:
        reached = encode_dht(Reached(nonce))
        node.overlay.receive(reached, helper.endpoint, made.now_us, made.unix_us)
    made.run(12)
    assert [event.reachable for event in node.events if isinstance(event, Reachable)] == [False]
    assert node.overlay.counters["reached, but nobody waits for it"]


# ------------------------------------------------------------------ as a flood


class Caller:
    """Asks one node from an address of its own."""

    def __init__(self, made: World, node: Node) -> None:
        self.made, self.node = made, node
        self.endpoint = bytes([90, 1, 1, 1, 0xCA, 0x41])
        [(pong, _)] = self.send(encode_dht(Ping(T, b"", b"", bytes(16))))
        answer = decode_dht(pong[1:])
        assert isinstance(answer, Pong)
        self.token = answer.token

    def send(self, datagram: bytes) -> list[tuple[bytes, Endpoint]]:
        overlay = self.node.overlay
        overlay.receive(datagram, self.endpoint, self.made.now_us, UNIX_US)
        out = overlay.outgoing[:]
        overlay.outgoing.clear()
        return out

    def dial(self, whom: Endpoint, token: bytes | None = None) -> list[Endpoint]:
        """Who was sent a Reached."""
        out = self.send(encode_dht(Dial(T, b"", self.token if token is None else token, whom, b"nonce 8b")))
        return [to for datagram, to in out if isinstance(decode_dht(datagram[1:]), Reached)]


def test_without_a_token_nobody_dials() -> None:
    made, nodes = world(3)
    caller, victim = Caller(made, nodes[0]), bytes([91, 1, 1, 1, 0, 53])
    assert caller.dial(victim, b"") == []
    assert caller.dial(victim, bytes(8)) == []
    assert caller.send(encode_dht(Reach(T, b"", b""))) == []
    assert nodes[0].overlay.counters["reach or dial without a token"] == 3


def test_nobody_dials_private_addresses_for_the_world_nor_an_askers_own_network() -> None:
    made, nodes = world(3)
    caller = Caller(made, nodes[0])
    for host in ([192, 168, 1, 1], [127, 0, 0, 1], [224, 0, 0, 1], [90, 1, 1, 9], [10, 0, 0, 1]):
        assert caller.dial(bytes([*host, 0xCA, 0x41])) == []
    assert caller.dial(bytes(18)) == []
    assert caller.dial(bytes([91, 1, 1, 1, 0xCA, 0x41])) != []


def test_a_victim_is_dialled_only_so_often_and_the_world_too() -> None:
    made, nodes = world(3)
    caller, victim = Caller(made, nodes[0]), bytes([91, 1, 1, 1, 0, 53])
    assert sum(len(caller.dial(victim)) for _ in range(100)) <= 4
    everybody = [bytes([91, number, 1, 1, 0, 53]) for number in range(200)]
    assert sum(len(caller.dial(whom)) for whom in everybody) <= ALL[1]


def test_a_helper_says_whether_it_has_asked_somebody() -> None:
    made, nodes = world(12)
    caller = Caller(made, nodes[0])
    statuses = []
    for _ in range(10):
        for datagram, to in caller.send(encode_dht(Reach(T, b"", caller.token))):
            answer = decode_dht(datagram[1:])
            if to == caller.endpoint:
                assert isinstance(answer, Stored)
                statuses.append(answer.status)
    assert statuses[0] == ASKED
    assert statuses[-1] == NOBODY, "too often"
