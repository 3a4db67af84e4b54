"""Whatever arrives, no exception leaves the core, and what it costs stays within bounds."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crypto.cookies import answer_mac1_key, mac1_key
from crypto.handshake import Opening
from crypto.identity import MachineKeys
from tests.forgery import connected, current, deliver, forged_message1, message1_datagrams
from tests.pair import LOOKUP, Node, Wire, at, ipv6
from tun import control, fragments, keyrequest
from tun.control import BadControl, Bye, Control, Hello, Note, Ping, Pong, Refused, Welcome
from tun.frames import KEY_REQUEST, KEYS, MESSAGE1, Kind, outer
from tun.keyrequest import KeyRequest

ELSEWHERE = at("203.0.113.66", 4444)
MANY = settings(max_examples=max(500, settings().max_examples))
SOME = settings(max_examples=max(200, settings().max_examples))
KEYS_OF = {name: MachineKeys.from_bytes(name.encode() * 128) for name in ("a", "b")}


class Scene:
    """Two connected machines; `a` also has a handshake and a request for keys under way."""

    def __init__(self) -> None:
        self.wire = Wire(seed=5)
        self.a = self.wire.node("a", "192.0.2.1", keys=KEYS_OF["a"])
        self.b = self.wire.node("b", "198.51.100.1", keys=KEYS_OF["b"])
        self.wire.introduce(self.a, self.b)
        self.wire.send(self.a, self.b, b"hello")
        self.wire.run(0.5)
        assert connected(self.a, self.b)
        core = self.a.core
        core.peers[self.b.id].handshakes.connect(self.wire.now_us, self.wire.unix_us(self.a))
        core.request_keys(self.b.id, LOOKUP, [self.b.address], self.wire.now_us)
        self.pending = [datagram for datagram, _ in core.outgoing]
        self.wire.collect(self.a)


SCENE = Scene()


def fed(data: bytes, node: Node) -> int:
    """How many bytes the core sent in answer."""
    return sum(len(answer) for answer, _ in deliver(SCENE.wire, node, [data], ELSEWHERE))


def test_every_first_byte_with_every_length_of_nothing() -> None:
    now_us = SCENE.wire.now_us
    for node in (SCENE.a, SCENE.b):
        unix_us = SCENE.wire.unix_us(node)
        for size in (*range(130), 479, 480, 599, 600, 1199, 1200, 1201, 1452, 9000, 65506):
            rest = bytes(size)
            for first in range(256):
                taken = node.core.receive(bytes([first]) + rest, ELSEWHERE, now_us, unix_us)
                assert taken is (0xC0 <= first <= 0xCF)
        assert not node.core.receive(b"", ELSEWHERE, now_us, unix_us)
        assert not node.core.outgoing


@given(first=st.integers(0xC0, 0xCF), data=st.binary(max_size=1500))
@MANY
def test_arbitrary_bytes_of_every_type_are_never_answered(first: int, data: bytes) -> None:
    for node in (SCENE.a, SCENE.b):
        assert fed(bytes([first]) + data, node) == 0


def genuine() -> list[bytes]:
    """Every kind of datagram that two machines exchanged or were about to."""
    wire = Wire(seed=6)
    a = wire.node("a", "192.0.2.1", keys=KEYS_OF["a"], skew_us=10**13)  # so there is a refusal among them
    b = wire.node("b", "198.51.100.1", keys=KEYS_OF["b"])
    wire.introduce(a, b)
    wire.send(a, b, b"x", size=1400)  # a span
    a.core.request_keys(b.id, LOOKUP, [b.address], 0)
    wire.run(1)
    message = fragments.seal(fragments.cut(MESSAGE1, bytes(3646))[0], mac1_key(b.id, LOOKUP))
    cookies = deliver(wire, b, [message] * 300, a.address)
    found = {datagram[0]: datagram for _, _, datagram in wire.log}
    found |= {datagram[0]: datagram for datagram, _ in cookies}
    return list(found.values())


GENUINE = genuine()


def test_the_mutated_datagrams_are_of_every_type() -> None:
    assert sorted(datagram[0] for datagram in GENUINE) == [0xC0, 0xC2, 0xC8, 0xC9, 0xCC, 0xCD, 0xCE, 0xCF]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from([*GENUINE, *SCENE.pending])))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    start = draw(st.integers(0, 3) | st.just(0))
    return bytes(data[start : draw(st.integers(start, len(data)))] or data)


@given(mutated())
@MANY
def test_mutations_of_genuine_datagrams_raise_nothing(data: bytes) -> None:
    for node in (SCENE.a, SCENE.b):
        assert fed(data, node) <= 3 * len(data)


@given(st.binary(min_size=449, max_size=1168), st.sampled_from([MESSAGE1, KEY_REQUEST]))
def test_arbitrary_messages_under_a_right_mac1_get_at_most_three_times_their_bytes(
    data: bytes, kind: int
) -> None:
    """The mac1 key of a listed machine is public: this far anybody comes."""
    [bare] = fragments.cut(kind, data[:1108])
    datagram = fragments.seal(bare, mac1_key(SCENE.b.id, LOOKUP))
    before = len(SCENE.b.core.peers[SCENE.a.id].keypairs.all())
    assert fed(datagram, SCENE.b) <= 3 * len(datagram)
    assert len(SCENE.b.core.peers[SCENE.a.id].keypairs.all()) == before


def test_what_a_flood_leaves_behind_is_bounded() -> None:
    """Forged message 1s in a peer's name by a holder of our keys: the worst flood that there is."""
    wire = Wire(seed=7)
    a = wire.node("a", "192.0.2.1", keys=KEYS_OF["a"])
    b = wire.node("b", "198.51.100.1", keys=KEYS_OF["b"])
    wire.introduce(a, b)
    for number in range(400):
        _, message = forged_message1(a.keys.bundle, b, Opening(wire.unix_us(b) + number, 64))
        deliver(wire, b, message1_datagrams(message, b.id), at(f"10.{number >> 8}.{number & 255}.1"))
        wire.now_us += 20_000
        b.core.tick(wire.now_us, wire.unix_us(b))
    assert len(b.core.peers[a.id].keypairs.all()) == 8
    assert len(b.core.indexes._by_slot) == 8
    assert len(b.core.door._answered) <= 256
    wire.nodes.remove(a)
    wire.run(200)
    assert not b.core.peers[a.id].keypairs.all()
    assert not b.core.indexes._by_slot


# ------------------------------------------------------------------ an authenticated peer's nonsense


@st.composite
def plaintexts(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from([int(kind) for kind in Kind]) | st.integers(0, 255))
    body = draw(
        st.binary(max_size=200)
        | st.binary(max_size=80).map(lambda tail: b"\x45" + tail)
        | st.binary(max_size=80).map(lambda tail: b"\x60" + tail)
        | st.binary(max_size=60).map(lambda tail: ipv6(SCENE.a.ula, SCENE.b.ula, tail))
        | messages_of_any_shape()
    )
    prefix = draw(st.just(bytes([kind]) + bytes(15)) | st.binary(max_size=16))
    return prefix + body


def messages_of_any_shape() -> st.SearchStrategy[bytes]:
    """msgpack of anything, ops of ours included."""
    leaves: st.SearchStrategy[object] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.binary(max_size=20),
        st.text(max_size=40),
    )
    anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
    shaped = st.tuples(st.integers(0, 9), anything, anything, anything, anything).map(list)
    cut = st.tuples(shaped, st.integers(1, 5)).map(lambda pair: pair[0][: pair[1]])
    packed: st.SearchStrategy[bytes] = (cut | anything).map(lambda value: bytes(msgpack.packb(value)))
    return packed


@given(plaintexts())
@SOME
@example(b"")
@example(bytes([Kind.PACKET]))
@example(bytes([Kind.PACKET]) + bytes(15) + b"\x45")
@example(bytes([Kind.MTU_REPLY]))
@example(bytes([Kind.PATH_RESPONSE]) + bytes(15))
def test_an_authenticated_peer_may_send_what_it_likes(plaintext: bytes) -> None:
    scene = connected_again()
    keypair = current(scene.a, scene.b)
    assert keypair is not None
    iv, sealed = keypair.lane.seal(plaintext, scene.wire.now_us)
    deliver(scene.wire, scene.b, outer(iv, sealed, 1400), scene.a.address)


def connected_again() -> Scene:
    """SCENE, while no nonsense has talked it into saying goodbye; else a new one."""
    global SCENE
    if not connected(SCENE.a, SCENE.b):
        SCENE = Scene()
    return SCENE


# ------------------------------------------------------------------ control messages


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=32)
MESSAGES: st.SearchStrategy[Control] = st.one_of(
    st.builds(
        Hello,
        st.binary(min_size=16, max_size=16),
        TEXTS,
        st.binary(min_size=16, max_size=16) | st.just(b""),
        st.lists(TEXTS, max_size=8).map(tuple),
    ),
    st.builds(Welcome, TEXTS),
    st.builds(Refused, TEXTS),
    st.builds(Ping, st.integers(0, 2**64 - 1)),
    st.builds(Pong, st.integers(0, 2**64 - 1)),
    st.just(Bye()),
    st.builds(Note, st.binary(max_size=900)),
)


@given(MESSAGES)
def test_control_messages_come_back_as_they_went(message: Control) -> None:
    encoded = control.encode(message)
    if len(encoded) <= control.MAX_CONTROL_BYTES:
        assert control.decode(encoded) == message


@given(st.binary(max_size=1100) | messages_of_any_shape())
@SOME
def test_a_control_message_is_decoded_or_refused(data: bytes) -> None:
    try:
        message = control.decode(data)
    except BadControl:
        return
    assert control.decode(control.encode(message)) == message


def test_control_messages_beyond_their_bounds_are_refused() -> None:
    token, secret = bytes(16), bytes(16)
    bad: Iterator[object] = iter(
        [
            [],
            [0],
            [7],
            [7, "text"],
            [7, bytes(901)],
            [7, b"", b""],
            [8, b""],
            [6, 6],
            [1],
            [1, token, "name", secret],
            [1, token[:15], "name", secret, []],
            [1, token, "n" * 33, secret, []],
            [1, token, "name", secret[:15], []],
            [1, token, "name", secret, ["a"] * 9],
            [1, token, "name", secret, ["a" * 201]],
            [1, token, "name", secret, [1]],
            [1, "t" * 16, "name", secret, []],
            [2, b"name"],
            [2, "n" * 33],
            [3, "r" * 201],
            [4, -1],
            [4, 1.0],
            [4, "1"],
            [4, True],
            [5, None],
            {"1": 2},
            "BYE",
            6,
            None,
        ]
    )
    for value in bad:
        with pytest.raises(BadControl):
            control.decode(msgpack.packb(value))
    nested = b"\x91" * 1000
    truncated = b"\xdc\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\x92\x04", b"\x92\x02\xd9\x20n"
    extension = b"\x92\x04\xd6\xff" + bytes(4), b"\x92\x04\xc7\x0c\xff" + b"\xff" * 12
    for raw in (b"", b"\xc1", nested, b"\x91\x06\x06", bytes(1025), *truncated, *extension):
        with pytest.raises(BadControl):
            control.decode(raw)


def test_a_long_reason_is_shortened_and_still_read() -> None:
    message = control.decode(control.encode(Refused("ü" * 500)))
    assert message == Refused("ü" * 200)


# ------------------------------------------------------------------ key requests


def request() -> KeyRequest:
    return KeyRequest(KEYS_OF["b"].machine_id, LOOKUP, [ELSEWHERE], lambda size: bytes(range(size)), 0)


def answers_to(bundle_of: str, nonce_byte: int = 0) -> list[bytes]:
    """What a machine answers to `request`, or to one with another nonce."""
    other = KeyRequest(
        KEYS_OF["b"].machine_id, LOOKUP, [ELSEWHERE], lambda n: bytes([nonce_byte or i for i in range(n)]), 0
    )
    [(datagram, _)] = other.due(0)
    return keyrequest.answer(KEYS_OF[bundle_of].bundle, datagram)


def test_the_key_bundle_arrives_in_any_order_and_is_the_one_asked_for() -> None:
    for order in (1, -1):
        asked = request()
        got = [asked.on_keys(datagram, ELSEWHERE, 0) for datagram in answers_to("b")[::order]]
        assert got == [None, KEYS_OF["b"].bundle]


def test_another_machines_keys_are_not_taken() -> None:
    """Under the right mac1 too: anybody who knows machine_id and sees the request can make it."""
    [(datagram, _)] = request().due(0)
    nonce = keyrequest.nonce_of(datagram)
    key = answer_mac1_key(KEYS_OF["b"].machine_id, nonce)
    for content in (KEYS_OF["a"].bundle.to_bytes(), bytes(1248), bytes(1264), b"short", bytes(5000)):
        asked = request()
        forged = [fragments.seal(bare, key) for bare in fragments.cut(KEYS, content, nonce[:8])]
        assert [asked.on_keys(d, ELSEWHERE, 0) for d in forged] == [None] * len(forged)
        got = [asked.on_keys(d, ELSEWHERE, 0) for d in answers_to("b")]
        assert got[-1] == KEYS_OF["b"].bundle, "a forged answer ends nothing"


def test_an_answer_to_another_request_is_not_taken() -> None:
    asked = request()
    assert [asked.on_keys(d, ELSEWHERE, 0) for d in answers_to("b", nonce_byte=9)] == [None, None]


def test_an_answer_changed_in_any_byte_is_not_taken() -> None:
    asked = request()
    first, last = answers_to("b")
    asked.on_keys(first, ELSEWHERE, 0)
    for place in range(len(last) - 16):
        changed = last[:place] + bytes([last[place] ^ 1 << place % 8]) + last[place + 1 :]
        assert asked.on_keys(changed, ELSEWHERE, 0) is None
    assert asked.on_keys(last, ELSEWHERE, 0) == KEYS_OF["b"].bundle


@given(st.binary(max_size=1300))
def test_arbitrary_bytes_are_no_answer(data: bytes) -> None:
    assert request().on_keys(data, ELSEWHERE, 0) is None


def test_an_answer_is_less_than_three_times_its_request() -> None:
    [(datagram, _)] = request().due(0)
    assert sum(map(len, answers_to("b"))) < 3 * len(datagram)


def test_the_wire_shows_neither_machine_id_nor_keys() -> None:
    """Of the request, its answer, and a whole handshake."""
    searched = [*GENUINE, *answers_to("b")]
    for keys in KEYS_OF.values():
        raw = keys.bundle.to_bytes()
        for secret in (keys.machine_id[:8], raw[:16], raw[32:48], raw[64:80], raw[-16:]):
            assert not [datagram for datagram in searched if secret in datagram]
