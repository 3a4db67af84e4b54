"""Traffic of which every byte is checked: TCP streams by their SHA-256, UDP payloads one by one, large pings.

The content follows from a seed and a place, so that whatever comes late, twice, swapped, cut or joined is
seen. All sockets live in the laboratory's hosts; the threads are this process's.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final

from simulations.lab.namespaces import Namespace
from tests.lab.nodes import eventually

WRITES: Final = (1, 60, 600, 1_399, 65_000, 70_001, 300_000, 1 << 20)  # bytes, of a stream's writes
_BLOCK: Final = 1 << 20
_SMALL: Final = 16  # a payload below this has no room for its number
_WINDOW_BYTES, _WINDOW_PAYLOADS = 100_000, 150  # on the way at most: what an ordinary receive buffer holds
_SO_RCVBUFFORCE = 33
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Stream:
    """Bytes over TCP from one host to an address of another, in writes of 1 B to 1 MiB, checked by SHA-256.

    Runs beside the test between `with` and `finish`. size: bytes; None goes on until `finish`. pause: s,
    between two writes. `received` counts bytes; `longest_gap` is the longest time in seconds between two
    arrivals.
    """

    def __init__(
        self,
        source: Namespace,
        target: Namespace,
        address: str,
        size: int | None,
        *,
        seed: int = 0,
        pause: float = 0.0,
        writes: Sequence[int] = WRITES,
    ) -> None:
        self.sent = self.received = 0
        self.longest_gap = 0.0
        self._size, self._pause, self._writes = size, pause, writes
        self._random = random.Random(seed)
        self._enough = threading.Event()
        self._hashes = hashlib.sha256(), hashlib.sha256()  # of what was sent, of what came
        self._failures: list[OSError] = []
        family = _family(address)
        self._listener = target.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._sender = source.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._receiver: socket.socket | None = None
        self._sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # 1 B is a packet of its own
        self._listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
        self._listener.listen(1)
        self._where = (address, self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        for each in (self._sender, self._listener, self._receiver):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
                each.close()
        for thread in self._threads:
            thread.join()

    def wait_received(self, size: int, seconds: float = 20.0) -> None:
        eventually(lambda: self.received >= size, seconds, f"{size} bytes have come ({self.received} before)")

    def wait_more(self, size: int, seconds: float) -> None:
        """Until that much has come from now on."""
        self.wait_received(self.received + size, seconds)

    def finish(self, seconds: float = 30.0) -> None:
        """Wait for the last byte, and check them all."""
        if self._size is None:
            self._enough.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), (
                f"after {seconds:g} s {self.received} of {self._size or self.sent} have come"
            )
        assert not self._failures
        assert self.received == self.sent
        assert self._size in (None, self.sent)
        assert self._hashes[0].digest() == self._hashes[1].digest(), "CORRUPT: the SHA-256 differ"

    def _pieces(self) -> Iterator[memoryview]:
        data = memoryview(self._random.randbytes(_BLOCK) * 2)
        while not self._enough.wait(self._pause) and (self._size is None or self.sent < self._size):
            start, length = self._random.randrange(_BLOCK), self._random.choice(self._writes)
            left = length if self._size is None else self._size - self.sent
            yield data[start : start + min(length, left)]

    def _send(self) -> None:
        try:
            self._sender.connect(self._where)
            for piece in self._pieces():
                self._sender.sendall(piece)
                self._hashes[0].update(piece)
                self.sent += len(piece)
            self._sender.shutdown(socket.SHUT_WR)
        except OSError as error:  # or it was ended from outside, and nobody asks
            self._failures.append(error)

    def _receive(self) -> None:
        try:
            last = time.monotonic()
            self._receiver, _ = self._listener.accept()
            while data := self._receiver.recv(1 << 18):
                now = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, now - last), now
                self._hashes[1].update(data)
                self.received += len(data)
        except OSError as error:
            self._failures.append(error)


def payload(key: bytes, number: int, length: int) -> bytes:
    """Number and length, and a hash of them to fill it; below 16 bytes it follows from the length alone."""
    if length < _SMALL:
        return hashlib.shake_128(key + bytes([length])).digest(length)
    head = struct.pack(">II", number, length)
    return head + hashlib.shake_128(key + head).digest(length - 8)


class Datagrams:
    """UDP from one host to an address of another: at most a window of payloads on the way, each one checked.

    gro: receive with UDP_GRO. sent, right: payloads; wrong: what came that was never sent so; twice: what had
    come before. Neither of the two has an excuse: a tunnel drops what it is in doubt about.
    """

    def __init__(
        self, source: Namespace, target: Namespace, address: str, *, gro: bool = False, wait: float = 0.1
    ) -> None:
        self.sent = self.right = self.twice = 0
        self.joined = 0  # bytes, of the longest that UDP_GRO gave at once
        self.wrong: list[bytes] = []
        self._wait = wait  # s, after which what has not come no longer fills the window
        self._key = struct.pack(">d?", time.monotonic(), gro)
        self._missing: dict[int, int] = {}  # length by number
        self._come: set[int] = set()
        self._small: Counter[int] = Counter()  # by length: sent and not come yet
        self._outstanding = [0, 0]  # bytes, payloads
        family = _family(address)
        self._target = target.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._source = source.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        with contextlib.suppress(PermissionError):  # in a user namespace it must do with the usual buffer
            self._target.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        if gro:
            self._target.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        self._target.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
        self._source.connect((address, self._target.getsockname()[1]))

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()
        self._target.close()

    def plain(self, lengths: Iterable[int]) -> None:
        """One send each."""
        for length in lengths:
            self._room(length, 1)
            self._source.send(self._next(length))

    def train(self, size: int, segments: int, last: int) -> None:
        """One send that the kernel, or nobody, cuts into segments of `size` bytes, of which one is `last`."""
        self._room(size * segments, segments)
        data = b"".join(self._next(size) for _ in range(segments - 1)) + self._next(last)
        self._source.sendmsg([data], [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))])

    def settle(self, seconds: float = 1.0) -> None:
        """Until all has come, or nothing more for so long."""
        while self.right < self.sent and self._receive(seconds):
            pass

    def check(self, share: float = 0.0) -> None:
        """share: of the payloads, that must have come."""
        self.settle(1.0 if share else 0.1)
        shown = [(len(each), each[:24].hex()) for each in self.wrong[:3]]
        assert not self.wrong, f"CORRUPT: {len(self.wrong)} payloads that nobody sent, as {shown}"
        assert not self.twice, f"{self.twice} of {self.sent} payloads came twice"
        lost = Counter(self._missing.values()) + self._small
        assert self.right >= share * self.sent, (
            f"{self.right} of {self.sent} came; lost: {lost.most_common(5)}"
        )

    def _next(self, length: int) -> bytes:
        self.sent += 1
        self._outstanding[0] += length
        self._outstanding[1] += 1
        if length < _SMALL:
            self._small[length] += 1
        else:
            self._missing[self.sent] = length
        return payload(self._key, self.sent, length)

    def _room(self, size: int, count: int) -> None:
        limits = max(_WINDOW_BYTES - size, 0), max(_WINDOW_PAYLOADS - count, 0)
        while self._outstanding[0] > limits[0] or self._outstanding[1] > limits[1]:
            if not self._receive(self._wait):
                self._outstanding = [0, 0]  # lost, or late

    def _receive(self, seconds: float) -> bool:
        self._target.settimeout(seconds)
        try:
            data, ancillary, _, _ = self._target.recvmsg(1 << 16, 64)
        except TimeoutError:
            return False
        size = int.from_bytes(ancillary[0][2][:4], "little") if ancillary else len(data)
        self.joined = max(self.joined, len(data) if ancillary else 0)
        for start in range(0, len(data), size):
            self._look(data[start : start + size])
        return True

    def _look(self, data: bytes) -> None:
        length = len(data)
        number = int.from_bytes(data[:4], "big") if length >= _SMALL else 0
        if data != payload(self._key, number, length):
            self.wrong.append(data)
        elif length < _SMALL:
            known = self._small[length] > 0
            self._small[length] -= known
            self._count(known, length)
        elif number in self._come:
            self.twice += 1
        else:
            self._come.add(number)
            self._count(self._missing.pop(number, None) == length, length)

    def _count(self, expected: bool, length: int) -> None:
        self.right += expected
        self.twice += not expected
        self._outstanding = [max(0, self._outstanding[0] - length), max(0, self._outstanding[1] - 1)]
