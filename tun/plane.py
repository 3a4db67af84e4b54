"""The hot loop: IP packets from one TUN queue into records, records from one UDP socket into IP packets.

    TUN ─▶ destination ─▶ flow ─┬ small ──▶ bundle ─┐
                                ├ packet ───────────┼─▶ train ─▶ UDP_SEGMENT
                                └ super ─▶ span or segments ─▶ UDP_SEGMENT
    UDP_GRO ─▶ channel ─┬ span, segments ─▶ super ─┐
                        └ each ─▶ one ─────────────┴─▶ check ─▶ addresses ─▶ TUN

It works a whole super-packet or train at a time, and each trick has its line where it stands. The wire is in
tun/frames.py, the same in plain words of code in tun/reference.py. Plain state is in tun/flow.py, what stands
where in the buffers in tun/layout.py. A Plane belongs to one worker process (tun/worker.py) and one lane.
"""

from __future__ import annotations

import errno
import io
import sys
from collections import Counter
from typing import Protocol

from cryptography.exceptions import InvalidTag

from crypto.errors import LocalFault, PeerFault
from tun.addresses import of_source
from tun.datagrams import CONTROL_BYTES, Train
from tun.flow import Channel, Flow, Source
from tun.frames import (
    HEAD_BYTES,
    HINT,
    LOSS_REPORT,
    PREFIX_BYTES,
    RECORD,
    SEALED_BYTES,
    SEGMENT,
    SMALL_BYTES,
    SPAN,
    TAG_BYTES,
    VIRTIO_BYTES,
    Kind,
)
from tun.gather import Gather
from tun.layout import (
    BUFFER_BYTES,
    INNER,
    ORIGIN,
    READ_BYTES,
    RECEIVE_BYTES,
    RECEIVED_BYTES,
    TEXT,
    TrainLayout,
)
from tun.names4 import readdress
from tun.seam import Counted, Heard, LossTold, Stray, Up
from tun.segments import Segments
from tun.sender import Outlet, Sender
from tun.spans import Spans
from tun.table import Table
from tun.virtio import check, complete, headers_end, mend

READS = RECEIVES = 64  # a wake-up: then the other direction has its turn
_TRAINS = (SEGMENT, SPAN)
SMALL = VIRTIO_BYTES + SMALL_BYTES
SEQUENCE_STOP = 2**31  # looked at once a zeqond, in which no machine sends the other 2³¹
GATHER_ABOVE = 1000  # bytes: a datagram of this size is likely to have others of its train behind it
MAX_LAYOUTS = 24
MAX_STRAYS = 256
HAND_UP, HAND_UP_US = 128, 100_000  # packets without a session, in so much time
REPORT_EVERY_US = 40_000
REPORT_RECORDS = 64
# Fewer do the first time, and where TCP comes to a halt because spans are lost.
REPORT_FEW, REPORT_SLOWLY_US = 8, 160_000
ICMP = 1

PACKET_HINT = HINT.pack(Kind.PACKET, 0, 0, 0, 0)
_GONE = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO})


class Udp(Outlet, Protocol):
    """What is used of tun.datagrams.Datagrams."""

    def recvmsg_into(
        self, buffers: list[memoryview], control: int, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Source]: ...

    def receive_more(
        self, into: bytearray, at: int, size: int, count: int, source: Source, /
    ) -> tuple[int, list[Train], bool]: ...


class Plane:
    """`choice`: auto, span or segments. `segment`: the kernel has UDP_SEGMENT.

    After `transmit`, `receive` and `given`, `upward` holds what the node has to know, `unsent` packets for
    peers without a session, and `counters` what was dropped and why."""

    def __init__(
        self,
        tun: io.RawIOBase,
        udp: Udp,
        table: Table,
        *,
        vnet_hdr: bool = True,
        segment: bool = True,
        choice: str = "auto",
    ) -> None:
        self.table = table
        self.input = memoryview(bytearray(BUFFER_BYTES))
        self.received = memoryview(bytearray(RECEIVED_BYTES))
        self.opened = memoryview(bytearray(BUFFER_BYTES))
        self.raw: bytearray = self.received.obj  # type: ignore[assignment]  # items of it are cheaper to read
        self.upward: list[Up] = []
        self.unsent: list[bytes] = []
        self.active: list[Flow] = []
        self.counters: Counter[str] = Counter()
        self.sender = Sender(udp, segment, self.counters, self.upward)
        self.udp = udp
        self._tun = tun
        self._vnet_hdr = vnet_hdr
        self._choice = choice
        self._now = 0
        self._input: bytearray = self.input.obj  # type: ignore[assignment]
        self._opened: bytearray = self.opened.obj  # type: ignore[assignment]
        self._receive_into = [self.received[:RECEIVE_BYTES]]
        self._layouts: dict[int, TrainLayout] = {}
        self._heard: list[Channel] = []
        self._strays = self._handed = self._handing_until = 0
        self._gather = Gather(self)
        self._spans = Spans(self)
        self._segments = Segments(self)

    # ------------------------------------------------------------------ TUN to UDP

    def transmit(self, now: int) -> None:
        """Drain the TUN. Small packets gather in place behind one another and leave as one record."""
        text, raw, by_address6 = self.input, self._input, self.table.by_address6
        read = self._tun.readinto if self._vnet_hdr else self._read_bare
        flow: Flow | None = None
        end = count = first = 0
        self._now = self.sender.now = now
        for _ in range(READS):
            at = end + 2 if count else ORIGIN
            size = read(text[at : at + READ_BYTES])
            if not size:  # None: nothing waits, and no exception was made to say so
                break
            ip = at + VIRTIO_BYTES
            if raw[ip] >> 4 == 6:
                to = by_address6.get(bytes(text[ip + 24 : ip + 40])) or self.table.route6(
                    text[ip : at + size]
                )
                pair = b""
            else:
                pair = bytes(text[ip + 12 : ip + 20])
                to = self.table.route4(pair)
            if to is None or (now >= to.until_us and not self._ready(to, now)):
                self._hand_up(to, at, size)
                continue
            if pair and not self._to_wire(at, size, pair):
                continue
            if not to.active:
                self._activate(to)
            if not to.sent_packets:
                to.first_sent_us = now
            to.sent_packets += 1
            to.sent_bytes += size - VIRTIO_BYTES
            small = size <= SMALL
            if count and (to is not flow or not small or at + size - TEXT > to.room - SEALED_BYTES):
                assert flow is not None
                self._bundle(flow, first, end, count)
                text[ORIGIN : ORIGIN + size] = text[at : at + size]
                at, count = ORIGIN, 0
            flow = to
            if raw[at + 1]:  # GSO: how long the headers are stands in the prefix, not in the kernel's hint
                raw[at + 2] = raw[at + 3] = 0
            if not small:
                self._large(to, size)
            elif count:
                raw[at - 2], raw[at - 1] = size & 255, size >> 8
                end, count = at + size, count + 1
            else:
                first, end, count = size, ORIGIN + size, 1
        if count and flow is not None:
            self._bundle(flow, first, end, count)
        if self.sender.waiting:
            self.sender.flush()

    def _ready(self, flow: Flow, now: int) -> bool:
        """Into the present zeqond; False where nothing may be sent."""
        lane = flow.lane
        if lane is None or flow.held:
            return False
        try:
            flow.encrypt = lane.ready(now).encrypt_into
        except LocalFault:
            flow.close_lane()
            return False
        if lane.sequence >= SEQUENCE_STOP:
            self.counters["lane used up in this epoch"] += 1
            return False
        self.sender.flush()  # a train lies in one zeqond, and so in one epoch
        flow.until_us = lane.until_us
        flow.meter.enter(lane.epoch)
        return True

    def _hand_up(self, flow: Flow | None, at: int, size: int) -> None:
        """No session: the node makes one, and keeps the packet until then."""
        if flow is None:
            self.counters["packet for nobody"] += 1
        elif flow.held:
            self.counters["packet held back"] += 1
        elif self._may_hand_up():
            self.unsent += complete(self._input, at, at + size)
        else:
            self.counters["packet dropped, no session"] += 1

    def _may_hand_up(self) -> bool:
        """Few wait for a session; a flood to a peer that is away must not keep the node from making one."""
        if self._now >= self._handing_until:
            self._handing_until, self._handed = self._now + HAND_UP_US, 0
        self._handed += 1
        return self._handed <= HAND_UP

    def _to_wire(self, at: int, size: int, pair: bytes) -> bool:
        """IPv4's local names are this machine's own: others on the wire, planned once and then cached."""
        raw, ip = self._input, at + VIRTIO_BYTES
        if raw[ip + 9] == ICMP:  # it may quote a packet, with names in it
            packet = bytearray(self.input[ip : at + size])
            if self.table.translator.to_wire(packet, partial=bool(raw[at] & 1)):
                self.input[ip : at + size] = packet
                return True
        else:
            becomes = self.table.leaves4(pair)
            if becomes is not None:
                if becomes != pair:
                    readdress(raw, ip, at + size, becomes, partial=bool(raw[at] & 1))
                return True
        self.counters["packet with a local name where none may be"] += 1
        return False

    def _bundle(self, flow: Flow, first: int, end: int, count: int) -> None:
        if count == 1:
            self.input[TEXT:ORIGIN] = PACKET_HINT
        else:
            HINT.pack_into(self._input, TEXT, Kind.BUNDLE, 0, first, 0, 0)
        self.sender.record(flow, self.input, end)

    def _large(self, flow: Flow, size: int) -> None:
        """The packet at ORIGIN leaves alone, in as many datagrams as it takes."""
        raw, end = self._input, ORIGIN + size
        if raw[ORIGIN + 1]:
            headers = headers_end(raw, ORIGIN, end)
            segment = raw[ORIGIN + 4] | raw[ORIGIN + 5] << 8
            payload = size - VIRTIO_BYTES - headers
            if not headers:
                self._cut(flow, size)
                return
            if payload > segment:
                self._super(flow, end, headers, segment, -(-payload // segment))
                return
            raw[ORIGIN + 1 : ORIGIN + 6] = bytes(5)  # one segment: an ordinary packet
        self.input[TEXT:ORIGIN] = PACKET_HINT
        self._whole(flow, end)

    def _whole(self, flow: Flow, end: int) -> None:
        """One record, in one datagram if the path is large enough."""
        if end - TEXT + SEALED_BYTES <= flow.room:
            self.sender.record(flow, self.input, end)
        else:
            if self.sender.waiting:
                self.sender.flush()
            self._spans.send(flow, end)

    def _super(self, flow: Flow, end: int, headers: int, segment: int, count: int) -> None:
        lane = flow.lane
        assert lane is not None
        flow.sent_packets += count - 1
        flow.sent_bytes += (count - 1) * headers
        HINT.pack_into(self._input, TEXT, Kind.SUPER, count - 1, headers, lane.sequence & 255, 0)
        spans = flow.meter.span if self._choice == "auto" else self._choice == "span"
        if spans or SEALED_BYTES + PREFIX_BYTES + headers + segment > flow.room:
            self._whole(flow, end)
        else:
            if self.sender.waiting:
                self.sender.flush()
            self._segments.send(flow, end, headers, segment, count)

    def _cut(self, flow: Flow, size: int) -> None:
        """What cannot travel as a super-packet is cut and summed up here."""
        for packet in complete(self._input, ORIGIN, ORIGIN + size):
            end = ORIGIN + VIRTIO_BYTES + len(packet)
            self.input[TEXT:end] = PACKET_HINT + bytes(VIRTIO_BYTES) + packet
            self._whole(flow, end)

    # ------------------------------------------------------------------ UDP to TUN

    def receive(self, now: int) -> None:
        """Drain the socket, one train at a time."""
        receive_into, into, raw = self.udp.recvmsg_into, self._receive_into, self.raw
        channels, gather = self.table.channels, self._gather
        self._now = self.sender.now = now
        self._strays = 0
        for _ in range(RECEIVES):
            taken = gather.waits
            if taken:
                length, size, source = gather.take()
            else:
                try:
                    length, control, _, source = receive_into(into, CONTROL_BYTES)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error about something that we sent: the timers deal with it
                    continue
                size = int.from_bytes(control[0][2], sys.byteorder) if control else length
            if not length:
                continue
            kind = raw[0]
            if min(length, size) <= HEAD_BYTES or not RECORD <= kind <= SPAN:
                self.each(0, length, size, source)
                continue
            head = bytes(self.received[4:12])
            channel = channels.get(head) or self.channel(head)
            if channel is None or not channel.kept:  # nothing of it has been authentic yet
                self.each(0, length, size, source)
                continue
            if (length == size or taken) and size > GATHER_ABOVE and kind in _TRAINS:
                length = gather.join(channel, length, size, source)
                if not length:
                    break
            if length <= size:
                self._one(channel, 0, length, source)
            elif kind == SEGMENT:
                self._segments.receive(channel, length, size, source)
            elif kind == SPAN:
                self._spans.receive(length, size, source)
            else:
                self.each(0, length, size, source)
        gather.settle()
        for channel in self._heard:
            channel.heard = False
            if now >= channel.report_us:
                fresh = channel.window.next - channel.reported
                if fresh >= REPORT_RECORDS or (
                    fresh >= REPORT_FEW and now >= channel.report_us + REPORT_SLOWLY_US
                ):
                    self._report_loss(channel, now)
        self._heard.clear()
        if self.sender.waiting:
            self.sender.flush()

    def layout(self, size: int) -> TrainLayout:
        """The views of a received train of datagrams of `size` bytes."""
        layout = self._layouts.get(size)
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[size] = TrainLayout(self.received, self.opened, size)
        return layout

    def given(self, datagram: bytes, source: Source, now: int) -> None:
        """A datagram that was received elsewhere."""
        self._now = self.sender.now = now
        self._gather.clear()
        self.received[: len(datagram)] = datagram
        self.each(0, len(datagram), len(datagram) or 1, source)
        for channel in self._heard:
            channel.heard = False
        self._heard.clear()

    def each(self, start: int, end: int, size: int, source: Source) -> None:
        """Datagrams of any origin, one by one: a train may have strangers in it."""
        raw, received, receives = self.raw, self.received, self.table.receives
        for at in range(start, end, size):
            stop = min(end, at + size)
            kind = raw[at] if stop - at > HEAD_BYTES else 0
            # Never another worker's lane: two replay windows would let a record in twice.
            if not RECORD <= kind <= SPAN or not receives[raw[at + 7] & 63]:
                self._stray(at, stop, source)
                continue
            head = bytes(received[at + 4 : at + 12])
            channel = self.channel(head)
            if channel is None:
                self.counters["record of no session here"] += 1
            else:
                self._one(channel, at, stop, source)

    def _stray(self, start: int, end: int, source: Source) -> None:
        """The node's or another worker's, which the kernel could not see inside a train."""
        if self._strays >= MAX_STRAYS:
            self.counters["datagram in a strange train dropped"] += 1
            return
        self._strays += 1
        host, port = of_source(source)
        self.upward.append(Stray(bytes(self.received[start:end]), host, port))

    def channel(self, head: bytes) -> Channel | None:
        """Where a record with this index and zeqond belongs, by what it claims."""
        channel = self.table.channels.get(head)
        if channel is not None:
            return channel
        try:
            return self.table.channel(head, self._now)
        except (LocalFault, PeerFault):
            return None

    def _one(self, channel: Channel, start: int, end: int, source: Source) -> None:
        """The datagram at start … end of the received: a record, or a part of one."""
        raw, received, opened = self.raw, self.received, self.opened
        if end - start < (HEAD_BYTES + 1 if raw[start] == SPAN else SEALED_BYTES):
            self.counters["record too short"] += 1
            return
        sequence = int.from_bytes(raw[start + 12 : start + 16], "big")
        window = channel.window
        if sequence != window.next and not window.is_new(sequence):
            self.counters["record seen before or too old"] += 1
            return
        if raw[start] == SPAN:
            whole = channel.flow.spans.add(received[start:end])
            if whole is None:
                return
            sealed: bytes | memoryview = whole
        else:
            sealed = received[start + HEAD_BYTES : end]
        stop = ORIGIN + len(sealed) - TAG_BYTES
        try:
            channel.decrypt(received[start + 4 : start + HEAD_BYTES], sealed, None, opened[ORIGIN:stop])
        except (InvalidTag, ValueError):
            self.counters["record refused"] += 1
            return
        if not window.accept(sequence):
            self.counters["record seen before or too old"] += 1
            return
        self.credit(channel, 1, source, end - start)
        self.dispatch(channel, stop, sequence)

    def credit(self, channel: Channel, records: int, source: Source, size: int) -> None:
        """So many authentic records came, and from there."""
        flow = channel.flow
        channel.received += records
        flow.last_heard_us = self._now
        if not flow.active:
            self._activate(flow)
        if not channel.heard:
            channel.heard = True
            self._heard.append(channel)
        # One comparison of what recvmsg said with what it said before, as it stands.
        if source != flow.source or not channel.kept:
            self._locate(channel, source, size)

    def _locate(self, channel: Channel, source: Source, size: int) -> None:
        """The first record of a channel, or one from elsewhere: the node decides what follows from that."""
        flow, address = channel.flow, of_source(source)
        if not channel.kept:
            self.table.keep(channel)
        if address == flow.endpoint:
            flow.source = source
        self.upward.append(Heard(channel.session.local_index, *address, size))

    def dispatch(self, channel: Channel, end: int, sequence: int) -> None:
        """The plaintext at ORIGIN … end of the opened."""
        raw = self._opened
        if end - ORIGIN <= PREFIX_BYTES:
            return  # a keepalive, or nothing that a lane carries
        kind, segments, headers, base, _ = HINT.unpack_from(raw, ORIGIN)
        if kind == Kind.PACKET:
            self._deliver(channel.flow, INNER, end)
        elif kind == Kind.SUPER:
            ip = INNER + VIRTIO_BYTES
            told = (
                raw[ip + 2] << 8 | raw[ip + 3] if raw[ip] >> 4 == 4 else 40 + (raw[ip + 4] << 8 | raw[ip + 5])
            )
            whole = told == end - ip  # its own header says whether it is all there, or one segment
            count, place = (segments + 1, 0) if whole else (1, (sequence - base) & 255)
            self.deliver_super(channel.flow, INNER, end, headers, place, count, segments + 1)
        elif kind == Kind.BUNDLE:
            at, size = INNER, headers
            while size > VIRTIO_BYTES and at + size <= end:
                self._deliver(channel.flow, at, at + size)
                at += size + 2
                if at > end:
                    return
                size = raw[at - 2] | raw[at - 1] << 8
            self.counters["bundle cut short"] += 1
        elif kind == Kind.LOSS and end - ORIGIN == PREFIX_BYTES + LOSS_REPORT.size:
            self._loss_told(channel, *LOSS_REPORT.unpack_from(raw, ORIGIN + PREFIX_BYTES))
        elif kind != Kind.COVER:
            self.counters["record of unknown kind"] += 1

    def deliver_super(
        self, flow: Flow, start: int, end: int, headers: int, place: int, count: int, total: int
    ) -> None:
        """A super-packet, or segments place … place + count − 1 of its `total`, under the header of all."""
        if count != total and not mend(self._opened, start, place, count, total, end):
            self.counters["segments that do not fit together"] += 1
            return
        before = flow.received_packets
        self._deliver(flow, start, end)
        if flow.received_packets != before:  # who is refused, or held back, was carried nothing
            flow.received_packets += count - 1
            flow.received_bytes += (count - 1) * headers

    def _deliver(self, flow: Flow, start: int, end: int) -> None:
        """virtio_net_hdr ‖ packet at start … end of the opened: to the host, if it may have it."""
        raw, opened = self._opened, self.opened
        if not check(raw, start, end):
            self.counters["packet that no kernel may get"] += 1
            return
        ip = start + VIRTIO_BYTES
        if raw[ip] >> 4 == 6:
            pair = bytes(opened[ip + 8 : ip + 40])
            if pair not in flow.accepted6 and (refusal := self.table.admit6(flow, pair)):
                self.counters[refusal] += 1
                return
        else:
            pair = bytes(opened[ip + 12 : ip + 20])
            if pair not in flow.accepted4 and (refusal := self.table.admit4(flow, pair)):
                self.counters[refusal] += 1
                return
            becomes = flow.accepted4[pair]
            if raw[ip + 9] == ICMP:
                packet = bytearray(opened[ip:end])
                if not self.table.translator.from_wire(packet, flow.name4):
                    self.counters["packet with a local name where none may be"] += 1
                    return
                opened[ip:end] = packet
            elif becomes != pair:
                readdress(raw, ip, end, becomes, partial=bool(raw[start] & 1))
        if not flow.received_packets:
            flow.first_received_us = self._now
        flow.last_received_us = self._now
        flow.received_packets += 1
        flow.received_bytes += end - ip
        try:
            if self._vnet_hdr:
                if self._tun.write(opened[start:end]) is None:
                    self.counters["packet dropped, TUN full"] += 1
            else:
                for bare in complete(raw, start, end):
                    self._tun.write(bare)
        except OSError as error:
            if error.errno in _GONE:
                raise
            self.counters["packet refused by the TUN"] += 1

    # ------------------------------------------------------------------ loss reports

    def _report_loss(self, channel: Channel, now: int) -> None:
        """Tell the sender what has arrived; it decides between spans and segments."""
        flow = channel.flow
        if channel.session is not flow.session or (now >= flow.until_us and not self._ready(flow, now)):
            return
        window = channel.window
        channel.reported, channel.report_us = window.next, now + REPORT_EVERY_US
        body = LOSS_REPORT.pack(channel.lane, channel.epoch, window.next, channel.received)
        end = TEXT + PREFIX_BYTES + len(body)
        self.input[TEXT:end] = bytes([Kind.LOSS]) + bytes(PREFIX_BYTES - 1) + body
        self.sender.record(flow, self.input, end)

    def _loss_told(self, channel: Channel, lane: int, epoch: int, next_sequence: int, received: int) -> None:
        flow = channel.flow
        if flow.lane is None or channel.session is not flow.session:
            return
        if lane != flow.lane.number:
            self.upward.append(
                LossTold(flow.machine_id, channel.session.local_index, lane, epoch, next_sequence, received)
            )
        elif epoch == flow.meter.epoch:
            flow.meter.report(next_sequence, received)

    # ------------------------------------------------------------------

    def _read_bare(self, view: memoryview) -> int | None:
        """A TUN without virtio_net_hdr: an empty one is put before each packet."""
        size = self._tun.readinto(view[VIRTIO_BYTES:])
        if not size:
            return None
        view[:VIRTIO_BYTES] = bytes(VIRTIO_BYTES)
        return size + VIRTIO_BYTES

    def _activate(self, flow: Flow) -> None:
        flow.active = True
        self.active.append(flow)

    def report(self) -> list[Up]:
        """What was carried and counted since the last time."""
        told: list[Up] = [flow.carried() for flow in self.active]
        self.active.clear()
        if self.counters:
            told.append(Counted(dict(self.counters)))
            self.counters.clear()
        return told
