"""A trio stream of Mode-B records (crypto/mode_b.py) over another stream of bytes.

    send_all ─▶ sealed, 64 KiB at a time ─▶ transport         receive_some ◀─ opened ◀─ transport
    send_eof, aclose ─▶ the record that says the end          b"" only when the other side has said it

What cannot be trusted any more breaks that side of the stream for good, with trio.BrokenResourceError, as
with every stream of trio: a cut, a record that does not open, a send that was cancelled half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import index
from typing import Final

import trio

from crypto.errors import LocalFault, PeerFault
from crypto.mode_b import PLAINTEXT_BYTES
from crypto.mode_b_opening import Begun

CLOSE_SECONDS: Final = 2.0  # for the record that says the end
_PIECE_BYTES: Final = 4 * PLAINTEXT_BYTES  # sealed at a time, so that a large send takes no second copy
_READ_BYTES: Final = 65_536

Clock = Callable[[], int]
"""The zeqond of now."""


class _Side:
    """Sending or receiving: one task at a time, until it breaks."""

    def __init__(self, doing: str) -> None:
        self.broken = False
        self._doing = doing
        self._busy = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._doing} already")
        if self.broken:
            raise trio.BrokenResourceError(f"{self._doing} broke off before; open a new stream")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Whatever ends it half-way breaks it: part of a record may be out."""
        with self.alone():
            self.broken = True
            yield
            self.broken = False


class ModeBStream(trio.abc.HalfCloseableStream):
    """Over `transport`, which it closes with itself. `begun`: an opening that both sides have confirmed."""

    def __init__(self, transport: trio.abc.Stream, begun: Begun, clock: Clock) -> None:
        self.transport = transport
        self._sender = begun.sender
        self._receiver = begun.receiver
        self._clock = clock
        self._sending, self._receiving = _Side("sending"), _Side("receiving")
        self._plain = bytearray()
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check_open()
        if self._sender.closed:
            raise trio.ClosedResourceError("the end of this stream was sent before")
        with self._sending.whole(), memoryview(data) as view:
            if not view:
                await trio.lowlevel.checkpoint()
            for at in range(0, len(view), _PIECE_BYTES):
                await self.transport.send_all(self._seal(bytes(view[at : at + _PIECE_BYTES])))

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        with self._sending.alone():
            await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Nothing more is sent; what the other side sends can still be received."""
        self._check_open()
        with self._sending.whole():
            if self._sender.closed:
                await trio.lowlevel.checkpoint()
            else:
                await self.transport.send_all(self._end())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes is at least 1")
        self._check_open()
        with self._receiving.alone():
            if self._plain or self._receiver.closed:
                await trio.lowlevel.checkpoint()
            while not self._plain and not self._receiver.closed:
                self._plain += self._open(await self.transport.receive_some(_READ_BYTES))
        found = bytes(self._plain[:max_bytes])
        del self._plain[:max_bytes]
        return found

    async def aclose(self) -> None:
        """With the record that says the end, where that can still be sent."""
        try:
            if not self._closed and not self._sender.closed:
                self._closed = True
                await self._say_the_end()
        finally:
            self._closed = True
            await self.transport.aclose()

    async def _say_the_end(self) -> None:
        gone = suppress(trio.BrokenResourceError, trio.BusyResourceError)
        with gone, trio.move_on_after(CLOSE_SECONDS), self._sending.whole():
            await self.transport.send_all(self._end())

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed here")

    def _seal(self, plaintext: bytes) -> bytes:
        try:
            return self._sender.seal(plaintext, self._clock())
        except LocalFault as error:
            raise trio.BrokenResourceError(f"{error}") from error

    def _end(self) -> bytes:
        try:
            return self._sender.close(self._clock())
        except LocalFault as error:
            raise trio.BrokenResourceError(f"{error}") from error

    def _open(self, arrived: bytes | bytearray) -> bytes:
        try:
            if arrived:
                return self._receiver.receive(bytes(arrived), self._clock())
        except (PeerFault, LocalFault) as error:
            self._receiving.broken = True
            raise trio.BrokenResourceError(f"{error}") from error
        self._receiving.broken = True
        raise trio.BrokenResourceError("the stream was cut: its end was not said")
