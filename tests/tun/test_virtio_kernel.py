"""tun/virtio.py against the kernel: what `check` accepts it takes, and `complete` does what it does.

A namespace routes between two TUNs. Super-packets are written to one with IFF_VNET_HDR and read, as segments,
from one without: the same bytes that `complete` gives, but for a hop less. And what its own TCP and UDP send
through a TUN with offloads is what `headers_end` and `check` take for sound.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.tun.test_virtio_fuzz import mutate, shape
from tests.virtio_packets import ACK, CWR, FIN, PSH, SYN, TCP, UDP, Shape, folded
from tests.virtio_spec import examine
from tun.virtio import check, complete, headers_end, mend

ROOT = Path(__file__).resolve().parents[2]
# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CSUM_TSO, USO = 0x07, 0x60
SOL_UDP, UDP_SEGMENT = 17, 103


class Tun:
    def __init__(self, stack: ExitStack, name: str, number: int, flags: int = 0) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, self.fd)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | flags))
        for command in (
            f"link set {name} mtu 65535 up",
            f"address add 10.{number}.0.1/16 dev {name}",
            f"address add fd0{number}::1/64 dev {name} nodad",
        ):
            subprocess.run(["ip", *command.split()], check=True)

    def read(self, destination: bytes, skip: int = 0, wait: float = 10) -> bytes:
        """The next packet to that address (what the kernel says by itself is left out), with its header."""
        stop = time.monotonic() + wait
        while select.select([self.fd], [], [], max(0, stop - time.monotonic()))[0]:
            data = os.read(self.fd, 70000)
            packet = data[skip:]
            if destination == (packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]):
                return data
        raise AssertionError("nothing came")


def routed(stack: ExitStack) -> tuple[Tun, Tun]:
    """The TUN to write to, with virtio_net_hdr, and the one to read from, without any offload."""
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{name}", "w") as file:
            file.write("1")
    return Tun(stack, "in", 1, IFF_VNET_HDR), Tun(stack, "out", 2)


def one_hop_less(packet: bytes) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    header = (packet[0] & 15) * 4
    bare = packet[:8] + bytes([packet[8] - 1]) + packet[9:10] + b"\0\0" + packet[12:header]
    return bare[:10] + struct.pack("!H", folded(bare) ^ 0xFFFF) + bare[12:] + packet[header:]


def same_zero(packet: bytes) -> bytes:
    """TCP's checksum may be 0 or 65535, which is the same number; the kernel writes the one or the other."""
    at = (packet[0] & 15) * 4 + 16 if packet[0] >> 4 == 4 else 56
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    if protocol == TCP and packet[at : at + 2] == b"\0\0":
        return packet[:at] + b"\xff\xff" + packet[at + 2 :]
    return packet


def of_the_kernel(source: Tun, sink: Tun, data: bytes, count: int) -> list[bytes]:
    assert os.write(source.fd, data) == len(data)
    destination = data[26:30] if data[10] >> 4 == 4 else data[34:50]
    return [same_zero(sink.read(destination)) for _ in range(count)]


def scenario_complete_is_what_the_kernel_does() -> None:
    chance = random.Random(1)
    with ExitStack() as stack:
        source, sink = routed(stack)
        for version in (4, 6):
            for protocol in (TCP, UDP):
                for turn in range(60):
                    gso = chance.choice((0, 1, 7, 100, 999, 1400))
                    segments = chance.randint(2, min(64, 60000 // max(1, gso)))
                    size = gso * (segments - 1) + chance.randint(1, gso) if gso else chance.randint(0, 3000)
                    made = Shape(
                        version,
                        protocol,
                        chance.randbytes(size),
                        gso,
                        options=b"\1\1\1\1" * chance.choice((0, 3, 10)),
                        flags=ACK | chance.choice((0, FIN, PSH, CWR, FIN | PSH | CWR)),
                        sequence=chance.choice((1, 2**32 - 500, chance.getrandbits(32))),
                        ident=chance.choice((1, 0xFFF8)),
                        fragment=chance.choice((0, 0x4000)),
                    )
                    data = bytearray(made.build())
                    assert check(data, 0, len(data))
                    ours = complete(data, 0, len(data))
                    assert ours == made.cut()
                    expected = [same_zero(one_hop_less(packet)) for packet in ours]
                    assert of_the_kernel(source, sink, bytes(data), len(ours)) == expected, (turn, made)
                    if gso:
                        mended_parts(source, sink, data, made, expected, chance)


def mended_parts(
    source: Tun, sink: Tun, whole: bytearray, made: Shape, expected: list[bytes], chance: random.Random
) -> None:
    """Any part of it, mended, becomes the same segments."""
    total, begin = made.segments, 10 + made.headers
    for _ in range(3):
        first = chance.randrange(total)
        count = chance.randint(1, total - first)
        part = whole[:begin] + whole[begin + first * made.gso : begin + (first + count) * made.gso]
        assert mend(part, 0, first, count, total, len(part))
        assert check(part, 0, len(part))
        assert of_the_kernel(source, sink, bytes(part), count) == expected[first : first + count]


def scenario_what_passes_the_kernel_takes() -> None:
    """No EINVAL, and the kernel lives on, for whatever of the fuzzer's packets `check` accepts."""
    taken = 0
    with ExitStack() as stack:
        source, sink = routed(stack)
        for number in range(20_000):
            chance = random.Random(f"kernel {number}")
            made = shape(chance)
            data = bytearray(made.build(partial=chance.random() < 0.9))
            for _ in range(chance.choice((0, 1, 2, 3))):
                mutate(chance, data, made)
            if check(data, 0, len(data)):
                taken += 1
                assert os.write(source.fd, data) == len(data), data.hex()
                while select.select([sink.fd], [], [], 0)[0]:
                    os.read(sink.fd, 70000)
        sound = Shape(payload=b"still there").build()
        assert of_the_kernel(source, sink, sound, 1)
    assert taken > 2000


def scenario_what_our_kernel_gives_is_sound() -> None:
    with ExitStack() as stack:
        tun = Tun(stack, "out", 2, IFF_VNET_HDR)
        try:
            fcntl.ioctl(tun.fd, TUNSETOFFLOAD, CSUM_TSO | USO)
            uso = True
        except OSError:  # before Linux 6.2
            fcntl.ioctl(tun.fd, TUNSETOFFLOAD, CSUM_TSO)
            uso = False
        for far in ("10.2.0.9", "fd02::9"):
            udp_from_here(stack, tun, far, uso)
            tcp_from_here(stack, tun, far)


def sound(data: bytes, headers: int) -> list[bytes]:
    """Its segments, if it is a super-packet with so many bytes of headers that a peer could be sent."""
    buffer = bytearray(data)
    assert headers_end(buffer, 0, len(buffer)) == headers
    assert check(buffer, 0, len(buffer))
    examine(bytes(buffer))
    return complete(buffer, 0, len(buffer))


def udp_from_here(stack: ExitStack, tun: Tun, far: str, uso: bool) -> None:
    here = stack.enter_context(
        socket.socket(socket.AF_INET6 if ":" in far else socket.AF_INET, socket.SOCK_DGRAM)
    )
    here.connect((far, 6000))
    payload = bytes(range(256)) * 20
    here.send(payload[:100])
    small = bytearray(tun.read(ip_address(far).packed, skip=10))
    assert small[0] == 1
    assert check(small, 0, len(small))
    examine(bytes(small))
    if not uso:
        return
    here.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    here.send(payload)
    ip_header = 40 if ":" in far else 20
    segments = sound(tun.read(ip_address(far).packed, skip=10), ip_header + 8)
    assert len(segments) == 6
    assert b"".join(segment[ip_header + 8 :] for segment in segments) == payload


def tcp_from_here(stack: ExitStack, tun: Tun, far: str) -> None:
    """Connects to a host that is only this test: it answers the SYN by hand and gets super-packets."""
    here = stack.enter_context(
        socket.socket(socket.AF_INET6 if ":" in far else socket.AF_INET, socket.SOCK_STREAM)
    )
    here.setblocking(False)
    here.connect_ex((far, 6000))
    address, ip_header = ip_address(far).packed, 40 if ":" in far else 20
    syn = tun.read(address, skip=10)[10:]
    port, _, sequence = struct.unpack_from("!HHI", syn, ip_header)
    answer = Shape(6 if ":" in far else 4, TCP, options=b"\2\4\3\xe8", flags=SYN | ACK)  # MSS 1000
    packet = bytearray(answer.build())
    at = 10 + ip_header
    struct.pack_into("!HHIIBBH", packet, at, 6000, port, 1, sequence + 1, 6 << 4, SYN | ACK, 60000)
    if ip_header == 20:
        packet[22:30] = address + ip_address("10.2.0.1").packed
        packet[20:22] = b"\0\0"
        packet[20:22] = struct.pack("!H", folded(bytes(packet[10:30])) ^ 0xFFFF)
    else:
        packet[18:50] = address + ip_address("fd02::1").packed
    assert check(packet, 0, len(packet))
    os.write(tun.fd, packet)
    select.select([], [here], [], 10)
    payload = bytes(range(256)) * 30
    here.send(payload)
    got, cut = b"", 0
    while len(got) < len(payload):
        data = tun.read(address, skip=10)
        if data[1]:
            segments = sound(data, ip_header + 20)
            assert len(segments) > 1
            cut += 1
        else:
            segments = complete(bytearray(data), 0, len(data))
        got += b"".join(segment[ip_header + 20 :] for segment in segments)
    assert got == payload
    assert cut


@pytest.mark.parametrize(
    "scenario",
    [
        scenario_complete_is_what_the_kernel_does,
        scenario_what_passes_the_kernel_takes,
        scenario_what_our_kernel_gives_is_sound,
    ],
)
def test_with_the_kernel(scenario: Callable[[], object]) -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare(1)")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/net/tun, readable and writable")
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode:
        pytest.skip(f"`unshare {flags}` is not allowed here")
    result = subprocess.run(
        ["unshare", flags, sys.executable, "-Werror", __file__, scenario.__name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr


if __name__ == "__main__":
    globals()[sys.argv[1]]()
