"""Several records under one key, and which of them stay when there are too many.

Words. Under a machine's locator key (LOCATION, BUNDLE) anybody may write who knows the lookup secret; a
listed machine's is public. The signature tells such writers not apart, only the network does that each came
from: one record a network, and of more than four networks those that this node's secret prefers. Neither
work, nor speed, nor the sequence buys a place. Who would keep a machine from all 20 replicas of its key needs
many networks: 20 networks hide it with 1.5 %, 100 with 45 % (all 20 times among those that lose). Who hands a
key on (dht/handoff.py) brings several networks' words at once: they stand side by side while no network of
its own wants the places. Else a squatter's newer word would be the only one that new replicas ever have.

Entries. Under a country class or a slug (OFFER, SLUG) many signers stand side by side, each with its best
record: the most work, of that the newest. Of too many, who has done the least work goes first, and before
anyone else the entries of a network that has more than four. `merge` is the same without networks: a pure
function of records, for who puts several nodes' answers together. Commutative, associative and idempotent,
since every signer's best and the best of all signers are told by one order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2s
from typing import Final

import msgspec

from dht.records import Kind, Record


class Held(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A record, the network that it came from, and when (Unix s)."""

    record: Record
    network: bytes
    unix: int


@lru_cache(maxsize=256)
def hold(record: Record, network: bytes, unix: int) -> Held:
    """One object for all the nodes of a world that are given a record within a second."""
    return Held(record, network, unix)


@lru_cache(maxsize=256)
def alone(held: Held) -> tuple[Held, ...]:
    """Under most keys lies one record: one object for all those nodes here, too."""
    return (held,)


MAX_WORDS: Final = 4
MAX_ENTRIES: Final = {Kind.OFFER: 64, Kind.SLUG: 40}
NETWORK_ENTRIES: Final = 4
TOGETHER_S: Final = 10  # what a network brings within them it brings together


def place_word(held: Sequence[Held], new: Held, secret: bytes) -> tuple[Held, ...]:
    """The words under a key once `new` has come; without it where it may not stay."""
    if not held:
        return alone(new)
    first: dict[bytes, Held] = {}  # each network's newest
    others: list[Held] = []
    for one in (*held, new):
        newest = first.setdefault(one.network, one)
        if newest is one:
            continue
        newer, older = (one, newest) if _age(one.record) > _age(newest.record) else (newest, one)
        first[one.network] = newer
        if abs(newer.unix - older.unix) <= TOGETHER_S:
            others.append(older)
    ranked = sorted(first.values(), key=lambda one: _luck(one.network, secret), reverse=True)
    ranked += sorted(others, key=lambda one: _luck(one.record.raw, secret))
    found: dict[bytes, Held] = {}  # by content: a copy from elsewhere takes no second place
    for one in ranked:
        found.setdefault(one.record.raw, one)
    return tuple(found.values())[:MAX_WORDS]


def place_entry(held: Sequence[Held], new: Held, secret: bytes) -> tuple[Held, ...]:
    """The entries under a key once `new` has come; without it where it may not stay."""
    after = [new if _replaces(new, one, held) else one for one in held]
    if all(one.record.public != new.record.public for one in held):
        after.append(new)
    if len(after) > MAX_ENTRIES[new.record.kind]:
        after.remove(_weakest(after, secret))
    return tuple(after)


def outdated(held: Iterable[Held], new: Held) -> bool:
    """Whether the same party has better there: its signer an entry, or its network a word."""
    record = new.record
    if record.kind in MAX_ENTRIES:
        return any(one.record.public == record.public for one in held)
    return any(one.network == new.network and _age(one.record) > _age(record) for one in held)


def merge(a: Iterable[Record], b: Iterable[Record], secret: bytes = b"") -> list[Record]:
    """The entries of two sets of one key, strongest first; `secret` (0 to 32 bytes) decides among equals."""
    best: dict[bytes, Record] = {}
    for record in (*a, *b):
        other = best.get(record.public)
        if other is None or _standing(record) > _standing(other):
            best[record.public] = record
    ranked = sorted(best.values(), key=lambda record: strength(record, secret), reverse=True)
    return ranked[: MAX_ENTRIES[ranked[0].kind]] if ranked else []


def _replaces(new: Held, old: Held, held: Sequence[Held]) -> bool:
    """A better record of the same signer; or the same record from a network that has fewer entries here, so
    that nobody makes others' entries its own and has them dropped as too many of one network."""
    if new.record.public != old.record.public:
        return False
    if new.record.raw == old.record.raw:
        entries = Counter(one.network for one in held)
        return entries[new.network] + 1 < entries[old.network]
    return _standing(new.record) > _standing(old.record)


def _weakest(held: Sequence[Held], secret: bytes) -> Held:
    entries = Counter(one.network for one in held)
    most = max(entries.values())
    crowd = [one for one in held if entries[one.network] == most] if most > NETWORK_ENTRIES else held
    return min(crowd, key=lambda one: strength(one.record, secret))


def work(record: Record) -> int:
    """Bits of its stamp; a slug's claim has none, since finding keys for a slug was work enough."""
    return record.salt[0] if record.kind is Kind.OFFER else 0


def _standing(record: Record) -> tuple[int, int, bytes]:
    """The order of one signer's records under one key."""
    return work(record), *_age(record)


def strength(record: Record, secret: bytes) -> tuple[int, bytes, bytes]:
    """The order of signers under one key: a function of signer and work only."""
    return work(record), _luck(record.public, secret), record.public


def _age(record: Record) -> tuple[int, bytes]:
    """The newer the greater; of two that a signer made for the same moment, one everywhere."""
    return record.sequence, record.raw


def _luck(party: bytes, secret: bytes) -> bytes:
    return blake2s(party, key=secret, digest_size=8).digest()
