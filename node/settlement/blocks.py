"""Half-blocks: what a machine says it has earned or spent, in one chain of its own.

    block   ├ msgpack [version 1, author 32, key 32, number, previous 32, answers 32, partner 32,
                       partner_key 32, tunnel_id 16, voucher 32, delta, zeqond] ┼ signature 64 ┤
    hash    SHA-256(label ‖ block)
    fork    ├ length of one 2 ┼ one ┼ other ┤

    author's chain    block 1 ◀─ previous ─ block 2 ◀─ previous ─ block 3 …
                                               ▲
    partner's chain          …  block 7 ─ answers ╯         delta there = − delta here

`delta` is in millionths of a ZEQ: below 0 for who paid. The payer's block uses up its number as soon as it is
signed; the payee's, which answers it, is a block of its own, so a partner that never signs freezes nothing. A
pair counts when both are there, each by the key that the other names, and say the same of one tunnel with
opposite signs: so the sum over all pairs is 0 whatever anybody writes. Two blocks by one author with one
number, or one after the other where the second names another one before it, prove to anybody that it lies.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.errors import PeerFault
from crypto.identity import MACHINE_ID_BYTES, SIGNATURE_BYTES
from dht.signatures import Signatures, Signer
from node.settlement.terms import MAX_AMOUNT
from node.settlement.vouchers import HASH_BYTES, TUNNEL_ID_BYTES

VERSION: Final = 1
LABEL: Final = b"zeqnode half-block v1"
_VOUCHER_LABEL: Final = b"zeqnode voucher hash v1"
NOTHING: Final = bytes(HASH_BYTES)
"""As `previous` of a chain's first block, and as `answers` of a block that answers none."""
MAX_NUMBER: Final = 2**40
BLOCK_BYTES: Final = 400  # none is longer
_LENGTH_BYTES: Final = 2

_Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
_MachineId = Annotated[bytes, Meta(min_length=MACHINE_ID_BYTES, max_length=MACHINE_ID_BYTES)]


class BadBlock(PeerFault):
    """A block that cannot be read, does not hold, or does not belong where it is shown."""


class _Signed(msgspec.Struct, array_like=True, frozen=True, kw_only=True, gc=False):
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    author: _MachineId
    key: _Hash
    number: Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
    previous: _Hash
    answers: _Hash
    partner: _MachineId
    partner_key: _Hash
    tunnel_id: Annotated[bytes, Meta(min_length=TUNNEL_ID_BYTES, max_length=TUNNEL_ID_BYTES)]
    voucher: _Hash
    delta: Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
    zeqond: Annotated[int, Meta(ge=0, le=2**48)]


class Block(msgspec.Struct, frozen=True, dict=True):
    """One block as read; `raw` is all of its bytes."""

    raw: bytes
    said: _Signed

    @cached_property
    def hash(self) -> bytes:
        """32 bytes, by which others name it."""
        return sha256(LABEL + self.raw).digest()

    @property
    def place(self) -> tuple[bytes, int]:
        """There may be one block there: the author's key and the number."""
        return self.said.key, self.said.number

    def follows(self, before: Block | None) -> bool:
        """Whether it is the next of the same chain."""
        if before is None:
            return self.said.number == 1 and self.said.previous == NOTHING
        same = (self.said.author, self.said.key) == (before.said.author, before.said.key)
        return same and self.said.number == before.said.number + 1 and self.said.previous == before.hash

    def answers(self, other: Block) -> bool:
        """Whether the two are a pair: the partner's word for the same, with the opposite sign."""
        mine, theirs = self.said, other.said
        return (
            mine.answers == other.hash
            and theirs.answers == NOTHING
            and (mine.author, mine.key) == (theirs.partner, theirs.partner_key)
            and (mine.partner, mine.partner_key) == (theirs.author, theirs.key)
            and (mine.tunnel_id, mine.voucher, mine.delta)
            == (theirs.tunnel_id, theirs.voucher, -theirs.delta)
            and theirs.delta <= 0
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Signed).decode


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes: machine_id (32 bytes) and who signs for it."""

    machine_id: bytes
    signer: Signer


class Partner(msgspec.Struct, frozen=True, kw_only=True):
    """With whom: machine_id and Ed25519 key, 32 bytes each, as its key bundle has them."""

    machine_id: bytes
    key: bytes


def propose(
    party: Party,
    before: Block | None,
    partner: Partner,
    tunnel_id: bytes,
    voucher: bytes,
    amount: int,
    zeqond: int,
) -> Block:
    """The payer's half: it has spent `amount` (millionths of a ZEQ) on this tunnel, as this voucher (32 bytes
    of hash) says. `before`: the last block of its own chain."""
    return _write(party, before, NOTHING, partner, tunnel_id, voucher, -amount, zeqond)


def accept(party: Party, before: Block | None, proposal: Block, zeqond: int) -> Block:
    """The payee's half. Raises BadBlock where the proposal is none that is for this party."""
    said = proposal.said
    us = (party.machine_id, party.signer.public)
    if (said.partner, said.partner_key) != us or said.answers != NOTHING or said.delta > 0:
        raise BadBlock("not a proposal to us")
    partner = Partner(machine_id=said.author, key=said.key)
    amount = -said.delta
    return _write(party, before, proposal.hash, partner, said.tunnel_id, said.voucher, amount, zeqond)


def read(data: bytes) -> Block:
    """Its fields; whether it holds is not looked at. Raises BadBlock."""
    if not SIGNATURE_BYTES < len(data) <= BLOCK_BYTES:
        raise BadBlock("wrong size")
    try:
        said = _decode(data[:-SIGNATURE_BYTES])
    except (ValueError, RecursionError) as error:
        raise BadBlock("not a block") from error
    if _encode(said) != data[:-SIGNATURE_BYTES]:
        raise BadBlock("a block in another encoding than ours")
    if said.author == said.partner:
        raise BadBlock("a block with oneself")
    return Block(bytes(data), said)


def check(block: Block, signatures: Signatures) -> None:
    """Raises BadBlock where its signature does not hold. That `key` is the author's own stands in its key
    bundle, whose hash `author` is: who has met it compares."""
    signed, signature = block.raw[:-SIGNATURE_BYTES], block.raw[-SIGNATURE_BYTES:]
    if not signatures.holds(block.said.key, LABEL, signed, signature):
        raise BadBlock("signature does not hold")


def contradict(one: Block, other: Block) -> bool:
    """Whether no chain holds both, so that their author has two."""
    if one.said.key != other.said.key:
        return False
    first, second = (one, other) if one.said.number <= other.said.number else (other, one)
    if first.said.number == second.said.number:
        return first.raw != second.raw
    return second.said.number == first.said.number + 1 and second.said.previous != first.hash


def fork(one: Block, other: Block) -> bytes:
    """The proof of two blocks that contradict each other; the same for the two in either order."""
    first, second = sorted((one.raw, other.raw))
    return len(first).to_bytes(_LENGTH_BYTES, "big") + first + second


def read_fork(data: bytes, signatures: Signatures) -> tuple[Block, Block]:
    """The two blocks of a proof. Raises BadBlock for what proves nothing."""
    size = int.from_bytes(data[:_LENGTH_BYTES], "big")
    one, other = read(data[_LENGTH_BYTES:][:size]), read(data[_LENGTH_BYTES:][size:])
    if not contradict(one, other) or one.raw >= other.raw:
        raise BadBlock("not two blocks that contradict each other")
    check(one, signatures)
    check(other, signatures)
    return one, other


def _write(
    party: Party,
    before: Block | None,
    answers: bytes,
    partner: Partner,
    tunnel_id: bytes,
    voucher: bytes,
    delta: int,
    zeqond: int,
) -> Block:
    said = _Signed(
        author=party.machine_id,
        key=party.signer.public,
        number=before.said.number + 1 if before else 1,
        previous=before.hash if before else NOTHING,
        answers=answers,
        partner=partner.machine_id,
        partner_key=partner.key,
        tunnel_id=tunnel_id,
        voucher=voucher,
        delta=delta,
        zeqond=zeqond,
    )
    signed = _encode(said)
    return Block(signed + party.signer.sign(LABEL, signed), said)


def voucher_hash(voucher: bytes) -> bytes:
    """32 bytes, by which a block names a voucher with its signature."""
    return sha256(_VOUCHER_LABEL + voucher).digest()
