"""What a start finds: tunnels that go on, and what each partner has used so far and today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from node.books import Books
from node.ledger import Ledger
from node.settlement import vouchers
from node.settlement.life import Role, Row
from node.tunnels.disk import Disk
from node.tunnels.store import TunnelStore


@dataclass(frozen=True)
class Loaded:
    """`rows`: those that have not ended or are not settled, with their newest vouchers. `exposures`: by
    machine_id, millionths pro rata; `today`: of all strangers together."""

    rows: list[tuple[Row, bytes]]
    exposures: Mapping[bytes, int]
    today: int


async def load(disk: Disk, books: Books | None, day: int, is_friend: Callable[[bytes], bool]) -> Loaded:
    """`day`: unix day. Raises StorageFailed."""
    rows = [(row, await _newest(books, row)) for row in await disk.call(TunnelStore.unfinished)]
    exposures = await disk.call(TunnelStore.exposures)
    worths: dict[bytes, int] = {}
    for row, raw in rows:
        if not row.ended:
            worths[row.tunnel_id] = worth = _worth(row, raw)
            signed = worth if row.role is Role.PAYEE else -worth
            exposures[row.partner] = exposures.get(row.partner, 0) + signed
    used = await disk.call(TunnelStore.used_on, day)
    today = sum(
        worths.get(row.tunnel_id, row.value) - row.before_today for row in used if not is_friend(row.partner)
    )
    return Loaded(rows, exposures, max(0, today))


async def _newest(books: Books | None, row: Row) -> bytes:
    if books is None:
        return b""
    return await books.call(Ledger.raw_voucher, row.tunnel_id, given=row.role is Role.PAYER)


def _worth(row: Row, raw: bytes) -> int:
    """What its payer has used, as far as is known: by its newest voucher, or as the row has it."""
    if not raw:
        return row.value
    voucher = vouchers.read(raw)
    return max(row.value, row.agreed.amount(voucher.up + voucher.down, voucher.zeqonds))
