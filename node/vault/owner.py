"""The owner of this machine, whose key and claim lie in the vault; both are made when first needed."""

from __future__ import annotations

from typing import Final

from crypto.identity import MachineKeys
from crypto.zid import BadClaim, Owner, read_claim
from crypto.zid import claim as sign_claim
from node.vault.book import Book

SEED: Final = "owner.zid.seed"
CLAIM: Final = "owner.claim"
CLAIM_ZEQONDS: Final = 40_600_000  # a year
RENEW_ZEQONDS: Final = CLAIM_ZEQONDS // 3


def load(book: Book, machine: str, now: int) -> Owner:
    """The owner. Only the machine itself may have the key, as it is no answer to anybody."""
    if not book.has(SEED):
        book.put(SEED, Owner.generate().seed, (), None, machine, now)
    return Owner(book.get(SEED, machine, now))


def claim(book: Book, owner: Owner, keys: MachineKeys, machine: str, now: int) -> bytes:
    """The 209 bytes of crypto/zid.py, good for at least a third of a year from the zeqond `now`."""
    if book.has(CLAIM):
        kept = book.get(CLAIM, machine, now)
        try:
            said = read_claim(kept, keys.bundle, now + RENEW_ZEQONDS)
        except BadClaim:
            pass
        else:
            if said.owner == owner.public:
                return kept
    made = sign_claim(owner, keys, now, now + CLAIM_ZEQONDS)
    book.put(CLAIM, made, (), None, machine, now)
    return made
