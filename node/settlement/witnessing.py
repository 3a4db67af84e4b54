"""Witnesses of chains: relays that are told which block somebody was shown, and that two were shown others.

    payee A ── place, hash ──▶ witness ◀── place, another hash ── payee B
                                  └── "A says otherwise" ─────────────▶ B ── its block ──▶ A

    report   ├ place 8 ┼ hash 16 ┤ × n          n in [1, 64]; place as in node/settlement/heads.py
    claims   msgpack [version 1, [[place 8, [machine_id 32, …]], …]]     who told another hash for a place;
                                                                         at most 64 machine_ids in all

A report says of each block that it stands at its place, and what stands before it, as the block says: two
blocks, one after the other, contradict each other too. The hash is longer than in a sketch, which has a salt:
who forks makes both blocks, and could make 4 or 8 bytes of their hashes equal. A place tells who has not met
its author nothing, so a witness does not know whom it serves.

The witnesses of a place are the relays whose points are closest to the place's, by XOR:

    point of a relay    SHA-256(label ‖ machine_id ‖ key)      key: the Ed25519 key that signed its offer
    point of a place    SHA-256(label ‖ place)

Each place has witnesses of its own. Who wants to be its own witness needs three listed relays that are closer
than all others, for every block of both branches.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container, Iterable, Mapping
from hashlib import sha256
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from crypto.errors import PeerFault
from crypto.identity import MACHINE_ID_BYTES
from node.settlement import blocks, heads
from node.settlement.blocks import Block
from node.settlement.heads import PLACE_BYTES

VERSION: Final = 1
HASH_BYTES: Final = 16
ENTRIES: Final = 64  # of a report
NAMES: Final = 64  # of an answer
PLACE_MAX: Final = 16  # reports of one place that a witness keeps, and names
REPORTER_MAX: Final = 4096  # entries of one reporter that a witness keeps
WITNESS_MAX: Final = 65_536  # entries in all: some 30 MB
_ENTRY_BYTES: Final = PLACE_BYTES + HASH_BYTES
_RELAY_LABEL: Final = b"zeqnode witness v1"
_PLACE_LABEL: Final = b"zeqnode witnessed place v1"

_Place = Annotated[bytes, Meta(min_length=PLACE_BYTES, max_length=PLACE_BYTES)]
_Name = Annotated[bytes, Meta(min_length=MACHINE_ID_BYTES, max_length=MACHINE_ID_BYTES)]
_Names = Annotated[list[_Name], Meta(min_length=1, max_length=PLACE_MAX)]


class BadReport(PeerFault):
    """Bytes that are no report, or no answer to one."""


class _Claims(msgspec.Struct, array_like=True, frozen=True):
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    claims: Annotated[list[tuple[_Place, _Names]], Meta(max_length=ENTRIES)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Claims).decode


class Relay(NamedTuple):
    """One that is listed: machine_id and the key that signed its offer, 32 bytes each, and its point."""

    machine_id: bytes
    key: bytes
    point: int


def relay(machine_id: bytes, key: bytes) -> Relay:
    return Relay(machine_id, key, _point(_RELAY_LABEL + machine_id + key))


def closest(place: bytes, relays: Iterable[Relay], count: int, without: Container[bytes]) -> list[Relay]:
    """The witnesses of a place, the closest first; none of the machines `without`."""
    target = _point(_PLACE_LABEL + place)
    eligible = (each for each in relays if each.machine_id not in without)
    return heapq.nsmallest(count, eligible, key=lambda each: each.point ^ target)


def entries(block: Block) -> dict[bytes, bytes]:
    """Hash (16 bytes) by place (8): of the block, and of the one before it."""
    (key, number), before = block.place, block.said.previous
    found = {heads.place(key, number): block.hash[:HASH_BYTES]}
    if before != blocks.NOTHING and number > 1:
        found[heads.place(key, number - 1)] = before[:HASH_BYTES]
    return found


def encode_report(found: Mapping[bytes, bytes]) -> bytes:
    """Of at most 64 entries."""
    return b"".join(place + short for place, short in found.items())


def decode_report(data: bytes) -> dict[bytes, bytes]:
    """Hash by place. Raises BadReport."""
    count, rest = divmod(len(data), _ENTRY_BYTES)
    if rest or not 1 <= count <= ENTRIES:
        raise BadReport("not a report to a witness")
    parts = [data[at : at + _ENTRY_BYTES] for at in range(0, len(data), _ENTRY_BYTES)]
    return {part[:PLACE_BYTES]: part[PLACE_BYTES:] for part in parts}


def encode_claims(claims: Mapping[bytes, list[bytes]]) -> bytes:
    """machine_ids by place, of at most 64 places; each keeps its share of the names that an answer has."""
    fair = min(PLACE_MAX, NAMES // max(1, len(claims)))
    return _encode(_Claims(VERSION, [(place, names[:fair]) for place, names in claims.items() if names]))


def decode_claims(data: bytes) -> dict[bytes, list[bytes]]:
    """machine_ids by place. Raises BadReport."""
    try:
        claims = dict(_decode(data).claims)
    except (ValueError, RecursionError) as error:
        raise BadReport("not an answer of a witness") from error
    if sum(map(len, claims.values())) > NAMES:
        raise BadReport("more names than an answer has")
    return claims


class _Entry(NamedTuple):
    place: bytes
    short: bytes
    reporter: bytes


class Witness:
    """What a relay was told, in memory. The oldest of a reporter make room for its own, and when all is full
    those of who has told most: so nobody who tells much pushes out others."""

    def __init__(self, *, reporter_max: int = REPORTER_MAX, in_all: int = WITNESS_MAX) -> None:
        self._reporter_max = reporter_max
        self._in_all = in_all
        self._at: dict[bytes, list[_Entry]] = {}  # by place, the oldest first
        self._of: dict[bytes, deque[_Entry]] = {}  # by reporter, the oldest first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def report(self, reporter: bytes, told: Mapping[bytes, bytes], *, keep: bool) -> dict[bytes, list[bytes]]:
        """Who told another hash, by place, the newest first. `keep`: the reporter can be asked by others."""
        claims = {}
        for place, short in told.items():
            others = [each for each in self._at.get(place, ()) if each.short != short]
            names = [each.reporter for each in reversed(others) if each.reporter != reporter]
            if names:
                claims[place] = list(dict.fromkeys(names))
            if keep:
                self._keep(_Entry(place, short, reporter))
        return claims

    def _keep(self, entry: _Entry) -> None:
        there = self._at.get(entry.place, [])
        if entry in there:
            self._drop(entry)  # and put last, as the newest
        elif len(there) >= PLACE_MAX:
            self._drop(there[0])
        self._at.setdefault(entry.place, []).append(entry)
        own = self._of.setdefault(entry.reporter, deque())
        own.append(entry)
        self._count += 1
        if len(own) > self._reporter_max:
            self._drop(own[0])
        elif self._count > self._in_all:
            self._drop(max(self._of.values(), key=len)[0])

    def _drop(self, entry: _Entry) -> None:
        for entries_of, name in ((self._at, entry.place), (self._of, entry.reporter)):
            kept = entries_of[name]
            kept.remove(entry)
            if not kept:
                del entries_of[name]
        self._count -= 1


def _point(data: bytes) -> int:
    return int.from_bytes(sha256(data).digest(), "big")
