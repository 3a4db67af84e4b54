"""Where things stand in a plane's buffers, and views of them that are made once and used for every train.

input    what the TUN gives: virtio_net_hdr ‖ packet at ORIGIN, the six bytes of a record's prefix before it,
         so that plaintext begins at TEXT with nothing copied
received one train, joined by UDP_GRO or here: datagrams of one size behind each other, only the last shorter
opened   plaintext of a record at ORIGIN, virtio_net_hdr ‖ packet six bytes later
"""

from __future__ import annotations

from collections import deque
from struct import Struct

from tun.frames import HEAD_BYTES, HINT_BYTES, PREFIX_BYTES, SEALED_BYTES

ORIGIN = 256
TEXT = ORIGIN - HINT_BYTES  # of the input
INNER = ORIGIN + HINT_BYTES  # of the opened
READ_BYTES = 65_546  # a super-packet and its virtio_net_hdr
RECEIVE_BYTES = 65_536
BUFFER_BYTES = ORIGIN + 2 * READ_BYTES
RECEIVED_BYTES = (
    2 * RECEIVE_BYTES
)  # a train that is put together here may be longer than one that is received
MAX_PARTS = 128  # datagrams of a train: UDP_MAX_SEGMENTS since Linux 6.9
MAX_HEADERS = 16  # lengths of headers for which views are kept

PLACES = bytes(range(256))
drive = deque[object](maxlen=0).extend
"""Runs an iterator to its end at C speed and keeps nothing of it."""


class TrainLayout:
    """Views of a received train whose datagrams have `size` bytes."""

    def __init__(self, received: memoryview, opened: memoryview, size: int) -> None:
        self.count = count = min(MAX_PARTS, len(received) // size)
        self.size = size
        self.ciphertexts = [received[at + HEAD_BYTES : at + size] for at in range(0, count * size, size)]
        self._nonces = [received[at + 4 : at + HEAD_BYTES] for at in range(0, count * size, size)][::-1]
        self._sealed = self.ciphertexts[::-1]
        self._opened = opened
        self._places: dict[int, list[memoryview]] = {}  # by length of headers, backwards
        self._sequences: dict[int, Struct] = {}

    def sequences(self, count: int) -> Struct:
        """Unpacks the sequence numbers of the first `count` datagrams in one call."""
        found = self._sequences.get(count)
        if found is None:
            found = self._sequences[count] = Struct(">12xI" + f"{self.size - 4}xI" * (count - 1))
        return found

    def backwards(
        self, first: int, count: int, headers: int
    ) -> tuple[list[memoryview], list[memoryview], list[memoryview]]:
        """(nonces, ciphertexts, places) of datagrams first + count − 1 … first, all below `self.count`.

        Each plaintext is laid so that its prefix and headers are overwritten by the payload of the datagram
        before it, which is decrypted next: payloads end up behind each other with nothing copied."""
        places = self._places.get(headers)
        total = len(self._nonces)
        if places is None:
            plain = self.size - SEALED_BYTES
            step = plain - PREFIX_BYTES - headers
            starts = range(ORIGIN, ORIGIN + total * step, step)
            places = [self._opened[at : at + plain] for at in starts][::-1]
            if len(self._places) >= MAX_HEADERS:
                self._places.clear()
            self._places[headers] = places
        chosen = slice(total - first - count, total - first)
        return self._nonces[chosen], self._sealed[chosen], places[total - count :]
