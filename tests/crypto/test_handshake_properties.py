"""Two machines over the worst of wires: they agree on keys, or neither has one.

Whole tunnel cores exchange whole datagrams, and Hypothesis decides about each one: delivered, lost, doubled,
late, changed. Besides, every single byte of every message is changed, exhaustively.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crypto.cookies import MAC_BYTES
from crypto.errors import HandshakeRefused
from crypto.handshake import Answer, Initiator, Opening, Responder, mesh_psk
from crypto.identity import MachineKeys
from crypto.kem import PARSED_KEYS, HybridKey, RealPrimitives, hmac_sha256, kem_public_key
from crypto.pulse import zeqond
from tests.pair import SECOND, Node, Wire, at, ipv6
from tun.frames import RECORD
from tun.keypairs import Keypair

KEYS = {name: MachineKeys.from_bytes(name.encode() * 128) for name in ("a", "b")}
STATIC = {name: HybridKey(keys.x25519_key, keys.ml_kem_key) for name, keys in KEYS.items()}
ADDRESS = {"a": at("192.0.2.1"), "b": at("198.51.100.1")}


def two_nodes(wire: Wire) -> tuple[Node, Node]:
    a = wire.node("a", "192.0.2.1", keys=KEYS["a"])
    b = wire.node("b", "198.51.100.1", keys=KEYS["b"])
    wire.introduce(a, b)
    return a, b


# ------------------------------------------------------------------ a wire in Hypothesis's hands


@dataclass(frozen=True)
class Step:
    """What happens next: to one of the datagrams in flight, or to the clock."""

    do: str
    which: int
    byte: int
    bit: int


STEPS = st.lists(
    st.builds(
        Step,
        # late in the list: simpler, and more often what Hypothesis shrinks away from
        st.sampled_from(["deliver", "deliver", "deliver", "copy", "lose", "tamper", "tamper copy", "wait"]),
        st.integers(0, 20),
        st.integers(0, 1500),
        st.integers(0, 7),
    ),
    max_size=40,
)


def fingerprint(keypair: Keypair, now_us: int) -> tuple[bytes, ...]:
    """Equal for equal keys: both directions of lane 0 in epoch 0, and the base of the session zeqond."""
    session = keypair.session
    keys = [session.lane_key(0, to_initiator, 0, now_us) for to_initiator in (False, True)]
    base = session.zeqond_base.to_bytes(4, "big")
    return session.transcript, base, *(key.encrypt(bytes(12), b"", None) for key in keys)


@dataclass
class Chaos:
    """Applies steps to the datagrams in flight, and remembers every session that either side ever had."""

    wire: Wire
    a: Node
    b: Node
    flying: list[tuple[bytes, Node, Node]] = field(default_factory=list)
    seen: dict[str, dict[bytes, tuple[bytes, ...]]] = field(default_factory=lambda: {"a": {}, "b": {}})
    opened: dict[str, set[bytes]] = field(default_factory=lambda: {"a": set(), "b": set()})

    def collect(self) -> None:
        for node, other in ((self.a, self.b), (self.b, self.a)):
            self.flying += [(datagram, node, other) for datagram, _ in node.core.outgoing]
            node.core.outgoing.clear()
            keypairs = node.core.peers[other.id].keypairs
            for keypair in keypairs.all():
                transcript = keypair.session.transcript
                if transcript not in self.seen[node.name]:
                    self.seen[node.name][transcript] = fingerprint(keypair, self.wire.now_us)
                if keypair not in keypairs.unconfirmed:
                    self.opened[node.name].add(transcript)
            self.wire.collect(node)

    def step(self, step: Step) -> None:
        if step.do == "wait" or not self.flying:
            self.tick(self.wire.next_us())
        else:
            at = step.which % len(self.flying)
            datagram, source, target = self.flying[at]
            if step.do in ("deliver", "lose", "tamper"):
                del self.flying[at]
            if step.do in ("tamper", "tamper copy"):
                where = step.byte % len(datagram)
                changed = bytes([datagram[where] ^ 1 << step.bit])
                datagram = datagram[:where] + changed + datagram[where + 1 :]
            if step.do != "lose":
                unix_us = self.wire.unix_us(target)
                target.core.receive(datagram, source.address, self.wire.now_us, unix_us)
        self.collect()
        self.check()

    def tick(self, until_us: int) -> None:
        self.wire.now_us = max(self.wire.now_us, until_us)
        for node in (self.a, self.b):
            node.core.tick(self.wire.now_us, self.wire.unix_us(node))

    def check(self) -> None:
        """Whoever may use a session shares its keys with the other: no session is ever one's own alone."""
        for mine, other in (("a", "b"), ("b", "a")):
            for transcript in self.opened[mine]:
                assert self.seen[other].get(transcript) == self.seen[mine][transcript]


@given(steps=STEPS, both_call=st.booleans())
@example(steps=[], both_call=True)
def test_whatever_the_wire_does_two_machines_agree_on_keys_or_neither_has_one(
    steps: list[Step], both_call: bool
) -> None:
    wire = Wire()
    a, b = two_nodes(wire)
    a.core.send(packet(wire, a, b, b"staged"), 0, wire.unix_us(a))
    if both_call:
        b.core.send(packet(wire, b, a, b"staged"), 0, wire.unix_us(b))
    chaos = Chaos(wire, a, b)
    chaos.collect()
    for step in steps:
        chaos.step(step)

    # the wire is sound from here on: within a resend or two they are connected and stay so
    end = wire.now_us + 12 * SECOND
    while chaos.flying or wire.next_us() <= end:
        chaos.step(Step("deliver", 0, 0, 0))
    fresh = packet(wire, a, b, b"fresh"), packet(wire, b, a, b"fresh")
    a.core.send(fresh[0], wire.now_us, wire.unix_us(a))
    b.core.send(fresh[1], wire.now_us, wire.unix_us(b))
    chaos.collect()
    while chaos.flying:
        chaos.step(Step("deliver", 0, 0, 0))
    for node, sent in ((b, fresh[0]), (a, fresh[1])):
        received = [got for _, got in node.packets]
        assert received.count(sent) == 1
        assert len(received) == len(set(received)), "a copied record was delivered twice"


def packet(wire: Wire, source: Node, target: Node, payload: bytes) -> bytes:
    return ipv6(source.ula, target.ula, payload)


@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.floats(0, 0.5),
    duplicate=st.floats(0, 0.5),
    jitter_ms=st.integers(0, 1000),
    both_call=st.booleans(),
)
def test_after_loss_doubling_and_reordering_two_machines_talk(
    seed: int, loss: float, duplicate: float, jitter_ms: int, both_call: bool
) -> None:
    wire = Wire(seed)
    a, b = two_nodes(wire)
    wire.loss, wire.duplicate, wire.jitter_us = loss, duplicate, jitter_ms * 1000
    wire.send(a, b, b"staged")
    if both_call:
        wire.send(b, a, b"staged")
    wire.run(60)
    wire.loss = 0.0
    wire.run(10)
    # one side may hold a session whose confirming record was lost: traffic finds that out within 15 s
    wire.send(a, b, b"into the void, perhaps")
    wire.run(20)
    sent = wire.send(a, b, b"after"), wire.send(b, a, b"after")
    wire.run(5)
    for node, packet_ in ((b, sent[0]), (a, sent[1])):
        received = [got for _, got in node.packets]
        assert received.count(packet_) == 1


# ------------------------------------------------------------------ every byte of every message


@dataclass(frozen=True)
class Messages:
    initiator: Initiator
    message1: bytes
    message2: bytes


@pytest.fixture(scope="module")
def messages() -> Messages:
    initiator = Initiator(STATIC["a"], KEYS["a"].bundle, KEYS["b"].bundle, RealPrimitives())
    message1 = initiator.message1(Opening(1, 64))
    answer = Answer(128, "192.0.2.1:51777", ("198.51.100.1:51777", "[2001:db8::1]:51777"))
    message2, _ = Responder(message1, STATIC["b"], KEYS["b"].bundle).message2(answer, RealPrimitives())
    return Messages(initiator, message1, message2)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def opens_message1(message: bytes) -> bool:
    try:
        Responder(message, STATIC["b"], KEYS["b"].bundle)
    except HandshakeRefused:
        return False
    return True


def opens_message2(initiator: Initiator, message: bytes) -> bool:
    try:
        initiator.read_message2(message)
    except HandshakeRefused:
        return False
    return True


def test_a_change_of_any_byte_of_message_1_makes_it_nothing(messages: Messages) -> None:
    data = messages.message1
    assert opens_message1(data)
    assert not [i for i in range(len(data)) if opens_message1(flipped(data, i, i % 8))]


def test_a_change_of_any_byte_of_message_2_makes_it_nothing(messages: Messages) -> None:
    data = messages.message2
    opened = [i for i in range(len(data)) if opens_message2(messages.initiator, flipped(data, i, i % 8))]
    assert not opened
    assert opens_message2(messages.initiator, data), "a forged message 2 must end nothing"


def test_every_bit_of_the_ephemeral_x25519_values_counts(messages: Messages) -> None:
    """X25519 ignores the top bit of its input; the transcript does not."""
    for at_ in range(2, 34):
        for bit in range(8):
            assert not opens_message1(flipped(messages.message1, at_, bit))
            assert not opens_message2(messages.initiator, flipped(messages.message2, at_, bit))


@pytest.mark.parametrize("which", ["message1", "message2"])
def test_a_message_cut_short_or_with_bytes_left_over_is_nothing(messages: Messages, which: str) -> None:
    data: bytes = getattr(messages, which)

    def opens(message: bytes) -> bool:
        if which == "message1":
            return opens_message1(message)
        return opens_message2(messages.initiator, message)

    assert not [size for size in range(len(data)) if opens(data[:size])]
    assert not opens(data + b"\0")
    assert not opens(b"\0" + data)
    assert opens(data)


@given(st.binary(max_size=5000))
def test_arbitrary_bytes_are_no_message(messages: Messages, data: bytes) -> None:
    assert not opens_message1(data)
    assert not opens_message2(messages.initiator, data)


# ------------------------------------------------------------------ every byte of every datagram


def send_all(target: Node, datagrams: list[bytes], source: str) -> None:
    for datagram in datagrams:
        target.core.receive(datagram, ADDRESS[source], 1000, 1_780_000_000_000_000)


def take(node: Node) -> list[bytes]:
    datagrams = [datagram for datagram, _ in node.core.outgoing]
    node.core.outgoing.clear()
    return datagrams


def test_a_change_of_any_byte_of_any_datagram_stops_the_handshake_there() -> None:
    """But for mac2, which only counts under load, and a record's four hint bytes, which mean nothing."""
    a, b = two_nodes(Wire())
    a.core.send(packet(Wire(), a, b, b"x"), 0, 1_780_000_000_000_000)
    first = take(a)
    send_all(b, first[:-1], "a")
    refuses(b, first[-1], "a", range(len(first[-1]) - MAC_BYTES))
    for missing in range(len(first) - 1):
        other = two_nodes(Wire())[1]
        send_all(other, first[:missing] + first[missing + 1 :], "a")
        refuses(other, first[missing], "a", range(len(first[missing]) - MAC_BYTES))
    send_all(b, first[-1:], "a")
    second = take(b)
    send_all(a, second[:-1], "b")
    for datagram in second:
        refuses(a, datagram, "b", range(len(datagram) - MAC_BYTES))
    assert a.core.peers[b.id].keypairs.current is None
    send_all(a, second[-1:], "b")
    assert a.core.peers[b.id].keypairs.current is not None
    record = take(a)[0]
    refuses(b, record, "a", range(4, len(record)))
    assert b.core.peers[a.id].keypairs.current is None
    send_all(b, [record], "a")
    assert b.core.peers[a.id].keypairs.current is not None


def refuses(node: Node, datagram: bytes, source: str, positions: range) -> None:
    """Changed at any of these positions, the datagram gets no answer and moves nothing."""
    before = len(node.core.events)
    for position in positions:
        send_all(node, [flipped(datagram, position, position % 8)], source)
        assert not node.core.outgoing, f"answered with byte {position} changed"
    assert len(node.core.events) == before


# ------------------------------------------------------------------ a confirming record that got lost


def test_a_session_whose_confirming_record_was_lost_is_confirmed_by_a_later_one() -> None:
    """Else the caller speaks into a void for two minutes, while what it hears on the old session calms it."""
    wire = Wire()
    a, b = two_nodes(wire)
    wire.send(b, a, b"connects")
    wire.run(1)
    wire.filter = lambda datagram, source, _target: (
        [] if source == a.address and datagram[0] == RECORD else [datagram]
    )
    a.core.peers[b.id].handshakes.connect(wire.now_us, wire.unix_us(a))
    for _ in range(12):
        wire.send(b, a, b"a stream the other way")
        wire.run(1)
    wire.filter = None
    sent: list[bytes] = []
    for _ in range(10):
        wire.send(b, a, b"a stream the other way")
        sent.append(wire.send(a, b, len(sent).to_bytes(1, "big")))
        wire.run(1)
    assert [packet_ for _, packet_ in b.packets] == sent


# ------------------------------------------------------------------ what is quick is the same as what is slow


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
@example(bytes(32), b"")
@example(bytes(31) + b"\1", b"\xff")
@example(b"\xff" * 32, bytes(64))
def test_hmac_is_that_of_the_standard_library(key: bytes, data: bytes) -> None:
    assert hmac_sha256(key, data) == hmac.new(key, data, hashlib.sha256).digest()


@pytest.mark.parametrize("size", [16, 31, 32, 33, 64, 65, 200])
def test_a_private_meshs_secret_may_have_any_length(size: int) -> None:
    secret, ids = bytes(range(size)), (KEYS["a"].machine_id, KEYS["b"].machine_id)
    text = "|".join([*(each.hex() for each in ids), bytes(32).hex(), str(zeqond(5_000))])
    expected = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    assert mesh_psk(secret, *ids, bytes(32), 5_000_000) == expected

    initiator = Initiator(STATIC["a"], KEYS["a"].bundle, KEYS["b"].bundle, RealPrimitives(), secret)
    responder = Responder(initiator.message1(Opening(1, 0)), STATIC["b"], KEYS["b"].bundle, secret)
    message2, theirs = responder.message2(Answer(64), RealPrimitives())
    ours, _ = initiator.read_message2(message2)
    assert ours.root == theirs.root


def test_no_more_parsed_keys_are_kept_than_the_limit() -> None:
    for number in range(2 * PARSED_KEYS):
        keys = MachineKeys.from_bytes(number.to_bytes(128, "big"))
        assert type(keys.bundle).from_bytes(keys.bundle.to_bytes()).machine_id == keys.machine_id
    assert kem_public_key.cache_info().currsize <= PARSED_KEYS
