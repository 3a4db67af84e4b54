"""status and ping: what the node sees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from node.commands.common import HERE, Json, Peer, Where, print_json, print_progress
from node.errors import Unreachable

PING_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 1.0


async def status(
    *,
    watch: Annotated[bool, Parameter(negative="", show_default=False, help="Again every second.")] = False,
    verbose: Annotated[
        bool,
        Parameter(
            name=["--verbose", "-v"], negative="", show_default=False, help="More, and what was refused."
        ),
    ] = False,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Show this machine and its peers: who is connected, how, and if not, why.

    INSIDE is the address for ssh, http or anything else; IPv4 addresses are this
    machine's own names for its peers. IN and OUT are what came from the peer and
    went to it.

    For example:

        zeqnode status
        zeqnode status --watch
        zeqnode status --json
    """
    from node import control

    path = where.socket()
    if watch and not as_json and sys.stdout.isatty():
        await _live(path, verbose=verbose)
        return
    while True:
        _print_status(await control.call(path, "status"), verbose=verbose, as_json=as_json, one_line=watch)
        if not watch:
            return
        await _pause()


async def ping(
    peer: Peer,
    /,
    *,
    count: Annotated[
        int, Parameter(name=["--count", "-c"], help="How many.", validator=Number(gte=1, lte=1_000_000))
    ] = 4,
    interval: Annotated[
        float,
        Parameter(
            name=["--interval", "-i"],
            help="Seconds from one to the next.",
            validator=Number(gte=0.01, lte=3600),
        ),
    ] = 1.0,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Ask a peer through the tunnel whether it is there.

    Shows how long the way there and back takes. Node asks node, inside the
    encryption, so that no firewall on either machine is in the way. Ends with
    code 4, and the reason, if nothing came back.

    For example:

        zeqnode ping home
        zeqnode ping home --count 10 --interval 0.2
        zeqnode ping home --json
    """
    from node import render

    replies: list[dict[str, Any]] = []
    try:
        await _ping(where.socket(), peer, count, interval, replies, quiet=as_json)
    finally:  # Ctrl-C ends the pings, not the summary
        summary = render.ping_summary(peer, replies)
        if replies and as_json:
            print_json(summary)
        elif replies:
            print(render.ping_line(summary), flush=True)
    if not summary["received"]:
        raise Unreachable(replies[-1]["error"])


async def _ping(
    path: Path, peer: str, count: int, interval: float, replies: list[dict[str, Any]], *, quiet: bool
) -> None:
    """Appends {seq, rtt_ms, path, endpoint} or {seq, error} to `replies` for each of `count` pings."""
    import trio

    from node import control, render

    start = trio.current_time()
    for seq in range(1, count + 1):
        await trio.sleep_until(start + (seq - 1) * interval)
        try:
            answer = await control.call(
                path, "ping", on_progress=print_progress, peer=peer, timeout_s=PING_SECONDS
            )
            replies.append({"seq": seq, **answer})
        except Unreachable as error:
            replies.append({"seq": seq, "error": str(error)})
        if not quiet:
            print(render.ping_reply(peer, replies[-1]), flush=True)


def _print_status(answer: dict[str, Any], *, verbose: bool, as_json: bool, one_line: bool) -> None:
    from node import render

    if as_json:
        print_json(answer, one_line=one_line)
        return
    render.console().print(render.status(answer, verbose=verbose), soft_wrap=True)
    sys.stdout.flush()


async def _live(path: Path, *, verbose: bool) -> None:
    """Until Ctrl-C, in place; a node that stops ends it with a sentence."""
    from rich.live import Live

    from node import control, render

    with Live(console=render.console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            answer = await control.call(path, "status")
            live.update(render.status(answer, verbose=verbose), refresh=True)
            await _pause()


async def _pause() -> None:
    import trio

    await trio.sleep(WATCH_SECONDS)
