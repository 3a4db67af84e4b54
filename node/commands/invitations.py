"""invite and join: how two machines come to know each other."""

from __future__ import annotations

import re
import sys
import time
from contextlib import closing
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json
from node.errors import NotRunning, Refused, Usage

JOIN_SILENCE_SECONDS: Final = 120.0

_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TEXT_MAX: Final = 16_384

invite = App(name="invite")


@invite.default
def new(
    name: Annotated[str, Parameter(help="The pet name that the joining machine gets here.")] = "",
    /,
    *,
    expires: Annotated[str, Parameter(help="How long it is good for: 90m, 36h, 7d, 2w.")] = "7d",
    no_qr: Annotated[bool, Parameter(negative="", show_default=False, help="Print no QR code.")] = False,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Invite a machine: print a link, and the same as a QR code.

    It lets one machine in, once. Until then it is a secret: whoever holds it may
    join. Only the link and the code go to standard output, so that it can be
    piped to where it is needed.

    For example:

        sudo zeqnode invite cafe
        sudo zeqnode invite phone --expires 1h
        sudo zeqnode invite cafe --no-qr | ssh cafe sudo zeqnode join -
    """
    answer = ask(where, "invite", name=name, expires_s=_seconds(expires))
    if as_json:
        print_json(answer)
        return
    from node import render

    note = f"Good for one machine until {render.moment(answer['expires'])}; a secret until it is used."
    print(note, "Type on the other machine: sudo zeqnode join …", sep="\n", file=sys.stderr)
    print(answer["invitation"])
    if not no_qr and sys.stdout.isatty():
        _print_qr(answer["invitation"])
    print(f"Take it back with: sudo zeqnode invite revoke {answer['id']}", file=sys.stderr)


@invite.command(name="list")
def list_(*, as_json: Json = False, where: Where = HERE) -> None:
    """List the invitations: which are open, and who used the others.

    For example:

        zeqnode invite list
        zeqnode invite list --json
    """
    answer = ask(where, "invitations")
    if as_json:
        print_json(answer)
        return
    from node import render

    rows = answer["invitations"]
    print("\n".join(render.invitations(rows)) if rows else "No invitations yet: sudo zeqnode invite NAME")


@invite.command
def revoke(
    invitation: Annotated[str, Parameter(help="Its ID in `zeqnode invite list`.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Take an invitation back, so that nobody can use it any more.

    A machine that used it already stays a peer: that one goes with `zeqnode
    forget`.

    For example:

        sudo zeqnode invite revoke 3f9a2c41
    """
    answer = ask(where, "revoke", id=invitation)
    if as_json:
        print_json(answer)
    else:
        print(f"Invitation {invitation} is revoked.")


def join(
    invitation: Annotated[
        str, Parameter(help="The zeq://… link; - reads it from standard input.", allow_leading_hyphen=True)
    ],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Join the machine that gave an invitation.

    If no node runs here, the invitation is kept, and used when it does.

    For example:

        sudo zeqnode join zeq://…
        sudo zeqnode join - < invitation.txt
    """
    from node.invitation import parse

    text = sys.stdin.read(_TEXT_MAX) if invitation == "-" else invitation
    parsed = parse(text, int(time.time()))
    try:
        answer = ask(where, "join", timeout=JOIN_SILENCE_SECONDS, invitation=text)
    except NotRunning:
        _keep(where, text, parsed.machine_id)
        answer = {"pending": True, "name": parsed.name}
    if as_json:
        print_json(answer)
    elif "pending" in answer:
        print("No node is running here: the invitation is kept, and used at the next start.")
        print("Next: sudo zeqnode run")
    else:
        _print_joined(answer)


def _print_joined(answer: dict[str, Any]) -> None:
    print(f"Joined {answer['name']} ({answer['slug']}), inside: {' and '.join(answer['addresses'])}")
    print(f"  fingerprint  {answer['fingerprint']}")
    print(f"Next: zeqnode ping {answer['name']}")


def _keep(where: Where, text: str, inviter: bytes) -> None:
    """Leave the invitation for the next start of the node; raises UserError."""
    from node.identity_store import exists, load_public
    from node.lock import state_lock
    from node.store import Store

    state = where.directory()
    if not state.is_dir() or not exists(state):
        raise Usage(f"{state} holds no identity that could join; make one with: zeqnode init")
    if load_public(state).machine_id == inviter:
        raise Usage("this invitation is this machine's own; use it on the other one")
    try:
        with state_lock(state), closing(Store.open(state / "node.db")) as store:
            store.add_pending(text.strip(), int(time.time()))
    except Refused:
        raise NotRunning("the node here is just starting or stopping; try again in a moment") from None


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if not found:
        raise Usage(f"--expires is a number and m, h, d or w, as in 90m, 36h, 7d or 2w, not {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def _print_qr(text: str) -> None:
    """The code, if the terminal is wide enough that its lines do not break."""
    import shutil

    from node.invitation import qr_lines

    code = qr_lines(text)
    width = len(re.sub(r"\x1b\[[0-9;]*m", "", code.partition("\n")[0]))
    if width <= shutil.get_terminal_size((width, 0)).columns:
        print(code)
    else:
        print(f"The QR code needs a terminal of {width} columns.", file=sys.stderr)
