"""init, id, run and config: this machine itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, print_json
from node.errors import Usage

if TYPE_CHECKING:
    from crypto.identity import KeyBundle
    from crypto.vault_keys import KeySource


def init(
    *,
    passphrase: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    key_file: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Make this machine's identity.

    The secret keys are sealed in the state directory. The seal's key is
    ZEQ_FIELD_KEY (64 hex digits) or ZEQ_PASSPHRASE if one of them is set, else a
    new key file beside the seal; --passphrase and --key-file choose regardless of
    the environment. What each protects against is said when it is done.

    For example:

        sudo zeqnode init
        zeqnode init --passphrase --state ~/mesh

    Parameters
    ----------
    passphrase
        Ask for a passphrase; every start needs it in ZEQ_PASSPHRASE.
    key_file
        Use a key file, whatever the environment says.
    """
    from node import identity_store
    from node.files import make_private_directory
    from node.lock import state_lock

    if passphrase and key_file:
        raise Usage("give --passphrase or --key-file, not both")
    state = where.directory()
    source = None if key_file else _new_passphrase() if passphrase else identity_store.source_from(os.environ)
    make_private_directory(state)
    with state_lock(state):
        keys = identity_store.create(state, source)
    if as_json:
        print_json({**_public(keys.bundle), "state": str(state), "protection": _protection(source)[0]})
        return
    _print_machine(keys.bundle, state)
    print(f"  protected by {_protection(source)[1]}")
    print("\nNext, start the node:  sudo zeqnode run\nThen invite a machine: sudo zeqnode invite NAME")


def id_(*, as_json: Json = False, where: Where = HERE) -> None:
    """Show this machine's slug, fingerprint and mesh address.

    Nothing secret is shown or needed. The fingerprint is what others compare: it
    stands for all three public keys. The slug is short and not proof of anything.

    For example:

        zeqnode id
        zeqnode id --json
    """
    from node import identity_store

    state = where.directory()
    bundle = identity_store.load_public(state)
    if as_json:
        print_json({**_public(bundle), "state": str(state)})
    else:
        _print_machine(bundle, state)


def run(
    *,
    ledger: Annotated[
        Literal["on", "off"] | None,
        Parameter(help="off: pay nobody and charge nobody; on or off, instead of the configured."),
    ] = None,
    where: Where = HERE,
) -> None:
    """Run the node in the foreground until Ctrl-C or SIGTERM.

    It needs the right to make a TUN device and its addresses: root, or
    CAP_NET_ADMIN. The first start makes an identity if there is none. SIGHUP
    makes it read its configuration again. The log goes to standard error.

    For example:

        sudo zeqnode run
        sudo zeqnode run --config ./zeqnode.toml --state /tmp/node
        sudo zeqnode run --ledger off
    """
    from dataclasses import replace

    import trio

    from node import app, logs

    config = where.configuration()
    if ledger is not None:
        config = replace(config, ledger=replace(config.ledger, enabled=ledger == "on"))
    logs.set_up(config.node.log, config.node.log_format, os.environ)
    trio.run(app.run, config)


config = App(name="config", help="Look at the configuration.\n\nFor example:\n\n    zeqnode config check")


@config.command
def check(
    file: Annotated[Path | None, Parameter(help="The file to check, instead of the one in use.")] = None,
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Say whether a configuration is right, and what then holds.

    Prints "ok" and every effective value, or one sentence with file, line and
    key, and ends with code 2.

    For example:

        zeqnode config check
        zeqnode config check ./zeqnode.toml --json
    """
    from node import render
    from node.config import Config

    if file and where.config:
        raise Usage("give FILE or --config, not both")
    found = Config.load(file) if file else where.configuration()
    if as_json:
        print_json({"ok": True, "file": str(found.path) if found.path else None, **found.to_dict()})
        return
    print(f"ok: {found.path}" if found.path else "ok: there is no file, so these are the defaults")
    print("\n".join(render.settings(found.to_dict())))


def _public(bundle: KeyBundle) -> dict[str, Any]:
    from crypto.identity import fingerprint, slug, ula

    machine_id = bundle.machine_id
    return {
        "slug": slug(machine_id),
        "fingerprint": fingerprint(machine_id),
        "address": str(ula(machine_id)),
    }


def _print_machine(bundle: KeyBundle, state: Path) -> None:
    public = _public(bundle)
    print(f"{public['slug']}")
    print(f"  fingerprint  {public['fingerprint']}")
    print(f"  address      {public['address']}")
    print(f"  kept in      {state}")


def _protection(source: KeySource | None) -> tuple[str, str]:
    """A word for programs and a sentence for people: what seals the secret keys, and what that is worth."""
    from crypto.vault_keys import FieldKey, Passphrase

    match source:
        case FieldKey():
            return "field key", (
                "the field key: who has only the disk reads nothing.\n"
                "  Every start needs the same ZEQ_FIELD_KEY; without it this identity is lost."
            )
        case Passphrase():
            return "passphrase", (
                "the passphrase: who has only the disk must guess it.\n"
                "  Every start needs it in ZEQ_PASSPHRASE; without it this identity is lost."
            )
        case _:
            return "key file", (
                "the key file vault.key beside it: a copy without that file is closed,\n"
                "  but who has the whole disk, or is root here, has the keys."
            )


def _new_passphrase() -> KeySource:
    """From the terminal, typed twice; else the first line of standard input."""
    from getpass import getpass

    from crypto.vault_keys import Passphrase

    if sys.stdin.isatty():
        text = getpass("Passphrase: ")
        if text and getpass("The same again: ") != text:
            raise Usage("the two are not the same; nothing was made, try again")
    else:
        text = sys.stdin.readline().rstrip("\r\n")
    if not text:
        raise Usage("the passphrase is empty; choose one of several words")
    return Passphrase(text)
