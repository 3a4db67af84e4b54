"""What is done with the whole table: it is saved, and some of it is drawn by lot.

a saved table: msgpack [version 1, [contact, contact, …]], 30 or 42 bytes each
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

from dht import contacts
from dht.contacts import Contact

Item = TypeVar("Item")
VERSION: Final = 1

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, list[bytes]]).decode


def pack(known: Iterable[Contact]) -> bytes:
    return _pack((VERSION, [contact.wire for contact in known]))


def unpack(saved: bytes, size: int) -> list[Contact]:
    """Those whose wire form has `size` bytes. Raises ValueError on what is no saved table."""
    version, wires = _unpack(saved)
    if version != VERSION:
        raise ValueError(f"version {version} is not known")
    return contacts.split(b"".join(wire for wire in wires if len(wire) == size), size)


def draw(known: list[Item], count: int, entropy: Callable[[int], bytes]) -> list[Item]:
    """So many of them, or all, in random order; `known` is used up."""
    count = min(count, len(known))
    random = entropy(4 * count)
    for place in range(count):
        number = int.from_bytes(random[4 * place : 4 * place + 4], "big")
        other = place + number % (len(known) - place)
        known[place], known[other] = known[other], known[place]
    return known[:count]
