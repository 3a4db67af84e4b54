"""`zeqnode lab`: a laboratory at the terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from node.errors import Usage
from simulations.lab import reaper, userns
from simulations.lab.lab import Host, Lab
from simulations.lab.links import describe

WORLDS = Path(__file__).with_name("worlds")

command = App(
    name="lab",
    help="Hosts, routers, NATs and links in network namespaces, from a TOML file. Works as root, and without "
    "root in a user namespace.",
)


@command.command
def run(
    file: str,
    *words: Annotated[str, Parameter(name="CMD", allow_leading_hyphen=True)],
    shell: Annotated[str | None, Parameter(name=["--shell"])] = None,
    on: Annotated[str | None, Parameter(name=["--on"])] = None,
) -> None:
    """Build the laboratory of FILE, run a command or a shell in one of its hosts, and remove everything.

    With neither it shows the laboratory, and keeps it until Ctrl-C.

        zeqnode lab run two.toml --shell home

        zeqnode lab run two.toml -- ping -c 3 10.80.0.2

        zeqnode lab run nat.toml --on cafe -- ip route

    Parameters
    ----------
    file
        A path, or the name of a world that comes with zeqnode (two.toml, nat.toml, rough.toml).
    words
        After `--`: the program and its arguments; its exit code becomes ours.
    shell
        The host in which to open $SHELL.
    on
        The host in which CMD runs; the first of the file if not given.
    """
    path = _find(file)
    lab = Lab.from_toml(path)
    if shell and (words or on):
        raise Usage("Give --shell HOST, or a command with or without --on HOST, not both.")
    name = shell or on or next(iter(lab.hosts), None)
    if name is None:
        raise Usage(f"{path} has no hosts: write [hosts.home] into it.")
    place = lab.host(name)
    userns.reexec_in_user_namespace()
    signal.signal(signal.SIGTERM, _leave)
    with lab:
        if words or shell:
            code = place.shell(list(words) if words else [os.environ.get("SHELL", "/bin/sh")])
            sys.exit(code if code >= 0 else 128 - code)
        _show(lab)
        _wait_for_ctrl_c()


@command.command
def clean(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """End what laboratories left behind whose owner was killed. (Each new one does this first.)

        zeqnode lab clean

    Parameters
    ----------
    as_json
        Print the processes that were ended as JSON.
    """
    ended = reaper.sweep_dead()
    if as_json:
        print(json.dumps([_row(member) for member in ended]))
    elif ended:
        labs = len({member.marker for member in ended})
        print(f"Ended {len(ended)} processes of {labs} laboratories whose owner is gone.")
    else:
        print("Nothing was left over.")


@command.command(name="list")
def list_(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Show the laboratories that are up, and what runs in them.

        zeqnode lab list --json

    Parameters
    ----------
    as_json
        Print them as JSON.
    """
    rows = [_row(member) for member in sorted(reaper.members(), key=lambda found: (found.marker, found.pid))]
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print("No laboratory is up.")
        return
    table = Table("owner", "owner lives", "place", "pid", "command")
    for row in rows:
        lives = "yes" if row["owner_lives"] else "no"
        table.add_row(
            str(row["owner"]), lives, str(row["place"]) or "(reaper)", str(row["pid"]), str(row["command"])
        )
    Console().print(table)


def _row(member: reaper.Member) -> dict[str, object]:
    return {
        "lab": member.marker,
        "owner": member.owner,
        "owner_lives": reaper.owner_lives(member.marker),
        "place": member.place,
        "pid": member.pid,
        "command": member.command,
    }


def _find(file: str) -> Path:
    path = Path(file)
    bundled = WORLDS / path.name
    return bundled if not path.exists() and path.parent == Path() and bundled.exists() else path


def _show(lab: Lab) -> None:
    console = Console()
    console.print(lab.topology.source, soft_wrap=True)
    hosts = Table("host", "link", "addresses")
    for host in lab.hosts.values():
        for link in host.links:
            hosts.add_row(host.name, link, " ".join(host.addresses(link)))
    console.print(hosts)
    links = Table("link", "ends", "MTU", "impairment")
    for live in lab.links.values():
        ends = " ".join(end.node for end in live.spec.ends)
        links.add_row(live.name, ends, str(live.spec.mtu), describe(live.impairment))
    console.print(links)
    console.print("From another terminal of the same user:")
    for host in lab.hosts.values():
        print(f"  {host.name}: {_enter(host)}")
    console.print("Ctrl-C removes everything.")


def _enter(host: Host) -> str:
    owner = os.getpid()
    user = (
        "" if os.geteuid() == 0 and _is_first_user_namespace() else f"-t {owner} -U --preserve-credentials "
    )
    return f"nsenter {user}--net=/proc/{owner}/fd/{host.fd} $SHELL"


def _is_first_user_namespace() -> bool:
    """The one that maps all 2^32 - 1 uids to themselves."""
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", str(2**32 - 1)]


def _wait_for_ctrl_c() -> None:
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print()


def _leave(number: int, _frame: object) -> None:
    """SIGTERM unwinds the stack, so that the laboratory is removed in order."""
    sys.exit(128 + number)
