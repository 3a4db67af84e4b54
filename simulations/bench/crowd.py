"""Many peers in one process: a real core for each, one socket, one TUN and one real worker for all.

    handshakes, lane 0 ─▶ whose? ─▶ its TunnelCore ─┬▶ socket
    packets of all     ◀─▶ tun.worker ◀─ sessions ──┘

It stands in for a thousand machines opposite one node that is measured. To its worker each core's session
with the hub is a peer of its own (`members`), so it carries the traffic of all of them as fast as a node
carries that of one, and is not what limits the hub.

    python -m simulations.bench.crowd SEED COUNT HUB_BUNDLE_FILE    until SIGTERM; says how many are connected
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from crypto.identity import KeyBundle
from simulations.bench.members import HUB_PORT, MESH, Member, number_of
from simulations.bench.standin import StandIn
from tun import fragments
from tun.addresses import Address
from tun.core import TunnelCore
from tun.device import LinuxTun, open_tun
from tun.engine import boot_us, unix_us
from tun.events import Connected
from tun.frames import COOKIE, FIRST_OURS, HEAD_BYTES, LAST_RECORD_TYPE, MESSAGE1, MESSAGE2, REFUSAL
from tun.names4 import DEFAULT_POOL
from tun.seam import (
    Carried,
    Heard,
    Serves,
    SessionClosed,
    SessionOpened,
    Stray,
    TooBig,
    Unsent,
    Up,
)
from tun.sockets import UdpGroup, open_group
from tun.worker import Settings
from tun.workers import Workers

DEVICE: Final = "crowd"
PAUSE_SECONDS: Final = 0.01  # between two members' first handshakes: the hub is not to ask for cookies
_AGAIN_SECONDS: Final = 6.0  # longer than an attempt that no traffic waits for
_BATCH: Final = 256  # receives, then the others have their turn
_DATAGRAM: Final = 65_536


class Crowd:
    def __init__(self, peers: list[StandIn], udp: UdpGroup, device: LinuxTun) -> None:
        self._peers = peers
        self._by_id = {peer.member.id: peer for peer in peers}
        self._by_slot: dict[int, StandIn] = {}
        self._by_message: dict[bytes, StandIn] = {}
        self._due: list[tuple[int, int]] = []  # when, whose
        self._udp, self._device = udp, device
        settings = Settings(
            lane=0,
            pool=str(DEFAULT_POOL),
            vnet_hdr=device.offloads.vnet_hdr,
            segment=udp.segment,
            choice="auto",
            parent=os.getpid(),
        )
        fds = [each.fileno() for each in udp.workers]
        self._workers = Workers(settings, device.fds, fds, lambda _receives: [Serves([str(MESH)])])

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._workers.run, self._hear, lambda _worker, _code: sys.exit(1))
            nursery.start_soon(self._from_socket)
            nursery.start_soon(self._by_the_clock)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(self._call)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    async def _call(self) -> None:
        for peer in self._peers:
            peer.add_hub()
            await self._try(peer)
        while missing := [peer for peer in self._peers if not peer.connected]:
            await trio.sleep(_AGAIN_SECONDS)
            for peer in missing:
                await self._try(peer)

    async def _try(self, peer: StandIn) -> None:
        peer.call()
        self._flush(peer)
        await trio.sleep(PAUSE_SECONDS)

    async def _by_the_clock(self) -> None:
        while True:
            now, unix = boot_us(), unix_us()
            while self._due and self._due[0][0] <= now:
                peer = self._peers[heapq.heappop(self._due)[1]]
                if peer.core.deadline_us() <= now:  # else it was put off since
                    peer.core.tick(now, unix)
                    self._flush(peer)
            await trio.sleep(PAUSE_SECONDS)

    async def _from_socket(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._udp.main)
            for _ in range(_BATCH):
                try:
                    train, told, _, where = self._udp.main.recvmsg(_DATAGRAM, socket.CMSG_SPACE(4))
                except BlockingIOError:
                    break
                except OSError:
                    continue
                size = int.from_bytes(told[0][2], sys.byteorder) if told else len(train)
                for at in range(0, len(train), size or 1):  # UDP_GRO may have joined what came
                    self._receive(train[at : at + size], where[:2])

    def _receive(self, datagram: bytes, source: Address) -> None:
        if len(datagram) > HEAD_BYTES and FIRST_OURS <= datagram[0] <= LAST_RECORD_TYPE and datagram[7] & 63:
            self._workers.give(datagram, source)
            return
        for peer in self._whose(datagram):
            peer.core.receive(datagram, source, boot_us(), unix_us())
            self._flush(peer)

    def _whose(self, datagram: bytes) -> list[StandIn]:
        """Nobody, one, or for a cookie all who may have asked for it."""
        kind = datagram[0] if datagram else 0
        if kind == COOKIE:
            return [peer for peer in self._peers if peer.message_id]
        if kind == MESSAGE1:
            return [peer for peer in self._peers if fragments.mac1_holds(datagram, peer.key)]
        if kind == MESSAGE2:
            found = self._by_message.get(datagram[12:20])
        elif kind == REFUSAL:
            found = self._by_message.get(datagram[4:12])
        else:
            found = self._by_slot.get(int.from_bytes(datagram[4:8], "big") >> 6)
        return [found] if found is not None else []

    def _hear(self, messages: list[Up]) -> None:
        """What the worker says."""
        now, unix = boot_us(), unix_us()
        for message in messages:
            self._obey(message, now, unix)

    def _obey(self, message: Up, now: int, unix: int) -> None:
        """Of what is not named here nobody needs to know."""
        match message:
            case Unsent(packets):
                for packet in packets:
                    self._unsent(packet, now, unix)
            case Heard(index, host, port, size):
                at = (host, port)
                self._to(self._by_slot.get(index >> 6), lambda core: core.heard(index, at, size, now, unix))
            case Carried(machine_id):
                peer = self._by_id.get(machine_id)
                if peer is not None:
                    told = replace(message, machine_id=peer.hub.machine_id)
                    self._to(peer, lambda core: core.carried(told, now, unix))
            case TooBig(host, port):
                for each in self._peers:
                    self._to(each, lambda core: core.too_big((host, port), now))
            case Stray(datagram, host, port):
                self._receive(datagram, (host, port))
            case _:
                pass

    def _unsent(self, packet: bytes, now: int, unix: int) -> None:
        """From the TUN, for a session that is not there yet."""
        number = number_of(packet)
        if packet[0] >> 4 == 6 and 0 <= number < len(self._peers):
            self._to(self._peers[number], lambda core: core.send(packet, now, unix))

    def _to(self, peer: StandIn | None, do: Callable[[TunnelCore], None]) -> None:
        if peer is not None:
            do(peer.core)
            self._flush(peer)

    def _flush(self, peer: StandIn) -> None:
        """Whatever its core has for others. The worker first: what message 2 makes possible follows it."""
        core = peer.core
        told = core.briefing.messages()
        for message in told:
            if isinstance(message, SessionOpened):
                self._by_slot[message.local_index >> 6] = peer
            elif isinstance(message, SessionClosed):
                self._by_slot.pop(message.local_index >> 6, None)
        self._workers.tell(down for message in told if (down := peer.down(message)) is not None)
        if (message_id := peer.message_id) is not None:
            self._by_message[message_id] = peer
        if core.packets:
            self._device.write_batch(core.packets)
            core.packets.clear()
        for datagram, where in core.outgoing:
            self._udp.main.sendto(datagram, where)
        core.outgoing.clear()
        if any(isinstance(event, Connected) for event in core.events) and not peer.connected:
            peer.connected = True
            print(f"connected {sum(each.connected for each in self._peers)}", flush=True)
        core.events.clear()
        heapq.heappush(self._due, (core.deadline_us(), peer.member.number))


def main(arguments: list[str]) -> None:
    seed, count, bundle = arguments[0], int(arguments[1]), Path(arguments[2]).read_bytes()
    hub = KeyBundle.from_bytes(bundle)
    device = open_tun(DEVICE)
    udp = open_group("::", HUB_PORT, 1)
    peers = [StandIn(Member(seed, number), hub) for number in range(count)]
    try:
        trio.run(Crowd(peers, udp, device).run)
    finally:
        udp.close()
        device.close()


if __name__ == "__main__":
    main(sys.argv[1:])
