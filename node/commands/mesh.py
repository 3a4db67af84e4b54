"""peers and lookup: whom this node knows in the mesh, and where a machine is."""

from __future__ import annotations

import sys
from typing import Annotated, Final

from cyclopts import Parameter

from node.commands.common import HERE, Json, Where, ask, print_json

LOOKUP_SECONDS: Final = 60.0


def peers(*, as_json: Json = False, where: Where = HERE) -> None:
    """Show whom this node is in touch with: own machines, homes, mesh.

    First the machines that you have let in or joined, as in `zeqnode status`.
    Then the mesh, where nobody is trusted: the homes through which this node is
    called while it cannot be reached, its neighbours in gossip, and how many
    other nodes it knows in the DHT. Those are addresses without names: no address
    in the DHT says whose it is.

    For example:

        zeqnode peers
        zeqnode peers --json
    """
    answer = ask(where, "mesh")
    if as_json:
        print_json(answer)
        return
    from node import render, render_mesh

    render.console().print(render_mesh.mesh(answer), soft_wrap=True)
    sys.stdout.flush()


def lookup(
    machine: Annotated[str, Parameter(help="A peer's name, a slug, or a whole fingerprint.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Look up in the DHT where a machine is now.

    A peer of yours is found wherever it is. Of all others only machines that offer
    to be relays are found. A slug may have several claims: it is a name and no
    proof, so compare the fingerprint. Ends with code 4 if there is no record.

    For example:

        zeqnode lookup home
        zeqnode lookup ZEQ07000000001
    """
    from node.errors import Unreachable

    answer = ask(where, "lookup", timeout=LOOKUP_SECONDS, machine=machine)
    if as_json:
        print_json(answer)
    else:
        from node import render_mesh

        print("\n\n".join("\n".join(render_mesh.machine(each)) for each in answer["machines"]))
    if not any(each["found"] for each in answer["machines"]):
        raise Unreachable(
            f"no record of {machine} is in the DHT now: it is off, or its node knows no other yet; "
            "see zeqnode peers for what this one knows"
        )
