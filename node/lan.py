"""Nodes of one local network find each other: one asks a multicast group, each of the others answers it once.

    0        4      5      7       15
    ├ "zql1" ┼ kind ┼ port ┼ tag 8 ┤       UDP, port 51778 of 239.255.122.101 and ff15::7a65, one hop wide

    kind 1, to the group     my node is at UDP `port`; which others are there?   tag: random, of this start
    kind 2, to who asked     mine is at `port`                                   tag: the asker's

Nothing more is said: a machine_id would tell every café who is there. What is heard is only a place to begin
with (dht/overlay.py): who answers there proves itself by its answers, or is left.

Asking goes through a socket of its own, so that an answer comes to the one that asked, and counts only with
its tag. The group's socket is bound to the group's address: what is sent to this machine alone misses it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from typing import Final, TypeAlias

import trio

from node.logs import Log
from tun.addresses import Address, of_source

PORT: Final = 51778
GROUPS: Final = {socket.AF_INET: "239.255.122.101", socket.AF_INET6: "ff15::7a65"}
QUESTION, ANSWER = 1, 2
ASK_AGAIN_SECONDS: Final = 600.0
ASK_AT_MOST_SECONDS: Final = 10.0
ANSWER_AGAIN_SECONDS: Final = 60.0  # one asker
ANSWERED_MAX: Final = 256  # askers remembered; while all of them are new, nobody else is answered
BELIEVED_MAX: Final = 32  # answers to one question
TAG_BYTES: Final = 8

_WORD: Final = struct.Struct(f">4sBH{TAG_BYTES}s")
_MAGIC: Final = b"zql1"
_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_UP, _LOOPBACK, _MULTICAST = 0x1, 0x8, 0x1000  # linux/if.h
_ERROR_SECONDS: Final = 1.0
# ip(7), ipv6(7): struct ip_mreqn and struct ipv6_mreq behind the group's address
_JOIN: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP),
}

Source: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
_Pair: TypeAlias = tuple[trio.socket.SocketType, trio.socket.SocketType]  # bound to the group, for asking

log = Log("lan")


class Manners:
    """What is asked, answered and believed, and how often. Pure: times are seconds of any one clock."""

    def __init__(self, tag: bytes, port: int) -> None:
        self._tag = tag
        self._port = port
        self._asked = float("-inf")
        self._believed = 0
        self._answered: OrderedDict[str, float] = OrderedDict()  # asker's host -> when

    def question(self, now: float) -> bytes | None:
        """To be sent to the group on every link; None where the last was a moment ago."""
        if now - self._asked < ASK_AT_MOST_SECONDS:
            return None
        self._asked, self._believed = now, 0
        return _WORD.pack(_MAGIC, QUESTION, self._port, self._tag)

    def to_question(self, datagram: bytes, host: str, now: float) -> tuple[int | None, bytes | None]:
        """Of what came to the group: the other node's UDP port, and our answer; None where it gets none."""
        kind, port, tag = _read(datagram)
        if kind != QUESTION or tag == self._tag:
            return None, None
        while self._answered and now - next(iter(self._answered.values())) >= ANSWER_AGAIN_SECONDS:
            self._answered.popitem(last=False)
        if host in self._answered or len(self._answered) >= ANSWERED_MAX:
            return None, None
        self._answered[host] = now
        return port, _WORD.pack(_MAGIC, ANSWER, self._port, tag)

    def to_answer(self, datagram: bytes, now: float) -> int | None:
        """The port of a node that answers a question which we asked a moment ago."""
        kind, port, tag = _read(datagram)
        if kind != ANSWER or tag != self._tag or now - self._asked >= ASK_AT_MOST_SECONDS:
            return None
        self._believed += 1
        return port if self._believed <= BELIEVED_MAX else None


def _read(datagram: bytes) -> tuple[int, int, bytes]:
    """(kind, port, tag); kind 0 for what is none of ours."""
    if len(datagram) != _WORD.size:
        return 0, 0, b""
    magic, kind, port, tag = _WORD.unpack(datagram)
    return (kind, port, tag) if magic == _MAGIC and port else (0, 0, b"")


class Lan:
    """`found(address)` gets where another node is, each time that one shows itself.

    port: this node's UDP port. without: names of interfaces that are not asked on, as our TUN."""

    def __init__(
        self, port: int, without: Collection[str], found: Callable[[Address], None], *, loopback: bool = False
    ) -> None:
        self._manners = Manners(os.urandom(TAG_BYTES), port)
        self._without = without
        self._found = found
        self._loopback = loopback
        self._changed = trio.Event()

    def network_changed(self) -> None:
        """There may be other links and neighbours now: ask again."""
        self._changed.set()

    async def run(self) -> None:
        """For ever; a machine without one family, or without any network, does without it."""
        with ExitStack() as opened:
            pairs = [pair for family in GROUPS if (pair := _open(family, opened)) is not None]
            async with trio.open_nursery() as nursery:
                for group, asking in pairs:
                    nursery.start_soon(self._hear_questions, group, asking)
                    nursery.start_soon(self._hear_answers, asking)
                while True:
                    self._changed = trio.Event()
                    await self._ask(pairs)
                    with trio.move_on_after(ASK_AGAIN_SECONDS):
                        await self._changed.wait()
                    await trio.sleep(
                        ASK_AT_MOST_SECONDS
                    )  # a network that comes and goes is asked now and then

    async def _ask(self, pairs: list[_Pair]) -> None:
        question = self._manners.question(trio.current_time())
        if question is None:
            return
        for link in links(self._without, loopback=self._loopback):
            for group, asking in pairs:
                with suppress(OSError):  # no address of this family there, or a link without multicast
                    _join(group, link)
                    await _send(asking, question, link)

    async def _hear_questions(self, group: trio.socket.SocketType, asking: trio.socket.SocketType) -> None:
        while True:
            datagram, source = await _receive(group)
            port, answer = self._manners.to_question(datagram, source[0], trio.current_time())
            if port is not None:
                self._tell(source, port)
            if answer is not None:
                with suppress(OSError):
                    await asking.sendto(answer, source)

    async def _hear_answers(self, asking: trio.socket.SocketType) -> None:
        while True:
            datagram, source = await _receive(asking)
            port = self._manners.to_answer(datagram, trio.current_time())
            if port is not None:
                self._tell(source, port)

    def _tell(self, source: Source, port: int) -> None:
        host, _ = of_source(source)
        log.debug("a node in the local network", host=host, port=port)
        self._found((host, port))


def links(without: Collection[str], *, loopback: bool = False) -> list[int]:
    """Indexes of the interfaces that are up and know multicast."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for index, name in socket.if_nameindex():
            request = struct.pack("16sH14x", name.encode(), 0)
            try:
                answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            except OSError:
                continue  # gone since
            (flags,) = struct.unpack_from("H", answer, 16)
            wanted = flags & _UP and (loopback if flags & _LOOPBACK else flags & _MULTICAST)
            if wanted and name not in without:
                found.append(index)
    return found


def _open(family: socket.AddressFamily, opened: ExitStack) -> _Pair | None:
    """None where this machine lacks the family, or denies it."""
    group, asking = (opened.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2))
    try:
        for each in (group, asking):
            each.setblocking(False)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # other nodes of this machine hear it too
        group.bind((GROUPS[family], PORT))
        asking.bind(("", 0))
    except OSError as error:
        log.debug("no multicast here", family=family.name, error=error)
        return None
    return trio.socket.from_stdlib_socket(group), trio.socket.from_stdlib_socket(asking)


def _join(group: trio.socket.SocketType, link: int) -> None:
    """Hear the group on this link too; once more does no harm."""
    level, option = _JOIN[group.family]
    packed = socket.inet_pton(group.family, GROUPS[group.family])
    membership = packed + struct.pack("=I" if group.family == socket.AF_INET6 else "=4xi", link)
    try:
        group.setsockopt(level, option, membership)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise


async def _send(asking: trio.socket.SocketType, question: bytes, link: int) -> None:
    if asking.family == socket.AF_INET6:
        asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link)
    else:
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=8xi", link))
    await asking.sendto(question, (GROUPS[asking.family], PORT))


async def _receive(udp: trio.socket.SocketType) -> tuple[bytes, Source]:
    """An error that the kernel reports for a datagram sent before is no end."""
    while True:
        try:
            return await udp.recvfrom(_WORD.size + 1)
        except OSError:
            await trio.sleep(_ERROR_SECONDS)
