"""How a Mode-B stream begins: both prove that they have the seed, and one seed serves any number of streams.

    opener    ─ hello 60 ──────────────────▶  acceptor      finds by the hint which of its seeds it is
              ◀── hello 60 ‖ confirmation 32 ─
              ─ confirmation 32, records … ─▶

    hello         ├ "ZMB1" 4 ┼ zeqond 8 ┼ nonce 32 ┼ hint 16 ┤
    hint          HKDF-Expand(seed, "zeqnode mode b hello v1", direction ‖ zeqond 8 ‖ nonce)[:16]
    stream        HKDF-Expand(seed, "zeqnode mode b stream v1", SHA-256(hello of initiator ‖ of responder))
    confirmation  HKDF-Expand(stream, "zeqnode mode b confirmation v1", direction)
    start         the later of the two zeqonds

`stream` takes the place of the seed in crypto/mode_b.py. Both nonces are in it, so no two streams have a key
in common, and a recording played again fails at the confirmation. The direction is the sender's in all of it:
a hello that is sent back to who made it fits nothing. Hints of one seed look unlike each other to whoever
does not have it. The clocks may differ by two zeqonds; the one that is behind refuses.

RFC 5869 (HKDF). The layout is ours: the seeds name none.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from crypto.errors import HandshakeRefused
from crypto.kem import expand
from crypto.mode_b import SEED_BYTES, SKEW_ZEQONDS, Direction, Receiver, Sender

HELLO_BYTES: Final = 60
CONFIRMATION_BYTES: Final = 32
NONCE_BYTES: Final = 32
_MAGIC: Final = b"ZMB1"
_SAID: Final = slice(4, 44)  # zeqond and nonce
_HINT: Final = slice(44, HELLO_BYTES)
_ZEQOND_BYTES: Final = 8
_HELLO_LABEL: Final = b"zeqnode mode b hello v1"
_STREAM_LABEL: Final = b"zeqnode mode b stream v1"
_CONFIRMATION_LABEL: Final = b"zeqnode mode b confirmation v1"


@dataclass(frozen=True, repr=False)
class Begun:
    """A stream of which the other side has shown a hello; nothing of it counts before `confirm`."""

    sender: Sender
    receiver: Receiver
    confirmation: bytes
    _theirs: bytes

    def confirm(self, confirmation: bytes) -> None:
        """Raises HandshakeRefused: the other side does not have the seed, or plays a recording."""
        if not compare_digest(confirmation, self._theirs):
            raise HandshakeRefused("the confirmation of the stream is not right")


class Opening:
    """One side's part. `direction`: of what this side sends; the other side has the other one. `zeqond`: of
    our clock now; `nonce`: 32 random bytes, for this stream alone."""

    def __init__(self, seed: bytes, direction: Direction, zeqond: int, nonce: bytes) -> None:
        assert len(seed) == SEED_BYTES
        assert len(nonce) == NONCE_BYTES
        self._seed = seed
        self._direction = direction
        self._zeqond = zeqond
        said = zeqond.to_bytes(_ZEQOND_BYTES, "big") + nonce
        self.hello = _MAGIC + said + _hint(seed, direction, said)

    def agree(self, hello: bytes, zeqond: int) -> Begun:
        """With the other side's hello, 60 bytes, at our zeqond of now. Raises HandshakeRefused."""
        if not is_from(self._seed, other(self._direction), hello):
            raise HandshakeRefused("the other side has another seed, or is no Mode-B stream")
        theirs = int.from_bytes(hello[_SAID][:_ZEQOND_BYTES], "big")
        if theirs > zeqond + SKEW_ZEQONDS:
            raise HandshakeRefused("the two clocks differ by more than two zeqonds, 1.6 s: set them right")
        ours_first = self._direction is Direction.FROM_INITIATOR
        both = self.hello + hello if ours_first else hello + self.hello
        stream = expand(self._seed, _STREAM_LABEL, sha256(both).digest())
        start, direction = max(self._zeqond, theirs), self._direction
        return Begun(
            Sender(stream, direction, start),
            Receiver(stream, other(direction), start),
            _confirmation(stream, direction),
            _confirmation(stream, other(direction)),
        )


def is_from(seed: bytes, direction: Direction, hello: bytes) -> bool:
    """Whether who has the seed said it, once, in that direction."""
    if len(hello) != HELLO_BYTES or not hello.startswith(_MAGIC):
        return False
    return compare_digest(hello[_HINT], _hint(seed, direction, hello[_SAID]))


def other(direction: Direction) -> Direction:
    return Direction(1 - direction)


def _hint(seed: bytes, direction: Direction, said: bytes) -> bytes:
    return expand(seed, _HELLO_LABEL, bytes([direction]) + said)[:16]


def _confirmation(stream: bytes, direction: Direction) -> bytes:
    return expand(stream, _CONFIRMATION_LABEL, bytes([direction]))
