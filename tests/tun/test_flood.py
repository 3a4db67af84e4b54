"""A million datagrams of strangers at a real node on loopback: no answers, no memory, and friends get in."""

from __future__ import annotations

import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crypto.identity import MachineKeys, ula
from crypto.kem import RealPrimitives
from tests.pair import ipv6
from tests.scale import seconds, times
from tun.addresses import MAPPED, Address
from tun.core import TunnelCore
from tun.engine import boot_us, unix_us
from tun.events import Connected, Event, Ponged
from tun.frames import FIRST_OURS, HEAD_BYTES, LAST_TUNNEL_TYPE, MESSAGE1, RECORD, SPAN
from tun.host import PeerConfig
from tun.keyrequest import KeyRequest
from tun.sockets import SOL_UDP, UDP_SEGMENT

ROOT = Path(__file__).parents[2]
NODE = "127.90.0.1"
DATAGRAMS = times(1_000_000)
MEMORY = 16 * 2**20
LOOKUP = bytes(range(16))
MAX_TRAIN = 64
TRAIN_BYTES = 65_000
ACK_EVERY = 32  # as in flood_node.py
SKB_BYTES = 4096  # what one small datagram costs a receive buffer, at most
STALLED = 0.25


def bound(host: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
    udp.bind((host, 0))
    udp.setblocking(False)
    return udp


class Source:
    """A stranger's socket, in a /24 of its own; counts bytes out and in."""

    def __init__(self, host: str) -> None:
        self.udp = bound(host)
        self.out = self.back = 0

    def send(self, train: bytes | bytearray, size: int, where: tuple[str, int]) -> None:
        """Datagrams of one size in one call (the last may be shorter)."""
        try:
            self.udp.sendmsg([train], [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))], 0, where)
        except BlockingIOError:
            return
        self.out += len(train)

    def drain(self) -> int:
        while True:
            try:
                self.back += len(self.udp.recv(65536))
            except BlockingIOError:
                return self.back


class Client:
    """A legitimate machine with a core of its own, driven by hand between two trains of the flood."""

    def __init__(self, keys: MachineKeys, node: MachineKeys, host: str, where: tuple[str, int]) -> None:
        self.udp = bound(host)
        self.where = where
        self.core = TunnelCore(keys, LOOKUP, RealPrimitives(), os.urandom, boot_us())
        self.core.local_hosts = frozenset({host})
        self.node_id = node.machine_id
        self.events: list[Event] = []
        config = PeerConfig(node.bundle, lookup_secret=LOOKUP, addresses=[(MAPPED + where[0], where[1])])
        self.core.add_peer(config, [], boot_us())

    def pump(self) -> None:
        now, unix = boot_us(), unix_us()
        while True:
            try:
                datagram, source = self.udp.recvfrom(65536)
            except BlockingIOError:
                break
            self.core.receive(datagram, (MAPPED + source[0], source[1]), now, unix)
        self.core.tick(now, unix)
        for datagram, _ in self.core.outgoing:
            self.udp.sendto(datagram, self.where)
        self.core.outgoing.clear()
        self.events += self.core.events
        self.core.events.clear()

    def ping(self, number: int) -> None:
        self.core.peers[self.node_id].conversation.ping(number, boot_us(), unix_us())

    def ponged(self) -> bool:
        return any(isinstance(event, Ponged) for event in self.events)


class Node:
    """The process under attack."""

    def __init__(self, stack: ExitStack, keys: MachineKeys, peers: list[MachineKeys]) -> None:
        ack_read, ack_write = os.pipe()
        script = Path(__file__).with_name("flood_node.py")
        command = [sys.executable, str(script), NODE, str(ack_write)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = stack.enter_context(
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[ack_write],
            )
        )
        stack.callback(self.process.kill)
        os.close(ack_write)
        stack.callback(os.close, ack_read)
        os.set_blocking(ack_read, False)
        self._ack = ack_read
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._selector.register(ack_read, selectors.EVENT_READ)
        self.done = 0
        described = {
            "seeds": keys.to_bytes().hex(),
            "lookup": LOOKUP.hex(),
            "peers": [peer.bundle.to_bytes().hex() for peer in peers],
        }
        ready = self.ask(json.dumps(described))
        self.where = (NODE, int(ready["port"]))
        self.window = min(int(ready["buffer"]) // SKB_BYTES, 8192)

    def ask(self, line: str = "?") -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def rss(self) -> int:
        """Bytes resident."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def caught_up(self, patience: float) -> bool:
        """Read what it acknowledged; False when nothing came for so long."""
        if not self._selector.select(patience):
            return False
        self.done += ACK_EVERY * len(os.read(self._ack, 65536))
        return True


# ---------------------------------------------------------------------------------- what is sent


class Trains:
    """Datagrams that nobody may answer: random ones, random ones of our types, and changed genuine ones."""

    def __init__(self, noise: random.Random, recorded: list[bytes]) -> None:
        self._noise = noise
        self._recorded = recorded
        self._record = next(datagram for datagram in recorded if datagram[0] == RECORD)

    def next(self) -> tuple[bytearray, int, int]:
        """(bytes of a train, size of each datagram, how many)."""
        kind = self._noise.choice((self._random, self._ours, self._changed, self._changed, self._parts))
        train, size = kind()
        return train, size, len(train) // size

    def _count(self, size: int) -> int:
        return max(1, min(MAX_TRAIN, TRAIN_BYTES // size))

    def _random(self) -> tuple[bytearray, int]:
        size = self._noise.choice((1, 3, 4, 15, 16, 17, 32, self._noise.randint(1, 1452)))
        return bytearray(self._noise.randbytes(size * self._count(size))), size

    def _ours(self) -> tuple[bytearray, int]:
        """Of our types, at the sizes where the next check begins."""
        size = self._noise.choice((16, 33, 56, 65, 480, 599, 600, 996, 1200, 1201))
        count = self._count(size)
        train = bytearray(self._noise.randbytes(size * count))
        train[::size] = bytes(self._noise.randint(FIRST_OURS, LAST_TUNNEL_TYPE) for _ in range(count))
        return train, size

    def _changed(self) -> tuple[bytearray, int]:
        """A genuine datagram with a wrong bit in each copy; not in mac2, whose zeros ask for nothing."""
        genuine = self._noise.choice(self._recorded)
        size = len(genuine)
        train = bytearray(genuine * self._count(size))
        for at in range(0, len(train), size):
            train[at + self._noise.randrange(size - 16)] ^= 1 << self._noise.randrange(8)
        return train, size

    def _parts(self) -> tuple[bytearray, int]:
        """Parts of records that never become whole, of a session that exists."""
        size = self._noise.choice((17, 500, 1232, 1452))
        train = bytearray()
        for number in range(self._count(size)):
            head = bytes([SPAN, number, MAX_TRAIN, 0]) + self._record[4:8] + self._noise.randbytes(8)
            train += head + bytes(size - HEAD_BYTES)
        return train, size


def message1s(keys: MachineKeys, node: MachineKeys, where: tuple[str, int], count: int) -> list[list[bytes]]:
    """Genuine message 1s of a machine, as somebody on its path recorded them: each as its fragments."""
    found = []
    for number in range(count):
        core = TunnelCore(keys, LOOKUP, RealPrimitives(), os.urandom, boot_us())
        addresses: list[Address] = [(MAPPED + where[0], where[1])]
        config = PeerConfig(node.bundle, lookup_secret=LOOKUP, addresses=addresses)
        core.add_peer(config, [], boot_us())
        core.tick(boot_us(), unix_us() + number)
        found.append([datagram for datagram, _ in core.outgoing])
        assert all(datagram[0] == MESSAGE1 for datagram in found[-1])
    return found


def key_request(node: MachineKeys, where: tuple[str, int]) -> bytes:
    request = KeyRequest(node.machine_id, LOOKUP, [(MAPPED + where[0], where[1])], os.urandom, boot_us())
    [(datagram, _)] = request.due(boot_us())
    return datagram


# ---------------------------------------------------------------------------------- the flood


class Flood:
    """Keeps as much under way as the node's socket holds, until it has dealt with so many."""

    def __init__(self, node: Node, stack: ExitStack, noise: random.Random, recorded: list[bytes]) -> None:
        self.node = node
        self._noise = noise
        self._trains = Trains(noise, recorded)
        self.strangers = [Source(f"127.{1 + n // 200}.{n % 200}.1") for n in range(250)]
        self.replayers = [Source(f"127.80.{n}.1") for n in range(8)]
        for source in (*self.strangers, *self.replayers):
            stack.enter_context(source.udp)
        self.replays: list[list[bytes]] = []
        self.sent = self.lost = 0
        self.highest = 0

    def until(self, total: int, client: Client | None = None) -> None:
        """Until the node has dealt with `total`, or the client's ping has come back."""
        turn = 0
        while self.node.done < total and not (client is not None and client.ponged()):
            turn += 1
            if turn % 4 == 0:
                self._replay()
            else:
                train, size, count = self._trains.next()
                self._noise.choice(self.strangers).send(train, size, self.node.where)
                self.sent += count
            if client is not None:
                client.pump()
            if turn % 64 == 0:
                self.highest = max(self.highest, self.node.rss())
            self._wait()

    def _replay(self) -> None:
        """Genuine messages, unchanged, from where they never came from."""
        source, fragments = self._noise.choice(self.replayers), self._noise.choice(self.replays)
        whole = self._noise.random() < 0.5
        chosen = fragments if whole else fragments[:1] * 8
        source.send(b"".join(chosen), len(chosen[0]), self.node.where)
        source.drain()
        self.sent += len(chosen)

    def _wait(self) -> None:
        while self.sent - self.lost - self.node.done >= self.node.window:
            if not self.node.caught_up(
                STALLED
            ):  # the kernel dropped some, or the last few make no full round
                self.lost = self.sent - self.node.done


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def in_touch(client: Client, patience: float = 10) -> None:
    """The client's handshake and one ping, with nothing else going on."""
    client.ping(1)
    with selectors.DefaultSelector() as selector:
        selector.register(client.udp, selectors.EVENT_READ)
        end = time.monotonic() + patience
        while not client.ponged() and time.monotonic() < end:
            client.pump()
            selector.select(0.1)
    assert client.ponged()


@pytest.mark.timeout(seconds(300))
def test_a_million_datagrams_of_strangers(stack: ExitStack) -> None:
    noise = random.Random(10**6)
    keys, *people = [MachineKeys.generate(noise.randbytes) for _ in range(5)]
    neighbour, same_24, other_24, recorded_friend = people
    node = Node(stack, keys, people)

    wire: list[bytes] = []
    first = Client(neighbour, keys, "127.70.0.1", node.where)
    stack.enter_context(first.udp)
    in_touch(first)
    for number in range(20):
        first.core.send(
            ipv6(ula(neighbour.machine_id), ula(keys.machine_id), bytes(60 * number)), boot_us(), unix_us()
        )
        wire += [datagram for datagram, _ in first.core.outgoing]
        first.pump()
    in_touch_again(first)
    assert node.ask()["taken"] == 20

    replays = message1s(recorded_friend, keys, node.where, 40)
    replays += message1s(MachineKeys.generate(noise.randbytes), keys, node.where, 20)
    replays += [[key_request(keys, node.where)] for _ in range(5)]
    flood = Flood(node, stack, noise, [*wire, *(part for whole in replays for part in whole)])
    flood.replays = replays
    before, started = node.rss(), time.monotonic()

    took = {}
    flood.until(DATAGRAMS // 4)
    for where, machine, host, end in (
        ("another /24", other_24, "127.75.0.9", DATAGRAMS // 2),
        ("the same /24", same_24, "127.80.3.9", 3 * DATAGRAMS // 4),
    ):
        client = Client(machine, keys, host, node.where)
        stack.enter_context(client.udp)
        client.ping(1)
        since = time.monotonic()
        flood.until(end, client)
        took[where] = time.monotonic() - since
        assert client.ponged(), f"no handshake from {where} while the flood went on"
        assert any(isinstance(event, Connected) for event in client.events)
        flood.until(end)
    flood.until(DATAGRAMS)

    seconds = time.monotonic() - started
    report = node.ask()
    answered = {source.udp.getsockname()[0]: source.drain() for source in flood.strangers if source.drain()}
    assert answered == {}
    for source in flood.replayers:
        assert 0 < source.drain() <= 3 * source.out
    assert report["seen"] >= DATAGRAMS
    counters = Counter(report["counters"])
    for what in ("mac1 refused", "unknown receiver index", "record refused"):
        assert counters[what] > 1000
    assert counters["handshake under load without cookie"] > 0, "the flood was never fast enough to be one"
    assert max(flood.highest, node.rss()) - before <= MEMORY
    in_touch_again(first)
    print(f"{report['seen']:,} datagrams in {seconds:.1f} s, {flood.sent - report['seen']:,} lost on the way")
    print(f"memory +{(flood.highest - before) / 2**20:.1f} MB; handshakes: {took}; {dict(counters)}")


def in_touch_again(client: Client) -> None:
    """The session from before the flood is still there."""
    client.events.clear()
    client.pump()
    in_touch(client)
    assert not any(isinstance(event, Connected) for event in client.events)
