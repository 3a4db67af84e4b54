"""The wire format once more, slow and plain: what tun/plane.py must do, byte for byte.

Nothing runs this but the tests. It says what tun/frames.py draws with whole packets and lists, for one peer,
one lane and one epoch, without views and caches. The functions of tun/virtio.py and the replay window, which
have tests of their own, are taken as they are.

A read is what a TUN gives at once, virtio_net_hdr ‖ packet; a wake-up is many. A train is what a socket
gives at once: datagrams of one size, the last perhaps shorter. Segments are joined inside one train only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.replay import ReplayWindow
from crypto.session import EPOCH_ZEQONDS
from tun.frames import (
    HEAD_BYTES,
    HINT,
    PREFIX_BYTES,
    RECORD,
    SEALED_BYTES,
    SEGMENT,
    SMALL_BYTES,
    SPAN,
    TAG_BYTES,
    VIRTIO_BYTES,
    Kind,
    SpanBuffer,
    outer,
)
from tun.virtio import check, complete, headers_end, mend

SHORTEST_HEADERS: Final = 28  # IPv4 and UDP


@dataclass(frozen=True)
class LaneKeys:
    """One lane, one direction, one epoch. `key`: 32 bytes; `index`: the receiver's, with the lane in it;
    `zeqond`: the epoch's first, as the session counts."""

    key: bytes
    index: int
    zeqond: int

    def iv(self, sequence: int) -> bytes:
        return b"".join(number.to_bytes(4, "big") for number in (self.index, self.zeqond, sequence))

    def are_for(self, datagram: bytes) -> bool:
        """By what its head claims."""
        index, zeqond = int.from_bytes(datagram[4:8], "big"), int.from_bytes(datagram[8:12], "big")
        return index == self.index and (zeqond - self.zeqond) % 2**32 < EPOCH_ZEQONDS


# ---------------------------------------------------------------------- sending


def seal(reads: Iterable[bytes], keys: LaneKeys, first: int, room: int, span: bool) -> list[bytes]:
    """The datagrams for the reads of one wake-up, all to one peer; `first` is the first record's sequence.

    `room`: bytes of UDP payload that the path carries. `span`: super-packets as spans, else as segments."""
    cipher, datagrams = AESGCM(keys.key), []
    for sequence, (place, text) in enumerate(plaintexts(reads, first, room, span), first):
        iv = keys.iv(sequence)
        sealed = cipher.encrypt(iv, text, None)
        if place is None:
            datagrams += outer(iv, sealed, room)
        else:
            datagrams.append(bytes([SEGMENT, 0, 1, place]) + iv + sealed)
    return datagrams


def plaintexts(reads: Iterable[bytes], first: int, room: int, span: bool) -> list[tuple[int | None, bytes]]:
    """Of every record: its place in a train of segments, or None; and its plaintext."""
    records: list[tuple[int | None, bytes]] = []
    bundle: list[bytes] = []
    for read in reads:
        if read[1]:
            read = read[:2] + b"\0\0" + read[4:]  # hdr_len says how one kernel laid the packet in its memory
        small = len(read) <= VIRTIO_BYTES + SMALL_BYTES
        if bundle and not (small and SEALED_BYTES + len(bundled([*bundle, read])) <= room):
            records.append((None, bundled(bundle)))
            bundle = []
        if small:
            bundle.append(read)
        else:
            records += large(read, first + len(records), room, span)
    if bundle:
        records.append((None, bundled(bundle)))
    return records


def bundled(packets: Sequence[bytes]) -> bytes:
    """One packet as it is, or many as a bundle."""
    if len(packets) == 1:
        return HINT.pack(Kind.PACKET, 0, 0, 0, 0) + packets[0]
    others = (len(packet).to_bytes(2, "little") + packet for packet in packets[1:])
    return HINT.pack(Kind.BUNDLE, 0, len(packets[0]), 0, 0) + packets[0] + b"".join(others)


def large(read: bytes, sequence: int, room: int, span: bool) -> list[tuple[int | None, bytes]]:
    """A packet that leaves alone; `sequence` is that of its first record."""
    if not read[1]:
        return [(None, bundled([read]))]
    headers = headers_end(bytearray(read), 0, len(read))
    if not headers:  # no other kernel could be handed it as it is
        bare = complete(bytearray(read), 0, len(read))
        return [(None, bundled([bytes(VIRTIO_BYTES) + packet])) for packet in bare]
    segment = int.from_bytes(read[4:6], "little")
    header, payload = read[: VIRTIO_BYTES + headers], read[VIRTIO_BYTES + headers :]
    pieces = [payload[at : at + segment] for at in range(0, len(payload), segment)]
    if len(pieces) == 1:
        return [(None, bundled([read[:1] + bytes(5) + read[6:]]))]
    hint = HINT.pack(Kind.SUPER, len(pieces) - 1, headers, sequence % 256, 0)
    if span or SEALED_BYTES + PREFIX_BYTES + headers + segment > room:
        return [(None, hint + read)]
    return [(place, hint + header + piece) for place, piece in enumerate(pieces)]


# ---------------------------------------------------------------------- receiving


def unseal(trains: Iterable[Sequence[bytes]], keys: LaneKeys) -> list[bytes]:
    """What goes to the TUN, virtio_net_hdr ‖ packet each, for datagrams in any order and state."""
    receiver = Receiver(keys)
    for train in trains:
        receiver.take(train)
    return receiver.writes


class Receiver:
    """Nothing a datagram holds makes it raise."""

    def __init__(self, keys: LaneKeys) -> None:
        self.writes: list[bytes] = []
        self._keys = keys
        self._cipher = AESGCM(keys.key)
        self._window = ReplayWindow()
        self._spans = SpanBuffer()
        self._heard = False  # was anything authentic yet? Before that no train is believed

    def take(self, train: Sequence[bytes]) -> None:
        """One train, by the head of its first datagram."""
        if (
            len(train) == 1
            or not self._heard
            or len(train[0]) <= HEAD_BYTES
            or not self._keys.are_for(train[0])
        ):
            self._each(train)
        elif train[0][0] == SEGMENT:
            self._segments(train)
        elif train[0][0] == SPAN:
            self._train_of_spans(train)
        else:
            self._each(train)

    def _each(self, train: Sequence[bytes]) -> None:
        for datagram in train:
            self._one(datagram)

    def _one(self, datagram: bytes) -> None:
        if len(datagram) <= HEAD_BYTES or not RECORD <= datagram[0] <= SPAN:
            return
        if not self._window.is_new(sequence_of(datagram)):
            return
        sealed: bytes | None = datagram[HEAD_BYTES:]
        if datagram[0] == SPAN:
            sealed = self._spans.add(datagram)
        text = None if sealed is None else self._open(datagram, sealed)
        if text is not None:
            self._accept(sequence_of(datagram), 1)
            self._record(text, sequence_of(datagram))

    def _train_of_spans(self, train: Sequence[bytes]) -> None:
        """Mostly a train is one whole span, or a few behind each other, as their heads tell."""
        datagrams = list(train)
        while datagrams:
            count = max([1, *datagrams[0][2:3]])
            span, datagrams = datagrams[:count], datagrams[count:]
            if not self._span(span):
                self._each(span)

    def _span(self, span: Sequence[bytes]) -> bool:
        """Whether this is one whole span: taken as it stands, if that is authentic."""
        head = span[0]
        if len(head) <= HEAD_BYTES or head[:3] != bytes([SPAN, 0, len(span)]) or not self._keys.are_for(head):
            return False
        if sequence_of(head) < self._window.next:
            return False
        text = self._open(head, b"".join(datagram[HEAD_BYTES:] for datagram in span))
        if text is None:
            return False
        self._accept(sequence_of(head), 1)
        self._record(text, sequence_of(head))
        return True

    def _segments(self, train: Sequence[bytes]) -> None:
        """Runs of consecutive places and sequences, as the unauthenticated heads tell them."""
        datagrams = list(train)
        if len(datagrams[-1]) <= SEALED_BYTES:
            datagrams.pop()
        while datagrams:
            count = 1
            while (
                count < len(datagrams)
                and datagrams[count][3] == datagrams[count - 1][3] + 1
                and sequence_of(datagrams[count]) == sequence_of(datagrams[count - 1]) + 1
            ):
                count += 1
            run, datagrams = datagrams[:count], datagrams[count:]
            if not self._run(run):
                self._each(run)

    def _run(self, run: Sequence[bytes]) -> bool:
        """Joins segments of one super-packet; False if what is authentic does not agree that they are."""
        if len(run) == 1 or sequence_of(run[0]) < self._window.next or not self._keys.are_for(run[0]):
            return False
        texts = [self._open(datagram, datagram[HEAD_BYTES:]) for datagram in run]
        opened = [text for text in texts if text is not None]
        if len(opened) < len(run) or min(map(len, opened)) <= PREFIX_BYTES:
            return False
        kind, segments, headers, base, _ = HINT.unpack_from(opened[0])
        first, total = sequence_of(run[0]), segments + 1
        place = (first - base) % 256
        begin = PREFIX_BYTES + headers
        if kind != Kind.SUPER or headers < SHORTEST_HEADERS or min(map(len, opened)) <= begin:
            return False
        if opened[0][:PREFIX_BYTES] != opened[-1][:PREFIX_BYTES] or place + len(run) > total:
            return False
        self._accept(first, len(run))
        payload = b"".join(text[begin:] for text in opened)
        self._super(opened[0][HINT.size : begin] + payload, place, len(run), total)
        return True

    def _open(self, datagram: bytes, sealed: bytes) -> bytes | None:
        if len(sealed) < TAG_BYTES:
            return None
        try:
            return self._cipher.decrypt(datagram[4:HEAD_BYTES], sealed, None)
        except InvalidTag:
            return None

    def _accept(self, first: int, count: int) -> None:
        self._heard = True
        for sequence in range(first, first + count):
            self._window.accept(sequence)

    def _record(self, text: bytes, sequence: int) -> None:
        """An authentic plaintext that was seen for the first time."""
        if len(text) <= PREFIX_BYTES:
            return
        kind, segments, headers, base, _ = HINT.unpack_from(text)
        body = text[HINT.size :]
        if kind == Kind.PACKET:
            self._write(body)
        elif kind == Kind.SUPER:
            if told_length(body) == len(body):  # all of it
                self._super(body, 0, segments + 1, segments + 1)
            else:
                self._super(body, (sequence - base) % 256, 1, segments + 1)
        elif kind == Kind.BUNDLE:
            size = headers
            while VIRTIO_BYTES < size <= len(body):
                self._write(body[:size])
                size, body = int.from_bytes(body[size : size + 2], "little"), body[size + 2 :]

    def _super(self, body: bytes, place: int, count: int, total: int) -> None:
        """Segments place … place + count − 1 of `total`, under the headers of all."""
        buffer = bytearray(body)
        if count == total or mend(buffer, 0, place, count, total, len(buffer)):
            self._write(bytes(buffer))

    def _write(self, body: bytes) -> None:
        buffer = bytearray(body)
        if check(buffer, 0, len(buffer)):
            self.writes.append(bytes(buffer))


def sequence_of(datagram: bytes) -> int:
    return int.from_bytes(datagram[12:HEAD_BYTES], "big")


def told_length(body: bytes) -> int:
    """Of virtio_net_hdr ‖ packet, by the packet's own header."""
    packet = body[VIRTIO_BYTES:]
    if packet[:1] and packet[0] >> 4 == 4:
        return VIRTIO_BYTES + int.from_bytes(packet[2:4], "big")
    return VIRTIO_BYTES + 40 + int.from_bytes(packet[4:6], "big")
