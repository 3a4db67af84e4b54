"""Fixed vectors: every derived key and every encoding of the handshake, pinned in vectors/handshake.json.

inputs    seeds of all private keys, and recorded (shared, ciphertext) of each encapsulation, which no seed
          can repeat
expected  what the implementation made of them when the file was written; `generate` writes it anew, which
          is a change of the protocol
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256, shake_256
from pathlib import Path

import pytest

from crypto.cookies import (
    CookieJar,
    Refusal,
    answer_mac1_key,
    mac,
    mac1_key,
    open_cookie,
    open_refusal,
    seal_refusal,
)
from crypto.handshake import Answer, Established, Initiator, Opening, Responder, mesh_psk
from crypto.identity import MachineKeys
from crypto.kem import HybridKey, PrivateHybrid, RealPrimitives
from crypto.session import EPOCH_ZEQONDS, ZEQOND_US, Lane, Session
from tests import keyex_reference as reference
from tun import control, fragments, keyrequest
from tun.addresses import packed, parse
from tun.frames import MESSAGE1, MESSAGE2

VECTORS = Path(__file__).parent / "vectors" / "handshake.json"
CLOCK_US = 1_782_000_000_123_456
STARTED_US = 5_000_000
OPENING = Opening(CLOCK_US, 0x01020340, bytes(range(24)), bytes(range(16)))
ANSWER = Answer(0xA0B0C080, "203.0.113.9:51777", ("192.0.2.7:51777", "[2001:db8::7]:51777"))
PRIVATE_MESH = sha256(b"a private mesh's secret").digest()
LOOKUP = bytes(range(100, 116))
SOURCES = {"v4": parse("192.0.2.1:51777"), "v6": parse("[2001:db8::1]:40000")}
PLAINTEXT = b"the first record"
LANES = (0, 1, 63)
CONTROL: dict[str, control.Control] = {
    "hello": control.Hello(bytes(range(16)), "café", LOOKUP, ("192.0.2.7:51777",)),
    "welcome": control.Welcome("home"),
    "refused": control.Refused("the invitation was used already"),
    "ping": control.Ping(2**64 - 1),
    "pong": control.Pong(7),
    "bye": control.Bye(),
    "note": control.Note(bytes(range(5))),
}


def seed(name: str, size: int) -> bytes:
    return shake_256(b"zeqnode handshake vectors: " + name.encode()).digest(size)


def entropy() -> Callable[[int], bytes]:
    """A fixed source of bytes: the same calls give the same bytes."""
    calls = iter(range(1_000_000))
    return lambda size: seed(f"entropy {next(calls)}", size)


@dataclass(frozen=True)
class Party:
    machine: MachineKeys
    static: HybridKey
    ephemeral: HybridKey


def party(name: str) -> Party:
    machine = MachineKeys.from_bytes(seed(f"{name} machine", 128))
    return Party(
        machine,
        HybridKey(machine.x25519_key, machine.ml_kem_key),
        HybridKey.from_seeds(seed(f"{name} e", 32), seed(f"{name} ekem", 64)),
    )


INITIATOR, RESPONDER = party("initiator"), party("responder")
ENCAPSULATED_TO = {
    "skem": RESPONDER.static,
    "ekem": INITIATOR.ephemeral,
    "skem2": INITIATOR.static,
}


class Replaying:
    """Primitives that give one recorded ephemeral pair, and for each public key its encapsulation."""

    def __init__(self, ephemeral: HybridKey, recorded: dict[str, dict[str, str]]) -> None:
        self._ephemeral = ephemeral
        self._by_key = {
            key.kem_public: (
                bytes.fromhex(recorded[name]["shared"]),
                bytes.fromhex(recorded[name]["ciphertext"]),
            )
            for name, key in ENCAPSULATED_TO.items()
        }

    def ephemeral(self) -> PrivateHybrid:
        return self._ephemeral

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        return self._by_key[kem_public]


@dataclass(frozen=True)
class Run:
    """One handshake by the implementation."""

    message1: bytes
    message2: bytes
    control_key: bytes
    initiator: Established
    responder: Established


def run(recorded: dict[str, dict[str, str]], mesh_secret: bytes) -> Run:
    a, b = INITIATOR, RESPONDER
    initiator = Initiator(
        a.static, a.machine.bundle, b.machine.bundle, Replaying(a.ephemeral, recorded), mesh_secret
    )
    message1 = initiator.message1(OPENING)
    responder = Responder(message1, b.static, b.machine.bundle, mesh_secret)
    key = initiator.control_key()
    assert key == responder.control_key()
    assert responder.opening == OPENING
    assert responder.remote == a.machine.bundle
    message2, at_responder = responder.message2(ANSWER, Replaying(b.ephemeral, recorded))
    at_initiator, answer = initiator.read_message2(message2)
    assert answer == ANSWER
    return Run(message1, message2, key, at_initiator, at_responder)


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def handshake_values(recorded: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """(name, hex) of all that a handshake makes, in the public mesh and in a private one."""
    for mesh, secret in (("public", reference.PUBLIC_MESH), ("private", PRIVATE_MESH)):
        ran = run(recorded, secret)
        made = ran.initiator
        yield f"{mesh}: message 1, SHA-256", digest(ran.message1)
        yield f"{mesh}: message 2, SHA-256", digest(ran.message2)
        yield f"{mesh}: control key", ran.control_key.hex()
        ids = INITIATOR.machine.machine_id, RESPONDER.machine.machine_id
        yield f"{mesh}: psk", mesh_psk(secret, *ids, INITIATOR.ephemeral.x25519_public, CLOCK_US).hex()
        yield f"{mesh}: transcript", made.transcript.hex()
        yield f"{mesh}: root", made.root.hex()
        yield f"{mesh}: exporter", made.exporter.hex()
        yield f"{mesh}: zeqond base", made.zeqond_base.to_bytes(4, "big").hex()
        yield from record_values(mesh, ran)


def lanes_of(established: Established) -> dict[int, Lane]:
    session = Session(established, STARTED_US)
    return {lane.number: lane for lane in [session.open_lane() for _ in range(64)] if lane.number in LANES}


def record_values(mesh: str, ran: Run) -> Iterator[tuple[str, str]]:
    """The first record of each epoch, lane and direction: IV and ciphertext."""
    for side, established in (("initiator", ran.initiator), ("responder", ran.responder)):
        lanes = lanes_of(established)
        for epoch in range(4):
            for number, lane in lanes.items():
                iv, ciphertext = lane.seal(PLAINTEXT, STARTED_US + epoch * EPOCH_ZEQONDS * ZEQOND_US)
                yield f"{mesh}: {side}'s record, epoch {epoch}, lane {number}", (iv + ciphertext).hex()


def key_values(recorded: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Epoch secrets and lane keys: never handed out by the implementation, so by the reference alone.

    The records above, sealed by the implementation under these very keys, tie the two together."""
    root = run(recorded, reference.PUBLIC_MESH).initiator.root
    for epoch in range(4):
        yield f"epoch secret {epoch}", reference.epoch_secret(root, epoch).hex()
        for lane in LANES:
            yield (
                f"lane key {epoch}, {lane}, to responder",
                reference.lane_key(root, epoch, False, lane).hex(),
            )
            yield f"lane key {epoch}, {lane}, to initiator", reference.lane_key(root, epoch, True, lane).hex()


def door_values(recorded: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """mac1, mac2, cookie, retry and refusal."""
    ran = run(recorded, reference.PUBLIC_MESH)
    machine_id = RESPONDER.machine.machine_id
    listed, unlisted = mac1_key(machine_id, b""), mac1_key(machine_id, LOOKUP)
    yield "mac1 key, listed", listed.hex()
    yield "mac1 key, unlisted", unlisted.hex()
    yield "mac1 key of message 2", answer_mac1_key(machine_id, INITIATOR.ephemeral.x25519_public).hex()
    yield "mac", mac(listed, b"bytes").hex()
    jar = CookieJar(entropy(), 0)
    whole = fragments.message_id(ran.message1)
    for family, address in SOURCES.items():
        where = packed(address)
        cookie = jar.cookie(where, 0)
        reply = jar.reply(unlisted, bytes(range(16)), where, 0)
        assert open_cookie(reply, unlisted, bytes(range(16))) == cookie
        yield f"cookie, {family}", cookie.hex()
        yield f"cookie reply, {family}", reply.hex()
        yield (
            f"retry token, {family}",
            jar.retry(where, INITIATOR.machine.machine_id, whole, 61_000_000).hex(),
        )
    random = entropy()
    for kind in Refusal:
        retry = bytes(range(24)) if kind is Refusal.RETRY else b""
        sealed = seal_refusal(ran.control_key, whole, kind, random, retry)
        assert open_refusal(sealed, ran.control_key) == (kind, retry.ljust(24, b"\0"))
        yield f"refusal, {kind.name}", sealed.hex()


def datagram_values(recorded: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Every datagram of a handshake: head (20 bytes), both macs, SHA-256 of the whole."""
    ran = run(recorded, reference.PUBLIC_MESH)
    machine_id = RESPONDER.machine.machine_id
    key, cookie = mac1_key(machine_id, LOOKUP), bytes(range(16))
    answer_key = answer_mac1_key(machine_id, INITIATOR.ephemeral.x25519_public)
    first = fragments.cut(MESSAGE1, ran.message1)
    second = fragments.cut(MESSAGE2, ran.message2, fragments.message_id(ran.message1))
    groups = {
        "message 1": [fragments.seal(bare, key) for bare in first],
        "message 1 with cookie": [fragments.seal(bare, key, cookie) for bare in first],
        "message 2": [fragments.seal(bare, answer_key) for bare in second],
    }
    request = keyrequest.KeyRequest(machine_id, LOOKUP, [parse("192.0.2.9:51777")], entropy(), 0)
    asked = [datagram for datagram, _ in request.due(0)]
    groups["key request"] = asked
    groups["key answer"] = keyrequest.answer(RESPONDER.machine.bundle, asked[0])
    for name, datagrams in groups.items():
        for number, datagram in enumerate(datagrams):
            value = f"{datagram[:20].hex()} … {datagram[-32:].hex()} {digest(datagram)}"
            yield f"{name}, datagram {number}", value
    for name, message in CONTROL.items():
        encoded = control.encode(message)
        assert control.decode(encoded) == message
        yield f"control, {name}", encoded.hex()


def expected(recorded: dict[str, dict[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in (handshake_values, key_values, door_values, datagram_values):
        values.update(part(recorded))
    return values


def generate() -> None:
    """Write the file anew, with the encapsulations that it has, else with fresh ones.

    For when the protocol is meant to change: PYTHONPATH=. python tests/crypto/test_handshake_vectors.py
    """
    if VECTORS.exists():
        recorded = json.loads(VECTORS.read_text(encoding="utf-8"))["recorded"]
    else:
        recorded = {name: encapsulated(key) for name, key in ENCAPSULATED_TO.items()}
    text = json.dumps({"recorded": recorded, "expected": expected(recorded)}, indent=1, ensure_ascii=False)
    VECTORS.write_text(text + "\n", encoding="utf-8")


def encapsulated(key: HybridKey) -> dict[str, str]:
    shared, ciphertext = RealPrimitives().encapsulate(key.kem_public)
    return {"shared": shared.hex(), "ciphertext": ciphertext.hex()}


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(VECTORS.read_text(encoding="utf-8"))["recorded"]
    return found


@pytest.mark.parametrize("part", [handshake_values, key_values, door_values, datagram_values])
def test_every_value_is_the_pinned_one(
    part: Callable[[dict[str, dict[str, str]]], Iterator[tuple[str, str]]],
    recorded: dict[str, dict[str, str]],
) -> None:
    pinned: dict[str, str] = json.loads(VECTORS.read_text(encoding="utf-8"))["expected"]
    values = dict(part(recorded))
    assert values
    assert values == {name: pinned.get(name) for name in values}


def test_nothing_is_pinned_that_nobody_checks(recorded: dict[str, dict[str, str]]) -> None:
    assert set(expected(recorded)) == set(json.loads(VECTORS.read_text(encoding="utf-8"))["expected"])


def test_the_recorded_encapsulations_open_with_their_private_keys(
    recorded: dict[str, dict[str, str]],
) -> None:
    for name, key in ENCAPSULATED_TO.items():
        assert key.decapsulate(bytes.fromhex(recorded[name]["ciphertext"])).hex() == recorded[name]["shared"]


# ------------------------------------------------------------------ the independent reference


def reference_inputs(
    recorded: dict[str, dict[str, str]], mesh_secret: bytes
) -> tuple[reference.Publics, reference.Secrets]:
    a, b = INITIATOR, RESPONDER
    e, e2 = a.ephemeral.x25519_public, b.ephemeral.x25519_public
    publics = reference.Publics(
        initiator=a.machine.bundle.to_bytes(),
        responder=b.machine.bundle.to_bytes(),
        e=e,
        ekem=a.ephemeral.kem_public,
        skem_ciphertext=bytes.fromhex(recorded["skem"]["ciphertext"]),
        opening=reference.opening(CLOCK_US, OPENING.base_index, OPENING.retry, OPENING.token_id),
        e2=e2,
        ekem_ciphertext=bytes.fromhex(recorded["ekem"]["ciphertext"]),
        skem2_ciphertext=bytes.fromhex(recorded["skem2"]["ciphertext"]),
        answer=reference_answer(),
    )
    secrets = reference.Secrets(
        skem=bytes.fromhex(recorded["skem"]["shared"]),
        es=b.static.exchange(e),
        ss=b.static.exchange(a.static.x25519_public),
        ee=b.ephemeral.exchange(e),
        se=a.static.exchange(e2),
        ekem=bytes.fromhex(recorded["ekem"]["shared"]),
        skem2=bytes.fromhex(recorded["skem2"]["shared"]),
        psk=reference.psk(mesh_secret, publics.initiator, publics.responder, e, CLOCK_US),
    )
    return publics, secrets


def reference_answer() -> bytes:
    texts = [ANSWER.observed.encode(), *(address.encode() for address in ANSWER.addresses)]
    head = ANSWER.base_index.to_bytes(4, "big") + reference.prefixed(texts[0], 1)
    return head + bytes([len(texts) - 1]) + b"".join(reference.prefixed(text, 1) for text in texts[1:])


@pytest.mark.parametrize("mesh_secret", [reference.PUBLIC_MESH, PRIVATE_MESH], ids=["public", "private"])
def test_an_independent_key_schedule_gives_the_same_handshake(
    recorded: dict[str, dict[str, str]], mesh_secret: bytes
) -> None:
    ran = run(recorded, mesh_secret)
    publics, secrets = reference_inputs(recorded, mesh_secret)
    message1, transcript = reference.message1(publics, secrets)
    assert ran.message1 == message1
    assert ran.control_key == reference.control_key(transcript)
    assert ran.message2 == reference.message2(publics, secrets, transcript)
    outcome = reference.outcome(transcript)
    for made in (ran.initiator, ran.responder):
        assert (made.transcript, made.root, made.exporter, made.zeqond_base) == (
            outcome.transcript,
            outcome.root,
            outcome.exporter,
            outcome.zeqond_base,
        )
    assert ran.initiator.local_index == ran.responder.remote_index == OPENING.base_index
    assert ran.initiator.remote_index == ran.responder.local_index == ANSWER.base_index


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_an_independent_record_layer_gives_the_same_records(
    recorded: dict[str, dict[str, str]], side: str, epoch: int
) -> None:
    ran = run(recorded, reference.PUBLIC_MESH)
    made = ran.initiator if side == "initiator" else ran.responder
    zeqonds = epoch * EPOCH_ZEQONDS + 7
    for number, lane in lanes_of(made).items():
        for sequence in range(3):
            iv, ciphertext = lane.seal(PLAINTEXT, STARTED_US + zeqonds * ZEQOND_US)
            assert iv == b"".join(
                value.to_bytes(4, "big")
                for value in (made.remote_index + number, (made.zeqond_base + zeqonds) % 2**32, sequence)
            )
            to_initiator = side == "responder"
            assert ciphertext == reference.record(made.root, epoch, to_initiator, number, iv, PLAINTEXT)


def test_no_two_secrets_of_a_session_are_alike(recorded: dict[str, dict[str, str]]) -> None:
    """One key for two lanes, or for two purposes, would be fatal: all are pinned, and all differ."""
    secret = [value for _, value in key_values(recorded)]
    for mesh_secret in (reference.PUBLIC_MESH, PRIVATE_MESH):
        ran = run(recorded, mesh_secret)
        secret += [ran.initiator.exporter.hex(), ran.control_key.hex(), ran.initiator.transcript.hex()]
    # message 1 does not see the psk, so both meshes share its control key
    assert len(set(secret)) == len(secret) - 1


if __name__ == "__main__":
    generate()
