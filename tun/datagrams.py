"""A worker's UDP socket. Where the kernel neither cuts nor joins trains, it takes many datagrams in one call.

A train is datagrams of one size behind each other, only the last shorter. Without UDP_SEGMENT and UDP_GRO,
sendmmsg and recvmmsg save the way through Python for each of them: a slice, an address as text, a call.

The kernel is given addresses of memory (`_address`). Whoever takes one keeps its buffer as long as what the
address is written in, and through a memoryview: a bytearray that has one cannot be resized, and so not moved.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from functools import lru_cache
from typing import Final, TypeAlias

from tun.addresses import Target
from tun.flow import Source
from tun.frames import MAX_SEGMENTS
from tun.layout import RECEIVE_BYTES

Train: TypeAlias = tuple[bytes, int, Source]
"""Datagrams, the size of each, where from."""

CONTROL_BYTES: Final = socket.CMSG_SPACE(4)
MAX_VECTORS: Final = 24  # sizes of datagrams for which headers are kept, each way
SEND_BYTES: Final = 1 << 17  # of one call; a train has up to 70,000

# struct mmsghdr of glibc: name, its length; pieces, how many; control, its length; flags; bytes received
_HEADER: Final = struct.Struct("@PIPLPLi0PI0P")
_PIECE: Final = struct.Struct("@PL")  # struct iovec
_CONTROL_WORD: Final = struct.calcsize("@PIPLP") // struct.calcsize("@L")
_LENGTH_WORD: Final = struct.calcsize("@PIPLPLi0P") // struct.calcsize("@I")
_CONTROL_DATA: Final = socket.CMSG_LEN(0)
_IPV4: Final = struct.Struct("=H2s4s8x")  # struct sockaddr_in
_IPV6: Final = struct.Struct("=H2s4s16sI")  # struct sockaddr_in6

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_libc.recvmmsg.argtypes = (*_libc.sendmmsg.argtypes, ctypes.c_void_p)
_LACKING: Final = frozenset({errno.ENOSYS, errno.EPERM})  # no such call; a sandbox that refuses it


class Datagrams:
    """`udp` is non-blocking. What Python can do as well, it does: one datagram, one train.

    `many`: the system has both calls; without them a train leaves and comes one datagram at a time."""

    def __init__(self, udp: socket.socket) -> None:
        self.sendto, self.sendmsg, self.recvmsg_into = udp.sendto, udp.sendmsg, udp.recvmsg_into
        self.many = _has_calls(udp.fileno())
        self._outbox = _Outbox(udp)
        self._inbox: _Inbox | None = None
        self._udp = udp

    def send_many(self, train: bytes | memoryview, size: int, to: Target) -> int:
        """The first datagrams of a train; how many the kernel took. Raises OSError about the very first."""
        if not self.many or "%" in to[0]:  # a link by its name: which one that is, Python asks each time
            self.sendto(train[:size], to)
            return 1
        return self._outbox.send(train, size, to)

    def receive_more(
        self, into: bytearray, at: int, size: int, count: int, source: Source
    ) -> tuple[int, list[Train], bool]:
        """Go on with the train of this size and source that ends at byte `at`: up to `count` datagrams.

        Gives the train's new end, what came behind it and is not part of it, and whether more may wait."""
        if not self.many:
            return at, [], True
        if self._inbox is None or self._inbox.into is not into:
            self._inbox = _Inbox(self._udp, into)
        return self._inbox.receive(at, size, count, source)


class _Outbox:
    """One train, copied to where its pieces point: 64 KiB take 3 µs."""

    def __init__(self, udp: socket.socket) -> None:
        self._fd, self._family = udp.fileno(), udp.family
        self._text = memoryview(bytearray(SEND_BYTES))
        self._name = memoryview(bytearray(_name_bytes(self._family)))
        self._to: Target | None = None
        self._vectors: dict[int, tuple[int, int, memoryview, memoryview]] = {}

    def send(self, train: bytes | memoryview, size: int, to: Target) -> int:
        if to is not self._to:
            self._name[:] = _sockaddr(self._family, to)
            self._to = to
        most, headers, lengths, _ = self._vectors.get(size) or self._vector(size)
        count = min(most, -(-len(train) // size))
        end = min(len(train), count * size)
        self._text[:end] = train[:end]
        lengths[count - 1] = end - (count - 1) * size
        sent: int = _libc.sendmmsg(self._fd, headers, count, 0)
        lengths[count - 1] = size
        if sent < 0:
            raise _error()
        return sent

    def _vector(self, size: int) -> tuple[int, int, memoryview, memoryview]:
        """(datagrams, address of the headers, lengths of the pieces, what must stay); kept by size."""
        most = min(MAX_SEGMENTS, SEND_BYTES // size)
        pieces = memoryview(bytearray(_PIECE.size * most))
        headers = memoryview(bytearray(_HEADER.size * most))
        text, piece, name = _address(self._text), _address(pieces), _address(self._name)
        for i in range(most):
            _PIECE.pack_into(pieces, i * _PIECE.size, text + i * size, size)
            at = piece + i * _PIECE.size
            _HEADER.pack_into(headers, i * _HEADER.size, name, len(self._name), at, 1, 0, 0, 0, 0)
        if len(self._vectors) >= MAX_VECTORS:
            self._vectors.clear()
        lengths = pieces.cast("L")[1::2]
        self._vectors[size] = made = (most, _address(headers), lengths, headers)
        return made


class _Slots:
    """Headers for datagrams of one size, each to its place in the train; longer ones go on in `over`."""

    def __init__(
        self, size: int, into: memoryview, names: memoryview, controls: memoryview, over: mmap.mmap
    ) -> None:
        self.most = most = min(MAX_SEGMENTS, len(into) // size)
        self.sizes = [size] * most
        self._pieces = pieces = memoryview(bytearray(2 * _PIECE.size * most))
        headers = memoryview(bytearray(_HEADER.size * most))
        self.address = _address(headers)
        place, piece, beyond = _address(into), _address(pieces), _address(over)
        name, control, name_bytes = _address(names), _address(controls), len(names) // MAX_SEGMENTS
        for i in range(most):
            at = 2 * i * _PIECE.size
            _PIECE.pack_into(pieces, at, place + i * size, size)
            _PIECE.pack_into(pieces, at + _PIECE.size, beyond + i * RECEIVE_BYTES, RECEIVE_BYTES - size)
            told = (name + i * name_bytes, name_bytes, piece + at, 2, control + i * CONTROL_BYTES, 0, 0, 0)
            _HEADER.pack_into(headers, i * _HEADER.size, *told)
        self.lengths = headers.cast("I")[_LENGTH_WORD :: _HEADER.size // struct.calcsize("@I")]
        self.controls = headers.cast("L")[_CONTROL_WORD :: _HEADER.size // struct.calcsize("@L")]


class _Inbox:
    """Receives behind the beginning of a train that stands in `into`."""

    def __init__(self, udp: socket.socket, into: bytearray) -> None:
        self.udp, self.into, self._into = udp, into, memoryview(into)
        self._name_bytes = _name_bytes(udp.family)
        self._names = memoryview(bytearray(self._name_bytes * MAX_SEGMENTS))
        self._controls = memoryview(bytearray(CONTROL_BYTES * MAX_SEGMENTS))
        self._over = mmap.mmap(-1, RECEIVE_BYTES * MAX_SEGMENTS)  # costs no memory until it is written to
        self._room = memoryview(struct.pack("@L", CONTROL_BYTES) * MAX_SEGMENTS).cast("L")
        self._slots: dict[int, _Slots] = {}

    def receive(self, at: int, size: int, count: int, source: Source) -> tuple[int, list[Train], bool]:
        slots = self._slots.get(size)
        if slots is None:
            if len(self._slots) >= MAX_VECTORS:
                self._slots.clear()
            slots = self._slots[size] = _Slots(size, self._into, self._names, self._controls, self._over)
        first = at // size
        count = min(count, slots.most - first)
        if count <= 0:
            return at, [], True
        slots.controls[first : first + count] = self._room[:count]  # the kernel has overwritten them
        got: int = _libc.recvmmsg(
            self.udp.fileno(), slots.address + first * _HEADER.size, count, socket.MSG_DONTWAIT, None
        )
        if got <= 0:  # nothing there; or an ICMP error about something that we sent: the timers deal with it
            return at, [], False
        more, last = got == count, first + got
        lengths = slots.lengths[first:last].tolist()
        names = self._names[first * self._name_bytes : last * self._name_bytes]
        if (
            lengths[:-1] == slots.sizes[: got - 1]
            and lengths[-1] <= size
            and names == _sockaddr(self.udp.family, source) * got
            and not any(slots.controls[first:last])
        ):
            return at + (got - 1) * size + lengths[-1], [], more
        end, others = self._sort(slots, first, lengths, size, source)
        return end, others, more

    def _sort(
        self, slots: _Slots, first: int, lengths: list[int], size: int, source: Source
    ) -> tuple[int, list[Train]]:
        """As `receive`. A larger one, a train, one from elsewhere, and whatever follows, cannot join."""
        end, joins, others = first * size, True, []
        for place, length in enumerate(lengths, first):
            where = _source(bytes(self._names[place * self._name_bytes : (place + 1) * self._name_bytes]))
            control = slots.controls[place]
            joins = joins and length <= size and not control and where == source
            if joins:
                end += length
                joins = length == size
                continue
            at, over = place * size, place * RECEIVE_BYTES
            datagrams = bytes(self._into[at : at + min(size, length)])
            datagrams += self._over[over : over + max(0, length - size)]
            others.append((datagrams, self._size(place) if control else length, where))
        return end, others

    def _size(self, place: int) -> int:
        """Of the datagrams in the train that UDP_GRO has joined, as its control message says."""
        at = place * CONTROL_BYTES + _CONTROL_DATA
        return int.from_bytes(self._controls[at : at + 4], sys.byteorder)


def _has_calls(fd: int) -> bool:
    """Asked for nothing, both do nothing where they are there."""
    if _libc.sendmmsg(fd, None, 0, 0) < 0 and ctypes.get_errno() in _LACKING:
        return False
    return _libc.recvmmsg(fd, None, 0, 0, None) >= 0 or ctypes.get_errno() not in _LACKING


def _address(buffer: memoryview | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _name_bytes(family: int) -> int:
    return (_IPV6 if family == socket.AF_INET6 else _IPV4).size


@lru_cache(maxsize=1024)
def _sockaddr(family: int, where: Target) -> bytes:
    """As the kernel writes it. Raises OSError about what is no address of that family."""
    port, ip = where[1].to_bytes(2, "big"), socket.inet_pton(family, where[0])
    if family == socket.AF_INET:
        return _IPV4.pack(family, port, ip)
    flow, scope = where[2:] if len(where) == 4 else (0, 0)
    return _IPV6.pack(family, port, flow.to_bytes(4, "big"), ip, scope)


@lru_cache(maxsize=1024)
def _source(name: bytes) -> Source:
    """As recvmsg gives it."""
    if len(name) == _IPV4.size:
        family, port, ip = _IPV4.unpack(name)
        return socket.inet_ntop(family, ip), int.from_bytes(port, "big")
    family, port, flow, ip, scope = _IPV6.unpack(name)
    return socket.inet_ntop(family, ip), int.from_bytes(port, "big"), int.from_bytes(flow, "big"), scope
