"""token: who may use the API of this node."""

from __future__ import annotations

import sys
from typing import Annotated, Final

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json

DEFAULT_DAYS: Final = 365

token = App(
    name="token",
    help="Make, list and revoke tokens of the API.\n\nFor example:\n\n    sudo zeqnode token new laptop",
)


@token.command
def new(
    name: Annotated[str, Parameter(help="What you will know it by: 1 to 32 of a to z, 0 to 9, hyphens.")],
    /,
    *,
    scope: Annotated[str, Parameter(help="read: look on; write: all that the owner may do.")] = "write",
    days: Annotated[int, Parameter(help="How long it is good for.")] = DEFAULT_DAYS,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Make a token, and show it this once.

    Whoever holds it may use the API in your place: the node keeps only a hash, so
    a token that is lost is revoked, and another one made. It alone goes to
    standard output, so that it can be piped to where it is needed.

    For example:

        sudo zeqnode token new laptop
        sudo zeqnode token new dashboard --scope read --days 30
    """
    answer = ask(where, "token_new", name=name, scope=scope, days=days)
    if as_json:
        print_json(answer)
        return
    from node import render

    note = f"May {answer['scope']} until {render.moment(answer['expires'])}. It is not shown again."
    print(note, "Send it as: Authorization: Bearer zsm_…", sep="\n", file=sys.stderr)
    print(answer["token"])
    print(f"Take it back with: sudo zeqnode token revoke {answer['id']}", file=sys.stderr)


@token.command(name="list")
def list_(*, as_json: Json = False, where: Where = HERE) -> None:
    """List the tokens: what each may do, and until when.

    For example:

        zeqnode token list
        zeqnode token list --json
    """
    answer = ask(where, "tokens")
    if as_json:
        print_json(answer)
        return
    from node import render

    rows = [
        (each["id"], each["name"], each["scope"], each["state"], render.moment(each["expires"]))
        for each in answer["tokens"]
    ]
    head = ("ID", "NAME", "SCOPE", "STATE", "EXPIRES")
    print("\n".join(render.columns([head, *rows])) if rows else "No tokens yet: sudo zeqnode token new NAME")


@token.command
def revoke(
    named: Annotated[str, Parameter(name="token", help="Its ID or name in `zeqnode token list`.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Revoke a token: it opens nothing any more, nor do the sessions begun with it.

    For example:

        sudo zeqnode token revoke laptop
    """
    answer = ask(where, "token_revoke", token=named)
    if as_json:
        print_json(answer)
    else:
        print(f"Token {answer['revoked']['name']} is revoked.")
