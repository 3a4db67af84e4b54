"""Whether our chain stands as it was written: every block, its place, its partner's half, and the sums."""

from __future__ import annotations

from typing import Final

from dht.signatures import Signatures
from node.errors import StateDamaged
from node.ledger_reading import Reading, Summary
from node.settlement.audit import BadChain, ChainCheck, Verified
from node.settlement.blocks import BadBlock

PAGE: Final = 256  # blocks checked at a time: some 50 ms of one core


class Verifying:
    """`Ledger.verify` in steps, between which vouchers are kept. `found` is the result so far."""

    def __init__(self, key: bytes, signatures: Signatures) -> None:
        self._check = ChainCheck(key, signatures)
        self._begun: Summary | None = None

    @property
    def found(self) -> Verified:
        return self._check.found

    def step(self, ledger: Reading) -> bool:
        """Whether there is more. Raises StateDamaged."""
        last = self._check.last
        if last is None:
            self._begun = ledger.summary()
        page = ledger.page(last.said.number if last else 0, PAGE)
        try:
            for entry in page:
                self._check.add(*entry)
        except BadChain as bad:
            raise StateDamaged(_broken(str(bad))) from bad
        except (BadBlock, ValueError) as bad:
            raise StateDamaged(_broken("one cannot be read")) from bad
        if len(page) == PAGE:
            return True
        if self._begun == ledger.summary() and self._sums(ledger) != self.found:
            raise StateDamaged(_broken("the sums are others than those of the blocks"))
        return False

    def _sums(self, ledger: Reading) -> Verified:
        """What the sums that were kept say, where nothing was written meanwhile."""
        accounts, kept = ledger.accounts(), ledger.summary()
        earned, spent = sum(each.earned for each in accounts), sum(each.spent for each in accounts)
        missing = kept.head.said.number - kept.blocks if kept.head else 0
        return Verified(kept.blocks, missing, kept.pairs, kept.blocks - kept.pairs, earned, spent)


def _broken(why: str) -> str:
    return (
        f"the ledger is not as it was written: {why}; put back a backup of the file, and "
        f"connect to your partners, who still have your newest block"
    )
