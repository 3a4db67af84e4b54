"""Who is here by a tunnel only, and the kernel's filter that keeps them to what the owner opened to guests.

    add     the filter first, then the machine may be let in          remove: the other way round
    run     the kernel tells of changes ─▶ ours gone? ─▶ `holds` is False ─▶ put back ─▶ `holds` is True

Another program that empties nftables (`nft flush ruleset`, as Debian's service does at each reload) opens
this machine for the milliseconds until that is seen; what was begun in them is cut off afterwards.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import trio

from tun.errors import FilterError, NetworkError
from tun.guest_rules import IPAddress, table_of
from tun.network import Network

CHECK_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 2.0

# linux/netlink.h, linux/netfilter/nfnetlink.h: NETLINK_NETFILTER, and the bit of NFNLGRP_NFTABLES
_NETFILTER: Final = 12
_NFTABLES_GROUP: Final = 1 << 6

_Inside: TypeAlias = Mapping[bytes, frozenset[IPAddress]]


class Guests:
    """`ports`: TCP and UDP ports that guests may reach. `holds`: the kernel has the filter as it should be;
    while it has not, no packet of a guest must pass. `changed()` is called when `holds` is another."""

    def __init__(self, network: Network, ports: Iterable[int]) -> None:
        self._network = network
        self._ports = frozenset(ports)
        self._inside: _Inside = {}
        self._lock = trio.Lock()
        self._events: socket.socket | None = None
        self._watched = trio.Event()
        self._broken = trio.Event()
        self._checked = float("-inf")
        self.why = ""  # why nobody can be kept out, by the last look: a sentence; "" where one can
        self.changed: Callable[[], None] = _pass

    @property
    def holds(self) -> bool:
        return not self._broken.is_set()

    async def check(self) -> str:
        """`why`, after the kernel was asked, if that is longer ago than CHECK_SECONDS."""
        if trio.current_time() - self._checked >= CHECK_SECONDS:
            try:
                await self._network.try_filter()
                self.why = ""
            except NetworkError as error:
                self.why = str(error)
            self._checked = trio.current_time()
        return self.why

    async def add(self, machine_id: bytes, *addresses: IPAddress) -> None:
        """From here on the machine may be let in. Raises NetworkError: then it must not."""
        async with self._lock:
            inside = {**self._inside, machine_id: frozenset(addresses)}
            self._watch()
            await self._set(inside)
            self._inside = inside

    async def remove(self, machine_id: bytes) -> None:
        """It was let go, or is here by the owner's word; none is no error."""
        async with self._lock:
            if machine_id in self._inside:
                self._inside = {each: where for each, where in self._inside.items() if each != machine_id}
                await self._renew()

    async def open_ports(self, ports: Iterable[int]) -> None:
        """These instead of those before."""
        async with self._lock:
            if self._ports != frozenset(ports):
                self._ports = frozenset(ports)
                await self._renew()

    async def run(self) -> None:
        """Until cancelled: what others take out of the kernel is put back."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._guard)
                nursery.start_soon(self._repair)
        finally:
            if self._events is not None:
                self._events.close()

    # ------------------------------------------------------------------ inside

    async def _guard(self) -> None:
        await self._watched.wait()
        assert self._events is not None
        name = table_of(self._network.device).encode() + b"\0"
        while True:
            await trio.lowlevel.wait_readable(self._events)
            if _concerns(self._events, name):
                async with self._lock:
                    if not await self._stands():
                        self._break()
                        await self._renew()

    async def _repair(self) -> None:
        while True:
            await self._broken.wait()
            await trio.sleep(AGAIN_SECONDS)
            async with self._lock:
                await self._renew()

    async def _stands(self) -> bool:
        try:
            return await self._network.has_filter(self._addresses(self._inside), self._ports)
        except NetworkError as error:
            self.why = str(error)
            return False

    async def _renew(self) -> None:
        """Have the kernel do what it should; what it does not do now is tried again."""
        if not self._inside and self._events is None:
            return
        try:
            await self._set(self._inside)
        except NetworkError as error:
            self.why = str(error)
            self._break()
            return
        if not self.holds:
            self._broken = trio.Event()
            self.changed()

    async def _set(self, inside: _Inside) -> None:
        await self._network.set_filter(self._addresses(inside), self._ports)
        self.why = ""

    def _break(self) -> None:
        if self.holds:
            self._broken.set()
            self.changed()

    def _addresses(self, inside: _Inside) -> frozenset[IPAddress]:
        return frozenset().union(*inside.values())

    def _watch(self) -> None:
        if self._events is not None:
            return
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            events = socket.socket(socket.AF_NETLINK, kind, _NETFILTER)
            events.bind((0, _NFTABLES_GROUP))
        except OSError as error:
            raise FilterError(
                f"The kernel does not report changes of its filters ({error.strerror}): zeqnode needs"
                " CAP_NET_ADMIN, and the kernel nf_tables (sudo modprobe nf_tables)."
            ) from error
        self._events = events
        self._watched.set()


def _concerns(events: socket.socket, name: bytes) -> bool:
    """Takes all waiting events; whether one of them names the table, or some were lost."""
    concerns = False
    while True:
        try:
            concerns |= name in events.recv(65536)
        except BlockingIOError:
            return concerns
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            concerns = True


def _pass() -> None:
    """Where nobody wants to know."""
