"""Two ledgers meet: what each shows when a tunnel opens, and what it learns from the other.

    opening    ─▶ heads, sketch          in notes inside the tunnel, after `Connected`, each way
    received   heads  ─▶ the partner's newest block and ours are learnt; from now on we sign with it
                         where it holds another one of ours than we do: ours, to be honest about it
               sketch ─▶ where the partner holds another block than we do: ours, of up to 8 authors
               held, reference ─▶ nothing

Functions for `Books.call`: the ledger first. A note costs two signature checks at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from node.ledger import Ledger
from node.settlement import blocks, heads
from node.settlement.blocks import BadBlock, Block, Partner
from node.settlement.heads import BadNote, Heads, Held, Reference, Sketch

NEWEST: Final = heads.ENTRIES // 2  # of a sketch; the others are chosen at random
HELD: Final = 8  # blocks in answer to one sketch, one of each author
REFERENCES: Final = 8


def opening(ledger: Ledger, partner: Partner, entropy: Callable[[int], bytes]) -> list[bytes]:
    """The notes to send first, each of at most 850 bytes."""
    own, theirs = ledger.head(), ledger.head(partner.key)
    start = int.from_bytes(entropy(8), "big") >> 1  # SQLite's integers have 63 bits
    others = ledger.sample(NEWEST, heads.ENTRIES - NEWEST, start)
    notes = [heads.encode(Heads(_raw(own), _raw(theirs)))]
    return [*notes, heads.encode(heads.sketch(others, entropy(heads.SALT_BYTES)))] if others else notes


def references(ledger: Ledger) -> list[bytes]:
    """Notes with the pairs in which we earned most, for a relay that wants its tier known: they say who paid
    it."""
    entries = ledger.references(REFERENCES)
    return [heads.encode(Reference(other.raw, own.raw)) for own, other in entries if other is not None]


def received(ledger: Ledger, partner: Partner, note: bytes) -> list[bytes]:
    """A note of the partner's; those to answer with. Raises BadNote and BadBlock. Proofs of forks that it
    gave are among `ledger.untold()`."""
    match heads.decode(note):
        case Heads(head, yours):
            return _heads(ledger, partner, head, yours)
        case Sketch() as sketch:
            return _conflicts(ledger, sketch)
        case Held(raw):
            ledger.compare(blocks.read(raw))
        case Reference(proposal, answer):
            earned = blocks.read(answer)
            _is_of(earned, partner)
            ledger.learn_pair(blocks.read(proposal), earned)
    return []


def _heads(ledger: Ledger, partner: Partner, head: bytes, yours: bytes) -> list[bytes]:
    answers: list[bytes] = []
    if head:
        newest = blocks.read(head)
        _is_of(newest, partner)
        ledger.learn(newest)
    if yours:
        kept = blocks.read(yours)
        if kept.said.key != ledger.us:
            raise BadBlock("not of our chain")
        own = ledger.at(*kept.place)
        if ledger.learn(kept) is not None and own is not None:
            answers.append(heads.encode(Held(own.raw)))
    ledger.heard(partner.key)
    return answers


def _conflicts(ledger: Ledger, sketch: Sketch) -> list[bytes]:
    shown = heads.entries(sketch)
    if not shown:
        raise BadNote("a sketch of nothing")
    differing = {
        block.said.key: block  # one proves as much of its author as all
        for block in ledger.at_places(list(shown))
        if heads.short(block, sketch.salt) != shown[heads.place(*block.place)]
    }
    return [heads.encode(Held(block.raw)) for block in list(differing.values())[:HELD]]


def _is_of(block: Block, partner: Partner) -> None:
    if (block.said.author, block.said.key) != (partner.machine_id, partner.key):
        raise BadBlock("not of the partner's chain")


def _raw(block: Block | None) -> bytes:
    return block.raw if block is not None else b""
