"""What an attacker who holds some of the secrets can compute: one test for each leg of the key schedule.

The attacker recorded both messages and the first record, knows both machines, and knows the schedule. It is
handed secrets; the ones that it lacks it must guess. Only who has all eight comes to the same keys.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.handshake import Answer, Established, Initiator, Opening, Responder
from crypto.identity import MachineKeys
from crypto.kem import HybridKey, PrivateHybrid, RealPrimitives
from crypto.session import Session
from tests import keyex_reference as reference
from tests.keyex_reference import Outcome, Secrets, Transcript

CLOCK_US = 1_782_000_000_000_000
MESH_SECRET = b"a private mesh's secret, 32 byte"
PLAINTEXT = b"what nobody else may read"
X25519 = frozenset({"es", "ss", "ee", "se"})
KEM = frozenset({"skem", "ekem", "skem2"})
ALL = X25519 | KEM | {"psk"}


class Tapped:
    """Real primitives; the tap keeps every secret that they made."""

    def __init__(self) -> None:
        self.ephemerals: list[PrivateHybrid] = []
        self.shared: list[bytes] = []
        self._real = RealPrimitives()

    def ephemeral(self) -> PrivateHybrid:
        self.ephemerals.append(self._real.ephemeral())
        return self.ephemerals[-1]

    def encapsulate(self, kem_public: bytes) -> tuple[bytes, bytes]:
        shared, ciphertext = self._real.encapsulate(kem_public)
        self.shared.append(shared)
        return shared, ciphertext


@dataclass(frozen=True)
class Recording:
    """What went over the wire, who spoke, and, for the tests to hand out, all secrets."""

    initiator: bytes
    responder: bytes
    message1: bytes
    message2: bytes
    iv: bytes
    record: bytes
    secrets: Secrets
    established: Established


def machine(name: bytes) -> tuple[MachineKeys, HybridKey]:
    keys = MachineKeys.from_bytes(name * (128 // len(name)))
    return keys, HybridKey(keys.x25519_key, keys.ml_kem_key)


@pytest.fixture(scope="module")
def recording() -> Recording:
    (a, a_static), (b, b_static) = machine(b"legs, A "), machine(b"legs, B ")
    tap_a, tap_b = Tapped(), Tapped()
    initiator = Initiator(a_static, a.bundle, b.bundle, tap_a, MESH_SECRET)
    message1 = initiator.message1(Opening(CLOCK_US, 64))
    message2, _ = Responder(message1, b_static, b.bundle, MESH_SECRET).message2(Answer(128), tap_b)
    established, _ = initiator.read_message2(message2)
    iv, record = Session(established, 0).open_lane().seal(PLAINTEXT, 0)
    e, e2 = tap_a.ephemerals[0], tap_b.ephemerals[0]
    secrets = Secrets(
        skem=tap_a.shared[0],
        es=b_static.exchange(e.x25519_public),
        ss=a_static.exchange(b.bundle.x25519),
        ee=e.exchange(e2.x25519_public),
        se=a_static.exchange(e2.x25519_public),
        ekem=tap_b.shared[0],
        skem2=tap_b.shared[1],
        psk=reference.psk(MESH_SECRET, a.bundle.to_bytes(), b.bundle.to_bytes(), e.x25519_public, CLOCK_US),
    )
    return Recording(
        a.bundle.to_bytes(), b.bundle.to_bytes(), message1, message2, iv, record, secrets, established
    )


def split(message: bytes) -> list[bytes]:
    found = []
    while message:
        size = int.from_bytes(message[:2], "big")
        found.append(message[2 : 2 + size])
        message = message[2 + size :]
    return found


def eavesdrop(recording: Recording, secrets: Secrets) -> Outcome:
    """The keys that follow from the bytes on the wire and these secrets; nothing needs to be opened."""
    t = Transcript(recording.responder)
    e, ekem, skem, sealed_static, sealed_opening = split(recording.message1)
    t.public(e)
    t.absorb(ekem)
    t.absorb(skem)
    t.secret(secrets.skem)
    t.secret(secrets.es)
    t.absorb(sealed_static)
    t.absorb(reference.machine_id(recording.initiator))
    t.secret(secrets.ss)
    t.absorb(sealed_opening)
    e2, sealed_ekem, sealed_skem, sealed_answer = split(recording.message2)
    t.public(e2)
    t.secret(secrets.ee)
    t.secret(secrets.se)
    t.absorb(sealed_ekem)
    t.secret(secrets.ekem)
    t.absorb(sealed_skem)
    t.secret(secrets.skem2)
    t.psk(secrets.psk)
    t.absorb(sealed_answer)
    return reference.outcome(t)


def knowing(recording: Recording, known: frozenset[str]) -> Secrets:
    """The attacker's secrets: the true ones that it was given, zeros for the rest."""
    return replace(Secrets(), **{name: getattr(recording.secrets, name) for name in known})


def assert_closed(recording: Recording, known: frozenset[str]) -> None:
    """With these secrets nothing of the session comes out: no key is right, the record stays shut."""
    guessed, true = eavesdrop(recording, knowing(recording, known)), recording.established
    assert guessed.root != true.root
    assert guessed.exporter != true.exporter
    assert guessed.zeqond_base != true.zeqond_base
    assert guessed.transcript != true.transcript
    for to_initiator in (False, True):
        for epoch in range(4):
            key = AESGCM(reference.lane_key(guessed.root, epoch, to_initiator, 0))
            with pytest.raises(InvalidTag):
                key.decrypt(recording.iv, recording.record, None)


def opened_static(recording: Recording, secrets: Secrets) -> bytes:
    """Who calls, read out of message 1. Raises InvalidTag."""
    t = Transcript(recording.responder)
    e, ekem, skem, sealed_static, _ = split(recording.message1)
    t.public(e)
    t.absorb(ekem)
    t.absorb(skem)
    t.secret(secrets.skem)
    t.secret(secrets.es)
    return t.open(sealed_static)


def test_with_every_secret_the_attacker_computes_the_very_keys(recording: Recording) -> None:
    """The attacker of the other tests is a real one: it fails for the want of a secret and nothing else."""
    assert {field.name for field in fields(Secrets)} == ALL
    outcome, true = eavesdrop(recording, knowing(recording, ALL)), recording.established
    assert (outcome.root, outcome.exporter, outcome.transcript) == (true.root, true.exporter, true.transcript)
    key = AESGCM(reference.lane_key(outcome.root, 0, False, 0))
    assert key.decrypt(recording.iv, recording.record, None) == PLAINTEXT
    assert opened_static(recording, recording.secrets) == recording.initiator


def test_all_x25519_secrets_known_and_the_kem_unknown(recording: Recording) -> None:
    """A quantum computer that breaks every X25519 exchange of a recording."""
    assert_closed(recording, X25519)
    assert_closed(recording, X25519 | {"psk"})


def test_all_kem_secrets_known_and_x25519_unknown(recording: Recording) -> None:
    """ML-KEM falls to somebody's mathematics."""
    assert_closed(recording, KEM)
    assert_closed(recording, KEM | {"psk"})


def test_the_psk_alone_known(recording: Recording) -> None:
    assert_closed(recording, frozenset({"psk"}))


def test_everything_known_but_a_private_meshs_secret(recording: Recording) -> None:
    assert_closed(recording, ALL - {"psk"})


@pytest.mark.parametrize("missing", sorted(ALL))
def test_a_single_secret_that_is_missing_keeps_the_session_closed(recording: Recording, missing: str) -> None:
    assert_closed(recording, ALL - {missing})


@pytest.mark.parametrize("known", sorted(ALL))
def test_a_single_secret_opens_nothing(recording: Recording, known: str) -> None:
    assert_closed(recording, frozenset({known}))


def test_both_machines_static_keys_stolen_later_open_no_recording(recording: Recording) -> None:
    """Forward secrecy: from the static keys of both sides follow all secrets but ee and ekem."""
    assert_closed(recording, frozenset({"skem", "es", "ss", "se", "skem2", "psk"}))


def test_stolen_static_keys_and_one_broken_half_are_still_not_enough(recording: Recording) -> None:
    assert_closed(recording, ALL - {"ekem"})  # X25519 broken, and both machines' keys stolen
    assert_closed(recording, ALL - {"ee"})  # ML-KEM broken, and both machines' keys stolen


@pytest.mark.parametrize(
    "known", [X25519, KEM, ALL - {"skem"}, ALL - {"es"}], ids=lambda known: ",".join(sorted(known))
)
def test_who_calls_stays_hidden_from_whoever_lacks_one_half(
    recording: Recording, known: frozenset[str]
) -> None:
    with pytest.raises(InvalidTag):
        opened_static(recording, knowing(recording, known))


def test_an_attacker_with_the_ephemeral_keys_alone_learns_nothing(recording: Recording) -> None:
    """A bad random generator on both sides: ee and ekem known, the static keys are not."""
    assert_closed(recording, frozenset({"ee", "ekem", "psk"}))


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_bit_of_a_secret_counts(recording: Recording, name: str) -> None:
    true = getattr(recording.secrets, name)
    for at in range(0, 32, 5):
        wrong = true[:at] + bytes([true[at] ^ 1]) + true[at + 1 :]
        outcome = eavesdrop(recording, replace(recording.secrets, **{name: wrong}))
        assert outcome.root != recording.established.root
