"""The sections of the configuration about being paid and being asked: [relay], [credit], [ledger], [api]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node import config_values as values

_MOST_ZEQ: Final = 10**12


@dataclass(frozen=True)
class Relay:
    """Requests for tunnels. `accept`: "auto", or "hand" for each to wait until the owner has decided.
    `allow`: who may ask, by peers' names or whole fingerprints; none: anybody. `ports`: of TCP and UDP, which
    machines that only a tunnel let in may reach here, whoever of the two asked for it."""

    accept: str = "auto"
    allow: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Credit:
    """What is extended, in whole ZEQ: to each stranger, and to all strangers together in a day. "auto": what
    a gigabyte costs here, or 1,000 zeqonds, whichever is more; and twenty times that."""

    stranger_zeq: int | str = "auto"
    strangers_per_day_zeq: int | str = "auto"


@dataclass(frozen=True)
class Ledger:
    """Without one, tunnels are free, both ways."""

    enabled: bool = True


@dataclass(frozen=True)
class Api:
    """The HTTP API. `port`: of the loopback interface, 0 for none; `socket`: a Unix socket besides; `hosts`:
    names, without port, under which a browser reaches it, as behind a proxy; limits are for each token."""

    enabled: bool = True
    port: int = 7777
    socket: Path | None = None
    hosts: tuple[str, ...] = ()
    reads_per_minute: int = 240
    writes_per_minute: int = 60


SECTIONS: Final = {"relay": Relay, "credit": Credit, "ledger": Ledger, "api": Api}
PARSERS: Final[dict[type, dict[str, Callable[[object], object]]]] = {
    Relay: {
        "accept": values.choice("auto", "hand"),
        "allow": values.list_of(values.peer, 1024),
        "ports": values.list_of(values.whole(1, 65535), 64, "[8000]"),
    },
    Credit: {
        "stranger_zeq": values.either("auto", values.whole(0, _MOST_ZEQ)),
        "strangers_per_day_zeq": values.either("auto", values.whole(0, _MOST_ZEQ)),
    },
    Ledger: {"enabled": values.yes_or_no},
    Api: {
        "enabled": values.yes_or_no,
        "port": values.whole(0, 65535),
        "socket": values.file_or_none,
        "hosts": values.list_of(values.host, 16),
        "reads_per_minute": values.whole(1, 1_000_000),
        "writes_per_minute": values.whole(1, 1_000_000),
    },
}
