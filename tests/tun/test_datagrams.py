"""Many datagrams with one system call, on real sockets: as they were sent, and what cannot join set apart."""

from __future__ import annotations

import errno
import platform
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tun.addresses import Target
from tun.datagrams import Datagrams, Train, _sockaddr, _source
from tun.flow import Source
from tun.layout import RECEIVED_BYTES
from tun.sockets import SOL_UDP, UDP_GRO, UDP_SEGMENT, open_socket

SIZE = 1200
SECONDS = 10.0


@dataclass
class Wire:
    """`far` sends to `near`, which receives; `other` is somebody else."""

    near: socket.socket
    far: socket.socket
    other: socket.socket
    to: Target

    def __post_init__(self) -> None:
        self.into = bytearray(RECEIVED_BYTES)
        self.sender, self.receiver = Datagrams(self.far), Datagrams(self.near)

    def first(self) -> Source:
        """Receive one datagram at the beginning; where it came from."""
        select.select([self.near], [], [], SECONDS)
        _, _, _, source = self.receiver.recvmsg_into([memoryview(self.into)], 64)
        return source  # type: ignore[no-any-return]

    def more(self, source: Source, count: int = 60, at: int = SIZE) -> tuple[int, list[Train], bool]:
        return self.receiver.receive_more(self.into, at, SIZE, count, source)


@pytest.fixture(params=["127.0.0.1", "::1", "mapped"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """IPv4, IPv6, and IPv4 through dual-stack sockets, as a node has it."""
    host = "::" if request.param == "mapped" else request.param
    with ExitStack() as stack:
        near, far, other = (stack.enter_context(open_socket(host, 0)) for _ in range(3))
        port = near.getsockname()[1]
        yield Wire(near, far, other, ("::ffff:127.0.0.1" if host == "::" else host, port))


def datagrams(count: int, last: int = SIZE) -> list[bytes]:
    return [bytes([number]) * (last if number == count - 1 else SIZE) for number in range(count)]


@pytest.mark.parametrize("last", [SIZE, 1, SIZE - 1])
def test_a_train_arrives_as_its_datagrams(wire: Wire, last: int) -> None:
    sent = datagrams(40, last)
    assert wire.sender.send_many(b"".join(sent), SIZE, wire.to) == 40
    assert [wire.near.recv(2_000) for _ in sent] == sent
    with pytest.raises(BlockingIOError):
        wire.near.recv(2_000)


def test_trains_of_other_sizes_and_to_others_in_turn(wire: Wire) -> None:
    elsewhere = (wire.to[0], wire.other.getsockname()[1])
    for size in (1452, 120, 1452, 9_000):
        for target, receiver in ((wire.to, wire.near), (elsewhere, wire.other)):
            train = memoryview(bytes(range(256)) * 100)[: 2 * size + 7]
            assert wire.sender.send_many(train, size, target) == 3
            assert b"".join(receiver.recv(10_000) for _ in range(3)) == train


def test_what_is_too_long_for_one_call_takes_another(wire: Wire) -> None:
    train = b"".join(datagrams(100))
    sent = wire.sender.send_many(train, SIZE, wire.to)
    assert sent == 64
    assert wire.sender.send_many(train[sent * SIZE :], SIZE, wire.to) == 36
    assert b"".join(wire.near.recv(2_000) for _ in range(100)) == train


def test_the_system_s_refusal_is_an_error(wire: Wire) -> None:
    with pytest.raises(OSError) as caught:
        wire.sender.send_many(bytes(2 * 65_528), 65_528, wire.to)
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("last", [SIZE, 17])
def test_what_waits_is_received_in_place(wire: Wire, last: int) -> None:
    sent = datagrams(30, last)
    wire.sender.send_many(b"".join(sent), SIZE, wire.to)
    end, others, more = wire.more(wire.first())
    assert (end, others, more) == (29 * SIZE + last, [], False)
    assert wire.into[:end] == b"".join(sent)


def test_no_more_than_was_asked_for(wire: Wire) -> None:
    sent = datagrams(30)
    wire.sender.send_many(b"".join(sent), SIZE, wire.to)
    source = wire.first()
    assert wire.more(source, 9) == (10 * SIZE, [], True)
    assert wire.more(source, 60, 10 * SIZE) == (30 * SIZE, [], False)
    assert wire.into[: 30 * SIZE] == b"".join(sent)
    assert wire.more(source) == (SIZE, [], False)


def test_what_cannot_join_is_given_back_whole(wire: Wire) -> None:
    """A larger one, one from elsewhere, and all that follows."""
    for sender, datagram in (
        (wire.far, bytes(SIZE)),
        (wire.far, b"1" * SIZE),
        (wire.far, b"2" * (SIZE + 1)),
        (wire.other, b"3" * SIZE),
        (wire.far, b"4" * 60_000),
        (wire.far, b""),
        (wire.far, b"5" * SIZE),
    ):
        sender.sendto(datagram, wire.to)
    source = wire.first()
    end, others, _ = wire.more(source)
    assert wire.into[SIZE:end] == b"1" * SIZE
    assert [datagram for datagram, _, _ in others] == [
        b"2" * (SIZE + 1),
        b"3" * SIZE,
        b"4" * 60_000,
        b"",
        b"5" * SIZE,
    ]
    assert all(size == len(datagram) for datagram, size, _ in others)
    assert [where == source for _, _, where in others] == [True, False, True, True, True]
    assert others[1][2][1] == wire.other.getsockname()[1]


def test_nothing_joins_behind_a_shorter_one(wire: Wire) -> None:
    for datagram in (bytes(SIZE), b"1" * 90, b"2" * SIZE):
        wire.far.sendto(datagram, wire.to)
    end, others, _ = wire.more(wire.first())
    assert (end, [each[0] for each in others]) == (SIZE + 90, [b"2" * SIZE])


def test_a_train_that_gro_joined_says_its_size(wire: Wire) -> None:
    wire.near.setsockopt(SOL_UDP, UDP_GRO, 1)
    wire.far.sendto(bytes(SIZE), wire.to)
    train = b"".join(datagrams(20, 99))
    for _ in range(2):  # the second time over what the kernel has written
        wire.far.sendmsg([train], [(SOL_UDP, UDP_SEGMENT, SIZE.to_bytes(2, sys.byteorder))], 0, wire.to)
    source = wire.first()
    end, others, _ = wire.more(source)
    assert (end, others) == (SIZE, [(train, SIZE, source)] * 2)


def test_an_icmp_error_costs_one_datagram_and_one_look() -> None:
    with open_socket("127.0.0.1", 0) as near, open_socket("127.0.0.1", 0) as far:
        near.connect(far.getsockname())
        both, train, into = Datagrams(near), b"".join(datagrams(3)), bytearray(RECEIVED_BYTES)
        source, to = near.getsockname(), far.getsockname()
        far.close()
        assert near.send(b"to nobody") == 9  # on loopback the answer is there at once
        with pytest.raises(ConnectionRefusedError):
            both.send_many(train, SIZE, to)
        assert both.send_many(train[:SIZE], SIZE, to) == 1
        assert both.receive_more(into, SIZE, SIZE, 60, to) == (SIZE, [], False)
        with open_socket("127.0.0.1", to[1]) as again:
            again.sendto(train[:SIZE], source)
            assert both.receive_more(into, SIZE, SIZE, 60, to) == (2 * SIZE, [], False)


@pytest.mark.parametrize(
    "where", [("fe80::1", 4000, 0, 3), ("2001:db8::7", 65_535, 0xABCDE, 0), ("::ffff:192.0.2.1", 1, 0, 0)]
)
def test_addresses_as_recvmsg_gives_them(where: tuple[str, int, int, int]) -> None:
    assert _source(_sockaddr(socket.AF_INET6, where)) == where


def test_addresses_without_flow_and_link() -> None:
    assert _sockaddr(socket.AF_INET6, ("2001:db8::7", 4000)) == _sockaddr(
        socket.AF_INET6, ("2001:db8::7", 4000, 0, 0)
    )
    assert _source(_sockaddr(socket.AF_INET, ("192.0.2.1", 4000))) == ("192.0.2.1", 4000)


def test_a_link_that_is_named_is_looked_up_each_time() -> None:
    """One of that name may come again under another number."""
    with open_socket("::", 0) as far:
        sender, train = Datagrams(far), b"".join(datagrams(3))
        assert sender.send_many(train, SIZE, ("fe80::1%lo", 4000)) == 1
        with pytest.raises(socket.gaierror):
            sender.send_many(train, SIZE, ("fe80::1%nothing", 4000))


# ---------------------------------------------------------------------- a system without these calls

FORBIDDEN = """
import ctypes, errno, socket, struct, sys
from tun.datagrams import Datagrams
from tun.sockets import open_socket

REFUSED = {"x86_64": (299, 307), "aarch64": (243, 269)}[sys.argv[1]]  # recvmmsg, sendmmsg
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD, JUMP_EQUAL, RETURN, ALLOW, ERRNO = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
lines = [(LOAD, 0, 0, 0), *((JUMP_EQUAL, 2 - i, 0, number) for i, number in enumerate(REFUSED)),
    (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | int(sys.argv[2]))]
memory = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
program = struct.pack("@HP", len(lines), ctypes.addressof(memory))
if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, program, 0, 0):
    sys.exit(77)

with open_socket("127.0.0.1", 0) as near, open_socket("127.0.0.1", 0) as far:
    sender, receiver = Datagrams(far), Datagrams(near)
    assert not sender.many
    train, at = bytes(range(250)) * 10, 0
    while at < len(train):
        at += 1000 * sender.send_many(train[at:], 1000, near.getsockname())
    assert b"".join(near.recv(2000) for _ in range(3)) == train
    sender.send_many(train, 1000, near.getsockname())
    assert receiver.receive_more(bytearray(1 << 17), 1000, 1000, 60, far.getsockname()) == (1000, [], True)
    assert near.recv(2000) == train[:1000]
"""


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_a_system_without_these_calls(error: int) -> None:
    argv = [sys.executable, "-W", "error", "-c", FORBIDDEN, platform.machine(), str(error)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode == 77:
        pytest.skip("this system lets no program confine itself with seccomp")
    assert (done.returncode, done.stderr) == (0, "")
