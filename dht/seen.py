"""Which bulletins are known here, kept by their age, and a short sum that tells two neighbours what differs.

    block = zeqond // 1024, 13 minutes 16 seconds   what expires, expires by the block
    known ── block ── block ── block ── …            ids, each with its bulletin as long as there is room
                 ╰── in the digest ──╯               only blocks that a newcomer would still take in whole

    digest, 256 bytes ├ sum 0, 4 bytes ┼ … ┼ sum 63 ┤  sum b: XOR of bytes 1–4 of all ids with id[0] >> 2 = b

Two nodes of different age hold the same blocks, and so have equal digests when nothing is missing. A block
goes when its last bulletin has been out of date for twenty minutes: a replay of it is refused by its date.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import Counter
from enum import IntEnum
from operator import attrgetter
from typing import Final

from dht.bulletin import AHEAD_ZEQONDS, LIFE_ZEQONDS, Bulletin

BLOCK_ZEQONDS: Final = 1024
KNOWN: Final = 20_000  # ids in all
HELD_BYTES: Final = 8_000_000  # bulletins in all
REFUSED: Final = 1024  # ids of what is not to be asked for again
CALM: Final = 1000  # bulletins in a block; in one that has more, an author may have no more than
OF_ONE_AUTHOR: Final = 32  # and only one whom a calm block knows is served at once
DIGEST_BYTES: Final = 256
BUCKETS: Final = 64
_MARGIN_ZEQONDS: Final = 155  # two minutes: what is asked for now must still be good when it comes
_SUM_BITS: Final = 32
_id = attrgetter("id")


class Place(IntEnum):
    """What a bulletin gets, by its date and its author."""

    NONE = 0
    LATER = 1  # it is announced, not pushed
    NOW = 2


class _Block:
    """`bare`: ids of which nothing else is left. `bulletins`: the others, that came later. Both in order of
    arrival. Not a dict of them, which takes three times the memory, and more while it grows."""

    __slots__ = ("_authors", "_sorted", "bare", "bulletins", "sums")

    def __init__(self) -> None:
        self._authors: Counter[bytes] | None = None
        self._sorted = array("H")  # their places in `bulletins`, by id
        self.bare: dict[bytes, None] = {}
        self.bulletins: list[Bulletin] = []
        self.sums = 0

    def __len__(self) -> int:
        return len(self.bare) + len(self.bulletins)

    def get(self, name: bytes) -> Bulletin | None:
        bulletins, by_id = self.bulletins, self._sorted
        place = bisect_left(by_id, name, key=lambda number: bulletins[number].id)
        if place == len(by_id):
            return None
        found = bulletins[by_id[place]]
        return found if found.id == name else None

    @property
    def calm(self) -> bool:
        return len(self) < CALM

    @property
    def authors(self) -> Counter[bytes]:
        """How many bulletins each has; not counted before somebody asks."""
        if self._authors is None:
            self._authors = Counter(held.author for held in self.bulletins)
        return self._authors

    def add(self, bulletin: Bulletin) -> None:
        bulletins = self.bulletins
        bulletins.append(bulletin)
        insort(self._sorted, len(bulletins) - 1, key=lambda number: bulletins[number].id)
        self.sums ^= _lane(bulletin.id)
        if self._authors is not None:
            self._authors[bulletin.author] += 1

    def strip(self, count: int) -> list[Bulletin]:
        """Of the bulletins that came first only the ids stay."""
        gone = self.bulletins[:count]
        del self.bulletins[:count]
        left = self.bulletins
        self._sorted = array("H", sorted(range(len(left)), key=lambda number: left[number].id))
        self.bare.update(dict.fromkeys(map(_id, gone)))
        return gone

    def forget(self, count: int) -> None:
        """Those ids."""
        for name in [*self.bare][:count]:
            del self.bare[name]
            self.sums ^= _lane(name)


class Seen:
    """All times are in zeqonds. `counters` gets what had to go before its time."""

    __slots__ = ("_blocks", "_counters", "_held_bytes", "_known", "_refused")

    def __init__(self, counters: Counter[str]) -> None:
        self._blocks: dict[int, _Block] = {}
        self._counters = counters
        self._refused: dict[bytes, None] = {}
        self._known = self._held_bytes = 0

    def __len__(self) -> int:
        return self._known

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def knows(self, name: bytes) -> bool:
        """Whether that id came by already, be it read or refused."""
        for block in self._blocks.values():
            if block.get(name) is not None or name in block.bare:
                return True
        return name in self._refused

    def get(self, name: bytes) -> Bulletin | None:
        for block in self._blocks.values():
            found = block.get(name)
            if found is not None:
                return found
        return None

    def add(self, bulletin: Bulletin, now: int) -> None:
        """A timely, genuine bulletin that is not known yet."""
        number = bulletin.zeqond // BLOCK_ZEQONDS
        block = self._blocks.get(number)
        if block is None:
            self._expire(now)
            block = self._blocks[number] = _Block()
        block.add(bulletin)
        self._known += 1
        self._held_bytes += len(bulletin.wire)
        if self._held_bytes > HELD_BYTES:
            self._shed(ids_too=False)
        if self._known > KNOWN:
            self._shed(ids_too=True)

    def place(self, bulletin: Bulletin) -> Place:
        """Of a bulletin that is not known yet. In a flood, those who were here before it are served first,
        and nobody has more than a share. That goes by the date, not by the time of coming, so that a newcomer
        who gets two hours at once refuses nobody."""
        block = self._blocks.get(bulletin.zeqond // BLOCK_ZEQONDS)
        if block is None or block.calm:
            return Place.NOW
        if block.authors[bulletin.author] >= OF_ONE_AUTHOR:
            return Place.NONE
        before = any(each.calm and bulletin.author in each.authors for each in self._blocks.values())
        return Place.NOW if before else Place.LATER

    def refuse(self, name: bytes) -> None:
        self._refused[name] = None
        if len(self._refused) > REFUSED:
            del self._refused[next(iter(self._refused))]

    def digest(self, now: int) -> bytes:
        """256 bytes."""
        sums = 0
        for block in self._comparable(now):
            sums ^= block.sums
        return sums.to_bytes(DIGEST_BYTES, "little")

    def differing(self, digest: bytes, now: int) -> list[bytes]:
        """Ids held here in the buckets in which a neighbour's digest is another than ours."""
        other = int.from_bytes(digest, "little") ^ int.from_bytes(self.digest(now), "little")
        if not other:
            return []
        wanted = {bucket for bucket in range(BUCKETS) if other >> bucket * _SUM_BITS & 0xFFFFFFFF}
        return [
            name
            for block in self._comparable(now)
            for name in map(_id, block.bulletins)
            if name[0] >> 2 in wanted
        ]

    def _comparable(self, now: int) -> list[_Block]:
        first = now - LIFE_ZEQONDS + _MARGIN_ZEQONDS
        return [block for number, block in self._blocks.items() if number * BLOCK_ZEQONDS >= first]

    def _expire(self, now: int) -> None:
        last = now - LIFE_ZEQONDS - 2 * AHEAD_ZEQONDS
        for number in [each for each in self._blocks if (each + 1) * BLOCK_ZEQONDS <= last]:
            block = self._blocks.pop(number)
            self._known -= len(block)
            self._held_bytes -= sum(len(held.wire) for held in block.bulletins)

    def _shed(self, *, ids_too: bool) -> None:
        """The older half of the oldest block that has any goes: so a flood with old dates sheds itself."""
        for number in sorted(self._blocks):
            block = self._blocks[number]
            size = len(block) if ids_too else len(block.bulletins)
            if size:
                break
        count = (size + 1) // 2
        stripped = block.strip(max(0, count - len(block.bare)) if ids_too else count)
        self._held_bytes -= sum(len(held.wire) for held in stripped)
        if ids_too:
            block.forget(count)
            self._known -= count
        self._counters["bulletins dropped for want of room"] += count


def _lane(name: bytes) -> int:
    """An id's part of a digest, as a number of 2,048 bits."""
    return int.from_bytes(name[1:5], "little") << (name[0] >> 2) * _SUM_BITS
