"""tags: events with a name, from anybody to everybody who listens."""

from __future__ import annotations

import math
from typing import Annotated, Any

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json

tags = App(name="tags", help="Hear and publish tag events.\n\nFor example:\n\n    zeqnode tags tail vpn.*")


@tags.command
async def tail(
    tag: Annotated[str, Parameter(help="A tag, or the beginning of tags and a *.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Show the events of a tag as they come, until Ctrl-C.

    Each has its author, a signed claim, and its text, which is whatever the author
    wrote. Events sealed to this machine alone are marked so.

    For example:

        zeqnode tags tail vpn.tunnel.request
        zeqnode tags tail 'weather.*' --json
    """
    from node import control, render_mesh

    def show(event: dict[str, Any]) -> None:
        if as_json:
            print_json(event, one_line=True)
        else:
            print(render_mesh.tag_event(event), flush=True)

    await control.call(where.socket(), "tags_tail", on_item=show, timeout=math.inf, tag=tag)


@tags.command
def publish(
    tag: Annotated[str, Parameter(help="As weather.berlin: up to 64 characters, without blanks.")],
    text: Annotated[str, Parameter(help="Up to 900 bytes.", allow_leading_hyphen=True)],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Publish an event to everybody who listens to its tag.

    It is signed by this machine and goes to the whole mesh: whoever listens sees
    its fingerprint and the text.

    For example:

        sudo zeqnode tags publish weather.berlin 'rain, 12 °C'
    """
    answer = ask(where, "tags_publish", tag=tag, text=text)
    if as_json:
        print_json(answer)
    else:
        print(f"Published {answer['tag']}.")
