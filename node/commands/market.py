"""relay and market: offering to be a relay, and finding those who do."""

from __future__ import annotations

import math
import sys
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json, print_progress

MARKET_SECONDS: Final = 60.0

relay = App(name="relay")


@relay.default
def show(*, as_json: Json = False, where: Where = HERE) -> None:
    """Show what this machine offers as a relay, or offer it, or withdraw it.

    For example:

        zeqnode relay
        sudo zeqnode relay offer --per-gb 50 --country EU
    """
    answer = ask(where, "relay")
    if as_json:
        print_json(answer)
    elif answer["offer"] is None:
        print("This machine offers nothing. Offer it with: sudo zeqnode relay offer --per-gb 50")
    else:
        _print_offer("Offered", answer["offer"])
        _warn(answer)


@relay.command
def offer(
    *,
    per_gb: Annotated[int, Parameter(help="Price in ZEQ for each 10^9 bytes.")],
    per_zeqond: Annotated[int, Parameter(help="Price in ZEQ for each zeqond, 0.777 s.")] = 0,
    country: Annotated[str, Parameter(help="Where it stands: two letters, as DE or EU.")] = "",
    max_tunnels: Annotated[int, Parameter(help="How many tunnels at the same time.")] = 8,
    accept: Annotated[str, Parameter(help="Country classes that may use it, as EU,CH.")] = "ANY",
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Offer this machine as a relay, to anybody, until it is withdrawn.

    The offer stands in the DHT and goes to everybody by gossip, with this
    machine's fingerprint; strangers can then look up its addresses and see
    whether it is there. It is remembered across restarts. The same command again
    changes it.

    Strangers that ask for a tunnel get one while there are places and credit: see
    zeqnode tunnels for who uses it, and zeqnode balance for who owes what. Each may
    use a gigabyte before it has to carry something for you; zeqnode credit and the
    configuration's [relay] and [credit] change that.

    Whom a tunnel lets in reaches nothing here but the ports that `ports` in
    [relay] of the configuration names; nftables has to be installed for that.

    For example:

        sudo zeqnode relay offer --per-gb 50 --country EU
        sudo zeqnode relay offer --per-gb 50 --per-zeqond 1 --accept EU,CH
    """
    answer = ask(
        where,
        "relay_offer",
        per_gb=per_gb,
        per_zeqond=per_zeqond,
        country=country.upper(),
        max_tunnels=max_tunnels,
        accept=[each.strip().upper() for each in accept.split(",")],
    )
    if as_json:
        print_json(answer)
        return
    _print_offer("Offered", answer["offer"])
    _warn(answer)
    print("Take it back with: sudo zeqnode relay withdraw")


@relay.command
def withdraw(*, as_json: Json = False, where: Where = HERE) -> None:
    """Withdraw this machine's offer.

    A signed withdrawal goes where the offer went. Until it has arrived, and at
    most two hours, some may still show the offer.

    For example:

        sudo zeqnode relay withdraw
    """
    answer = ask(where, "relay_withdraw")
    if as_json:
        print_json(answer)
    else:
        print("The offer is withdrawn.")


async def market(
    *,
    country: Annotated[str, Parameter(help="Only relays that accept this class: DE, EU, …")] = "ANY",
    max_per_gb: Annotated[int | None, Parameter(help="At most this price, in ZEQ for 10^9 bytes.")] = None,
    watch: Annotated[
        bool, Parameter(negative="", show_default=False, help="Show changes until Ctrl-C.")
    ] = False,
    no_probe: Annotated[
        bool, Parameter(negative="", show_default=False, help="Try none of them, only show.")
    ] = False,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """List the relays on offer, the best first.

    What a relay says of itself (price, country) is a claim. CHECKED is what this
    machine has tried: the first ten are asked for their keys, which shows whether
    they can be reached, and how long the way takes. They see this machine's
    address then; --no-probe keeps it from them.

    For example:

        zeqnode market
        zeqnode market --country EU --max-per-gb 60
        zeqnode market --watch --json
    """
    from node import control

    words: dict[str, Any] = {"country": country.upper(), "max_per_gb": max_per_gb, "probe": not no_probe}
    path = where.socket()
    if not watch:
        answer = await control.call(
            path, "market", on_progress=print_progress, timeout=MARKET_SECONDS, **words
        )
        _print_market(answer, as_json=as_json, one_line=False)
    elif not as_json and sys.stdout.isatty():
        await _live(path, words)
    else:

        def show_again(answer: dict[str, Any]) -> None:
            _print_market(answer, as_json=as_json, one_line=True)

        await control.call(path, "market_watch", on_item=show_again, timeout=math.inf, **words)


async def _live(path: Any, words: dict[str, Any]) -> None:
    """Until Ctrl-C, in place."""
    from rich.live import Live

    from node import control, render, render_mesh

    with Live(console=render.console(), auto_refresh=False, vertical_overflow="crop") as live:

        def show_again(answer: dict[str, Any]) -> None:
            live.update(render_mesh.market(answer), refresh=True)

        await control.call(path, "market_watch", on_item=show_again, timeout=math.inf, **words)


def _print_market(answer: dict[str, Any], *, as_json: bool, one_line: bool) -> None:
    from node import render, render_mesh

    if as_json:
        print_json(answer, one_line=one_line)
        return
    render.console().print(render_mesh.market(answer), soft_wrap=True)
    sys.stdout.flush()
    if answer.get("complete") is False:
        print("The mesh has not answered in full: there may be more. Try again.", file=sys.stderr)


def _warn(answer: dict[str, Any]) -> None:
    if answer.get("warning"):
        print(f"Warning: {answer['warning']}", file=sys.stderr)


def _print_offer(word: str, terms: dict[str, Any]) -> None:
    from node import render

    print(f"{word}: {terms['per_gb']} ZEQ per GB, {terms['per_zeqond']} ZEQ per zeqond")
    for name, value in (
        ("country", terms["country"] or "not said"),
        ("accepts", ", ".join(terms["accept"])),
        ("tunnels", f"at most {terms['max_tunnels']}"),
        ("since", render.moment(terms["since"])),
    ):
        print(f"  {name:<9}{value}")
