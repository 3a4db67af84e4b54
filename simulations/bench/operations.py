"""The operations that `zeqnode bench crypto` times, and which primitives a handshake consists of.

Of the handshake, both the whole and the responder's part alone; for each a table says how many of which
primitives its pattern needs, and tests/simulations/test_bench.py counts what the code really uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from itertools import cycle

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.handshake import Answer, Established, Initiator, Opening, Responder
from crypto.identity import KeyBundle
from crypto.kem import PrivateHybrid, RealPrimitives, hmac_sha256
from crypto.session import Session

RECORD_BYTES = 1400

KEYGEN_KEM = "ML-KEM-768 key generation"
ENCAPSULATE = "ML-KEM-768 encapsulation"
DECAPSULATE = "ML-KEM-768 decapsulation"
KEYGEN_X25519 = "X25519 key generation"
EXCHANGE = "X25519 exchange"
HMAC = "HMAC-SHA-256, 32 B"
TRANSCRIPT = "SHA-256 of an answered handshake's fields"
FIELDS = "AES-256-GCM of its sealed fields"
HANDSHAKE = "handshake, both sides"
ANSWERED = "handshake answered"
AEAD = f"AES-256-GCM alone, {RECORD_BYTES:,} B"
SEAL = f"record sealed, {RECORD_BYTES:,} B"
OPEN = f"record opened, {RECORD_BYTES:,} B"

# The tokens of ZeqKeyEx (crypto/handshake.py). Each end makes one e and computes es, ss, ee and se; only the
# initiator makes an ekem pair; skem, ekem and skem again are each encapsulated once and decapsulated once.
HANDSHAKE_PRIMITIVES = {KEYGEN_X25519: 2, KEYGEN_KEM: 1, EXCHANGE: 8, ENCAPSULATE: 3, DECAPSULATE: 3}

# What answering takes: e, es, ss, ee and se; skem opened, ekem and skem sealed. Keys are parsed beforehand.
ANSWERED_KEYS = {KEYGEN_X25519: 1, EXCHANGE: 4, ENCAPSULATE: 2, DECAPSULATE: 1}
# And the other half of the protocol's name, AESGCM and SHA256. HMACs: two for each of ten mixed secrets, one
# for each of five keys that seal, one for psk's third output, one for the psk, three for the outcome.
# Hashed and sealed are the fields of both messages in their order, sizes in bytes.
ANSWERED_PRIMITIVES = {**ANSWERED_KEYS, HMAC: 30, TRANSCRIPT: 1, FIELDS: 1}
HASHED_BYTES = (32, 1184, 1088, 1264, 32, 68, 32, 1104, 1104, 32, 22)
SEALED_BYTES = (1248, 52, 1088, 1088, 6)
HASH_HEAD_BYTES = 36  # before each field: the hash so far, and the field's length

CALLERS = 8
CALLS = 128  # more than a node keeps parsed keys of: every ephemeral key is new to it, as in life

Prepare = Callable[[int], Callable[[], None]]
"""Given a count, makes ready what need not be timed and returns what is to be: that many operations."""


def operations() -> dict[str, Prepare]:
    kem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    kem_public, x25519_public = kem.public_key(), X25519PrivateKey.generate().public_key()
    _, ciphertext = kem_public.encapsulate()
    aead, iv, packet = AESGCM(os.urandom(32)), os.urandom(12), os.urandom(RECORD_BYTES)
    key, shake = os.urandom(32), handshake()
    return {
        KEYGEN_KEM: _repeated(MLKEM768PrivateKey.generate),
        ENCAPSULATE: _repeated(kem_public.encapsulate),
        DECAPSULATE: _repeated(lambda: kem.decapsulate(ciphertext)),
        KEYGEN_X25519: _repeated(X25519PrivateKey.generate),
        EXCHANGE: _repeated(lambda: x25519.exchange(x25519_public)),
        HMAC: _repeated(lambda: hmac_sha256(key, key)),
        TRANSCRIPT: _repeated(_hashes()),
        FIELDS: _repeated(_seals()),
        HANDSHAKE: _repeated(shake),
        ANSWERED: _repeated(answering()),
        AEAD: _repeated(lambda: aead.encrypt(iv, packet, None)),
        SEAL: _sealing(shake, packet),
        OPEN: _opening(shake, packet),
    }


def _repeated(operation: Callable[[], object]) -> Prepare:
    def prepare(count: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                operation()

        return work

    return prepare


def handshake() -> Callable[[], tuple[Established, Established]]:
    """One whole handshake between two machines made here: (the initiator's outcome, the responder's)."""
    primitives = RealPrimitives()
    calling, called = primitives.ephemeral(), primitives.ephemeral()
    caller, callee = _bundle(calling), _bundle(called)

    def shake() -> tuple[Established, Established]:
        initiator = Initiator(calling, caller, callee, primitives)
        message1 = initiator.message1(Opening(clock_us=1, base_index=0))
        message2, responders = Responder(message1, called, callee).message2(Answer(base_index=64), primitives)
        initiators, _ = initiator.read_message2(message2)
        return initiators, responders

    return shake


def answering() -> Callable[[], tuple[bytes, Established]]:
    """The responder's part: message 1 opened and message 2 made, for a few callers that call in turns."""
    primitives = RealPrimitives()
    called = primitives.ephemeral()
    callee = _bundle(called)
    callers = [primitives.ephemeral() for _ in range(CALLERS)]
    bundles = [_bundle(caller) for caller in callers]
    calls = cycle(
        [
            Initiator(callers[n % CALLERS], bundles[n % CALLERS], callee, primitives).message1(Opening(1, 0))
            for n in range(CALLS)
        ]
    )

    def answer() -> tuple[bytes, Established]:
        return Responder(next(calls), called, callee).message2(Answer(base_index=64), primitives)

    return answer


def _hashes() -> Callable[[], None]:
    fields = [os.urandom(HASH_HEAD_BYTES + size) for size in HASHED_BYTES]

    def work() -> None:
        for field in fields:
            sha256(field).digest()

    return work


def _seals() -> Callable[[], None]:
    key, iv, transcript = os.urandom(32), bytes(12), os.urandom(32)
    fields = [os.urandom(size) for size in SEALED_BYTES]

    def work() -> None:
        for field in fields:
            AESGCM(key).encrypt(iv, field, transcript)

    return work


def _bundle(keys: PrivateHybrid) -> KeyBundle:
    signing = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return KeyBundle.from_bytes(signing + keys.x25519_public + keys.kem_public)


def _sealing(shake: Callable[[], tuple[Established, Established]], packet: bytes) -> Prepare:
    def prepare(count: int) -> Callable[[], None]:
        lane = Session(shake()[0], 0).open_lane()

        def work() -> None:
            for _ in range(count):
                lane.seal(packet, 1)

        return work

    return prepare


def _opening(shake: Callable[[], tuple[Established, Established]], packet: bytes) -> Prepare:
    def prepare(count: int) -> Callable[[], None]:
        ours, theirs = shake()
        lane, session = Session(ours, 0).open_lane(), Session(theirs, 0)
        records = [lane.seal(packet, 1) for _ in range(count)]

        def work() -> None:
            for iv, ciphertext in records:
                session.open(iv, ciphertext, 1)

        return work

    return prepare
