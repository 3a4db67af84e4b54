"""ZeqKeyEx: Noise IK with KEMs, one hybrid key from X25519 and ML-KEM-768 (DESIGN section 5).

    <- s                                       the responder's static keys, known beforehand
    -> e, ekem, skem, es, s, ss, {opening}     message 1, 3,646 bytes
    <- e, ee, se, ekem, skem, psk, {answer}    message 2, 2,269 bytes and the addresses
       the initiator's first record confirms

On the wire a message is its fields, each as u16 length ‖ bytes:

    message 1                                  message 2
    e        X25519 public            32       e        X25519 public               32
    ekem     ML-KEM-768 public     1,184       ekem     sealed KEM ciphertext    1,104
    skem     ML-KEM ciphertext     1,088       skem     sealed KEM ciphertext    1,104
    s        sealed key bundle     1,264       answer   sealed                 22 + n
    opening  sealed                   68

    opening  clock u64 (unix us) ‖ base index u32 ‖ retry token 24 ‖ token id 16   (zeros: none)
    answer   base index u32 ‖ u8 length ‖ observed address ‖ u8 count ‖ (u8 length ‖ address)*

What rests on what: everything sealed is under a hybrid key, since `s` comes after skem and es. Message 1's
sender is authenticated by `ss` alone, which is classical, and message 1 has no forward secrecy: message 1
proves nobody. Only the initiator's first record does, because its key needs `se` and the second `skem`.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from crypto.errors import HandshakeRefused
from crypto.identity import BUNDLE_BYTES, BadKeys, KeyBundle
from crypto.kem import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    X25519_BYTES,
    BadPublicKey,
    Primitives,
    PrivateHybrid,
    expand,
)
from crypto.pulse import zeqond
from crypto.symmetric import TAG_BYTES, SymmetricState

PROTOCOL_NAME = b"ZeqKeyEx_IKpsk2_25519+MLKEM768_AESGCM_SHA256"
VERSION = b"\x01"
PUBLIC_MESH_SECRET = sha256(b"zeqnode public mesh v1").digest()  # published: adds nothing, and says so
RETRY_BYTES = 24
TOKEN_ID_BYTES = 16
MAX_ADDRESSES = 8
MAX_ADDRESS_BYTES = 64

_PROTOCOL_HASH = sha256(PROTOCOL_NAME).digest()
_OPENING = struct.Struct(f">QI{RETRY_BYTES}s{TOKEN_ID_BYTES}s")
_MESSAGE1 = (
    X25519_BYTES,
    KEM_PUBLIC_BYTES,
    KEM_CIPHERTEXT_BYTES,
    BUNDLE_BYTES + TAG_BYTES,
    _OPENING.size + TAG_BYTES,
)
_SEALED_KEM = KEM_CIPHERTEXT_BYTES + TAG_BYTES
_MESSAGE2 = (X25519_BYTES, _SEALED_KEM, _SEALED_KEM, None)
MESSAGE1_BYTES = sum(_MESSAGE1) + 2 * len(_MESSAGE1)
MAX_ANSWER_BYTES = 4 + 2 + (1 + MAX_ADDRESS_BYTES) * (1 + MAX_ADDRESSES)


@dataclass(frozen=True, slots=True)
class Opening:
    """What message 1 carries. Times in microseconds of Unix time; nothing in it is proven yet."""

    clock_us: int
    base_index: int
    retry: bytes = bytes(RETRY_BYTES)
    token_id: bytes = bytes(TOKEN_ID_BYTES)


@dataclass(frozen=True, slots=True)
class Answer:
    """What message 2 carries: `observed` is the address that message 1 came from, `addresses` our own."""

    base_index: int
    observed: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Established:
    """The handshake's outcome; equal on both sides but for the roles. Secrets are 32 bytes."""

    initiator: bool
    root: bytes
    exporter: bytes
    zeqond_base: int
    transcript: bytes
    local_index: int
    remote_index: int
    remote: KeyBundle


def mesh_psk(mesh_secret: bytes, requester: bytes, accepter: bytes, nonce: bytes, clock_us: int) -> bytes:
    """The seeds' derivation: HMAC(ZEQ_MESH_SECRET, requester | accepter | nonce | zeqond), ids in hex.

    With the published secret of the public mesh it adds nothing; a private mesh's own secret keeps out
    whoever does not hold it."""
    text = "|".join([requester.hex(), accepter.hex(), nonce.hex(), str(zeqond(clock_us // 1000))])
    return hmac.digest(mesh_secret, text.encode("ascii"), "sha256")  # a secret of any length


class Initiator:
    """One attempt to reach one machine: makes message 1, reads message 2."""

    def __init__(
        self,
        static: PrivateHybrid,
        own: KeyBundle,
        responder: KeyBundle,
        primitives: Primitives,
        mesh_secret: bytes = PUBLIC_MESH_SECRET,
    ) -> None:
        self._static = static
        self._own = own
        self._responder = responder
        self._primitives = primitives
        self._mesh_secret = mesh_secret
        self._ephemeral = primitives.ephemeral()
        self._state = _start(responder)
        self._opening: Opening | None = None

    @property
    def ephemeral_public(self) -> bytes:
        """`e`, 32 bytes: the nonce of the psk and part of message 2's mac1 key."""
        return self._ephemeral.x25519_public

    def message1(self, opening: Opening) -> bytes:
        """The 3,646 bytes of message 1. Called once. Raises BadPublicKey for a responder's unusable key."""
        assert self._opening is None, "message 1 is made once; a fresh attempt needs a fresh Initiator"
        self._opening = opening
        state, ephemeral = self._state, self._ephemeral
        _mix_public(state, ephemeral.x25519_public)
        state.mix_hash(ephemeral.kem_public)
        shared, to_static = self._primitives.encapsulate(self._responder.ml_kem)
        state.mix_hash(to_static)
        state.mix_key(shared)
        state.mix_key(ephemeral.exchange(self._responder.x25519))
        sealed_static = state.seal(self._own.to_bytes())
        state.mix_hash(self._own.machine_id)
        state.mix_key(self._static.exchange(self._responder.x25519))
        sealed_opening = state.seal(
            _OPENING.pack(opening.clock_us, opening.base_index, opening.retry, opening.token_id)
        )
        return _join(ephemeral.x25519_public, ephemeral.kem_public, to_static, sealed_static, sealed_opening)

    def control_key(self) -> bytes:
        """32 bytes for the responder's sealed Retry or Refusal of this very message 1."""
        return expand(self._state.chaining_key, b"zeqnode refusal v1", self._state.hash)

    def read_message2(self, message: bytes) -> tuple[Established, Answer]:
        """Raises HandshakeRefused and stays usable: a forged message 2 ends nothing."""
        assert self._opening is not None, "message 1 comes first"
        e, sealed_ekem, sealed_skem, sealed_answer = _split(
            message, (X25519_BYTES, _SEALED_KEM, _SEALED_KEM, None)
        )
        # a copy, and enough of one: a key is mixed before anything is opened
        state = SymmetricState(self._state.chaining_key, self._state.hash)
        try:
            _mix_public(state, e)
            state.mix_key(self._ephemeral.exchange(e))
            state.mix_key(self._static.exchange(e))
            state.mix_key(self._ephemeral.decapsulate(state.open(sealed_ekem)))
            state.mix_key(self._static.decapsulate(state.open(sealed_skem)))
        except BadPublicKey as error:
            raise HandshakeRefused("message 2 carries an unusable public value") from error
        state.mix_key_and_hash(
            mesh_psk(
                self._mesh_secret,
                self._own.machine_id,
                self._responder.machine_id,
                self._ephemeral.x25519_public,
                self._opening.clock_us,
            )
        )
        answer = _parse_answer(state.open(sealed_answer))
        established = _finish(state, True, self._opening.base_index, answer.base_index, self._responder)
        return established, answer


class Responder:
    """One received message 1, opened: `remote` and `opening` are claims until the first record confirms.

    Raises HandshakeRefused when the message does not parse or authenticate."""

    def __init__(
        self,
        message1: bytes,
        static: PrivateHybrid,
        own: KeyBundle,
        mesh_secret: bytes = PUBLIC_MESH_SECRET,
    ) -> None:
        e, ekem, skem, sealed_static, sealed_opening = _split(message1, _MESSAGE1)
        self._own = own
        self._mesh_secret = mesh_secret
        self._e = e
        self._ekem = ekem
        state = self._state = _start(own)
        try:
            _mix_public(state, e)
            state.mix_hash(ekem)
            state.mix_hash(skem)
            state.mix_key(static.decapsulate(skem))
            state.mix_key(static.exchange(e))
            self.remote = KeyBundle.from_bytes(state.open(sealed_static))
            state.mix_hash(self.remote.machine_id)
            state.mix_key(static.exchange(self.remote.x25519))
        except (BadPublicKey, BadKeys) as error:
            raise HandshakeRefused("message 1 carries an unusable public value") from error
        self.opening = Opening(*_OPENING.unpack(state.open(sealed_opening)))

    @property
    def ephemeral_public(self) -> bytes:
        """The initiator's `e`, 32 bytes."""
        return self._e

    def control_key(self) -> bytes:
        """32 bytes, the same as `Initiator.control_key`; asked for instead of `message2`, never after it."""
        return expand(self._state.chaining_key, b"zeqnode refusal v1", self._state.hash)

    def message2(self, answer: Answer, primitives: Primitives) -> tuple[bytes, Established]:
        """Raises HandshakeRefused when the initiator's public values cannot be used. Called once."""
        state, ephemeral = self._state, primitives.ephemeral()
        try:
            _mix_public(state, ephemeral.x25519_public)
            state.mix_key(ephemeral.exchange(self._e))
            state.mix_key(ephemeral.exchange(self.remote.x25519))
            shared, ciphertext = primitives.encapsulate(self._ekem)
            sealed_ekem = state.seal(ciphertext)
            state.mix_key(shared)
            shared, ciphertext = primitives.encapsulate(self.remote.ml_kem)
            sealed_skem = state.seal(ciphertext)
            state.mix_key(shared)
        except BadPublicKey as error:
            raise HandshakeRefused("message 1 carries an unusable public value") from error
        psk = mesh_psk(
            self._mesh_secret, self.remote.machine_id, self._own.machine_id, self._e, self.opening.clock_us
        )
        state.mix_key_and_hash(psk)
        sealed_answer = state.seal(_pack_answer(answer))
        established = _finish(state, False, answer.base_index, self.opening.base_index, self.remote)
        return _join(ephemeral.x25519_public, sealed_ekem, sealed_skem, sealed_answer), established


def _start(responder: KeyBundle) -> SymmetricState:
    return SymmetricState(_PROTOCOL_HASH, _first_hash(responder))


@lru_cache(maxsize=64)
def _first_hash(responder: KeyBundle) -> bytes:
    """The transcript before the first message: a node answers all its life from the same one."""
    state = SymmetricState(_PROTOCOL_HASH, _PROTOCOL_HASH)
    state.mix_hash(PROTOCOL_NAME + VERSION + responder.machine_id)  # the prologue
    state.mix_hash(responder.to_bytes())
    return state.hash


def _mix_public(state: SymmetricState, e: bytes) -> None:
    """The token `e` of a pattern with a psk: hashed, and mixed into the key (Noise section 9.2)."""
    state.mix_hash(e)
    state.mix_key(e)


def _finish(
    state: SymmetricState, initiator: bool, local_index: int, remote_index: int, remote: KeyBundle
) -> Established:
    def derive(label: bytes) -> bytes:
        return expand(state.chaining_key, label, state.hash)

    return Established(
        initiator=initiator,
        root=derive(b"zeqnode epoch 0 v1"),
        exporter=derive(b"zeqnode exporter v1"),
        zeqond_base=int.from_bytes(derive(b"zeqnode session zeqond v1")[:4], "big"),
        transcript=state.hash,
        local_index=local_index,
        remote_index=remote_index,
        remote=remote,
    )


def _join(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def _split(message: bytes, lengths: Sequence[int | None]) -> list[bytes]:
    """The fields of a message; None stands for any length up to MAX_ANSWER_BYTES + tag."""
    fields, at = [], 0
    for expected in lengths:
        length = int.from_bytes(message[at : at + 2], "big")
        if length != expected and (expected is not None or length > MAX_ANSWER_BYTES + TAG_BYTES):
            raise HandshakeRefused("a field of the handshake has the wrong length")
        fields.append(message[at + 2 : at + 2 + length])
        at += 2 + length
    if at != len(message):
        raise HandshakeRefused("the handshake message has the wrong length")
    return fields


def _pack_answer(answer: Answer) -> bytes:
    texts = [answer.observed, *answer.addresses[:MAX_ADDRESSES]]
    packed = [text.encode("ascii")[:MAX_ADDRESS_BYTES] for text in texts]
    prefixed = [bytes([len(text)]) + text for text in packed]
    head = answer.base_index.to_bytes(4, "big")
    return head + prefixed[0] + bytes([len(prefixed) - 1]) + b"".join(prefixed[1:])


def _parse_answer(data: bytes) -> Answer:
    """Raises HandshakeRefused; an authenticated peer may still send nonsense."""
    try:
        observed, at = _take_text(data, 4)
        count = data[at]
        if count > MAX_ADDRESSES:
            raise HandshakeRefused("message 2 names too many addresses")
        at += 1
        addresses = []
        for _ in range(count):
            address, at = _take_text(data, at)
            addresses.append(address)
    except (IndexError, UnicodeDecodeError) as error:
        raise HandshakeRefused("message 2's answer does not parse") from error
    if at != len(data):
        raise HandshakeRefused("message 2's answer has bytes left over")
    return Answer(int.from_bytes(data[:4], "big"), observed, tuple(addresses))


def _take_text(data: bytes, at: int) -> tuple[str, int]:
    length = data[at]
    if length > MAX_ADDRESS_BYTES or at + 1 + length > len(data):
        raise HandshakeRefused("message 2's answer does not parse")
    return data[at + 1 : at + 1 + length].decode("ascii"), at + 1 + length
