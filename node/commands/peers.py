"""up, down, forget and rename: one peer at a time."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from node.commands.common import HERE, Json, Peer, Where, ask, print_json
from node.errors import Usage, UserError


def up(peer: Peer, /, *, as_json: Json = False, where: Where = HERE) -> None:
    """Open a peer's tunnel; remembered across restarts.

    Waits up to ten seconds for the peer to answer.

    For example:

        sudo zeqnode up cafe
    """
    answer = ask(where, "up", peer=peer)
    if as_json:
        print_json(answer)
    elif answer["state"] == "connected" or not answer.get("why"):
        print(f"{answer['name']} is up.")
    else:
        print(f"{answer['name']} is up, but not connected yet: {answer['why']}")


def down(peer: Peer, /, *, as_json: Json = False, where: Where = HERE) -> None:
    """Close a peer's tunnel; remembered across restarts.

    Nothing passes, and no call is made or answered, until `zeqnode up`.

    For example:

        sudo zeqnode down cafe
    """
    answer = ask(where, "down", peer=peer)
    if as_json:
        print_json(answer)
    else:
        print(f"{answer['name']} is down. Open it again with: zeqnode up {answer['name']}")


def forget(
    peer: Peer,
    /,
    *,
    yes: Annotated[bool, Parameter(negative="", show_default=False, help="Do not ask first.")] = False,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Remove a peer, which then has to be invited again.

    For example:

        sudo zeqnode forget cafe
        sudo zeqnode forget cafe --yes
    """
    if not yes:
        _confirm(f"Forget {peer}? It would have to be invited again. [y/N] ")
    answer = ask(where, "forget", peer=peer)
    if as_json:
        print_json(answer)
    else:
        print(f"{answer['name']} is forgotten.")


def rename(
    peer: Peer,
    name: Annotated[str, Parameter(help="The new pet name: a to z, 0 to 9 and hyphens, at most 32.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Give a peer another pet name.

    It is this machine's own name for it; no other machine sees it.

    For example:

        sudo zeqnode rename ZEQ07000000001 cafe
    """
    from node.config_values import Wrong, pet_name

    try:
        pet_name(name)
    except Wrong as error:
        raise Usage(f"the name {error}") from None
    answer = ask(where, "rename", peer=peer, name=name)
    if as_json:
        print_json(answer)
    else:
        print(f"{answer['was']} is now called {answer['name']}.")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise Usage("nobody can be asked here, as standard input is no terminal; say --yes if it is meant")
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was changed")
