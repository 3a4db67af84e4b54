"""The user-space link: `python -m simulations.lab.userlink SEED PORT...`, for delay and reordering without
netem.

It joins two or more devices of the namespace that it runs in, by packet sockets: a frame that comes in on one
port goes out on the port where its destination was last seen as a source, or on all others. On the way it is
lost, copied, held or let past as `Impairment` says. Standard input takes one JSON object a line, the new
impairment (`{}` changes nothing); each is answered by a line with the counters so far. End of input ends it.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence

from simulations.lab.impairment import Impairment

QUEUE = 20_000  # frames held at most, all directions together; what comes beyond is lost
_BUFFER = 8 << 20  # bytes, each socket and direction
_FRAME = 1 << 16
_ETH_P_ALL = 0x0003
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23


class Wire:
    """What happens to frames, as a machine: frames and `now` in (seconds, any origin), frames to send out.

    The same seed and the same calls give the same losses, copies and times."""

    def __init__(self, ports: int, seed: int) -> None:
        self.impairment = Impairment()
        self.counters = {"dropped": 0, "duplicated": 0, "reordered": 0}
        self._ports = range(ports)
        self._random = random.Random(seed)  # noqa: S311  (chance on a wire, not a secret)
        self._where: dict[bytes, int] = {}
        self._held: list[tuple[float, int, int, bytes]] = []
        self._order = 0
        self._last = [0.0] * ports  # when the newest frame that keeps its order leaves, for each port

    def offer(self, now: float, source: int, frame: bytes) -> None:
        """A frame (Ethernet header on, checksum off) came in on port `source`."""
        target, self._where[frame[6:12]] = self._where.get(frame[:6]), source
        chance, set_to = self._random.random, self.impairment
        if set_to.loss and chance() < set_to.loss:
            self.counters["dropped"] += 1
            return
        copies = 1
        if set_to.duplicate and chance() < set_to.duplicate:
            self.counters["duplicated"] += 1
            copies = 2
        for port in self._ports if target is None else (target,):
            for _ in range(copies if port != source else 0):
                self._hold(now, port, frame)

    def due(self, now: float) -> Iterator[tuple[int, bytes]]:
        """(port, frame), oldest first."""
        while self._held and self._held[0][0] <= now:
            _, _, port, frame = heapq.heappop(self._held)
            yield port, frame

    def deadline(self) -> float | None:
        """When `due` next has something."""
        return self._held[0][0] if self._held else None

    def _hold(self, now: float, port: int, frame: bytes) -> None:
        if len(self._held) >= QUEUE:
            self.counters["dropped"] += 1
            return
        set_to = self.impairment
        if set_to.reorder and self._random.random() < set_to.reorder:
            self.counters["reordered"] += self._last[port] > now
            leaves = now
        else:
            held = set_to.delay_ms + self._random.uniform(-set_to.jitter_ms, set_to.jitter_ms)
            leaves = self._last[port] = max(self._last[port], now + held / 1000)
        self._order += 1
        heapq.heappush(self._held, (leaves, self._order, port, frame))


def main(arguments: Sequence[str]) -> None:
    names = arguments[1:]
    wire = Wire(len(names), int(arguments[0]))
    sockets = [packet_socket(name, ignore_outgoing=True) for name in names]
    ports = {sock.fileno(): index for index, sock in enumerate(sockets)}
    commands, pending = sys.stdin.fileno(), b""
    while True:
        deadline = wire.deadline()
        wait = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        # select, because epoll and poll round the wait up to whole milliseconds
        ready, _, _ = select.select([commands, *ports], [], [], wait)
        for fd in ready:
            if fd == commands:
                data = os.read(commands, 65_536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _obey(wire, line, sockets)
            else:
                _receive(wire, ports[fd], sockets[ports[fd]])
        for port, frame in wire.due(time.monotonic()):
            _send(wire, sockets[port], frame)


def _obey(wire: Wire, line: bytes, sockets: Sequence[socket.socket]) -> None:
    for (
        sock
    ) in sockets:  # struct tpacket_stats: frames seen, frames that found the buffer full, since last asked
        _, overflowed = struct.unpack("=II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        wire.counters["dropped"] += overflowed
    if changes := json.loads(line):
        wire.impairment = Impairment(**changes)
    print(json.dumps(wire.counters), flush=True)


def packet_socket(device: str, *, ignore_outgoing: bool) -> socket.socket:
    """For whole frames of a device; ignore_outgoing: of those that come in. Not blocking."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, ignore_outgoing)
    for force, ordinary in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
        except PermissionError:  # in a user namespace: what the system allows everybody
            sock.setsockopt(socket.SOL_SOCKET, ordinary, _BUFFER)
    sock.setblocking(False)
    sock.bind((device, _ETH_P_ALL))
    return sock


def _receive(wire: Wire, port: int, sock: socket.socket) -> None:
    now = time.monotonic()
    for _ in range(64):  # then the frames that are due get their turn
        try:
            frame = sock.recv(_FRAME)
        except (BlockingIOError, OSError) as error:
            if error.errno in (errno.EAGAIN, errno.ENETDOWN):
                return
            raise
        wire.offer(now, port, frame)


def _send(wire: Wire, sock: socket.socket, frame: bytes) -> None:
    """A full queue of the port (its rate is limited) or a port that is down loses the frame, as on any
    wire."""
    try:
        sock.send(frame)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ENETDOWN):
            raise
        wire.counters["dropped"] += 1


if __name__ == "__main__":
    main(sys.argv[1:])
