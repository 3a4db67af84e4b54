"""Strangers are let in only while the kernel keeps them to what the owner opened (tun/guests.py)."""

from __future__ import annotations

from collections.abc import Callable

from node.logs import Log
from node.settlement.desk import Desk
from node.tunnels.errors import Unguarded
from node.tunnels.links import Links
from tun.guests import Guests

log = Log("tunnels")


class Guarding:
    """`poke()` has the desk's wishes done."""

    def __init__(self, guests: Guests, links: Links, desk: Desk, poke: Callable[[], None]) -> None:
        self._guests = guests
        self._links = links
        self._desk = desk
        self._poke = poke
        self._said = ""
        guests.changed = self._changed

    async def look(self) -> str:
        """Why nobody can be kept out, as a sentence; "" where one can."""
        why = await self._guests.check()
        if why and why != self._said:
            log.warning("tunnels with strangers are refused", why=why)
        self._said = why
        return why

    async def require(self, machine_id: bytes) -> None:
        """Raises Unguarded for a stranger that could not be kept out."""
        if not self._links.is_friend(machine_id) and (why := await self.look()):
            raise Unguarded(why)

    def _changed(self) -> None:
        if self._guests.holds:
            log.info("the filter for guests stands again")
            self._desk.open_again()
            self._poke()
        else:
            why = self._guests.why or "another program removed it"
            log.warning("guests send and get nothing until their filter stands again", why=why)
            self._links.shut(self._desk.in_use())
