"""How the API is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_PORT: Final = 7777
READS_PER_MINUTE: Final = 240
WRITES_PER_MINUTE: Final = 60


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """`address`: of the loopback interface; port 0 is any free one. `socket`: a Unix socket to serve as well.
    `hosts`: names, without port, under which a browser may reach it besides localhost and the loopback
    addresses, as behind a proxy of one's own. The limits are for each token, and for all who have none."""

    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    socket: Path | None = None
    hosts: tuple[str, ...] = ()
    reads_per_minute: int = READS_PER_MINUTE
    writes_per_minute: int = WRITES_PER_MINUTE
