"""Trust tier: what a machine has carried for the reader, and for those who carried for the reader.

    subject ── carried for ──▶ reader                                 counts in full
    subject ── carried for ──▶ witness ── carried for ──▶ reader      counts up to the smaller of the two

A receipt is a pair of half-blocks (node/settlement/blocks.py): somebody paid, and somebody was paid. Only who
carried for the reader is its witness, and only for as much as that, so a thousand identities that one cheater
makes, and that sign for each other, have together what the cheater's machines carried for others: by
themselves nothing. Who is proven to lie has no tier and is no witness. It is one reader's view, advisory: no
credit follows from it. The idea of counting flows only towards the reader is that of Meulpolder et al.,
"BarterCast" (2009).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from node.settlement.terms import MILLIONTHS

STEPS: Final = (1, 100 * MILLIONTHS, 1_000 * MILLIONTHS, 10_000 * MILLIONTHS)
"""The score, in millionths of a ZEQ, from which on it is tier 1, 2, 3, 4."""
NAMES: Final = ("unknown", "seen", "known", "proven", "trusted")


class Receipt(NamedTuple):
    """`payee` carried for `payer` (Ed25519 keys, 32 bytes each), for so many millionths of a ZEQ."""

    payer: bytes
    payee: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Witness:
    """`carried`: by it for the reader. `paid`: by it to the subject. `counted`: what that gives."""

    key: bytes
    carried: int
    paid: int
    counted: int


@dataclass(frozen=True, slots=True)
class Standing:
    """`score` is `direct`, carried for the reader itself, and what the witnesses give; all in millionths of
    a ZEQ. `lies`: a fork of its chain is proven, so there is no score."""

    tier: int
    score: int
    direct: int
    witnesses: tuple[Witness, ...]
    lies: bool

    @property
    def name(self) -> str:
        return NAMES[self.tier]


def reckon(reader: bytes, subject: bytes, receipts: Iterable[Receipt], liars: Container[bytes]) -> Standing:
    """Of the subject (its key) for the reader. Each receipt is given once, and was checked. Of itself a
    reader knows all it has carried, so there everybody who paid it counts in full."""
    if subject in liars:
        return Standing(0, 0, 0, (), True)
    for_reader: dict[bytes, int] = defaultdict(int)
    by_subject: dict[bytes, int] = defaultdict(int)
    for payer, payee, amount in receipts:
        if payer == reader:
            for_reader[payee] += amount
        if payee == subject:
            by_subject[payer] += amount
    direct = by_subject.pop(reader, 0)
    found = []
    for key, paid in sorted(by_subject.items()):
        carried = paid if subject == reader else for_reader.get(key, 0)
        if carried and key not in liars and key != subject:
            found.append(Witness(key, carried, paid, min(carried, paid)))
    score = direct + sum(witness.counted for witness in found)
    return Standing(_tier(score), score, direct, tuple(found), False)


def _tier(score: int) -> int:
    return sum(score >= step for step in STEPS)
