"""connect, disconnect, tunnels, credit: using a relay, and being one."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json, print_progress
from node.errors import Usage

CONNECT_SECONDS: Final = 660.0  # the owner of the relay may decide by hand
_LIFESPAN: Final = re.compile(r"([0-9]+)(z|s|m|h)?")
_UNIT_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000}

Asked = Annotated[
    str, Parameter(help="The tunnel's id, or the beginning of it, as zeqnode tunnels shows it.")
]


def connect(
    relay: Annotated[str, Parameter(help="Slug~fingerprint, whole fingerprint or name of a relay.")],
    /,
    *,
    per: Annotated[Literal["gb", "zeqond"], Parameter(help="Pay for bytes, or for time.")] = "gb",
    for_: Annotated[str, Parameter(name="--for", help="How long: 1000z (zeqonds), 90s, 30m, 12h.")] = "1000z",
    budget: Annotated[int | None, Parameter(help="ZEQ to spend on it at most.")] = None,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Open a tunnel to a relay of the marketplace, and pay for what it carries.

    The relay is asked, agrees or says why not, and then its mesh address can be
    reached through the tunnel. A relay's owner may decide by hand; then this
    waits. See what it costs with zeqnode tunnels, end it with zeqnode disconnect.

    For example:

        sudo zeqnode connect ZEQ07000000007~abcd-efgh-ijkl-mnop
        sudo zeqnode connect cafe --per zeqond --for 30m --budget 100
    """
    arguments = {"target": relay, "per": per, "lifespan": _lifespan(for_), "budget": budget}
    answer = ask(where, "connect", timeout=CONNECT_SECONDS, **arguments)
    if as_json:
        print_json(answer)
    elif answer["carrying"]:
        print(f"Connected to {answer['partner']}, at {answer['price_zeq']} ZEQ a {_per(answer)}.")
        print(f"  address      {answer['address6']} or {answer['address4']}")
        print(f"  fingerprint  {answer['fingerprint']}")
        print(
            f"  ends in      {_duration(answer['left_s'])}, or with: zeqnode disconnect {answer['partner']}"
        )
    else:
        print(f"{answer['partner']} has not decided yet. See: zeqnode tunnels")


def disconnect(
    tunnel: Annotated[str, Parameter(help="The relay's name or slug, or the tunnel's id.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """End a tunnel, and say what it cost.

    A tunnel that both ended costs whole gigabytes or zeqonds; one that broke off,
    what it carried.

    For example:

        sudo zeqnode disconnect cafe
    """
    answer = ask(where, "disconnect", tunnel=tunnel)
    if as_json:
        print_json(answer)
        return
    verb = "paid" if answer["role"] == "payer" else "earned"
    print(f"The tunnel with {answer['partner']} is {answer['state']}.")
    print(f"  carried  {_bytes(answer['bytes'])} in {_duration(answer['age_s'])}")
    print(f"  {verb:8} {answer['zeq']} ZEQ")
    if not answer["settled"]:
        print("  The other side has not answered; the two settle when they meet again.")


tunnels = App(name="tunnels")


@tunnels.default
def show(
    *,
    watch: Annotated[bool, Parameter(negative="", show_default=False, help="Go on until Ctrl-C.")] = False,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Show the tunnels of this machine: with whom, what they carried, what they cost.

    Those that others asked for and that wait for your word are accepted or
    refused by their id.

    For example:

        zeqnode tunnels
        zeqnode tunnels --watch
        sudo zeqnode tunnels accept 8f7e6d5c
    """
    if not watch:
        answer = ask(where, "tunnels")
        print_json(answer) if as_json else print("\n".join(_table(answer["tunnels"])))
        return
    _follow(where, as_json)


@tunnels.command
def accept(tunnel: Asked, /, *, as_json: Json = False, where: Where = HERE) -> None:
    """Let a machine that asked use this one as its relay.

    For example:

        sudo zeqnode tunnels accept 8f7e6d5c
    """
    _decided(ask(where, "tunnel_decide", tunnel=tunnel, accept=True), as_json)


@tunnels.command
def refuse(tunnel: Asked, /, *, as_json: Json = False, where: Where = HERE) -> None:
    """Say no to a machine that asked.

    For example:

        sudo zeqnode tunnels refuse 8f7e6d5c
    """
    _decided(ask(where, "tunnel_decide", tunnel=tunnel, accept=False), as_json)


def credit(
    machine: Annotated[str, Parameter(help="A peer's name, a whole fingerprint, or a partner's slug.")],
    zeq: Annotated[int | None, Parameter(help="ZEQ that it may owe here; nothing: as any other.")] = None,
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Say how much one machine may owe this one before its tunnels end.

    A stranger may use a gigabyte, a peer of your own as much as it likes. Give a
    stranger more, for example when it has paid you in another way.

    For example:

        sudo zeqnode credit ZEQ07000000001 500
        sudo zeqnode credit ZEQ07000000001
    """
    answer = ask(where, "credit", machine=machine, zeq=zeq)
    if as_json:
        print_json(answer)
        return
    from node.tunnels.shown import zeq as exact

    owes = answer["exposure_millionths"]
    used = f"it has used {exact(owes)} of that" if owes > 0 else "it has used none of that"
    print(f"{answer['slug']} may owe this machine {exact(answer['limit_millionths'])} ZEQ; {used}.")


def _decided(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(f"The tunnel with {answer['partner']} is {answer['state']}.")


def _follow(where: Where, as_json: bool) -> None:
    from functools import partial

    import trio
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from node import control

    with Live(console=Console(), transient=False, auto_refresh=False) as live:

        def item(answer: dict[str, Any]) -> None:
            if as_json:
                print_json(answer, one_line=True)
            else:
                live.update(Text("\n".join(_table(answer["tunnels"]))), refresh=True)

        call = partial(control.call, on_progress=print_progress, on_item=item, timeout=math.inf)
        trio.run(call, where.socket(), "tunnels_watch")


_HEADS: Final = ("TUNNEL", "WITH", "STATE", "WE", "PRICE", "CARRIED", "ZEQ", "AGE")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    from node.render import columns

    if not rows:
        return ["No tunnels. Find a relay: zeqnode market. Use it: sudo zeqnode connect SLUG~FINGERPRINT"]
    lines = columns([_HEADS, *map(_line, rows)], frozenset({5, 6, 7}))
    notes = [f"{row['id'][:8]}  {row['why']}" for row in rows if row["why"] and not row["settled"]]
    waiting = [row for row in rows if row["state"] == "pending" and row["role"] == "payee"]
    asks = [
        f"{row['id'][:8]}  waits for you: zeqnode tunnels accept {row['id'][:8]} (or refuse)"
        for row in waiting
    ]
    return [*lines, *notes, *asks]


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if state == "active" and not row["carrying"]:
        state = "calling"
    return (
        row["id"][:8],
        row["partner"],
        state if not row["code"] or row["code"] == "TERMINATED" else f"{state} ({row['code'].lower()})",
        "pay" if row["role"] == "payer" else "earn",
        f"{row['price_zeq']}/{row['pricing_unit']}",
        _bytes(row["bytes"]),
        row["zeq"],
        _duration(row["age_s"]),
    )


def _per(answer: dict[str, Any]) -> str:
    return "gigabyte" if answer["pricing_unit"] == "gb" else "zeqond"


def _lifespan(text: str) -> int:
    """Zeqonds of "1000z", "90s", "30m" or "12h"."""
    from crypto.pulse import ZEQOND_MS

    found = _LIFESPAN.fullmatch(text.strip().lower())
    if found is None:
        raise Usage(f"--for is a number with a unit, as 1000z, 90s, 30m or 12h, not {text!r}")
    number, unit = int(found[1]), found[2] or "z"
    return number if unit == "z" else -(-number * _UNIT_MS[unit] // ZEQOND_MS)


def _bytes(count: int) -> str:
    from node.render import size

    return size(count)


def _duration(seconds: int) -> str:
    from node.render import duration

    return duration(seconds)
