"""Commands from elsewhere: entry points of the group zeqnode.commands, each a cyclopts App.

A plug-in's module is loaded only when its command is named; the overview shows what is written here.
"""

from __future__ import annotations

from collections.abc import Container
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from cyclopts import App

from node.errors import UserError

GROUP: Final = "zeqnode.commands"

_LINES: Final = {
    "demo": "Watch two machines meet, move a file through their tunnel, roam and recover.",
    "lab": "Build hosts, routers, NATs and links in network namespaces.",
    "bench": "Measure zeqnode beside other tunnels on this machine.",
    "sim": "Run thousands of nodes in a simulated world, in virtual time.",
}
_SORT_KEY: Final = 1000  # after the node's own commands


def mount(app: App, named: str, taken: Container[str]) -> None:
    """Add the plug-ins to `app`, loading the one that is `named`; names in `taken` stay the node's own.

    Raises UserError if that one does not load.
    """
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in taken or point.name in app:
            continue
        if point.name == named:
            app.command(_load(point), name=point.name)
        else:
            line = _LINES.get(point.name, f"A command of the package {_package(point)}.")
            app.command(point.value, name=point.name, help=line, sort_key=_SORT_KEY)


def _load(point: EntryPoint) -> App:
    try:
        found = point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the command {point.name} of the package {_package(point)} does not load ({reason}); install "
            "that package again, or remove it"
        ) from error
    if not isinstance(found, App):
        raise UserError(
            f"the command {point.name} of the package {_package(point)} is no command line; "
            "remove that package, or ask its authors"
        )
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
