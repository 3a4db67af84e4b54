"""ledger and balance: what was paid and earned, whether it holds, and who owes whom."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from cyclopts import App, Parameter

from node.commands.common import HERE, Json, Where, ask, print_json, print_progress
from node.errors import StateDamaged

_TOLD_EVERY: Final = 20_000  # blocks; some three seconds

ledger = App(name="ledger")


@ledger.default
def show(
    *,
    last: Annotated[int, Parameter(help="How many of the newest blocks.")] = 20,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Show this machine's ledger: what it has earned and spent, with whom.

    Each tunnel that was paid is two blocks: one that the payer signed, in its own
    chain, and one that the payee signed, in its. It counts when both are here.
    What was earned is above 0.

    For example:

        zeqnode ledger
        zeqnode ledger --last 100 --json
    """
    from node import render, render_ledger

    answer = ask(where, "ledger", last=last)
    if as_json:
        print_json(answer)
    else:
        render.console().print(render_ledger.ledger(answer), soft_wrap=True)


@ledger.command
def verify(
    *,
    file: Annotated[Path | None, Parameter(help="One that `zeqnode ledger export` wrote.")] = None,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Check every block of the ledger: signatures, order, and the sums.

    With --file, an exported ledger of any machine is checked, on any machine,
    and no node needs to run. That the newest blocks were left out before the
    file was made, no file can show: compare with what partners hold.

    For example:

        zeqnode ledger verify
        zeqnode ledger verify --file home.jsonl
    """
    from node import render_ledger

    found = ask(where, "ledger_verify", timeout=math.inf) if file is None else _verified(file)
    if as_json:
        print_json(found)
    else:
        print("\n".join(render_ledger.verified(found)))


@ledger.command
async def export(
    file: Annotated[Path, Parameter(help="Where to; nothing may be there yet.")],
    /,
    *,
    as_json: Json = False,
    where: Where = HERE,
) -> None:
    """Write the whole ledger to a file that anybody can check.

    It is one JSON object a line, with the signed blocks of this machine and of
    its partners: whoever has it sees whom this machine paid, and who paid it.

    For example:

        zeqnode ledger export home.jsonl
        zeqnode ledger verify --file home.jsonl
    """
    from node import control
    from node.files import sentences

    with sentences(file), file.open("xb") as target:
        writer = _Writer(target)
        try:
            await control.call(where.socket(), "ledger_export", on_item=writer.write, timeout=math.inf)
        except BaseException:
            with suppress(OSError):
                file.unlink()
            raise
    if as_json:
        print_json({"file": str(file), "blocks": writer.blocks})
    else:
        print(f"{writer.blocks:,} blocks are in {file}. Check it with: zeqnode ledger verify --file {file}")


def balance(*, as_json: Json = False, where: Where = HERE) -> None:
    """Show who owes whom how much, and where it can be spent.

    ZEQ is mutual credit between machines, not money: what somebody owes you is
    worth what you can use of that machine, and each machine says itself how much
    it lets others owe. Tunnels that still run are in it, as of their last voucher.

    For example:

        zeqnode balance
        zeqnode balance --json
    """
    from node import render_ledger

    answer = ask(where, "balance")
    if as_json:
        print_json(answer)
    else:
        print("\n".join(render_ledger.balance(answer)))


class _Writer:
    """Lines to a file, with progress."""

    def __init__(self, target: BinaryIO) -> None:
        self.blocks = 0
        self._target = target

    def write(self, line: dict[str, Any]) -> None:
        import json

        self._target.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if "block" in line:
            self.blocks += 1
            if self.blocks % _TOLD_EVERY == 0:
                print_progress(f"{self.blocks:,} blocks written")


def _verified(file: Path) -> dict[str, Any]:
    """Raises StateDamaged, and StorageFailed where it cannot be read."""
    from dht.signatures import Ed25519Signatures
    from node.bookkeeping import verified
    from node.files import sentences
    from node.settlement.audit import LINE_BYTES, BadChain, FileCheck

    check, lines = FileCheck(Ed25519Signatures()), 0
    try:
        with sentences(file), file.open("rb") as source:
            while line := source.readline(LINE_BYTES + 1):
                check.add(line.removesuffix(b"\n"))
                lines += 1
                if lines % _TOLD_EVERY == 0:
                    print_progress(f"{lines:,} blocks hold")
        found = check.end()
    except BadChain as bad:
        raise StateDamaged(f"{file} is no ledger that holds: {bad}; ask for it again") from bad
    return verified(check.machine_id, found)
