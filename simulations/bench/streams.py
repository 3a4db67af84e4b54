"""TCP streams from many addresses, a number of them at once and all in turn; what arrived is counted.

python -m simulations.bench.streams sink PORT
    takes whatever comes; a line on its standard input is answered by one: bytes so far
python -m simulations.bench.streams source PORT AT_ONCE TURN_SECONDS < lines of "source destination"
    as many streams as AT_ONCE for each turn, over the pairs in order, again and again, until SIGTERM
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

_BLOCK = 1 << 18  # bytes
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: close(2) drops what was not sent
_CONNECT_SECONDS = 5.0


def sink(port: int) -> None:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=256)
    listener.setblocking(False)
    streams: dict[int, socket.socket] = {}
    poll = select.epoll()
    for fd in (listener.fileno(), sys.stdin.fileno()):
        poll.register(fd, select.EPOLLIN)
    buffer, total = bytearray(_BLOCK), 0
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                with suppress(BlockingIOError):
                    stream, _ = listener.accept()
                    stream.setblocking(False)
                    streams[stream.fileno()] = stream
                    poll.register(stream, select.EPOLLIN)
            elif fd == sys.stdin.fileno():
                if not os.read(fd, 1):
                    return
                print(total, flush=True)
            else:
                try:
                    got = streams[fd].recv_into(buffer)
                except BlockingIOError:
                    continue
                except OSError:
                    got = 0
                total += got
                if not got:
                    poll.unregister(fd)
                    streams.pop(fd).close()


def source(port: int, at_once: int, turn_seconds: float, pairs: Sequence[tuple[str, str]]) -> None:
    endless = itertools.cycle(pairs)
    while True:
        streams = [_connected(port, *pair) for pair in itertools.islice(endless, at_once)]
        for stream in _written(streams, time.monotonic() + turn_seconds):
            stream.close()


def _connected(port: int, own: str, address: str) -> socket.socket:
    stream = socket.create_connection((address, port), _CONNECT_SECONDS, source_address=(own, 0))
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    stream.setblocking(False)
    return stream


def _written(streams: Sequence[socket.socket], deadline: float) -> Iterator[socket.socket]:
    """Each is written to as long as it takes; given back when the time is over."""
    poll = select.epoll()
    by_fd = {stream.fileno(): stream for stream in streams}
    for fd in by_fd:
        poll.register(fd, select.EPOLLOUT)
    block = memoryview(bytes(_BLOCK))
    with poll:
        while time.monotonic() < deadline:
            for fd, _ in poll.poll(0.1):
                with suppress(BlockingIOError):
                    by_fd[fd].send(block)
    yield from streams


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "sink":
        sink(int(arguments[1]))
    else:
        pairs = [(line.split()[0], line.split()[1]) for line in sys.stdin]
        source(int(arguments[1]), int(arguments[2]), float(arguments[3]), pairs)


if __name__ == "__main__":
    main(sys.argv[1:])
