"""ZeqKeyEx's key schedule a second time: slow, from the documents, on hmac and hashlib alone.

DESIGN.md section 5 and the drawing in crypto/handshake.py say what is mixed in which order; here every secret
is an argument. So one function checks the implementation, and in an attacker's hands forges messages with
whatever secrets it knows, right or wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.pulse import ZEQOND_MS

NAME = b"ZeqKeyEx_IKpsk2_25519+MLKEM768_AESGCM_SHA256"
PUBLIC_MESH = hashlib.sha256(b"zeqnode public mesh v1").digest()
UNKNOWN = bytes(32)


def hkdf(salt: bytes, material: bytes, outputs: int) -> list[bytes]:
    """RFC 5869 with SHA-256 and empty info, cut into outputs of 32 bytes."""
    prk = hmac.new(salt, material, hashlib.sha256).digest()
    blocks: list[bytes] = []
    for number in range(1, outputs + 1):
        before = blocks[-1] if blocks else b""
        blocks.append(hmac.new(prk, before + bytes([number]), hashlib.sha256).digest())
    return blocks


def labelled(secret: bytes, label: str, context: bytes = b"") -> bytes:
    """RFC 5869's expand step with info = len(label) ‖ label ‖ context, one block of 32 bytes."""
    info = bytes([len(label)]) + label.encode() + context
    return hmac.new(secret, info + b"\x01", hashlib.sha256).digest()


def machine_id(bundle: bytes) -> bytes:
    return hashlib.sha256(b"zeqnode machine v1" + bundle).digest()


def prefixed(field: bytes, size: int) -> bytes:
    return len(field).to_bytes(size, "big") + field


def message(*fields: bytes) -> bytes:
    return b"".join(prefixed(field, 2) for field in fields)


class Transcript:
    """Noise's symmetric state, with every field of the hash length-prefixed."""

    def __init__(self, responder: bytes, name: bytes = NAME, version: bytes = b"\x01") -> None:
        self.h = self.ck = hashlib.sha256(name).digest()
        self.key = UNKNOWN
        self.count = 0
        self.absorb(name + version + machine_id(responder))
        self.absorb(responder)

    def absorb(self, field: bytes) -> None:
        self.h = hashlib.sha256(self.h + prefixed(field, 4)).digest()

    def secret(self, secret: bytes) -> None:
        self.ck, self.key = hkdf(self.ck, secret, 2)
        self.count = 0

    def public(self, e: bytes) -> None:
        """`e` in a pattern with a psk is hashed and mixed into the key."""
        self.absorb(e)
        self.secret(e)

    def psk(self, psk: bytes) -> None:
        self.ck, hashed, self.key = hkdf(self.ck, psk, 3)
        self.absorb(hashed)
        self.count = 0

    def seal(self, plaintext: bytes) -> bytes:
        nonce = self.count.to_bytes(12, "big")
        self.count += 1
        sealed = AESGCM(self.key).encrypt(nonce, plaintext, self.h)
        self.absorb(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """Raises InvalidTag where a secret was guessed wrong."""
        nonce = self.count.to_bytes(12, "big")
        self.count += 1
        plaintext = AESGCM(self.key).decrypt(nonce, sealed, self.h)
        self.absorb(sealed)
        return plaintext


@dataclass(frozen=True)
class Secrets:
    """Everything that goes into the chaining key, in the order of the pattern; each 32 bytes."""

    skem: bytes = UNKNOWN  # KEM to the responder's static key
    es: bytes = UNKNOWN
    ss: bytes = UNKNOWN
    ee: bytes = UNKNOWN
    se: bytes = UNKNOWN
    ekem: bytes = UNKNOWN  # KEM to the initiator's ephemeral key
    skem2: bytes = UNKNOWN  # KEM to the initiator's static key
    psk: bytes = UNKNOWN


@dataclass(frozen=True)
class Publics:
    """The unencrypted values of both messages, and what each side seals."""

    initiator: bytes  # key bundle, 1,248 bytes
    responder: bytes
    e: bytes
    ekem: bytes
    skem_ciphertext: bytes
    opening: bytes
    e2: bytes = b""
    ekem_ciphertext: bytes = b""
    skem2_ciphertext: bytes = b""
    answer: bytes = b""


def opening(clock_us: int, base_index: int, retry: bytes = bytes(24), token_id: bytes = bytes(16)) -> bytes:
    return struct.pack(">QI", clock_us, base_index) + retry + token_id


def psk(mesh_secret: bytes, initiator: bytes, responder: bytes, e: bytes, clock_us: int) -> bytes:
    zeqond = clock_us // 1000 // ZEQOND_MS
    ids = f"{machine_id(initiator).hex()}|{machine_id(responder).hex()}"
    return hmac.new(mesh_secret, f"{ids}|{e.hex()}|{zeqond}".encode(), hashlib.sha256).digest()


def message1(
    publics: Publics, secrets: Secrets, transcript: Transcript | None = None
) -> tuple[bytes, Transcript]:
    t = transcript or Transcript(publics.responder)
    t.public(publics.e)
    t.absorb(publics.ekem)
    t.absorb(publics.skem_ciphertext)
    t.secret(secrets.skem)
    t.secret(secrets.es)
    sealed_static = t.seal(publics.initiator)
    t.absorb(machine_id(publics.initiator))
    t.secret(secrets.ss)
    sealed_opening = t.seal(publics.opening)
    return message(publics.e, publics.ekem, publics.skem_ciphertext, sealed_static, sealed_opening), t


def message2(publics: Publics, secrets: Secrets, t: Transcript) -> bytes:
    """Moves `t` on to the end of the handshake."""
    t.public(publics.e2)
    t.secret(secrets.ee)
    t.secret(secrets.se)
    sealed_ekem = t.seal(publics.ekem_ciphertext)
    t.secret(secrets.ekem)
    sealed_skem = t.seal(publics.skem2_ciphertext)
    t.secret(secrets.skem2)
    t.psk(secrets.psk)
    return message(publics.e2, sealed_ekem, sealed_skem, t.seal(publics.answer))


@dataclass(frozen=True)
class Outcome:
    """What both sides keep; 32 bytes each but for the number."""

    transcript: bytes
    root: bytes
    exporter: bytes
    zeqond_base: int


def outcome(t: Transcript) -> Outcome:
    return Outcome(
        transcript=t.h,
        root=labelled(t.ck, "zeqnode epoch 0 v1", t.h),
        exporter=labelled(t.ck, "zeqnode exporter v1", t.h),
        zeqond_base=int.from_bytes(labelled(t.ck, "zeqnode session zeqond v1", t.h)[:4], "big"),
    )


def handshake(publics: Publics, secrets: Secrets) -> tuple[bytes, bytes, Outcome]:
    """Message 1, message 2 and the outcome, all from given secrets."""
    first, t = message1(publics, secrets)
    second = message2(publics, secrets, t)
    return first, second, outcome(t)


def control_key(t: Transcript) -> bytes:
    """Of a transcript that stands right after message 1."""
    return labelled(t.ck, "zeqnode refusal v1", t.h)


def epoch_secret(root: bytes, epoch: int) -> bytes:
    return root if epoch == 0 else labelled(epoch_secret(root, epoch - 1), "zeqnode ratchet v1")


def lane_key(root: bytes, epoch: int, to_initiator: bool, lane: int) -> bytes:
    return labelled(epoch_secret(root, epoch), "zeqnode lane v1", bytes([to_initiator, lane]))


def record(root: bytes, epoch: int, to_initiator: bool, lane: int, iv: bytes, plaintext: bytes) -> bytes:
    return AESGCM(lane_key(root, epoch, to_initiator, lane)).encrypt(iv, plaintext, None)
