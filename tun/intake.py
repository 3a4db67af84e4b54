"""What arrives at the node's socket: one system call a train, and each datagram of a train by itself.

UDP_GRO joins datagrams of one source and one size (the last may be shorter) into one read, and says the size
in a control message. Whether a read is a train can be told by that message alone, so each read is looked at.
Without UDP_GRO, which this kernel may lack or the owner may have forbidden, every read is one datagram.

    recvmsg ─▶ 1 datagram, or a train: ├ size ┼ size ┼ … ┼ rest ┤ ─▶ (datagram, source) each
"""

from __future__ import annotations

import socket
from struct import Struct

from tun.addresses import Address, of_source
from tun.sockets import SOL_UDP, UDP_GRO

LARGEST_BYTES = 65535  # a UDP payload, and a train of them, is shorter
_SIZE = Struct("=i")  # the kernel's int
_ANCILLARY = socket.CMSG_SPACE(_SIZE.size)


class Intake:
    """Reads `udp`, which does not block.

    One reader only, since all reads share one buffer."""

    def __init__(self, udp: socket.socket) -> None:
        self._udp = udp
        self._view = memoryview(bytearray(LARGEST_BYTES))
        self._buffers = (self._view,)

    def drain(self, limit: int) -> list[tuple[bytes, Address]]:
        """What has arrived, until it is `limit` datagrams; the last train is taken whole, so up to 127 more.

        Fewer than `limit` means that the socket is empty now."""
        found: list[tuple[bytes, Address]] = []
        receive, buffers, view = self._udp.recvmsg_into, self._buffers, self._view
        failed = 0
        while len(found) < limit and failed < limit:
            try:
                length, ancillary, _, where = receive(buffers, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError:  # an ICMP error about something we sent: the timers deal with it
                failed += 1
                continue
            source = of_source(where)
            size = segment_bytes(ancillary) if ancillary else 0
            if not 0 < size < length:
                found.append((bytes(view[:length]), source))
                continue
            found += [(bytes(view[at : min(at + size, length)]), source) for at in range(0, length, size)]
        return found


def segment_bytes(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The size of each datagram in a train, 0 for a single one; what else the kernel says is passed over."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_UDP, UDP_GRO) and len(data) >= _SIZE.size:
            return int(_SIZE.unpack_from(data)[0])
    return 0
