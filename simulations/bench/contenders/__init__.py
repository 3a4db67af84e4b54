"""Who is measured: ours, what people would pick instead, and the bare wire."""

from __future__ import annotations

import re
from typing import Final

from simulations.bench.contenders import ours
from simulations.bench.contenders.contender import Contender
from simulations.bench.contenders.nebula import Nebula
from simulations.bench.contenders.openvpn import OpenVPN
from simulations.bench.contenders.plain import Plain
from simulations.bench.contenders.tinc import Tinc
from simulations.bench.contenders.wireguard import OldWireGuardGo, WireGuardGo
from simulations.bench.errors import BadRequest

__all__ = ["ALL", "REFERENCE", "USUAL", "Contender", "chosen", "reference_of"]

ALL: Final[tuple[type[Contender], ...]] = (
    Plain,
    ours.Zeqnode,
    ours.Span,
    ours.Segments,
    ours.OneQueue,
    ours.TwoQueues,
    ours.NoTrains,
    ours.NoOffloads,
    WireGuardGo,
    OldWireGuardGo,
    Nebula,
    OpenVPN,
    Tinc,
)
_ON_REQUEST: Final = (ours.OneQueue, ours.TwoQueues, ours.NoTrains, ours.NoOffloads)
USUAL: Final = tuple(kind for kind in ALL if kind not in _ON_REQUEST)
REFERENCE: Final = WireGuardGo.name


def chosen(only: str) -> list[type[Contender]]:
    """Of "zeqnode,wireguard-go", in the order of ALL; "" is the usual. Blanks, hyphens, case do not matter.

    Raises BadRequest."""
    if not only:
        return list(USUAL)
    by_name = {_plain(kind.name): kind for kind in ALL}
    names = [name for name in map(_plain, only.split(",")) if name]
    if "all" in names:
        return list(ALL)
    if unknown := [name for name in names if name not in by_name]:
        raise BadRequest(
            f"there is no contender {unknown[0]}; there are {', '.join(kind.name for kind in ALL)}, and all"
        )
    return [kind for name, kind in by_name.items() if name in names]


def reference_of(names: list[str]) -> str | None:
    """To whom the others are compared: the newest wireguard-go of those measured; None without any."""
    return next((name for name in (WireGuardGo.name, OldWireGuardGo.name) if name in names), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
