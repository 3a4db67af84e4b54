"""What the kernel answers when it does not want to: to sends, and to writes to the TUN."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.planes import NOW, REMOTE, FakeTun, FakeUdp, Side
from tests.virtio_packets import Shape
from tun.seam import TooBig

SUPER = Shape(version=6, options=b"\1" * 12, payload=bytes(10 * 1000), gso=1000).build()
ROOM = 1452
DATAGRAMS = 10


class Unwilling(FakeUdp):
    """A socket whose trains or single datagrams fail with an error of the system; counts the attempts."""

    def __init__(self, train: int = 0, single: int = 0) -> None:
        super().__init__()
        self.train, self.single = train, single
        self.trains = self.singles = 0

    def sendmsg(self, buffers: Any, control: Any, flags: int, to: Any) -> int:
        self.trains += 1
        if self.train:
            raise OSError(self.train, os.strerror(self.train))
        return super().sendmsg(buffers, control, flags, to)

    def sendto(self, data: bytes | memoryview, to: Any) -> int:
        self.singles += 1
        if self.single:
            raise OSError(self.single, os.strerror(self.single))
        return super().sendto(data, to)

    def send_many(self, train: bytes | memoryview, size: int, to: Any) -> int:
        if self.single:
            self.singles += 1
            raise OSError(self.single, os.strerror(self.single))
        sent = super().send_many(train, size, to)
        self.singles += sent
        return sent


def sending(udp: Unwilling) -> Side:
    side = Side("segments")
    side.use(udp)
    side.session(True, REMOTE)
    return side


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS])
def test_a_full_socket_drops_the_train_and_is_not_asked_again(error: int) -> None:
    udp = Unwilling(train=error)
    side = sending(udp)
    side.seal([SUPER], 0, ROOM)
    assert (udp.trains, udp.singles) == (1, 0)
    assert side.plane.counters == {"datagram dropped, socket full": 1}


def test_a_card_without_checksums_gets_no_trains_any_more() -> None:
    udp = Unwilling(train=errno.EIO)
    side = sending(udp)
    first = list(side.seal([SUPER], 0, ROOM))
    second = list(side.seal([SUPER], 100, ROOM))
    assert (udp.trains, udp.singles) == (1, 2 * DATAGRAMS)
    assert len(first) == len(second) == DATAGRAMS
    assert not side.plane.counters


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EMSGSIZE])
def test_a_train_that_is_larger_than_the_mtu_is_sent_singly_and_the_next_one_tried(error: int) -> None:
    udp = Unwilling(train=error)
    side = sending(udp)
    side.seal([SUPER], 0, ROOM)
    side.seal([SUPER], 100, ROOM)
    assert (udp.trains, udp.singles) == (2, 2 * DATAGRAMS)


def test_a_datagram_that_is_too_big_is_told_once_a_wake_up() -> None:
    udp = Unwilling(train=errno.EMSGSIZE, single=errno.EMSGSIZE)
    side = sending(udp)
    side.seal([SUPER], 0, ROOM)
    assert side.plane.upward == [TooBig("fd00::2", 4000)]
    assert side.plane.counters == {"datagram not sent: EMSGSIZE": DATAGRAMS}


@pytest.mark.parametrize("error", [errno.ENETUNREACH, errno.EPERM, errno.ECONNREFUSED])
def test_what_the_network_refuses_is_counted(error: int) -> None:
    side = sending(Unwilling(train=error))
    side.seal([SUPER], 0, ROOM)
    assert side.plane.counters == {f"datagram not sent: {errno.errorcode[error]}": 1}


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS])
def test_a_full_socket_drops_what_goes_singly_and_is_not_asked_again(error: int) -> None:
    udp = Unwilling(train=errno.EINVAL, single=error)
    side = sending(udp)
    side.seal([SUPER], 0, ROOM)
    assert (udp.trains, udp.singles) == (1, 1)
    assert side.plane.counters == {"datagram dropped, socket full": DATAGRAMS}


class Halting(FakeUdp):
    """Takes some datagrams of a train, then fails once, then takes the rest."""

    def __init__(self, taken: int, error: int) -> None:
        super().__init__()
        self.at_once, self.error = taken, error
        self.calls = 0

    def send_many(self, train: bytes | memoryview, size: int, to: Any) -> int:
        self.calls += 1
        if self.calls == 2:
            raise OSError(self.error, os.strerror(self.error))
        return super().send_many(train, size, to)


def halting(taken: int, error: int) -> tuple[list[bytes], list[bytes], Side]:
    """All datagrams of a train, those that such a socket sent, and who sent them."""
    found: list[Side] = []
    for udp in (FakeUdp(), Halting(taken, error)):
        side = Side("segments")
        side.use(udp)
        side.plane.sender._trains = False
        side.session(True, REMOTE)
        side.seal([SUPER], 0, ROOM)
        found.append(side)
    whole, halted = found
    assert len(whole.udp.sent) == DATAGRAMS
    return whole.udp.sent, halted.udp.sent, halted


@pytest.mark.parametrize("taken", [1, 3, 8])
def test_a_datagram_that_is_refused_costs_itself(taken: int) -> None:
    whole, sent, side = halting(taken, errno.EPERM)
    assert sent == whole[:taken] + whole[taken + 1 :]
    assert side.plane.counters == {"datagram not sent: EPERM": 1}


@pytest.mark.parametrize("taken", [1, 3, 8])
def test_what_a_socket_that_is_full_did_not_take_is_counted(taken: int) -> None:
    whole, sent, side = halting(taken, errno.EAGAIN)
    assert sent == whole[:taken]
    assert side.plane.counters == {"datagram dropped, socket full": DATAGRAMS - taken}


# ---------------------------------------------------------------------- the TUN


class UnwillingTun(FakeTun):
    def __init__(self, answer: Callable[[], int | None]) -> None:
        super().__init__()
        self.answer = answer

    def write(self, data: memoryview | bytes) -> int | None:  # type: ignore[override]
        return self.answer()


def failing(error: int) -> Callable[[], int | None]:
    def fail() -> int | None:
        raise OSError(error, os.strerror(error))

    return fail


def receiving(answer: Callable[[], int | None]) -> tuple[Side, list[bytes]]:
    """A side with that TUN, and the datagrams of a packet for it."""
    sender, receiver = Side("segments"), Side()
    receiver.take(UnwillingTun(answer))
    receiver.session(False, 0)
    sender.session(True, receiver.index)
    return receiver, list(sender.seal([SUPER], 0, ROOM))


def test_a_full_tun_drops_and_counts() -> None:
    receiver, datagrams = receiving(lambda: None)
    receiver.unseal([[each] for each in datagrams])
    assert receiver.plane.counters == {"packet dropped, TUN full": DATAGRAMS}


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.ENOMEM])
def test_an_interface_that_is_down_or_refuses_costs_the_packet(error: int) -> None:
    receiver, datagrams = receiving(failing(error))
    receiver.unseal([[each] for each in datagrams])
    assert receiver.plane.counters == {"packet refused by the TUN": DATAGRAMS}


def test_a_tun_that_is_gone_ends_the_worker() -> None:
    receiver, datagrams = receiving(failing(errno.EBADFD))
    with pytest.raises(OSError, match=os.strerror(errno.EBADFD)):
        receiver.unseal([[each] for each in datagrams])


# ---------------------------------------------------------------------- without a session


def test_a_flood_to_a_peer_that_is_away_is_handed_up_in_small_numbers() -> None:
    side = Side()
    read = Shape(version=6, payload=b"anybody?").build()
    for _ in range(1_000):
        side.tun.waiting.append(read)
    for _ in range(20):
        side.plane.transmit(NOW)
    assert len(side.plane.unsent) == 128
    assert side.plane.counters == {"packet dropped, no session": 1_000 - 128}
    side.tun.waiting.append(read)
    side.plane.transmit(NOW + 100_000)
    assert len(side.plane.unsent) == 129
