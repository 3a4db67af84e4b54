"""nft(8), run as a program; blocking, so for worker threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection
from typing import Final

from tun import guest_rules
from tun.errors import FilterError, FilterMissingError
from tun.guest_rules import IPAddress
from tun.journal import Journal, journaled

KIND: Final = "guests"  # of the journal's change
_SECONDS: Final = 10.0
_SBIN: Final = "/usr/sbin:/sbin"  # what an ordinary user's PATH lacks on Debian


def try_filter(device: str) -> None:
    """Whether the kernel would take it and nft can show it, changing nothing. Raises FilterError."""
    _tables()
    _nft("--check", "-f", "-", text=guest_rules.rules(device, (), ()))


def set_filter(journal: Journal, guests: Collection[IPAddress], ports: Collection[int]) -> None:
    """From here on `guests` reach no more than guest_rules says; without any, there is no table.

    Raises FilterError, JournalError; the kernel then has what it had, or what was asked for."""
    table = guest_rules.table_of(journal.device)
    if not guests:
        _nft("-f", "-", text=guest_rules.removal(table))
        if (KIND, table) in journal.changes:
            journal.drop(KIND, table)
        return
    text = guest_rules.rules(journal.device, guests, ports)
    if (KIND, table) in journal.changes:
        _nft("-f", "-", text=text)
    else:
        with journaled(journal, KIND, table):
            _nft("-f", "-", text=text)
    if not has_filter(journal.device, guests, ports):
        raise FilterError(
            f"The kernel did not keep the filter for guests (table inet {table}): does another program manage"
            " nftables here?"
        )


def has_filter(device: str, guests: Collection[IPAddress], ports: Collection[int]) -> bool:
    """Whether the kernel has just what `set_filter` asked for. Raises FilterError."""
    table = guest_rules.table_of(device)
    if table not in _tables():
        return not guests
    return guest_rules.stand(_nft("-j", "list", "table", "inet", table), guests, ports)


def remove_filter(table: str) -> bool:
    """False where there is none. Raises FilterError."""
    there = table in _tables()
    if there:
        _nft("-f", "-", text=guest_rules.removal(table))
    return there


def _tables() -> set[str]:
    listed = json.loads(_nft("-j", "list", "tables"))["nftables"]
    return {each["table"]["name"] for each in listed if each.get("table", {}).get("family") == "inet"}


def _nft(*words: str, text: str = "") -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"
    program = shutil.which("nft", path=path)
    if program is None:
        raise FilterMissingError(
            "Whom a tunnel lets in would reach every service of this machine: install nftables, which keeps"
            " them out (sudo apt install nftables)."
        )
    environment = {"PATH": path, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [program, *words], input=text, capture_output=True, text=True, timeout=_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FilterError(f"nft cannot be run ({error}): see whether `nft list tables` works.") from error
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or f"exit code {done.returncode}"
        raise FilterError(
            f"nft could not set up what keeps guests from this machine's services ({said}): zeqnode needs"
            " CAP_NET_ADMIN, and the kernel nf_tables and nf_conntrack (sudo modprobe -a nf_tables"
            " nf_conntrack)."
        )
    return done.stdout
