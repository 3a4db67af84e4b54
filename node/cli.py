"""The command line: which word leads to which function, and how every error ends.

A command's module is loaded when its word is typed, so that `zeqnode --help` answers at once. Commands that
stand above node in the layers come through the entry-point group zeqnode.commands (node/plugins.py).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Final

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError

from node.errors import Usage, UserError

INTERRUPTED: Final = 130  # as shells have it: 128 + SIGINT
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE

# word -> function, and its line in the overview: the first one of its own help.
COMMANDS: Final = {
    "init": ("machine:init", "Make this machine's identity."),
    "id": ("machine:id_", "Show this machine's slug, fingerprint and mesh address."),
    "run": ("machine:run", "Run the node in the foreground until Ctrl-C or SIGTERM."),
    "config": ("machine:config", "Look at the configuration."),
    "invite": ("invitations:invite", "Invite a machine: print a link, and the same as a QR code."),
    "join": ("invitations:join", "Join the machine that gave an invitation."),
    "status": (
        "watch:status",
        "Show this machine and its peers: who is connected, how, and if not, why.",
    ),
    "ping": (
        "watch:ping",
        "Ask a peer through the tunnel whether it is there.",
    ),
    "up": ("peers:up", "Open a peer's tunnel; remembered across restarts."),
    "down": ("peers:down", "Close a peer's tunnel; remembered across restarts."),
    "rename": (
        "peers:rename",
        "Give a peer another pet name.",
    ),
    "forget": ("peers:forget", "Remove a peer, which then has to be invited again."),
    "peers": ("mesh:peers", "Show whom this node is in touch with: own machines, homes, mesh."),
    "lookup": ("mesh:lookup", "Look up in the DHT where a machine is now."),
    "relay": (
        "market:relay",
        "Show what this machine offers as a relay, or offer it, or withdraw it.",
    ),
    "market": ("market:market", "List the relays on offer, the best first."),
    "connect": (
        "tunnels:connect",
        "Open a tunnel to a relay of the marketplace, and pay for what it carries.",
    ),
    "disconnect": ("tunnels:disconnect", "End a tunnel, and say what it cost."),
    "tunnels": (
        "tunnels:tunnels",
        "Show the tunnels of this machine: with whom, what they carried, what they cost.",
    ),
    "credit": ("tunnels:credit", "Say how much one machine may owe this one before its tunnels end."),
    "balance": ("ledger:balance", "Show who owes whom how much, and where it can be spent."),
    "ledger": ("ledger:ledger", "Show this machine's ledger: what it has earned and spent, with whom."),
    "token": ("tokens:token", "Make, list and revoke tokens of the API."),
    "vault": ("vault:vault", "Show the vault's secrets and who had them, or change its key."),
    "tags": ("tags:tags", "Hear and publish tag events."),
}

_ABOUT: Final = """A peer-to-peer post-quantum mesh VPN: your machines in one private
network, and no server.

For example, two machines, home and cafe:

    home$ sudo zeqnode run
    home$ sudo zeqnode invite cafe
    cafe$ sudo zeqnode run
    cafe$ sudo zeqnode join zeq://…
    cafe$ zeqnode ping home
"""
_CODES: Final = "Exit codes: 0 done, 1 failed, 2 usage, 3 node not running, 4 peer unreachable, 5 refused."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (those of the process) name; its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    _show_what_the_terminal_can()
    try:
        code: int = application(tokens)(tokens, exit_on_error=False, print_error=False)
        _flush_output()
    except (Exception, KeyboardInterrupt) as error:
        return _ended_by(error)
    return code


def application(tokens: Sequence[str]) -> App:
    """The commands; of those that plug-ins bring, only the one that is named is loaded. Raises UserError."""
    app = App(
        name="zeqnode",
        help=_ABOUT,
        help_format="plaintext",
        help_epilogue=_CODES,
        version=_version,
        backend="trio",
        result_action="return_int_as_exit_code_else_zero",
        suppress_keyboard_interrupt=False,
    )
    named = tokens[0] if tokens else ""
    for order, (word, (function, line)) in enumerate(COMMANDS.items()):
        # The overview's line would stand in for the whole help of a command, so that one goes without.
        app.command(
            f"node.commands.{function}", name=word, help=None if word == named else line, sort_key=order
        )
    if named not in COMMANDS:
        from node import plugins

        plugins.mount(app, named, taken=COMMANDS)
        _refuse_unknown(named, [word for word in app if not word.startswith("-")])
    return app


def _refuse_unknown(named: str, words: list[str]) -> None:
    """Before cyclopts does: its own sentence would load every command to find the nearest."""
    if named.startswith("-") and named not in ("--help", "-h", "--version"):
        raise Usage(f"options come after the command, as in: zeqnode status {named}")
    if named and not named.startswith("-") and named not in words:
        nearest = get_close_matches(named, words, 1)
        hint = f"did you mean {nearest[0]}?" if nearest else "zeqnode --help lists them all"
        raise Usage(f"there is no command {named}; {hint}")


def _ended_by(error: BaseException) -> int:
    """The exit code after an error, having said what there is to say; a fault of ours goes on."""
    causes = list(_leaves(error))
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return INTERRUPTED
    cause = causes[0]
    match cause:
        case BrokenPipeError():  # whoever read our output has gone, as in `zeqnode status | head -1`
            _discard_output()
            return BROKEN_PIPE
        case OSError(errno=errno.ENOSPC):  # `> /dev/full`: our files have sentences of their own
            _discard_output()
            return _say(UserError("no space is left for the output; free some and try again"))
        case UserError():
            return _say(cause)
        case CycloptsError():
            return _say(_usage(cause))
    raise error


def _say(error: UserError) -> int:
    with suppress(OSError):
        _flush_output()
        print(f"zeqnode: {error}", file=sys.stderr)
    return error.exit_code


def _usage(error: CycloptsError) -> Usage:
    command = " ".join(["zeqnode", *(error.command_chain or ())])
    text = " ".join(str(error).split())
    if isinstance(error, UnusedCliTokensError):
        text = f"more words than {command} takes: {' '.join(error.unused_tokens or ())}."
    return Usage(f"{text[:1].lower()}{text[1:]} See: {command} --help")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups; trio makes one where several tasks may fail."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _show_what_the_terminal_can() -> None:
    """A terminal that is not UTF-8 gets a question mark for what it lacks, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not where it is closed, or a test's
            stream.reconfigure(errors="replace")


def _flush_output() -> None:
    if sys.stdout is not None:  # closed, as in `>&-`
        sys.stdout.flush()


def _discard_output() -> None:
    """Nobody reads what Python flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _version() -> str:
    from importlib.metadata import version

    return version("zeqnode")
