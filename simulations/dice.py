"""Chance in a simulated world: the same bytes from one seed on every machine and Python. Integers only."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, shake_128
from random import Random
from typing import Final, TypeVar

Item = TypeVar("Item")

MILLION: Final = 1_000_000
_BLOCK_BYTES: Final = 256
_64: Final = (1 << 64) - 1


class Dice:
    """One stream of chance for one purpose, so that more of one thing does not change all others.

    Of `random.Random` it uses `getrandbits` alone, whose values no version of Python has changed."""

    def __init__(self, seed: int, purpose: str) -> None:
        digest = blake2b(purpose.encode(), key=seed.to_bytes(8, "big"), digest_size=32).digest()
        self.bits = Random(int.from_bytes(digest, "big")).getrandbits  # noqa: S311 - reproducible, not secret
        """bits(n): an integer of n random bits."""

    def below(self, bound: int) -> int:
        """0 to bound - 1; uneven by less than bound / 2⁶⁴."""
        return self.bits(64) * bound >> 64

    def between(self, low: int, high: int) -> int:
        """low to high, both included."""
        return low + self.below(high - low + 1)

    def happens(self, ppm: int) -> bool:
        """Yes in `ppm` of a million cases."""
        return self.below(MILLION) < ppm

    def one_of(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def weighted(self, weights: Sequence[int]) -> int:
        """An index; each as often as its share of the sum."""
        left = self.below(sum(weights))
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        raise ValueError("weights must be positive")


def chance(state: int) -> tuple[int, int]:
    """A state's next one, and 64 bits of chance: SplitMix64 (Steele, Lea and Flood, 2014).

    Two numbers of memory where `Dice` has 2.5 KB, so that every host can have its own."""
    state = (state + 0x9E3779B97F4A7C15) & _64
    mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _64
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _64
    return state, mixed ^ mixed >> 31


class Entropy:
    """`entropy(n)` of one node: SHAKE-128 of seed, node and a block number."""

    __slots__ = ("_at", "_block", "_key", "_number")

    def __init__(self, seed: int, node: int) -> None:
        self._key = seed.to_bytes(8, "big") + node.to_bytes(8, "big")
        self._number = self._at = 0
        self._block = b""

    def __call__(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._block):
            key = self._key + self._number.to_bytes(8, "big")
            self._block = shake_128(key).digest(max(_BLOCK_BYTES, size))
            self._number += 1
            self._at, end = 0, size
        drawn = self._block[self._at : end]
        self._at = end
        return drawn
