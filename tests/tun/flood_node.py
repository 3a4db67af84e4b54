"""A real node's engine on a real UDP socket, as a process of its own; started by test_flood.py.

    python flood_node.py HOST ACK_FD < description

The first line of its input is JSON: seeds, lookup secret and peers' bundles. It prints its port; writes a
byte to ACK_FD for every ACK_EVERY datagrams that its core has dealt with; answers each further line of input
with its counters; ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from typing import Any

import trio

from crypto.identity import KeyBundle, MachineKeys
from crypto.kem import RealPrimitives
from tun.addresses import Address
from tun.core import TunnelCore
from tun.device import MemoryTun
from tun.engine import Engine, boot_us, open_socket
from tun.host import PeerConfig
from tun.sockets import SOL_UDP, UDP_GRO

ACK_EVERY = 32


class AckingCore(TunnelCore):
    """Tells the flooder how far it is, so that no more is under way than the socket can hold."""

    ack_fd = -1
    seen = 0

    def receive(self, datagram: bytes, source: Address, now_us: int, unix_us: int) -> bool:
        self.seen += 1
        if self.seen % ACK_EVERY == 0:
            os.write(self.ack_fd, b".")
        return super().receive(datagram, source, now_us, unix_us)


async def answer(core: AckingCore, device: MemoryTun, cancel: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(0)
        if not os.read(0, 65536):
            cancel.cancel()
            return
        say({"seen": core.seen, "taken": len(device.taken), "counters": dict(core.counters)})


def say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


async def main(host: str, ack_fd: int) -> None:
    described = json.loads(os.read(0, 2**20))
    keys = MachineKeys.from_bytes(bytes.fromhex(described["seeds"]))
    secret = bytes.fromhex(described["lookup"])
    core = AckingCore(keys, secret, RealPrimitives(), os.urandom, boot_us())
    core.ack_fd = ack_fd
    for bundle in described["peers"]:
        config = PeerConfig(KeyBundle.from_bytes(bytes.fromhex(bundle)), eager=False)
        core.add_peer(config, [], boot_us())
    with closing(MemoryTun()) as device, closing(open_socket(host, 0)) as udp:
        udp.setsockopt(SOL_UDP, UDP_GRO, 1)  # as the node's own is, where the kernel has it
        async with trio.open_nursery() as nursery:
            await nursery.start(Engine(core, device, udp, lambda event: None).run)
            say({"port": udp.getsockname()[1], "buffer": udp.getsockopt(1, 8)})  # SOL_SOCKET, SO_RCVBUF
            await answer(core, device, nursery.cancel_scope)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
