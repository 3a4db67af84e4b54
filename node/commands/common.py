"""What the commands share: which node is meant, asking it, and printing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from node.config import Config

Json: TypeAlias = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON, for programs.")
]
Peer: TypeAlias = Annotated[
    str, Parameter(help="Pet name, slug, fingerprint (its first 16 characters will do) or mesh address.")
]


@Parameter(name="*", group="Which node")
@dataclass(frozen=True)
class Where:
    """The options --state and --config, which every command has."""

    state: Annotated[Path | None, Parameter(help="Its state directory, instead of the configured one.")] = (
        None
    )
    config: Annotated[Path | None, Parameter(help="The configuration, instead of the file in /etc.")] = None

    def configuration(self) -> Config:
        """Raises Usage, with file, line and key, where the configuration is wrong."""
        from node.config import Config

        config = Config.load(self.config)
        return replace(config, node=replace(config.node, state=self.directory())) if self.state else config

    def directory(self) -> Path:
        """The state directory; the configuration is only read if it is not given."""
        return self.state.absolute() if self.state else self.configuration().node.state

    def socket(self) -> Path:
        """Of the named or configured node; else of one's own, or where that does not run, the machine's."""
        from node import config
        from node.control import SOCKET_NAME

        state = self.directory()
        if self.state is None and state == config.default_state() and not _is_there(state / SOCKET_NAME):
            system = config.SYSTEM_STATE / SOCKET_NAME
            return system if _is_there(system) else state / SOCKET_NAME
        return state / SOCKET_NAME


HERE: Final = Where()


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # hidden from this user: connecting to it says what to do
    return True


def ask(where: Where, op: str, *, timeout: float = 30.0, **arguments: Any) -> dict[str, Any]:
    """The running node's answer; its progress goes to standard error. Raises UserError."""
    import trio

    from node import control

    call = partial(control.call, where.socket(), op, on_progress=print_progress, timeout=timeout, **arguments)
    return trio.run(call)


def print_progress(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


def print_json(value: object, *, one_line: bool = False) -> None:
    print(json.dumps(value, indent=None if one_line else 2, ensure_ascii=False), flush=True)
