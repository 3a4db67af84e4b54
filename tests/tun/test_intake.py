"""What the node reads from its socket: each datagram by itself, from where it came, however it came."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tun.addresses import MAPPED, packed
from tun.intake import Intake, segment_bytes
from tun.sockets import SOL_UDP, UDP_GRO, UDP_SEGMENT

Open = Callable[[str], socket.socket]
CUT = 120  # datagrams at most in one send of UDP_SEGMENT: 64 before Linux 6.9


@pytest.fixture
def bound() -> Iterator[Open]:
    with ExitStack() as stack:

        def opened(host: str) -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            if host == "::":
                udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.bind((host, 0))
            udp.setblocking(False)
            return udp

        yield opened


def intake(udp: socket.socket, joined: bool = True) -> Intake:
    udp.setsockopt(SOL_UDP, UDP_GRO, int(joined))
    return Intake(udp)


def send(udp: socket.socket, datagrams: list[bytes], port: int, host: str = "127.0.0.1") -> None:
    """In one train: all of the first one's size, but for the last, which may be shorter."""
    size = struct.pack("=H", len(datagrams[0]))
    udp.sendmsg([b"".join(datagrams)], [(SOL_UDP, UDP_SEGMENT, size)], 0, (host, port))


def port_of(udp: socket.socket) -> int:
    number: int = udp.getsockname()[1]
    return number


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("last", [1, 599, 1200])
def test_a_train_is_its_datagrams(bound: Open, joined: bool, last: int) -> None:
    here, there = bound("127.0.0.1"), bound("127.0.0.2")
    train = [*(bytes([number]) * 1200 for number in range(20)), b"l" * last]
    reader = intake(here, joined)
    send(there, train, port_of(here))
    source = (MAPPED + "127.0.0.2", port_of(there))
    assert reader.drain(100) == [(datagram, source) for datagram in train]
    assert reader.drain(100) == []


def test_trains_single_datagrams_and_empty_ones_in_the_order_of_their_coming(bound: Open) -> None:
    here, a, b = bound("127.0.0.1"), bound("127.0.0.2"), bound("127.0.0.3")
    reader, where = intake(here), ("127.0.0.1", port_of(here))
    a.sendto(b"one", where)
    send(b, [b"xx", b"yy", b"z"], where[1])
    a.sendto(b"", where)
    a.sendto(b"b" * 65507, where)
    send(a, [b"p" * 1200, b"q" * 1200], where[1])
    from_a, from_b = (MAPPED + "127.0.0.2", port_of(a)), (MAPPED + "127.0.0.3", port_of(b))
    assert reader.drain(100) == [
        (b"one", from_a),
        (b"xx", from_b),
        (b"yy", from_b),
        (b"z", from_b),
        (b"", from_a),
        (b"b" * 65507, from_a),
        (b"p" * 1200, from_a),
        (b"q" * 1200, from_a),
    ]


def test_what_was_read_stays_as_it_was_when_more_is_read(bound: Open) -> None:
    here, there = bound("127.0.0.1"), bound("127.0.0.2")
    reader, where = intake(here), ("127.0.0.1", port_of(here))
    there.sendto(b"first", where)
    [(first, _)] = reader.drain(1)
    there.sendto(b"other", where)
    reader.drain(1)
    assert first == b"first"


@pytest.mark.parametrize("joined", [True, False])
def test_no_flood_is_read_for_longer_than_the_limit_and_a_train(bound: Open, joined: bool) -> None:
    here, there = bound("127.0.0.1"), bound("127.0.0.2")
    reader = intake(here, joined)
    for _ in range(4):
        send(there, [b"x" * 8] * 60, port_of(here))
    taken = []
    while batch := reader.drain(50):
        taken.append(len(batch))
    assert sum(taken) == 240
    assert max(taken) < 50 + CUT


def test_an_icmp_error_is_passed_over_and_what_came_besides_is_read(bound: Open) -> None:
    here, there, gone = bound("127.0.0.1"), bound("127.0.0.2"), bound("127.0.0.3")
    nowhere = gone.getsockname()
    gone.close()
    reader = intake(here)
    here.connect(nowhere)
    here.send(b"x")  # the kernel says that nobody is there, at the next call on this socket
    here.connect(("127.0.0.2", port_of(there)))
    there.sendto(b"real", here.getsockname())
    assert reader.drain(10) == [(b"real", (MAPPED + "127.0.0.2", port_of(there)))]


def test_both_families_of_a_dual_stack_socket(bound: Open) -> None:
    here, v4, v6 = bound("::"), bound("127.0.0.2"), bound("::1")
    reader = intake(here)
    v4.sendto(b"four", ("127.0.0.1", port_of(here)))
    v6.sendto(b"six", ("::1", port_of(here)))
    (four, from4), (six, from6) = reader.drain(10)
    assert (four, from4) == (b"four", (MAPPED + "127.0.0.2", port_of(v4)))
    assert (six, from6) == (b"six", ("::1", port_of(v6)))
    assert packed(from4) == bytes([127, 0, 0, 2]) + port_of(v4).to_bytes(2, "big")


class LinkLocal:
    """A socket's answer from a link-local source, which loopback has not: as the kernel gives it."""

    def __init__(self, where: tuple[str, int, int, int]) -> None:
        self._answers = [where]

    def recvmsg_into(
        self, buffers: tuple[memoryview], _ancillary: int
    ) -> tuple[int, list[tuple[int, int, bytes]], int, tuple[str, int, int, int]]:
        if not self._answers:
            raise BlockingIOError
        buffers[0][:2] = b"hi"
        return 2, [], 0, self._answers.pop()


@pytest.mark.parametrize("host", ["fe80::1", "fe80::1%7"])
def test_a_link_local_source_keeps_its_link(host: str) -> None:
    reader = Intake(LinkLocal((host, 51777, 0, 7)))  # type: ignore[arg-type]
    assert reader.drain(5) == [(b"hi", ("fe80::1%7", 51777))]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=12))))
def test_other_control_messages_are_passed_over(others: list[tuple[int, int, bytes]]) -> None:
    others = [each for each in others if each[:2] != (SOL_UDP, UDP_GRO)]
    assert segment_bytes(others) == 0
    assert segment_bytes([*others, (SOL_UDP, UDP_GRO, struct.pack("=i", 1200))]) == 1200
    assert segment_bytes([(SOL_UDP, UDP_GRO, b"\1\2"), *others]) == 0, "a truncated one"
