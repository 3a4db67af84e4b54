"""Checking a whole chain, block by block: on the disk, or as somebody else exported it.

    line 1       {"zeqnode_ledger": 1, "machine_id": …, "key": …, "bundle": …}     hex, hex, base64
    line 2 …     {"block": …, "partner_block": … or null, and what they say, for people}       base64
    last line    {"blocks": how many, "head": hash of the last, hex, or null}

Only the blocks count; what stands beside one has to agree with it. `bundle` shows that the key is this
machine's. That the newest blocks were left out before the file was made, no file can show.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, Final

import msgspec

from crypto.errors import PeerFault
from crypto.identity import BadKeys, KeyBundle
from dht.signatures import Signatures
from node.settlement import blocks
from node.settlement.blocks import BadBlock, Block

FORMAT: Final = 1
LINE_BYTES: Final = 4096  # none is longer


class BadChain(PeerFault):
    """What is wrong, and with which block."""


class Verified(msgspec.Struct, frozen=True):
    """`missing`: numbers of the chain that are not there. `pairs`: blocks to which the partner's half is
    there; `open`: those of which it is not. `earned`, `spent`: millionths of a ZEQ in pairs."""

    blocks: int = 0
    missing: int = 0
    pairs: int = 0
    open: int = 0
    earned: int = 0
    spent: int = 0


class ChainCheck:
    """`add` one after the other, from the first; `found` is the result so far."""

    def __init__(self, key: bytes, signatures: Signatures) -> None:
        self.found = Verified()
        self.last: Block | None = None
        self._key = key
        self._signatures = signatures
        self._halves: set[bytes] = set()

    def add(self, block: Block, other: Block | None) -> None:
        """`other`: the partner's half. Raises BadChain."""
        number = block.said.number
        try:
            if block.said.key != self._key:
                raise BadBlock("it is of another chain")
            blocks.check(block, self._signatures)
            self._follows(block)
            if other is not None:
                self._pairs(block, other)
        except BadBlock as bad:
            raise BadChain(f"block {number}: {bad}") from bad
        last = self.last.said.number if self.last else 0
        delta = block.said.delta if other is not None else 0
        self.found = Verified(
            self.found.blocks + 1,
            self.found.missing + number - last - 1,
            self.found.pairs + (other is not None),
            self.found.open + (other is None),
            self.found.earned + max(0, delta),
            self.found.spent + max(0, -delta),
        )
        self.last = block

    def _follows(self, block: Block) -> None:
        last = self.last.said.number if self.last else 0
        if block.said.number <= last or (block.said.number == last + 1 and not block.follows(self.last)):
            raise BadBlock("it does not follow the one before it")

    def _pairs(self, block: Block, other: Block) -> None:
        if not (block.answers(other) or other.answers(block)):
            raise BadBlock("the partner's half is of something else")
        blocks.check(other, self._signatures)
        if other.hash in self._halves:
            raise BadBlock("the partner's half belongs to an earlier one")
        self._halves.add(other.hash)


# ------------------------------------------------------------------ the file


def first_line(machine_id: bytes, key: bytes, bundle: bytes) -> dict[str, Any]:
    return {
        "zeqnode_ledger": FORMAT,
        "machine_id": machine_id.hex(),
        "key": key.hex(),
        "bundle": b64encode(bundle).decode(),
    }


def line(block: Block, other: Block | None) -> dict[str, Any]:
    """Of one block and the partner's half."""
    said = block.said
    return {
        "number": said.number,
        "hash": block.hash.hex(),
        "partner": said.partner.hex(),
        "tunnel_id": said.tunnel_id.hex(),
        "delta_millionths": said.delta,
        "zeqond": said.zeqond,
        "block": b64encode(block.raw).decode(),
        "partner_block": b64encode(other.raw).decode() if other is not None else None,
    }


def last_line(count: int, head: Block | None) -> dict[str, Any]:
    return {"blocks": count, "head": head.hash.hex() if head is not None else None}


class FileCheck:
    """`add` every line, then `end`. `machine_id` is there after the first line."""

    def __init__(self, signatures: Signatures) -> None:
        self.machine_id = b""
        self._signatures = signatures
        self._chain: ChainCheck | None = None
        self._ended = False

    def add(self, data: bytes) -> None:
        """One line. Raises BadChain."""
        values = _object(data)
        if self._ended:
            raise BadChain("there is more after the last line")
        if self._chain is None:
            self._chain = ChainCheck(self._begin(values), self._signatures)
        elif "block" in values:
            block, half = _block(values["block"]), values.get("partner_block")
            other = _block(half) if half is not None else None
            if line(block, other) != values:
                raise BadChain(f"block {block.said.number}: what stands beside it is not what it says")
            self._chain.add(block, other)
        else:
            if last_line(self._chain.found.blocks, self._chain.last) != values:
                raise BadChain("blocks are left out before the last line")
            self._ended = True

    def end(self) -> Verified:
        """Raises BadChain where the last line is not there."""
        if self._chain is None or not self._ended:
            raise BadChain("the last line is not there: the file is cut short")
        return self._chain.found

    def _begin(self, values: dict[str, Any]) -> bytes:
        """The key of the chain."""
        if values.get("zeqnode_ledger") != FORMAT:
            raise BadChain("this is no exported ledger that this version knows")
        try:
            bundle = KeyBundle.from_bytes(_bytes(values.get("bundle")))
        except BadKeys as bad:
            raise BadChain(str(bad)) from bad
        if first_line(bundle.machine_id, bundle.ed25519, bundle.raw) != values:
            raise BadChain("the key in the first line is not this machine's")
        self.machine_id = bundle.machine_id
        return bundle.ed25519


def _object(data: bytes) -> dict[str, Any]:
    if len(data) <= LINE_BYTES:
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (ValueError, RecursionError):
            pass
    raise BadChain("a line that is no line of an exported ledger")


def _bytes(text: object) -> bytes:
    try:
        return b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError as error:
        raise BadChain("something that is not base64") from error


def _block(text: object) -> Block:
    try:
        return blocks.read(_bytes(text))
    except BadBlock as bad:
        raise BadChain(f"something that is no block: {bad}") from bad
