"""Telling witnesses what one was shown: whom to ask next, what came of it, how far their word is followed.

    blocks ─▶ entries ─▶ questions to the closest ─▶ answered ─▶ suspects ─▶ asked themselves
                             ▲                 └─ away: the next closest ─┐
                             └────────────────────────────────────────────┘  until three have answered

A block is told when of each of its entries two witnesses know: of any two payees' threes that are nearly the
same, such pairs meet in one. A witness that lies can keep silent, and then there are the others; or name
machines that hold nothing, and then it is followed only so far.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from node.settlement import witnessing
from node.settlement.blocks import Block
from node.settlement.witnessing import Relay

WITNESSES: Final = 3
ENOUGH: Final = 2
CANDIDATES: Final = 6  # of a place in one round; those that are away are left out of the next
ROUND: Final = witnessing.ENTRIES // 2  # blocks: so that what one witness is told is one report
DAY_SECONDS: Final = 86_400.0
VAIN_MAX: Final = 8  # times a day that one witness is believed about one machine without a proof
FOLLOWED_MAX: Final = 64  # times a day for one witness, whomever it names


class Suspect(NamedTuple):
    """Somebody who, by the word of a witness, was shown what contradicts a block of ours."""

    machine_id: bytes
    witness: bytes
    block: Block


class _Entry:
    def __init__(self, block: Block, place: bytes, short: bytes, candidates: list[Relay], some: int) -> None:
        self.block = block
        self.place = place
        self.short = short
        self.left = candidates
        self.enough = min(ENOUGH, some)
        self.answers = 0

    @property
    def told(self) -> bool:
        return 0 < self.enough <= self.answers


class Round:
    """Of at most 32 blocks, by the machine `us`. `is_away`: relays that are not to be asked now."""

    def __init__(
        self, us: bytes, found: Iterable[Block], relays: Iterable[Relay], is_away: Callable[[Relay], bool]
    ) -> None:
        listed = list(relays)
        here = [each for each in listed if not is_away(each)]
        self._entries: list[_Entry] = []
        self._listed = {each.machine_id for each in listed} - {us}
        self._unfinished: set[bytes] = set()
        for block in found:
            without = {us, block.said.author}
            some = len(self._listed - without)
            for place, short in witnessing.entries(block).items():
                candidates = witnessing.closest(place, here, CANDIDATES, without)
                self._entries.append(_Entry(block, place, short, candidates, some))

    def questions(self) -> dict[Relay, dict[bytes, bytes]]:
        """Whom to tell what now, hash by place; nobody: it is over. The answers come before it is called
        again."""
        asked: dict[Relay, dict[bytes, bytes]] = defaultdict(dict)
        for entry in self._entries:
            wanted = max(0, WITNESSES - entry.answers)
            now, entry.left = entry.left[:wanted], entry.left[wanted:]
            for each in now:
                asked[each][entry.place] = entry.short
        return dict(asked)

    def answered(
        self, witness: Relay, told: Mapping[bytes, bytes], claims: Mapping[bytes, list[bytes]]
    ) -> list[Suspect]:
        """Whom to ask about which block. Names of machines that are not listed are passed over: nobody could
        ask them, and an honest witness gives none."""
        suspects = []
        for entry in self._entries:
            if told.get(entry.place) == entry.short:
                entry.answers += 1
                named = self._listed.intersection(claims.get(entry.place, ())) - {entry.block.said.author}
                suspects += [Suspect(each, witness.machine_id, entry.block) for each in sorted(named)]
        return suspects

    def unfinished(self, block: Block) -> None:
        """A suspect could not be asked about it, so it is to be told again soon."""
        self._unfinished.add(block.hash)

    def result(self) -> tuple[list[Block], list[Block]]:
        """Blocks that are told, and those that are not."""
        short = self._unfinished | {entry.block.hash for entry in self._entries if not entry.told}
        found = {entry.block.hash: entry.block for entry in self._entries}
        told = [block for name, block in found.items() if name not in short]
        return told, [block for name, block in found.items() if name in short]


class Patience:
    """How often it came to nothing today that a witness named somebody. Times: seconds of any clock."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._followed: Counter[bytes] = Counter()  # by witness
        self._vain: Counter[tuple[bytes, bytes]] = Counter()  # by witness and whom it named

    def follow(self, suspect: Suspect, now: float) -> bool:
        """Whether the suspect is to be asked; it counts as in vain until `proved`."""
        if now - self._since >= DAY_SECONDS:
            self._since = now
            self._followed.clear()
            self._vain.clear()
        pair = suspect.witness, suspect.machine_id
        if self._vain[pair] >= VAIN_MAX or self._followed[suspect.witness] >= FOLLOWED_MAX:
            return False
        self._vain[pair] += 1
        self._followed[suspect.witness] += 1
        return True

    def proved(self, suspect: Suspect) -> None:
        """It was true."""
        self._vain[suspect.witness, suspect.machine_id] -= 1
        self._followed[suspect.witness] -= 1
