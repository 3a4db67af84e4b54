"""Record all frames of a device: `python -m simulations.lab.capture DEVICE FILE`, until SIGTERM or SIGINT.

tcpdump gives up its rights to a user that does not exist in a user namespace, and so cannot record there. The
file is pcap (draft-ietf-opsawg-pcap), little-endian, Ethernet, times in microseconds, and complete to the
last frame at any time:

    d4 c3 b2 a1 | 02 00 04 00 | 8 zero bytes | snaplen u32 | 01 00 00 00       once, 24 bytes
    seconds u32 | microseconds u32 | length u32 | length u32 | frame           each
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

from simulations.lab.userlink import packet_socket

_SNAPLEN = 1 << 18  # longer than any frame: trains count as one


def main(device: str, file: str) -> None:
    sock = packet_socket(device, ignore_outgoing=False)
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    with Path(file).open("wb", buffering=0) as out:
        out.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAPLEN, 1))
        print("recording", flush=True)
        ready: list[socket.socket] = []
        while stop not in ready:
            ready, _, _ = select.select([sock, stop], [], [])
            _record(sock, out)


def _record(sock: socket.socket, out: BinaryIO) -> None:
    """All that is there."""
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = sock.recv(_SNAPLEN)
            seconds, rest = divmod(time.time_ns(), 10**9)
            length = len(frame)
            out.write(struct.pack("<IIII", seconds, rest // 1000, length, length) + frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
