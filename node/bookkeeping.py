"""What people ask of the ledger through the control socket: the chain, whether it holds, who owes whom.

Amounts are whole millionths of a ZEQ in these answers; node/render_ledger.py writes them as people read them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, NamedTuple, Protocol

from crypto.identity import KeyBundle, fingerprint, slug
from node.books import Books
from node.control import Asker
from node.errors import Usage
from node.ledger import Account, Carried, Entry, Ledger, Summary
from node.operations import Arguments, Operation, Result
from node.settlement import audit

OPERATIONS: Final = ("ledger", "ledger_verify", "ledger_export", "balance")
SHOWN_MAX: Final = 10_000
_EXPORT_PAGE: Final = 256
_OFF: Final = "the ledger is off on this node, and its tunnels are free; nothing is owed, and nothing is kept"


class Limits(Protocol):
    """Who lets whom owe how much, by machine_id, in millionths of a ZEQ."""

    def extended(self, machine_id: bytes) -> int:
        """By us."""

    async def left_at(self, machine_id: bytes) -> int | None:
        """What it said that it still extends to us, less what we have used since; None while it has not."""


class Bookkeeping:
    """`operations` are part of those of node/operations.py. `name_of(machine_id)`: its pet name, if any."""

    def __init__(
        self, books: Books, bundle: KeyBundle, limits: Limits, name_of: Callable[[bytes], str | None]
    ) -> None:
        self._books = books
        self._bundle = bundle
        self._limits = limits
        self._name_of = name_of
        self.operations: dict[str, Operation] = {op: getattr(self, f"_on_{op}") for op in OPERATIONS}

    async def _on_ledger(self, arguments: Arguments, _asker: Asker) -> Result:
        last = arguments.get("last", 20)
        if type(last) is not int or not 0 <= last <= SHOWN_MAX:
            raise Usage(f"--last is a whole number of blocks from 0 to {SHOWN_MAX}, not {last!r}")
        shown = await self._books.call(_shown, last)
        head = shown.summary.head
        return {
            "machine": self._machine(self._bundle.machine_id),
            "blocks": shown.summary.blocks,
            "missing": head.said.number - shown.summary.blocks if head is not None else 0,
            "pairs": shown.summary.pairs,
            "open": shown.summary.blocks - shown.summary.pairs,
            "head": {"number": head.said.number, "hash": head.hash.hex()} if head is not None else None,
            "behind": shown.behind,
            "forked": shown.forked,
            "partners": [
                {
                    **self._machine(each.partner),
                    "earned_millionths": each.earned,
                    "spent_millionths": each.spent,
                }
                for each in shown.accounts
            ],
            "chain": [self._block(entry) for entry in shown.newest],
        }

    async def _on_ledger_verify(self, _arguments: Arguments, asker: Asker) -> Result:
        found: list[audit.Verified] = []
        async for step in self._books.verifying():
            found.append(step)
            if len(found) % 20 == 0:
                await asker(f"{step.blocks:,} blocks hold")
        return verified(self._bundle.machine_id, found[-1])

    async def _on_ledger_export(self, _arguments: Arguments, asker: Asker) -> Result:
        await asker.watch(self._lines())
        return {}

    async def _on_balance(self, _arguments: Arguments, _asker: Asker) -> Result:
        sums, carried = await self._books.call(_sums)
        rows = [
            self._owing(
                each, carried.get(each.partner, Carried(0, 0)), await self._limits.left_at(each.partner)
            )
            for each in sums
        ]
        nets = [row["net_millionths"] for row in rows]
        return {
            "partners": sorted(rows, key=lambda row: -abs(row["net_millionths"])),
            "owed_to_you_millionths": sum(net for net in nets if net > 0),
            "you_owe_millionths": -sum(net for net in nets if net < 0),
        }

    # ------------------------------------------------------------------ the answers

    def _block(self, entry: Entry) -> Result:
        said = entry.block.said
        return {
            "number": said.number,
            "zeqond": said.zeqond,
            **self._machine(said.partner),
            "delta_millionths": said.delta,
            "tunnel_id": said.tunnel_id.hex(),
            "paired": entry.other is not None,
            "hash": entry.block.hash.hex(),
        }

    async def _lines(self) -> AsyncGenerator[Result, None]:
        bundle = self._bundle
        yield audit.first_line(bundle.machine_id, bundle.ed25519, bundle.raw)
        count, head = 0, None
        while True:
            page = await self._books.call(Ledger.page, head.said.number if head else 0, _EXPORT_PAGE)
            for entry in page:
                yield audit.line(*entry)
                count, head = count + 1, entry.block
            if len(page) < _EXPORT_PAGE:
                yield audit.last_line(count, head)
                return

    def _owing(self, account: Account, carried: Carried, left: int | None) -> Result:
        """`net`: above 0 where it owes us. `spendable`: what we can still use of it, as far as is known."""
        net = account.earned - account.spent
        return {
            **self._machine(account.partner),
            "net_millionths": net,
            "earned_millionths": account.earned,
            "spent_millionths": account.spent,
            "bytes_for_you": carried.for_us,
            "bytes_for_it": carried.by_us,
            "extended_millionths": self._limits.extended(account.partner),
            "stated_millionths": left,
            "spendable_millionths": max(0, net if left is None else left),
        }

    def _machine(self, machine_id: bytes) -> Result:
        return {
            "name": self._name_of(machine_id),
            "slug": slug(machine_id),
            "fingerprint": fingerprint(machine_id),
        }


class _Shown(NamedTuple):
    summary: Summary
    behind: bool
    forked: bool
    accounts: list[Account]
    newest: list[Entry]


def _shown(ledger: Ledger, last: int) -> _Shown:
    forked = ledger.lies(ledger.us)
    return _Shown(ledger.summary(), ledger.behind, forked, ledger.accounts(), ledger.newest(last))


def _sums(ledger: Ledger) -> tuple[list[Account], dict[bytes, Carried]]:
    """With each partner, what is settled and what the newest vouchers of other tunnels say."""
    sums: dict[bytes, Account] = {each.partner: each for each in ledger.accounts()}
    for each in ledger.unsettled():
        before = sums.get(each.partner, Account(each.partner, 0, 0))
        earned, spent = before.earned + each.earned, before.spent + each.spent
        sums[each.partner] = Account(each.partner, earned, spent)
    return list(sums.values()), ledger.carried()


def verified(machine_id: bytes, found: audit.Verified) -> Result:
    """What `zeqnode ledger verify` prints, of a node's ledger and of a file."""
    return {
        "slug": slug(machine_id),
        "fingerprint": fingerprint(machine_id),
        "blocks": found.blocks,
        "missing": found.missing,
        "pairs": found.pairs,
        "open": found.open,
        "earned_millionths": found.earned,
        "spent_millionths": found.spent,
    }


async def off(_arguments: Arguments, _asker: Asker) -> Result:
    """In place of each of these operations where the ledger is off."""
    raise Usage(_OFF)


OFF: Final = dict.fromkeys(OPERATIONS, off)
