"""Where a worker's datagrams leave: records gathered into trains, trains sent with one call, errors sorted.

A schedule of cover traffic would stand in `send`: everything of a data lane goes through it.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections import Counter
from typing import Protocol

from tun.addresses import Target
from tun.flow import Flow
from tun.frames import HEAD_BYTES, MAX_SEGMENTS, MAX_TRAIN_BYTES, RECORD_HEAD, SEALED_BYTES
from tun.layout import TEXT
from tun.seam import TooBig, Up

SOL_UDP, UDP_SEGMENT = 17, 103  # linux/in.h, linux/udp.h
_HEAD = struct.Struct(">4s8sI")
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})
_DROPPED = "datagram dropped, socket full"
_SEND_SINGLY = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EMSGSIZE})


class Outlet(Protocol):
    """What is used of tun.datagrams.Datagrams."""

    def sendmsg(
        self,
        buffers: list[bytes | memoryview],
        control: list[tuple[int, int, bytes]],
        flags: int,
        to: Target,
        /,
    ) -> int: ...

    def sendto(self, data: bytes | memoryview, to: Target, /) -> int: ...

    def send_many(self, train: bytes | memoryview, size: int, to: Target, /) -> int: ...


class Sender:
    """`now` is set for each wake-up. `trains`: the kernel has UDP_SEGMENT. What the node has to know is put
    into `upward`."""

    def __init__(self, udp: Outlet, trains: bool, counters: Counter[str], upward: list[Up]) -> None:
        self.now = 0
        self.waiting = 0  # datagrams of the train that is being gathered
        self._udp = udp
        self._trains = trains
        self._counters = counters
        self._upward = upward
        self._raw = bytearray(MAX_TRAIN_BYTES)
        self._train = memoryview(self._raw)
        self._flow: Flow | None = None
        self._end = self._size = 0

    def record(self, flow: Flow, text: memoryview, end: int) -> None:
        """TEXT … end of the input as one datagram: into the train, if it is of one size with it."""
        lane = flow.lane
        assert lane is not None
        size = end - TEXT + SEALED_BYTES
        if self.waiting and (
            flow is not self._flow
            or size > self._size
            or self.waiting == MAX_SEGMENTS
            or self._end + size > MAX_TRAIN_BYTES
        ):
            self.flush()
        if not self.waiting:
            self._flow, self._size = flow, size
        train, at = self._train, self._end
        sequence = lane.sequence
        lane.sequence = sequence + 1
        _HEAD.pack_into(self._raw, at, RECORD_HEAD, lane.prefix, sequence)
        flow.encrypt(
            train[at + 4 : at + HEAD_BYTES], text[TEXT:end], None, train[at + HEAD_BYTES : at + size]
        )
        self._end = at + size
        self.waiting += 1
        if size < self._size:  # only the last one of a train may be shorter
            self.flush()

    def flush(self) -> None:
        flow, end, count = self._flow, self._end, self.waiting
        self._end = self.waiting = 0
        self._flow = None
        if flow is not None:
            self.send(flow, self._train[:end], self._size, count)

    def send(self, flow: Flow, train: bytes | memoryview, size: int, count: int) -> None:
        """`count` datagrams of `size` bytes, the last one perhaps shorter."""
        flow.last_sent_us = self.now
        lane = flow.lane
        if lane is not None:
            flow.meter.sent(lane.sequence, count)
        if count == 1:
            self._one(flow, train)
        elif not (self._trains and flow.trains):
            self._singly(flow, train, size)
        elif len(train) <= MAX_TRAIN_BYTES and count <= MAX_SEGMENTS:
            self._together(flow, train, size)
        else:
            step = min(MAX_SEGMENTS, MAX_TRAIN_BYTES // size) * size
            for at in range(0, len(train), step):
                self._together(flow, train[at : at + step], size)

    def _together(self, flow: Flow, train: bytes | memoryview, size: int) -> None:
        if len(train) <= size:
            self._one(flow, train)
            return
        try:
            # One call, and the kernel cuts: 44 datagrams cost 6.7 µs instead of 134.
            self._udp.sendmsg(
                [train], [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))], 0, flow.target
            )
        except OSError as error:
            if error.errno in _SEND_SINGLY:
                # EIO: no checksum offload on the way there, and this will not change. EINVAL, EMSGSIZE:
                # larger than its MTU; sent singly each says so by itself.
                if error.errno == errno.EIO:
                    flow.trains = False
                self._singly(flow, train, size)
            else:
                self._not_sent(error)

    def _singly(self, flow: Flow, train: bytes | memoryview, size: int) -> None:
        """Datagrams with an error each, though most of them go with one call."""
        at = 0
        while at < len(train):
            try:
                at += size * self._udp.send_many(train[at:], size, flow.target)
            except OSError as error:
                if error.errno in _FULL:  # and so it is for the rest
                    self._counters[_DROPPED] += -(-(len(train) - at) // size)
                    return
                self._refused(flow, error)
                at += size

    def _one(self, flow: Flow, datagram: bytes | memoryview) -> None:
        try:
            self._udp.sendto(datagram, flow.target)
        except OSError as error:
            self._refused(flow, error)

    def _refused(self, flow: Flow, error: OSError) -> None:
        if error.errno == errno.EMSGSIZE and flow.endpoint is not None:
            told = TooBig(*flow.endpoint)
            if told not in self._upward:
                self._upward.append(told)
        self._not_sent(error)

    def _not_sent(self, error: OSError) -> None:
        if error.errno in _FULL:
            self._counters[_DROPPED] += 1
        else:
            self._counters[f"datagram not sent: {errno.errorcode.get(error.errno or 0, 'error')}"] += 1
