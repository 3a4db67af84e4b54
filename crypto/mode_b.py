"""ZeqSSL Mode-B: a stream between two machines that have one seed, under another key every zeqond.

    record   ├ length 2 ┼ zeqond 8 ┼ AES-256-GCM of (kind 1 ‖ plaintext up to 16,384) ‖ tag 16 ┤
    header   the first ten bytes, authenticated; length: of what follows them
    nonce    ├ zero 4 ┼ records before in this direction 8 ┤        of the stream, not of the zeqond
    chain    c(start) = HKDF-Expand(seed, "zeqnode mode b v1", direction ‖ start zeqond 8)
             c(z + 1) = HKDF-Expand(c(z), "zeqnode mode b next v1")
    key(z)   HKDF-Expand(c(z), "zeqnode mode b key v1")

The bytes below are a reliable stream's, so records are numbered and none may be missing, doubled or out of
place. A sender's zeqond never falls, whatever its clock does, and the chain only goes forward: what was sent
in the zeqonds before stays closed to who steals a key now. The two clocks may differ by two zeqonds: a record
from further ahead is refused. One that comes late is not: streams stall, its place in the order proves it
new, and its key is gone as soon as the next zeqond's record has come. A stream ends with a record that says
so; one that just stops was cut.

Source of names and of the re-keying: the seeds. RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import LocalFault, RecordRefused, SessionExpired
from crypto.kem import expand

SEED_BYTES: Final = 32
PLAINTEXT_BYTES: Final = 16_384  # in one record
HEADER_BYTES: Final = 10
SKEW_ZEQONDS: Final = 2
IDLE_ZEQONDS: Final = 120_000  # 25.9 hours: a chain that would have to go on by more needs a new seed
_TAG_BYTES: Final = 16
_LENGTH: Final = slice(0, 2)
_ZEQOND: Final = slice(2, HEADER_BYTES)
_LEAST: Final = 1 + _TAG_BYTES
_MOST: Final = _LEAST + PLAINTEXT_BYTES
_LABEL: Final = b"zeqnode mode b v1"
_NEXT_LABEL: Final = b"zeqnode mode b next v1"
_KEY_LABEL: Final = b"zeqnode mode b key v1"


class Direction(IntEnum):
    """Each has its own chain."""

    FROM_INITIATOR = 0
    FROM_RESPONDER = 1


class _Kind(IntEnum):
    DATA = 0
    CLOSE = 1


class _Chain:
    """The keys of one direction, one zeqond's at a time."""

    def __init__(self, secret: bytes, zeqond: int, count: int) -> None:
        self.zeqond = zeqond
        self.count = count
        self._secret = secret
        self._cipher: AESGCM | None = None

    def seal(self, header: bytes, plaintext: bytes) -> bytes:
        return self._current().encrypt(self._nonce(), plaintext, header)

    def open(self, header: bytes, ciphertext: bytes) -> bytes:
        """Raises InvalidTag."""
        return self._current().decrypt(self._nonce(), ciphertext, header)

    def advanced(self, zeqond: int) -> _Chain:
        """The same chain at a later zeqond; this one stays as it is until a record has proven itself."""
        secret = self._secret
        for _ in range(zeqond - self.zeqond):
            secret = expand(secret, _NEXT_LABEL)
        return _Chain(secret, zeqond, self.count)

    def _current(self) -> AESGCM:
        if self._cipher is None:
            self._cipher = AESGCM(expand(self._secret, _KEY_LABEL))
        return self._cipher

    def _nonce(self) -> bytes:
        return self.count.to_bytes(12, "big")


def _begin(seed: bytes, direction: Direction, start: int) -> _Chain:
    assert len(seed) == SEED_BYTES
    return _Chain(expand(seed, _LABEL, bytes([direction]) + start.to_bytes(8, "big")), start, 0)


class Sender:
    """`start`: the zeqond that both sides count from. Zeqonds given are what our clock shows."""

    def __init__(self, seed: bytes, direction: Direction, start: int) -> None:
        self._chain = _begin(seed, direction, start)
        self.closed = False

    def seal(self, plaintext: bytes, zeqond: int) -> bytes:
        """As many records as it takes. Raises SessionExpired after a day without one, and LocalFault on a
        stream that was closed."""
        view = memoryview(plaintext)
        pieces = [view[at : at + PLAINTEXT_BYTES] for at in range(0, len(view), PLAINTEXT_BYTES)]
        return b"".join([self._record(_Kind.DATA, piece, zeqond) for piece in pieces])

    def close(self, zeqond: int) -> bytes:
        """The last record. Raises as `seal`."""
        record = self._record(_Kind.CLOSE, memoryview(b""), zeqond)
        self.closed = True
        return record

    def _record(self, kind: _Kind, piece: memoryview, zeqond: int) -> bytes:
        if self.closed:
            raise LocalFault("the stream is closed")
        if zeqond > self._chain.zeqond:
            self._chain = self._chain.advanced(_near(zeqond, self._chain.zeqond))
        header = _header(_LEAST + len(piece), self._chain.zeqond)
        sealed = self._chain.seal(header, bytes([kind]) + piece)
        self._chain.count += 1
        return header + sealed


class Receiver:
    """What arrives, in pieces of any size. `closed`: the other side has ended the stream, so that nothing is
    missing; a stream that stops while it is False was cut."""

    def __init__(self, seed: bytes, direction: Direction, start: int) -> None:
        self._chain = _begin(seed, direction, start)
        self._arrived = bytearray()
        self._refused = False
        self.closed = False

    def receive(self, data: bytes, zeqond: int) -> bytes:
        """The plaintext of all records that are here as a whole. Raises RecordRefused, and SessionExpired
        for a gap of more than a day: nothing of this stream counts then, nor what was before in `data`."""
        if self._refused:
            raise RecordRefused("the stream was refused before")
        self._refused = True
        found = self._records(data, zeqond)
        self._refused = False
        return found

    def _records(self, data: bytes, zeqond: int) -> bytes:
        if self.closed and data:
            raise RecordRefused("bytes after the end of the stream")
        self._arrived += data
        found = bytearray()
        while len(self._arrived) >= HEADER_BYTES:
            size = int.from_bytes(self._arrived[_LENGTH], "big")
            if not _LEAST <= size <= _MOST:
                raise RecordRefused("a record of impossible length")
            if len(self._arrived) < HEADER_BYTES + size:
                break
            header = bytes(self._arrived[:HEADER_BYTES])
            sealed = bytes(self._arrived[HEADER_BYTES : HEADER_BYTES + size])
            del self._arrived[: HEADER_BYTES + size]
            found += self._open(header, sealed, zeqond)
            if self.closed and self._arrived:
                raise RecordRefused("bytes after the end of the stream")
        return bytes(found)

    def _open(self, header: bytes, sealed: bytes, now: int) -> bytes:
        zeqond = int.from_bytes(header[_ZEQOND], "big")
        chain = self._chain
        if zeqond < chain.zeqond:
            raise RecordRefused("a record of a zeqond before the last one's")
        if zeqond > now + SKEW_ZEQONDS:
            raise RecordRefused("a record from the future: the two clocks differ by more than two zeqonds")
        if zeqond > chain.zeqond:
            chain = chain.advanced(_near(zeqond, chain.zeqond))
        try:
            inside = chain.open(header, sealed)
        except InvalidTag as error:
            raise RecordRefused("a record does not authenticate") from error
        chain.count += 1
        self._chain = chain
        if inside[0] == _Kind.CLOSE and len(inside) == 1:
            self.closed = True
        elif inside[0] != _Kind.DATA:
            raise RecordRefused("a record of no kind that is known")
        return inside[1:]


def _header(size: int, zeqond: int) -> bytes:
    return size.to_bytes(2, "big") + zeqond.to_bytes(8, "big")


def _near(zeqond: int, last: int) -> int:
    if zeqond - last > IDLE_ZEQONDS:
        raise SessionExpired("more than a day without a record: agree on a new seed")
    return zeqond
