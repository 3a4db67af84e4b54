"""vault: the secrets that this node keeps, who had them, and a new key for all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json, print_progress

VERIFY_SECONDS = 60.0

vault = App(
    name="vault",
    help="Show the vault's secrets and who had them, or change its key.\n\n"
    "For example:\n\n    zeqnode vault list",
)


@vault.command(name="list")
def list_(*, as_json: Json = False, where: Where = HERE) -> None:
    """List the secrets: whose they are and how long they stay, never what they are.

    Above them is the owner's ZID.

    For example:

        zeqnode vault list
        zeqnode vault list --json
    """
    from node import render, render_vault

    answer = ask(where, "vault_list")
    if as_json:
        print_json(answer)
    else:
        render.console().print(render_vault.secrets(answer), soft_wrap=True)


@vault.command
def audit(
    *,
    last: Annotated[int, Parameter(help="How many of the newest entries.")] = 50,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Show who put, had or removed which secret, and who was denied one.

    Every entry is chained to the one before it. The newest 16,384 are kept; older
    ones are dropped.

    For example:

        zeqnode vault audit
        zeqnode vault audit --last 1000 --json
    """
    from node import render, render_vault

    answer = ask(where, "vault_audit", last=last)
    if as_json:
        print_json(answer)
    else:
        render.console().print(render_vault.audit(answer), soft_wrap=True)


@vault.command
def verify(*, as_json: Json = False, where: Where = HERE) -> None:
    """Read the vault anew from the disk: every secret opens, every entry is in its place.

    For example:

        zeqnode vault verify
    """
    from node import render_vault

    answer = ask(where, "vault_verify", timeout=VERIFY_SECONDS)
    if as_json:
        print_json(answer)
    else:
        print(render_vault.verified(answer))


@vault.command
def rotate(*, as_json: Json = False, where: Where = HERE) -> None:
    """Change the key that opens this node's identity and all its secrets.

    The new key is in ZEQ_NEW_FIELD_KEY (64 hex digits) or ZEQ_NEW_PASSPHRASE. With
    neither, a vault that has a key file gets a new one. Whatever interrupts this,
    the old key or the new one opens everything.

    It works on a running node, and on one that is stopped if the old key is given
    as for a start. Keep the new key first: without it this identity is lost at the
    next start. An old copy of the state directory opens with the old key still.

    For example:

        openssl rand -hex 32 > new.key
        ZEQ_NEW_FIELD_KEY=$(cat new.key) zeqnode vault rotate
    """
    from node import render_vault
    from node.errors import NotRunning
    from node.vault.operations import new_key

    environment = {"field_key": "ZEQ_NEW_FIELD_KEY", "passphrase": "ZEQ_NEW_PASSPHRASE"}
    given = {key: os.environ[variable] for key, variable in environment.items() if variable in os.environ}
    new_key(given)
    try:
        answer = ask(where, "vault_rotate", timeout=VERIFY_SECONDS, **given)
    except NotRunning:
        answer = _rotate_stopped(where.directory(), given)
    if as_json:
        print_json(answer)
    else:
        print(f"The key is changed. {render_vault.KINDS[answer['kind']]}")


def _rotate_stopped(state: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The same on a node that does not run, with its lock held. Raises UserError."""
    from node import identity_store
    from node.lock import state_lock
    from node.vault.keeper import Keeper
    from node.vault.operations import new_key
    from node.vault.secrets import zeqond_now

    with state_lock(state):
        identity_store.load(state, os.environ)
        print_progress("sealing everything with a new key")
        keeper = Keeper(state, os.environ, zeqond_now())
        try:
            keeper.rotate(new_key(given), zeqond_now())
        finally:
            keeper.close()
        return {"kind": keeper.kind.name.lower()}
