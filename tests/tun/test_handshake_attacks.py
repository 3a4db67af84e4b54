"""One test for each attack on the handshake that DESIGN.md section 5 names. Retry, cookies, invitations and
glare have files of their own."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from crypto.cookies import Refusal, answer_mac1_key, mac1_key, open_refusal, seal_refusal
from crypto.errors import HandshakeRefused
from crypto.handshake import Answer, Initiator, Opening, Responder
from crypto.identity import KeyBundle
from crypto.kem import BadPublicKey, HybridKey, RealPrimitives
from crypto.session import Session
from tests import keyex_reference as reference
from tests.forgery import (
    LOW_ORDER,
    called,
    connected,
    current,
    deliver,
    forged_message1,
    message1_datagrams,
    message2_datagrams,
    payloads,
    resealed,
    static_of,
)
from tests.pair import EPOCH_2026, LOOKUP, SECOND, Node, Wire, at
from tun import fragments
from tun.core import TunnelCore
from tun.events import TurnedAway
from tun.frames import KEY_REQUEST, MESSAGE1, MESSAGE2, RECORD, REFUSAL, outer
from tun.host import PeerConfig

ELSEWHERE = at("203.0.113.66", 4444)
YEAR_2090_US = 3_786_912_000 * SECOND


@pytest.fixture
def wire() -> Wire:
    return Wire(seed=1)


@pytest.fixture
def a(wire: Wire) -> Node:
    return wire.node("a", "192.0.2.1")


@pytest.fixture
def b(wire: Wire, a: Node) -> Node:
    node = wire.node("b", "198.51.100.1")
    wire.introduce(a, node)
    return node


def assert_they_can_talk(wire: Wire, a: Node, b: Node) -> None:
    wire.send(a, b, b"from a")
    wire.send(b, a, b"from b")
    wire.run(8)
    assert connected(a, b)
    assert payloads(b)[-1:] == [b"from a"]
    assert payloads(a)[-1:] == [b"from b"]


def sessions(node: Node, other: Node) -> int:
    """Sessions of any standing."""
    return len(node.core.peers[other.id].keypairs.all())


# ------------------------------------------------------------------ unknown key share


def bundle_with(ed25519: KeyBundle, others: KeyBundle) -> KeyBundle:
    return KeyBundle.from_bytes(ed25519.ed25519 + others.x25519 + others.ml_kem)


def test_a_machine_that_publishes_the_responders_keys_cannot_hand_a_call_on(
    wire: Wire, a: Node, b: Node
) -> None:
    """Mallory's bundle: her Ed25519, Bob's other two. Alice calls Mallory; Bob must not take it up."""
    mallory = bundle_with(wire.node("m", "203.0.113.1").keys.bundle, b.keys.bundle)
    a.core.add_peer(PeerConfig(mallory, "m", LOOKUP, [at("203.0.113.1")], eager=False), [], 0)
    a.core.peers[mallory.machine_id].handshakes.connect(0, EPOCH_2026)
    datagrams = [resealed(datagram, b.id) for datagram, _ in a.core.outgoing]
    assert datagrams[0][0] == MESSAGE1
    assert not deliver(wire, b, datagrams, a.address)
    assert b.core.counters["message 1 refused"] == 1
    assert not sessions(b, a)


def test_a_machine_that_publishes_the_callers_keys_is_not_taken_for_the_caller(
    wire: Wire, a: Node, b: Node
) -> None:
    """Mallory's bundle: her Ed25519, Alice's other two. Bob knows both; Alice's call stays Alice's."""
    mallory = bundle_with(wire.node("m", "203.0.113.1").keys.bundle, a.keys.bundle)
    b.core.add_peer(PeerConfig(mallory, "m", LOOKUP, [], eager=False), [], 0)
    for datagram in called(wire, a, b):  # through Mallory's hands, from an address of hers
        wire.inject(datagram, ELSEWHERE, b.address)
    wire.run(0.1)
    assert b.core.peers[a.id].keypairs.unconfirmed
    assert not b.core.peers[mallory.machine_id].keypairs.all()


def test_the_callers_identity_is_in_the_keys(a: Node, b: Node) -> None:
    """With all eight secrets right, another initiator's machine_id still gives other keys."""
    mallory = bundle_with(b.keys.bundle, a.keys.bundle)
    secrets = reference.Secrets(*(bytes([i]) * 32 for i in range(8)))
    publics = reference.Publics(
        initiator=a.keys.bundle.to_bytes(),
        responder=b.keys.bundle.to_bytes(),
        e=bytes(32),
        ekem=bytes(1184),
        skem_ciphertext=bytes(1088),
        opening=reference.opening(1, 64),
    )
    true = reference.handshake(publics, secrets)[2]
    other = reference.handshake(replace(publics, initiator=mallory.to_bytes()), secrets)[2]
    third = reference.handshake(replace(publics, responder=mallory.to_bytes()), secrets)[2]
    assert len({true.root, other.root, third.root}) == 3


# ------------------------------------------------------------------ stolen keys of the responder


def test_a_forged_message_1_from_2090_does_not_lock_the_true_machine_out(
    wire: Wire, a: Node, b: Node
) -> None:
    """Its author has Bob's X25519 and ML-KEM secrets, so it opens the Retry too and comes back with it."""
    initiator, message = forged_message1(a.keys.bundle, b, Opening(YEAR_2090_US, 64))
    answers = deliver(wire, b, message1_datagrams(message, b.id), ELSEWHERE)
    assert [datagram[0] for datagram, _ in answers] == [REFUSAL]
    kind, token = open_refusal(answers[0][0], initiator.control_key())
    assert kind is Refusal.RETRY
    _, message = forged_message1(a.keys.bundle, b, Opening(YEAR_2090_US, 64, token))
    answers = deliver(wire, b, message1_datagrams(message, b.id), ELSEWHERE)
    assert {datagram[0] for datagram, _ in answers} == {MESSAGE2}
    assert b.core.peers[a.id].config.last_clock_us == 0, "a message 1 proves nobody: no clock is stored"
    assert_they_can_talk(wire, a, b)
    assert b.core.peers[a.id].config.last_clock_us < YEAR_2090_US


def test_a_flood_of_forged_message_1s_does_not_push_out_the_true_machines(
    wire: Wire, a: Node, b: Node
) -> None:
    """Seven more sessions wait beside the true one; its first record decides."""
    for datagram in called(wire, a, b):
        wire.put(datagram, a.address, b.address)
    wire.run(0.011)  # Bob has answered; Alice's first record is still to come
    for number in range(7):
        _, forged = forged_message1(a.keys.bundle, b, Opening(EPOCH_2026 + 1 + number, 64))
        deliver(wire, b, message1_datagrams(forged, b.id), at(f"203.0.113.{number + 1}"))
    assert sessions(b, a) == 8
    wire.run(1)
    assert connected(a, b)
    assert sessions(b, a) == 1


def test_key_compromise_impersonation_gets_no_session_and_ends_none(wire: Wire, a: Node, b: Node) -> None:
    """With Bob's static keys somebody plays Alice towards Bob: what confirms needs Alice's own."""
    assert_they_can_talk(wire, a, b)
    before, delivered = current(b, a), len(b.packets)
    initiator, message = forged_message1(a.keys.bundle, b, Opening(wire.unix_us(b), 64))
    answers = deliver(wire, b, message1_datagrams(message, b.id), ELSEWHERE)
    message2 = reassembled([datagram for datagram, _ in answers])
    assert message2 is not None
    with pytest.raises(HandshakeRefused):
        initiator.read_message2(message2)
    # it guesses what it lacks (se, the second skem, and so all that follows) and sends records all the same
    waiting = b.core.peers[a.id].keypairs.unconfirmed[0]
    for root in (bytes(32), reference.labelled(bytes(32), "zeqnode epoch 0 v1", bytes(32))):
        for base in (0, waiting.session.zeqond_base):
            iv = b"".join(n.to_bytes(4, "big") for n in (waiting.session.local_index, base, 0))
            sealed = reference.record(root, 0, False, 0, iv, bytes(64))
            assert not deliver(wire, b, outer(iv, sealed, 1400), ELSEWHERE)
    assert current(b, a) is before
    assert b.core.peers[a.id].paths.endpoint == a.address
    assert len(b.packets) == delivered
    assert_they_can_talk(wire, a, b)
    assert current(b, a) is before, "nothing that the impostor did cost the true machine its session"


def reassembled(datagrams: list[bytes]) -> bytes | None:
    partial = fragments.Reassembly()
    whole = [partial.add(datagram, ELSEWHERE, 0) for datagram in datagrams]
    return whole[-1]


@pytest.mark.parametrize("kind", [kind for kind in Refusal if kind is not Refusal.RETRY])
def test_a_refusal_by_a_thief_of_the_responders_keys_ends_no_session(
    wire: Wire, a: Node, b: Node, kind: Refusal
) -> None:
    """Bob's static keys are enough to seal a refusal of Alice's next message 1: it must cost her nothing."""
    assert_they_can_talk(wire, a, b)
    session = current(a, b)
    message1 = reassembled(called(wire, a, b))
    assert message1 is not None
    stolen = Responder(message1, static_of(b), b.keys.bundle)
    whole = fragments.message_id(message1)
    refusal = seal_refusal(stolen.control_key(), whole, kind, wire.random.randbytes)
    deliver(wire, a, [refusal], b.address)
    assert current(a, b) is session
    assert not [event for event in a.events if isinstance(event, TurnedAway)]
    assert_they_can_talk(wire, a, b)


def test_the_callers_own_stolen_keys_do_not_let_anybody_answer_for_the_responder(
    wire: Wire, a: Node, b: Node
) -> None:
    """The other way round: with Alice's static keys somebody answers Alice's call to Bob."""
    datagrams = called(wire, a, b)
    message1 = reassembled(datagrams)
    assert message1 is not None
    e, ekem = message1[2:34], message1[36 : 36 + 1184]
    mallory = HybridKey.from_seeds(bytes(32), bytes(64))
    ekem_shared, ekem_ciphertext = RealPrimitives().encapsulate(ekem)
    skem_shared, skem_ciphertext = RealPrimitives().encapsulate(a.keys.bundle.ml_kem)
    publics = reference.Publics(
        initiator=a.keys.bundle.to_bytes(),
        responder=b.keys.bundle.to_bytes(),
        e=e,
        ekem=ekem,
        skem_ciphertext=message1[1222 : 1222 + 1088],
        opening=reference.opening(EPOCH_2026, 64),
        e2=mallory.x25519_public,
        ekem_ciphertext=ekem_ciphertext,
        skem2_ciphertext=skem_ciphertext,
        answer=(128).to_bytes(4, "big") + bytes(2),
    )
    secrets = reference.Secrets(
        ss=static_of(a).exchange(b.keys.bundle.x25519),
        ee=mallory.exchange(e),
        se=static_of(a).exchange(mallory.x25519_public),
        ekem=ekem_shared,
        skem2=skem_shared,
        psk=reference.psk(reference.PUBLIC_MESH, publics.initiator, publics.responder, e, EPOCH_2026),
    )  # all but es and skem, which need Bob's private keys or Alice's ephemeral one
    _, transcript = reference.message1(publics, secrets)
    forged = reference.message2(publics, secrets, transcript)
    answer = message2_datagrams(forged, b.id, e, message1)
    assert not deliver(wire, a, answer, b.address)
    assert current(a, b) is None
    for datagram in datagrams:  # and the true answer still counts
        wire.put(datagram, a.address, b.address)
    wire.run(0.1)
    assert connected(a, b)


# ------------------------------------------------------------------ reflection


def test_a_machines_own_messages_sent_back_to_it_are_nothing(wire: Wire, a: Node, b: Node) -> None:
    first = called(wire, a, b)
    assert not deliver(wire, a, first, b.address)
    assert not deliver(wire, a, [resealed(datagram, a.id) for datagram in first], b.address)
    assert a.core.counters["mac1 refused"] == len(first)
    assert a.core.counters["message 1 refused"] == 1
    second = [datagram for datagram, _ in deliver(wire, b, first, a.address)]
    assert not deliver(wire, b, second, a.address)
    assert not deliver(wire, b, [b"\xc8" + datagram[1:] for datagram in second], a.address)
    assert not deliver(wire, b, [resealed(b"\xc8" + d[1:], b.id) for d in second], a.address)
    records = [datagram for datagram, _ in deliver(wire, a, second, b.address)]
    assert records[0][0] == RECORD
    before = sessions(a, b)
    assert not deliver(wire, a, records, b.address)
    assert sessions(a, b) == before
    deliver(wire, b, records, a.address)
    assert connected(a, b)


def test_a_machine_that_is_made_to_call_itself_does_not_answer(wire: Wire, a: Node) -> None:
    a.core.add_peer(a.peer_config(eager=False), [], 0)
    datagrams = called(wire, a, a)
    assert not deliver(wire, a, datagrams, a.address)
    assert a.core.counters["message 1 of our own"] == 1


# ------------------------------------------------------------------ an injector between the fragments


def forged_fragment(true: bytes, index: int, salt: int) -> bytes:
    """Same id, same shape, right mac1; the digests name one chunk of the injector's own."""
    count = true[2]
    chunk = bytes([salt]) * (len(true) - 20 - 8 * count - 32)
    digests = bytearray(true[20 : 20 + 8 * count])
    digests[8 * index : 8 * index + 8] = sha256(chunk).digest()[:8]
    return bytes([true[0], index, count, 0]) + true[4:20] + bytes(digests) + chunk


@pytest.mark.parametrize("message", [1, 2])
@pytest.mark.parametrize("many", [1, 4])
def test_fragments_mixed_in_by_an_injector_do_not_spoil_the_true_ones(
    wire: Wire, a: Node, b: Node, message: int, many: int
) -> None:
    """It sees each fragment, knows the key of mac1, spoofs the source, and is always first.

    `many`: forged messages that it is at the same time; each forged fragment names one chunk of its own."""
    first = called(wire, a, b)
    e = b"".join(datagram[20 + 8 * 4 : -32] for datagram in first)[2:34]
    victim, source, key, true = b, a, mac1_key(b.id, LOOKUP), first
    if message == 2:
        true = [datagram for datagram, _ in deliver(wire, b, first, a.address)]
        victim, source, key = a, b, answer_mac1_key(b.id, e)
    answers: list[tuple[bytes, object]] = []
    for number, datagram in enumerate(true):
        forged = fragments.seal(forged_fragment(datagram, datagram[1], number % many), key)
        wrong_chunk = bytearray(datagram)
        wrong_chunk[-40] ^= 1
        spoiled = fragments.seal(bytes(wrong_chunk[:-32]), key)
        other_place = fragments.seal(
            datagram[:1] + bytes([(datagram[1] + 1) % datagram[2]]) + datagram[2:-32], key
        )
        answers += deliver(wire, victim, [forged, spoiled, other_place, datagram, forged], source.address)
    if message == 1:
        assert {datagram[0] for datagram, _ in answers} == {MESSAGE2}
    else:
        assert current(a, b) is not None


# ------------------------------------------------------------------ downgrade


def good_publics(a: Node, b: Node) -> tuple[reference.Publics, reference.Secrets]:
    """A message 1 that the reference makes and the implementation accepts."""
    ephemeral = HybridKey.from_seeds(bytes(range(32)), bytes(range(64)))
    shared, ciphertext = RealPrimitives().encapsulate(b.keys.bundle.ml_kem)
    publics = reference.Publics(
        initiator=a.keys.bundle.to_bytes(),
        responder=b.keys.bundle.to_bytes(),
        e=ephemeral.x25519_public,
        ekem=ephemeral.kem_public,
        skem_ciphertext=ciphertext,
        opening=reference.opening(EPOCH_2026, 64),
    )
    secrets = reference.Secrets(
        skem=shared,
        es=ephemeral.exchange(b.keys.bundle.x25519),
        ss=static_of(a).exchange(b.keys.bundle.x25519),
    )
    return publics, secrets


def answered(wire: Wire, b: Node, message: bytes) -> bool:
    return bool(deliver(wire, b, message1_datagrams(message, b.id), at("192.0.2.1")))


def test_the_reference_speaks_the_protocol(wire: Wire, a: Node, b: Node) -> None:
    """So that the refusals below are for the reason that each test names."""
    assert answered(wire, b, reference.message1(*good_publics(a, b))[0])


@pytest.mark.parametrize(
    ("name", "version"),
    [
        (reference.NAME, b"\x00"),
        (reference.NAME, b"\x02"),
        (reference.NAME, b""),
        (b"Noise_IKpsk2_25519_AESGCM_SHA256", b"\x01"),
        (reference.NAME.replace(b"+MLKEM768", b""), b"\x01"),
        (reference.NAME.lower(), b"\x01"),
    ],
)
def test_another_protocol_or_version_is_refused(
    wire: Wire, a: Node, b: Node, name: bytes, version: bytes
) -> None:
    publics, secrets = good_publics(a, b)
    other = reference.Transcript(publics.responder, name, version)
    assert not answered(wire, b, reference.message1(publics, secrets, other)[0])
    assert b.core.counters["message 1 refused"] == 1


@pytest.mark.parametrize(
    "stripped",
    [
        {"ekem": b""},
        {"skem_ciphertext": b""},
        {"ekem": b"", "skem_ciphertext": b""},
        {"e": b""},
        {"opening": b""},
        {"initiator": b""},
        {"ekem": bytes(1183)},
        {"ekem": bytes(1185)},
        {"ekem": bytes(800)},  # ML-KEM-512's size
        {"skem_ciphertext": bytes(768)},
        {"skem_ciphertext": bytes(1087)},
        {"skem_ciphertext": bytes(1089)},
    ],
    ids=str,
)
def test_a_message_1_with_a_field_stripped_or_shortened_is_refused(
    wire: Wire, a: Node, b: Node, stripped: dict[str, bytes]
) -> None:
    """Made by somebody who mixes just what is there, zeros for a KEM secret that is none."""
    publics, secrets = good_publics(a, b)
    if "skem_ciphertext" in stripped:
        secrets = replace(secrets, skem=bytes(32))
    message, _ = reference.message1(replace(publics, **stripped), secrets)
    assert not answered(wire, b, message)


def test_ml_kem_keys_out_of_range_are_refused(wire: Wire, a: Node, b: Node) -> None:
    """FIPS 203's input check: coefficients of 4,095 are not below q; as ekem, and in the bundle."""
    publics, secrets = good_publics(a, b)
    bad = b"\xff" * 1184
    assert not answered(wire, b, reference.message1(replace(publics, ekem=bad), secrets)[0])
    bundle = publics.initiator[:64] + bad
    assert not answered(wire, b, reference.message1(replace(publics, initiator=bundle), secrets)[0])
    assert b.core.counters["message 1 refused"] == 2


def test_message_1_under_another_type_is_not_taken(wire: Wire, a: Node, b: Node) -> None:
    message, _ = reference.message1(*good_publics(a, b))
    datagrams = message1_datagrams(message, b.id)
    for type_byte in set(range(256)) - {MESSAGE1}:
        changed = [bytes([type_byte]) + datagram[1:] for datagram in datagrams]
        again = [resealed(datagram, b.id) for datagram in changed]
        answers = deliver(wire, b, [*changed, *again], a.address)
        # right mac1 and the type of a key request make a key request; nothing else is answered at all
        assert not answers or type_byte == KEY_REQUEST
    assert not sessions(b, a)


@pytest.mark.parametrize(
    "stripped",
    [
        {"ekem_ciphertext": b""},
        {"skem2_ciphertext": b""},
        {"ekem_ciphertext": b"", "skem2_ciphertext": b""},
        {"ekem_ciphertext": bytes(768)},
        {"e2": b""},
        {"answer": b""},
        {"answer": bytes(5)},
        {"answer": bytes(4) + b"\x41" + bytes(65) + b"\0"},
        {"answer": bytes(5) + b"\x09" + bytes(9)},
        {"answer": bytes(5) + b"\x02\x01a"},
        {"answer": bytes(4) + b"\x01\xff\x00"},
        {"answer": bytes(7)},
        {"answer": bytes(10_000)},
    ],
    ids=lambda stripped: ", ".join(
        f"{name} {value[:8].hex()}… {len(value)}" for name, value in stripped.items()
    ),
)
def test_a_message_2_with_a_field_stripped_or_malformed_is_refused(
    a: Node, b: Node, stripped: dict[str, bytes]
) -> None:
    """By a responder with the right keys: an authenticated peer may still send nonsense."""
    initiator, publics, secrets, transcript = responders_view(a, b)
    changed = replace(publics, **stripped)
    if "ekem_ciphertext" in stripped:
        secrets = replace(secrets, ekem=bytes(32))
    if "skem2_ciphertext" in stripped:
        secrets = replace(secrets, skem2=bytes(32))
    with pytest.raises(HandshakeRefused):
        initiator.read_message2(reference.message2(changed, secrets, transcript))


def test_the_reference_answers_as_the_protocol_says(a: Node, b: Node) -> None:
    initiator, publics, secrets, transcript = responders_view(a, b)
    made, _ = initiator.read_message2(reference.message2(publics, secrets, transcript))
    assert made.root == reference.outcome(transcript).root


def responders_view(
    a: Node, b: Node
) -> tuple[Initiator, reference.Publics, reference.Secrets, reference.Transcript]:
    """A real initiator, and the reference as its responder, about to write message 2."""
    initiator = Initiator(static_of(a), a.keys.bundle, b.keys.bundle, RealPrimitives())
    message1 = initiator.message1(Opening(EPOCH_2026, 64))
    e, ekem, skem = message1[2:34], message1[36 : 36 + 1184], message1[1222 : 1222 + 1088]
    ephemeral = HybridKey.from_seeds(bytes(32), bytes(64))
    ekem_shared, ekem_ciphertext = RealPrimitives().encapsulate(ekem)
    skem_shared, skem_ciphertext = RealPrimitives().encapsulate(a.keys.bundle.ml_kem)
    bundles = a.keys.bundle.to_bytes(), b.keys.bundle.to_bytes()
    publics = reference.Publics(
        initiator=bundles[0],
        responder=bundles[1],
        e=e,
        ekem=ekem,
        skem_ciphertext=skem,
        opening=reference.opening(EPOCH_2026, 64),
        e2=ephemeral.x25519_public,
        ekem_ciphertext=ekem_ciphertext,
        skem2_ciphertext=skem_ciphertext,
        answer=(128).to_bytes(4, "big") + bytes(2),
    )
    secrets = reference.Secrets(
        skem=static_of(b).decapsulate(skem),
        es=static_of(b).exchange(e),
        ss=static_of(b).exchange(a.keys.bundle.x25519),
        ee=ephemeral.exchange(e),
        se=ephemeral.exchange(a.keys.bundle.x25519),
        ekem=ekem_shared,
        skem2=skem_shared,
        psk=reference.psk(reference.PUBLIC_MESH, *bundles, e, EPOCH_2026),
    )
    again, transcript = reference.message1(publics, secrets)
    assert again == message1
    return initiator, publics, secrets, transcript


# ------------------------------------------------------------------ low-order points


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_low_order_points_are_refused_in_every_place(wire: Wire, a: Node, b: Node, point: bytes) -> None:
    """Each would make a secret that everybody knows: zeros. The forger mixes just those zeros."""
    with pytest.raises(BadPublicKey):
        static_of(b).exchange(point)
    publics, secrets = good_publics(a, b)
    low_e = reference.message1(replace(publics, e=point), replace(secrets, es=bytes(32)))[0]
    assert not answered(wire, b, low_e)
    bundle = publics.initiator[:32] + point + publics.initiator[64:]
    known = KeyBundle.from_bytes(bundle)
    b.core.add_peer(PeerConfig(known, "low", LOOKUP, [], eager=False), [], 0)
    low_s = reference.message1(replace(publics, initiator=bundle), replace(secrets, ss=bytes(32)))[0]
    assert not answered(wire, b, low_s)
    assert b.core.counters["message 1 refused"] == 2

    initiator, publics, secrets, transcript = responders_view(a, b)
    zeros = replace(secrets, ee=bytes(32), se=bytes(32))
    with pytest.raises(HandshakeRefused):
        initiator.read_message2(reference.message2(replace(publics, e2=point), zeros, transcript))

    b.core.peers[known.machine_id].config.addresses = [a.address]
    b.core.peers[known.machine_id].handshakes.connect(0, EPOCH_2026)  # and we do not call such a machine
    assert not b.core.outgoing
    assert b.core.counters["peer keys unusable"] == 1


# ------------------------------------------------------------------ a recorded message 1


def restarted(wire: Wire, node: Node, other: Node, last_clock_us: int) -> None:
    """The same machine after a restart: nothing but its keys and what its store had of the peer."""
    node.core = TunnelCore(
        node.keys, LOOKUP, RealPrimitives(), wire.random.randbytes, wire.now_us, inner_mtu=1404
    )
    config = other.peer_config(eager=False, last_clock_us=last_clock_us)
    node.core.add_peer(config, [], wire.now_us)


def test_a_recorded_message_1_replayed_at_once_gets_the_identical_answer_a_few_times(
    wire: Wire, a: Node, b: Node
) -> None:
    recorded = called(wire, a, b)
    answers = [d for d, _ in deliver(wire, b, recorded, a.address)]
    assert len(answers) == 3
    sent_in, sent_out = 0, 0
    for _ in range(20):
        replayed = deliver(wire, b, recorded, ELSEWHERE)
        assert [d for d, _ in replayed] in (answers, [])
        sent_in += sum(map(len, recorded))
        sent_out += sum(len(d) for d, _ in replayed)
        wire.now_us += SECOND // 4  # within the rate limit
    assert 0 < sent_out <= 5 * sum(map(len, answers))
    assert sent_out <= 3 * sent_in
    assert sessions(b, a) == 1


def test_a_recorded_message_1_replayed_later_opens_nothing_and_the_session_stays(
    wire: Wire, a: Node, b: Node
) -> None:
    recorded = called(wire, a, b)
    for datagram in recorded:
        wire.put(datagram, a.address, b.address)
    wire.run(30)
    session = current(b, a)
    assert session is not None
    for source in (a.address, ELSEWHERE):
        answers = deliver(wire, b, recorded, source)
        assert [d[0] for d, _ in answers] == [REFUSAL], "only a Retry, which its recorder cannot open"
        wire.now_us += SECOND
    assert current(b, a) is session
    assert sessions(b, a) == 1


@pytest.mark.parametrize("stored", [True, False], ids=["clock stored", "clock lost"])
def test_a_recording_replayed_after_a_restart_of_the_responder_opens_nothing(
    wire: Wire, a: Node, b: Node, stored: bool
) -> None:
    wire.send(a, b, b"secret")
    wire.run(5)
    recorded = [d for source, _, d in wire.log if source == a.address and d[0] == MESSAGE1]
    records = [d for source, _, d in wire.log if source == a.address and d[0] == RECORD]
    clock_us = b.core.peers[a.id].config.last_clock_us
    assert clock_us > 0
    restarted(wire, b, a, clock_us if stored else 0)
    b.packets.clear()
    answers = {d[0] for d, _ in deliver(wire, b, recorded, ELSEWHERE)}
    assert answers == ({REFUSAL} if stored else {MESSAGE2})
    deliver(wire, b, records, ELSEWHERE)
    assert not b.packets
    assert current(b, a) is None
    assert b.core.peers[a.id].paths.endpoint is None
    wire.send(b, a, b"back again")
    wire.run(1)
    assert_they_can_talk(wire, a, b)


def test_message_2_replayed_into_a_later_handshake_is_nothing(wire: Wire, a: Node, b: Node) -> None:
    wire.send(a, b, b"x")
    wire.run(1)
    old = [d for source, _, d in wire.log if source == b.address and d[0] == MESSAGE2]
    first = called(wire, a, b)
    session = current(a, b)
    whole = reassembled(first)
    assert whole is not None
    spliced = [
        fragments.seal(d[:12] + fragments.message_id(whole) + d[20:-32], answer_mac1_key(b.id, whole[2:34]))
        for d in old
    ]
    assert not deliver(wire, a, [*old, *spliced], b.address)
    assert current(a, b) is session


def test_a_session_of_one_handshake_does_not_open_records_of_another(a: Node, b: Node) -> None:
    made = []
    for _ in range(2):
        initiator = Initiator(static_of(a), a.keys.bundle, b.keys.bundle, RealPrimitives())
        message1 = initiator.message1(Opening(EPOCH_2026, 64))
        responder = Responder(message1, static_of(b), b.keys.bundle)
        message2, established = responder.message2(Answer(128), RealPrimitives())
        made.append((initiator.read_message2(message2)[0], established))
    assert made[0][0].root == made[0][1].root
    assert made[0][0].root != made[1][0].root
    iv, sealed = Session(made[0][0], 0).open_lane().seal(b"x", 0)
    assert Session(made[0][1], 0).open(iv, sealed, 0) == b"x"
    with pytest.raises(Exception, match=r"authenticate|accepted"):
        Session(made[1][1], 0).open(iv, sealed, 0)
