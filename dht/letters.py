"""A tag event for one machine: what its author signs, and how it is laid out inside a sealed box.

    plaintext   ├ length of the payload 2 ┼ payload ┼ signature 64 ┼ zeros ┤
    payload     msgpack [version 1, tag, author's key bundle 1,248, recipient's machine_id 32, zeqond,
                sequence, body]

The signature is the author's Ed25519 over label ‖ payload. The zeros fill the box up to whole parts of 900
bytes, so a home learns a size in steps of 900. The recipient stands inside: who receives an event cannot seal
it again for somebody else. An event counts once, within 70 minutes: a home holds it for an hour at most, and
clocks are ten minutes off at most.
"""

from __future__ import annotations

import heapq
import re
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.errors import LocalFault, PeerFault
from crypto.identity import BUNDLE_BYTES, MACHINE_ID_BYTES, SIGNATURE_BYTES, KeyBundle
from crypto.pulse import ZEQOND_MS
from crypto.sealed import OVERHEAD_BYTES
from dht.parts import PART_BYTES
from dht.signatures import Signatures, Signer

LABEL: Final = b"zeqnode tag event v1"
VERSION: Final = 1
TAG_CHARS: Final = 60
BODY_BYTES: Final = 4096
OLDEST_ZEQONDS: Final = 70 * 60_000 // ZEQOND_MS
AHEAD_ZEQONDS: Final = 10 * 60_000 // ZEQOND_MS
REMEMBERED: Final = 4096
_LENGTH_BYTES: Final = 2

_TAG: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
Tag = Annotated[str, Meta(pattern="^" + _TAG.pattern, max_length=TAG_CHARS)]
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class LetterRefused(PeerFault):
    """An opened event that is malformed, for somebody else, out of its time, or not its author's."""


class Letter(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`author`: a key bundle of 1,248 bytes, of which only the Ed25519 key has been used: check the others
    (`KeyBundle.from_bytes`) before you use them. `sequence`: the author's counter."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    tag: Tag
    author: Annotated[bytes, Meta(min_length=BUNDLE_BYTES, max_length=BUNDLE_BYTES)]
    recipient: Annotated[bytes, Meta(min_length=MACHINE_ID_BYTES, max_length=MACHINE_ID_BYTES)]
    zeqond: _Number
    sequence: _Number
    body: Annotated[bytes, Meta(max_length=BODY_BYTES)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Letter).decode


def is_tag(tag: str) -> bool:
    return len(tag) <= TAG_CHARS and _TAG.match(tag) is not None


def check(tag: str, body: bytes) -> None:
    """Raises LocalFault for what no event may carry."""
    if not is_tag(tag):
        raise LocalFault(
            f"a tag has at most {TAG_CHARS} characters: words of a to z, 0 to 9, _ and -, with dots between"
        )
    if len(body) > BODY_BYTES:
        raise LocalFault(f"the body of an event has at most {BODY_BYTES} bytes, this one {len(body)}")


def write(letter: Letter, signer: Signer) -> bytes:
    """The plaintext of a box; at most 6,964 bytes."""
    payload = _encode(letter)
    plain = len(payload).to_bytes(_LENGTH_BYTES, "big") + payload + signer.sign(LABEL, payload)
    return plain + bytes(-(OVERHEAD_BYTES + len(plain)) % PART_BYTES)


def read(plaintext: bytes, machine_id: bytes, signatures: Signatures, zeqond: int) -> tuple[Letter, bytes]:
    """(the letter, 16 bytes that name it) for the machine of that id, now. Raises LetterRefused."""
    end = _LENGTH_BYTES + int.from_bytes(plaintext[:_LENGTH_BYTES], "big")
    payload, signature = plaintext[_LENGTH_BYTES:end], plaintext[end : end + SIGNATURE_BYTES]
    try:
        letter = _decode(payload)
    except (ValueError, RecursionError) as error:  # not UTF-8, too deep: no errors of msgspec's own
        raise LetterRefused("event that does not parse") from error
    if letter.recipient != machine_id:
        raise LetterRefused("event for another machine")
    if not -OLDEST_ZEQONDS <= letter.zeqond - zeqond <= AHEAD_ZEQONDS:
        raise LetterRefused("event out of its time")
    if not signatures.holds(letter.author[:32], LABEL, payload, signature):
        raise LetterRefused("event with a bad signature")
    return letter, sha256(payload).digest()[:16]


def author_of(letter: Letter) -> bytes:
    """The author's machine_id, 32 bytes."""
    return KeyBundle(letter.author).machine_id


class Once:
    """Which events have been taken. Bounded: when 4,096 are remembered, the oldest gives way, and events of
    its zeqond or before are refused from then on, as those of a replay window are."""

    __slots__ = ("_floor", "_names", "_oldest")

    def __init__(self) -> None:
        self._names: dict[bytes, None] = {}  # a set would take thrice the memory while it is empty
        self._oldest: list[tuple[int, bytes]] = []  # heap of (zeqond, name)
        self._floor = -1

    def __len__(self) -> int:
        return len(self._oldest)

    def seen(self, name: bytes) -> bool:
        return name in self._names

    def take(self, letter: Letter, name: bytes, zeqond: int) -> bool:
        """Whether it is new; then it is remembered."""
        while self._oldest and self._oldest[0][0] < zeqond - OLDEST_ZEQONDS:
            self._names.pop(heapq.heappop(self._oldest)[1], None)
        if name in self._names or letter.zeqond <= self._floor:
            return False
        heapq.heappush(self._oldest, (letter.zeqond, name))
        self._names[name] = None
        if len(self._oldest) > REMEMBERED:
            self._floor, oldest = heapq.heappop(self._oldest)
            self._names.pop(oldest, None)
        return name in self._names

    def save(self) -> bytes:
        """For the disk: else who restarts takes an event again that it had an hour ago."""
        return _encode([self._floor, sorted(self._oldest)])

    def load(self, saved: bytes) -> None:
        """What `save` gave. Raises ValueError for anything else."""
        self._floor, self._oldest = msgspec.msgpack.decode(saved, type=tuple[int, list[tuple[int, bytes]]])
        heapq.heapify(self._oldest)
        self._names = dict.fromkeys(name for _, name in self._oldest)
