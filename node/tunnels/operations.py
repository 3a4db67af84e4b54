"""What the command line asks about tunnels: to open, list, decide and end them, and what is extended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import trio

from crypto.identity import fingerprint, slug, ula
from crypto.pulse import ZEQOND_MS
from node.context import Context
from node.control import Asker
from node.errors import Usage
from node.operations import Arguments, Operation, Result, required
from node.settlement.life import InvalidState, Row, State
from node.settlement.terms import LEAST_LIFESPAN, MAX_LIFESPAN, MILLIONTHS, Unit
from node.settlement.tunnels import NoSuchTunnel
from node.tunnels.connecting import Connecting
from node.tunnels.errors import NoTunnel, WrongState
from node.tunnels.service import Service
from node.tunnels.shown import described
from node.tunnels.store import TunnelStore
from tun.engine import boot_us

OPERATIONS: Final = ("connect", "disconnect", "tunnels", "tunnels_watch", "tunnel_decide", "credit")
SHOWN_MAX: Final = 100
CLOSED_SECONDS: Final = 6.0
WATCH_SECONDS: Final = 1.0
MAX_ZEQ: Final = 10**12


class TunnelOperations:
    """`operations` are part of those of node/operations.py."""

    def __init__(self, context: Context, service: Service, connecting: Connecting) -> None:
        self._context = context
        self._service = service
        self._connecting = connecting
        self.operations: dict[str, Operation] = {op: getattr(self, f"_on_{op}") for op in OPERATIONS}

    async def _on_connect(self, arguments: Arguments, asker: Asker) -> Result:
        unit, lifespan, budget = _wanted(arguments)
        row, _ = await self._connecting.request(required(arguments, "target"), unit, lifespan, budget, asker)
        row = await self._connecting.answered(row)
        if row.state is State.PENDING and arguments.get("wait") is False:
            return self._described(row)
        if row.state is State.PENDING:
            await asker("its owner decides by hand; waiting for that, ten minutes at most")
            row = await self._decided(row)
        else:
            await asker("it agreed; calling it")
        return {**self._described(await self._connecting.begun(row)), **self._addresses(row)}

    async def _decided(self, row: Row) -> Row:
        async with self._service.watch() as changes:
            while (row := self._service.newest(row)).state is State.PENDING:
                await changes.receive()
        return row

    async def _on_disconnect(self, arguments: Arguments, asker: Asker) -> Result:
        row = await self.find(required(arguments, "tunnel"))
        return self._described(await self.terminate(row, asker))

    async def terminate(self, row: Row, asker: Any = None) -> Row:
        """Ended here at once; then up to six seconds for the other side's word. Ended before: as it ended."""
        if row.ended:
            return row
        await self._service.look()
        async with self._service.watch() as changes:
            row = self._service.desk.terminate(row.tunnel_id, boot_us())
            self._service.poke()
            if not row.settled and asker is not None:
                await asker("settling with the other side")
            with trio.move_on_after(CLOSED_SECONDS):
                while not (row := self._service.newest(row)).settled:
                    await changes.receive()
        return self._service.newest(row)

    async def _on_tunnels(self, _arguments: Arguments, _asker: Asker) -> Result:
        return {"tunnels": [self._described(row) for row in await self.rows()]}

    async def rows(self) -> list[Row]:
        """The newest hundred, with what was signed for so far."""
        rows = await self._service.disk.call(TunnelStore.recent, SHOWN_MAX)
        return [self._service.desk.row(row.tunnel_id) or row for row in rows]

    async def _on_tunnels_watch(self, _arguments: Arguments, asker: Asker) -> Result:
        await asker.watch(self._watched())
        return {}

    async def _watched(self) -> AsyncGenerator[Result, None]:
        shown: list[Result] | None = None
        while True:
            rows = [self._described(row) for row in await self.rows()]
            if rows != shown:
                shown = rows
                yield {"tunnels": rows}
            await trio.sleep(WATCH_SECONDS)

    async def _on_tunnel_decide(self, arguments: Arguments, _asker: Asker) -> Result:
        row = await self.find(required(arguments, "tunnel"))
        return self._described(await self.decide(row, arguments.get("accept") is True))

    async def decide(self, row: Row, accept: bool) -> Row:
        """By hand. Raises NoTunnel, WrongState, Unguarded."""
        if accept:
            await self._service.guarding.require(row.partner)
        desk = self._service.desk
        try:
            row = (desk.accept if accept else desk.refuse)(row.tunnel_id, boot_us())
        except NoSuchTunnel:
            raise NoTunnel("there is no tunnel of this id that waits; see: zeqnode tunnels") from None
        except InvalidState as error:
            raise WrongState(f"{error}; see: zeqnode tunnels") from None
        self._service.poke()
        return row

    async def _on_credit(self, arguments: Arguments, _asker: Asker) -> Result:
        """What is extended to one machine; without an amount: as to any other again."""
        text, amount = required(arguments, "machine"), arguments.get("zeq")
        machine_id = self._context.peers.machine_of(text) or await self._partner(text)
        if amount is not None and (type(amount) is not int or not 0 <= amount <= MAX_ZEQ):
            raise Usage(f"the amount is a whole number of ZEQ from 0 to {MAX_ZEQ}")
        millionths = amount * MILLIONTHS if amount is not None else None
        await self._service.grant(machine_id, millionths)
        credit = self._service.desk.credit
        return {
            "slug": slug(machine_id),
            "fingerprint": fingerprint(machine_id),
            "limit_millionths": credit.limit(machine_id, Unit.GB),
            "exposure_millionths": credit.exposure(machine_id),
        }

    async def _partner(self, text: str) -> bytes:
        for row in await self.rows():
            if text.upper() == slug(row.partner):
                return row.partner
        raise Usage(
            f"{text!r} is no peer, no whole fingerprint and no partner of a tunnel; see: zeqnode tunnels"
        )

    async def find(self, text: str) -> Row:
        """By id or the beginning of it, or by the partner's name or slug. Raises NoTunnel."""
        rows = await self.rows()
        wanted = text.lower()
        found = [row for row in rows if self._described(row)["id"].startswith(wanted)]
        if not found:
            named = [row for row in rows if wanted in (self._name(row), slug(row.partner).lower())]
            found = [row for row in named if not row.ended] or named[:1]
        if len(found) == 1:
            return found[0]
        problem = "more than one tunnel is" if found else "no tunnel is"
        raise NoTunnel(f"{problem} called {text!r}; see: zeqnode tunnels")

    def _name(self, row: Row) -> str | None:
        peer = self._context.peers.rows.get(row.partner)
        return peer.name if peer is not None else None

    def _described(self, row: Row) -> Result:
        return described(row, self._name(row), self._service.desk.zeqond(boot_us()))

    def _addresses(self, row: Row) -> Result:
        peer = self._context.peers.rows.get(row.partner)
        local = str(self._context.peers.address4(peer)) if peer is not None else None
        return {"address6": str(ula(row.partner)), "address4": local}


def _wanted(arguments: Arguments) -> tuple[Unit, int, int | None]:
    unit, lifespan, budget = (arguments.get(key) for key in ("per", "lifespan", "budget"))
    if unit not in ("gb", "zeqond"):
        raise Usage(f"--per is gb or zeqond, not {unit!r}")
    if type(lifespan) is not int or not LEAST_LIFESPAN <= lifespan <= MAX_LIFESPAN:
        seconds = MAX_LIFESPAN * ZEQOND_MS // 1000
        raise Usage(f"--for is {LEAST_LIFESPAN} to {MAX_LIFESPAN} zeqonds (at most {seconds // 3600} hours)")
    if budget is not None and (type(budget) is not int or not 0 < budget <= MAX_ZEQ):
        raise Usage("--budget is a whole number of ZEQ above 0")
    return Unit(unit), lifespan, budget * MILLIONTHS if budget is not None else None
