"""What a simulated machine keeps when its process ends: rows, and the ledger in SQLite, in memory.

backup ─▶ bytes of the ledger, and rows        restore ─▶ all is as it was then
standing ─▶ what each partner has used, and what strangers used today, from rows and vouchers
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cached_property

from node.ledger import Ledger
from node.settlement import vouchers
from node.settlement.blocks import Party
from node.settlement.credit import Credit, Extended
from node.settlement.life import Role, Row
from simulations.toycrypto import ToySignatures


@dataclass(frozen=True)
class Backup:
    rows: dict[bytes, Row]
    ledger: bytes


class Disk:
    """`party`: whose ledger it is. The ledger is made when it is first asked for."""

    def __init__(self, party: Party) -> None:
        self.rows: dict[bytes, Row] = {}
        self._party = party
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger.over(self._connection, self._party, ToySignatures())

    def close(self) -> None:
        self._connection.close()

    def backup(self) -> Backup:
        self.ledger.head()  # it is made
        return Backup(dict(self.rows), self._connection.serialize())

    def restore(self, backup: Backup) -> None:
        self._connection.close()
        self.__dict__.pop("ledger", None)
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.deserialize(backup.ledger)
        self.rows = dict(backup.rows)

    def open_rows(self) -> list[tuple[Row, bytes]]:
        """Those that have not ended or are not settled, each with its newest voucher."""
        kept = [row for row in self.rows.values() if not row.ended or not row.settled]
        return [(row, self.newest(row)) for row in kept]

    def newest(self, row: Row) -> bytes:
        """Empty: there is none."""
        return self.ledger.raw_voucher(row.tunnel_id, given=row.role is Role.PAYER)

    def worth(self, row: Row) -> int:
        """Millionths, pro rata: of the last voucher, or of what was risked where that is more."""
        raw = self.newest(row)
        if not raw:
            return row.value
        read = vouchers.read(raw)
        return max(row.value, row.agreed.amount(read.up + read.down, read.zeqonds))

    def credit(self, extended: Extended, day: int) -> Credit:
        """As it stands on that Unix day. Everybody is a stranger."""
        exposures: dict[bytes, int] = {}
        today = 0
        for row in self.rows.values():
            worth = self.worth(row)
            sign = 1 if row.role is Role.PAYEE else -1
            exposures[row.partner] = exposures.get(row.partner, 0) + sign * worth
            if row.role is Role.PAYEE and row.day == day:
                today += max(0, worth - row.before_today)
        return Credit(extended, exposures, today, day, lambda _machine: False)
