"""What ledgers show each other: its layout, and that strangers' bytes are read or refused."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.settlement import blocks, heads
from node.settlement.blocks import BLOCK_BYTES, Block, Partner, Party
from node.settlement.heads import ENTRIES, NOTE_BYTES, BadNote, Heads, Held, Note, Reference, Sketch
from tests.dht.record_kit import ToySigner

PARTY = Party(machine_id=b"m" * 32, signer=ToySigner(b"k" * 32))


def a_block(number: int = 1) -> Block:
    block: Block | None = None
    for count in range(number):
        to = Partner(machine_id=b"p" * 32, key=b"q" * 32)
        block = blocks.propose(PARTY, block, to, bytes(16), bytes(32), count, 7)
    assert block is not None
    return block


def test_notes_are_laid_out_as_drawn() -> None:
    one, two = a_block(1), a_block(2)
    assert msgpack.unpackb(heads.encode(Heads(one.raw, b""))) == [1, one.raw, b""]
    assert msgpack.unpackb(heads.encode(Held(one.raw))) == [3, one.raw]
    assert msgpack.unpackb(heads.encode(Reference(one.raw, two.raw))) == [4, one.raw, two.raw]
    number, salt, packed = msgpack.unpackb(heads.encode(heads.sketch([one, two], b"saltsalt")))
    assert (number, salt) == (2, b"saltsalt")
    place = sha256(b"zeqnode place in a chain v1" + b"k" * 32 + (2).to_bytes(8, "big")).digest()[:8]
    assert packed[12:] == place + sha256(b"saltsalt" + two.hash).digest()[:4]
    assert packed.hex() == "1e0174f27cdc9771221864140cd4116614de42fb0fbc1228"


def test_a_sketch_tells_what_is_held_where() -> None:
    held = [a_block(number) for number in (1, 2, 3)]
    found = heads.entries(heads.sketch(held, bytes(8)))
    assert found == {
        heads.place(b"k" * 32, block.said.number): heads.short(block, bytes(8)) for block in held
    }


@pytest.mark.parametrize(
    "note",
    [
        Heads(bytes(BLOCK_BYTES), bytes(BLOCK_BYTES)),
        Sketch(bytes(8), bytes(ENTRIES * 12)),
        Reference(bytes(BLOCK_BYTES), bytes(BLOCK_BYTES)),
    ],
)
def test_the_longest_notes_fit_and_are_read(note: Note) -> None:
    assert len(heads.encode(note)) <= NOTE_BYTES
    assert heads.decode(heads.encode(note)) == note


@pytest.mark.parametrize(
    "data",
    [
        b"",
        msgpack.packb([5, b""]),
        msgpack.packb([1, b""]),
        msgpack.packb([1, b"", "text"]),
        msgpack.packb([1, bytes(BLOCK_BYTES + 1), b""]),
        msgpack.packb([2, bytes(8), bytes(ENTRIES * 12 + 12)]),
        msgpack.packb([2, bytes(7), bytes(12)]),
        msgpack.packb([3, 1.5]),
        msgpack.packb([True, b"", b""]),
        b"\x91" * 5000,
        msgpack.packb([3, b""]) + b"x",
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadNote):
        heads.decode(data)


def test_a_sketch_that_is_cut_short_is_refused() -> None:
    with pytest.raises(BadNote, match="cut short"):
        heads.entries(Sketch(bytes(8), bytes(13)))


@given(st.binary(max_size=NOTE_BYTES + 10))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(BadNote):
        note = heads.decode(data)
        if isinstance(note, Sketch):
            heads.entries(note)
