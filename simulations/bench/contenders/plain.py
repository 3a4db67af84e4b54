"""No tunnel at all: what the machine and the measuring programs could do at most."""

from __future__ import annotations

import platform

from simulations.bench.contenders.contender import Contender
from simulations.bench.setting import SIDES, Side
from simulations.bench.wiring import ADDRESS, DEVICE, Pair

_ADDRESS6: dict[Side, str] = {"a": "fd77::1", "b": "fd77::2"}


class Plain(Contender):
    name = "plain veth"
    note = "no tunnel"

    @classmethod
    def version(cls) -> str:
        return f"Linux {platform.release()}"

    def start(self, pair: Pair) -> None:
        # Only here: where the wire has IPv4 alone, all tunnels have the same underlay.
        for side in SIDES:
            pair[side].run(["ip", "address", "add", f"{_ADDRESS6[side]}/64", "dev", DEVICE, "nodad"])

    def address(self, side: Side) -> str:
        return (_ADDRESS6 if self.family == 6 else ADDRESS)[side]
