"""Who may call for the first time: invitation tokens at the door, and guests until they are redeemed."""

from __future__ import annotations

import pytest

from crypto.cookies import Refusal
from crypto.handshake import Opening
from crypto.identity import ula
from tests.forgery import connected, deliver, forged_message1, message1_datagrams, payloads
from tests.pair import LOOKUP, SECOND, Node, Wire, at, ipv6
from tun.control import Hello
from tun.core import GUEST_US, MAX_GUESTS
from tun.doorkeeper import Invited
from tun.events import Introduced, TurnedAway, Welcomed
from tun.frames import MESSAGE2, REFUSAL

TOKEN, TOKEN_ID = bytes(range(16)), bytes(range(16, 32))


class Scene:
    """`host` wrote an invitation; `guest` has it and knows the host, which does not know the guest."""

    def __init__(self, standing: Invited, token_id: bytes = TOKEN_ID) -> None:
        self.wire = Wire(seed=4)
        self.guest = self.wire.node("guest", "192.0.2.1")
        self.host = self.wire.node("host", "198.51.100.1")
        self.asked: list[tuple[bytes, int]] = []
        self.standing = standing
        config = self.host.peer_config(token=TOKEN, token_id=token_id)
        self.guest.core.hello_to = lambda _machine_id: Hello(TOKEN, "guest", LOOKUP, ("192.0.2.1:51777",))
        self.guest.core.add_peer(config, [], 0)
        self.host.core.door.invited = self.invited

    def invited(self, token_id: bytes, unix_us: int) -> Invited:
        self.asked.append((token_id, unix_us))
        return self.standing if token_id == TOKEN_ID else Invited.UNKNOWN

    def introductions(self) -> list[Introduced]:
        return [event for event in self.host.events if isinstance(event, Introduced)]

    def turned_away(self) -> list[TurnedAway]:
        return [event for event in self.guest.events if isinstance(event, TurnedAway)]


def test_a_good_token_makes_a_guest_and_redeeming_it_a_peer() -> None:
    scene = Scene(Invited.GOOD)
    wire, guest, host = scene.wire, scene.guest, scene.host
    wire.run(0.5)
    assert guest.id in host.core.guests
    assert guest.id not in host.core.peers
    [introduced] = scene.introductions()
    assert (introduced.machine_id, introduced.hello.token) == (guest.id, TOKEN)
    assert introduced.address == guest.address
    assert scene.asked == [(TOKEN_ID, wire.unix_us(host) - wire.now_us + 10_000)]
    host.core.add_peer(guest.peer_config(eager=False), [], wire.now_us)
    host.core.welcome(guest.id, "home", wire.now_us, wire.unix_us(host))
    wire.run(0.5)
    assert [e.name for e in guest.events if isinstance(e, Welcomed)] == ["home"]
    assert connected(guest, host)
    wire.send(guest, host, b"at home")
    wire.run(0.5)
    assert payloads(host) == [b"at home"]
    assert guest.core.peers[host.id].config.token == b"", "presented until it is redeemed, not after"


def test_a_guests_packets_go_nowhere_before_it_is_a_peer() -> None:
    scene = Scene(Invited.GOOD)
    wire, guest, host = scene.wire, scene.guest, scene.host
    for number in range(3):
        wire.send(guest, host, bytes([number]))
        wire.run(0.5)
    assert not host.packets
    assert host.core.counters["packet before the invitation was redeemed"] == 3
    # nor does anything of ours go to it
    host.core.send(ipv6(host.ula, ula(guest.id), b"x"), wire.now_us, wire.unix_us(host))
    assert host.core.counters["packet for nobody"] == 1


@pytest.mark.parametrize(
    ("standing", "kind", "words"),
    [
        (Invited.USED, Refusal.TOKEN_USED, "used"),
        (Invited.EXPIRED, Refusal.TOKEN_EXPIRED, "expired"),
        (Invited.REVOKED, Refusal.TOKEN_REVOKED, "revoked"),
    ],
)
def test_the_holder_of_a_spent_token_is_told_why(standing: Invited, kind: Refusal, words: str) -> None:
    scene = Scene(standing)
    scene.wire.run(1)
    [turned_away] = scene.turned_away()
    assert (turned_away.machine_id, turned_away.kind) == (scene.host.id, kind)
    assert words in turned_away.reason
    assert not scene.host.core.guests
    assert not scene.introductions()
    kinds = {datagram[0] for source, _, datagram in scene.wire.log if source == scene.host.address}
    assert kinds == {REFUSAL}


@pytest.mark.parametrize("token_id", [bytes(16), b"wrong token id.."], ids=["none", "wrong"])
@pytest.mark.parametrize("standing", list(Invited))
def test_a_stranger_gets_silence_whatever_the_invitation_is_worth(standing: Invited, token_id: bytes) -> None:
    scene = Scene(standing, token_id)
    scene.wire.run(3)
    assert not [d for source, _, d in scene.wire.log if source == scene.host.address]
    assert not scene.host.core.guests
    assert not scene.turned_away()
    assert scene.host.core.counters["message 1 of a stranger"] > 0
    assert scene.asked == [] or token_id != bytes(16), "no token is no question"


def test_who_knows_neither_machine_id_nor_lookup_secret_does_not_even_cost_a_decryption() -> None:
    scene = Scene(Invited.GOOD)
    scene.guest.core.peers[scene.host.id].config.lookup_secret = bytes(16)
    scene.wire.run(3)
    assert not [d for source, _, d in scene.wire.log if source == scene.host.address]
    assert scene.host.core.counters["mac1 refused"] > 0
    assert scene.host.core.counters["message 1 of a stranger"] == 0
    assert not scene.asked


def test_the_node_may_refuse_in_words_after_the_first_record() -> None:
    """The token id was good, the token itself is not: found out only when the record presents it."""
    scene = Scene(Invited.GOOD)
    wire, guest, host = scene.wire, scene.guest, scene.host
    wire.run(0.5)
    host.core.refuse(guest.id, "the token is not ours", wire.now_us, wire.unix_us(host))
    wire.run(0.5)
    [turned_away] = scene.turned_away()
    assert turned_away.reason == "the token is not ours"
    assert not host.core.guests
    assert guest.core.peers[host.id].keypairs.current is None


def test_guests_are_bounded_and_leave_by_themselves() -> None:
    """Whoever holds one good token may make up any number of machines."""
    scene = Scene(Invited.GOOD)
    wire, host = scene.wire, scene.host
    made_up = Wire(seed=9)
    answered = 0
    for number in range(MAX_GUESTS + 10):
        stranger = made_up.node("s", f"203.0.{number}.1")
        opening = Opening(wire.unix_us(host), 64, token_id=TOKEN_ID)
        _, message = forged_message1(stranger.keys.bundle, host, opening)
        answers = deliver(wire, host, message1_datagrams(message, host.id), stranger.address)
        answered += {datagram[0] for datagram, _ in answers} == {MESSAGE2}
        wire.now_us += 4000  # below the threshold of load
    assert answered == len(host.core.guests) == MAX_GUESTS
    assert not host.core.packets
    wire.nodes.remove(scene.guest)
    wire.run(GUEST_US / SECOND + 1)
    assert not host.core.guests


def test_a_guest_that_was_never_redeemed_is_forgotten_with_its_keys() -> None:
    scene = Scene(Invited.GOOD)
    scene.wire.run(0.5)
    guest = scene.host.core.guests[scene.guest.id]
    assert guest.keypairs.current is not None
    scene.wire.nodes.remove(scene.guest)
    scene.wire.run(GUEST_US / SECOND + 1)
    assert scene.guest.id not in scene.host.core.guests
    assert guest.keypairs.all() == []


def test_a_token_in_somebody_elses_message_1_does_not_make_that_machine_a_guest_for_good() -> None:
    """An attacker with the host's keys and a token forges a message 1 in a third machine's name."""
    scene = Scene(Invited.GOOD)
    wire, host = scene.wire, scene.host
    third: Node = Wire(seed=8).node("third", "203.0.113.1")
    opening = Opening(wire.unix_us(host), 64, token_id=TOKEN_ID)
    _, message = forged_message1(third.keys.bundle, host, opening)
    deliver(wire, host, message1_datagrams(message, host.id), at("203.0.113.2"))
    assert host.core.guests[third.id].keypairs.current is None
    assert not scene.introductions()
