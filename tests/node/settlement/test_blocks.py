"""Half-blocks: their layout, chains and pairs whose sum is nothing, forks that prove themselves."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crypto.identity import verify
from dht.signatures import Ed25519Signatures
from node.settlement import blocks
from node.settlement.blocks import BLOCK_BYTES, MAX_NUMBER, NOTHING, BadBlock, Block, Partner, Party
from node.settlement.terms import MAX_AMOUNT
from tests.dht.record_kit import ToySignatures, ToySigner, machine, signer

SIGNATURES = Ed25519Signatures()
TUNNEL = b"t" * 16
VOUCHER = b"v" * 32


def party(number: int) -> Party:
    return Party(machine_id=machine(number).machine_id, signer=signer(number))


def partner(number: int) -> Partner:
    return Partner(machine_id=machine(number).machine_id, key=machine(number).bundle.ed25519)


def a_pair(amount: int = 50, before: Block | None = None) -> tuple[Block, Block]:
    spent = blocks.propose(party(1), before, partner(2), TUNNEL, VOUCHER, amount, 1_000)
    return spent, blocks.accept(party(2), None, spent, 1_001)


def changed(block: Block, **fields: object) -> Block:
    """Other fields, with the author's true signature on them."""
    said = msgspec.structs.replace(block.said, **fields)
    signed = msgspec.msgpack.encode(said)
    return blocks.read(signed + signer(1).sign(blocks.LABEL, signed))


# ------------------------------------------------------------------ one block


def test_a_block_is_laid_out_as_drawn() -> None:
    spent, earned = a_pair()
    one, two = party(1).machine_id, party(2).machine_id
    key_of_one, key_of_two = machine(1).bundle.ed25519, machine(2).bundle.ed25519
    assert msgpack.unpackb(spent.raw[:-64]) == [
        *(1, one, key_of_one, 1, NOTHING, NOTHING, two, key_of_two, TUNNEL, VOUCHER, -50, 1_000),
    ]
    assert msgpack.unpackb(earned.raw[:-64]) == [
        *(1, two, key_of_two, 1, NOTHING, spent.hash, one, key_of_one, TUNNEL, VOUCHER, 50, 1_001),
    ]
    verify(machine(1).bundle.ed25519, b"zeqnode half-block v1", spent.raw[:-64], spent.raw[-64:])
    assert spent.hash == sha256(b"zeqnode half-block v1" + spent.raw).digest()
    found = sha256(spent.raw + earned.raw).hexdigest()
    assert found == "82d6651fca0bfda200f63d3d40143b767caa41f96e3ad13de11360ed631f7d18"


def test_what_was_written_is_read_and_holds() -> None:
    for block in a_pair():
        again = blocks.read(block.raw)
        assert again == block
        blocks.check(again, SIGNATURES)


def test_no_block_is_longer_than_it_may_be() -> None:
    longest = changed(a_pair()[0], number=MAX_NUMBER, delta=-MAX_AMOUNT, zeqond=2**48)
    assert len(longest.raw) <= BLOCK_BYTES


@given(st.integers(0, BLOCK_BYTES), st.integers(1, 255))
def test_one_changed_byte_does_not_hold(place: int, change: int) -> None:
    raw = bytearray(a_pair()[0].raw)
    raw[place % len(raw)] ^= change
    with pytest.raises(BadBlock):
        blocks.check(blocks.read(bytes(raw)), SIGNATURES)


@given(st.binary(max_size=2 * BLOCK_BYTES))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for attempt in (blocks.read, lambda bad: blocks.read_fork(bad, SIGNATURES)):
        with suppress(BadBlock):
            attempt(data)


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("value", [2**63, -(2**62) - 1, 1.0, True, "1", None, b"", [], bytes(33)])
def test_extremes_are_no_block(place: int, value: object) -> None:
    fields = msgpack.unpackb(a_pair()[0].raw[:-64])
    fields[place] = value
    payload = msgpack.packb(fields)
    with pytest.raises(BadBlock):
        blocks.read(payload + signer(1).sign(blocks.LABEL, payload))


def test_nobody_deals_with_itself() -> None:
    with pytest.raises(BadBlock, match="oneself"):
        changed(a_pair()[0], partner=party(1).machine_id)


# ------------------------------------------------------------------ chains and pairs


def test_a_block_follows_only_the_one_before_it() -> None:
    first, _ = a_pair()
    second, _ = a_pair(70, first)
    assert first.follows(None)
    assert second.follows(first)
    assert not second.follows(None)
    assert not first.follows(first)
    assert not second.follows(second)
    assert not changed(second, number=3).follows(first)
    assert not changed(second, previous=NOTHING).follows(first)
    theirs = blocks.propose(party(3), first, partner(2), TUNNEL, VOUCHER, 1, 1_000)
    assert not theirs.follows(first), "another author's chain"


def test_a_pair_says_the_same_with_opposite_signs() -> None:
    spent, earned = a_pair()
    assert earned.answers(spent)
    assert not spent.answers(earned)
    assert not earned.answers(earned)
    other, _ = a_pair(51)
    assert not earned.answers(other), "the hash of another proposal"


@pytest.mark.parametrize(
    "fields",
    [
        {"delta": 51},
        {"delta": -50},
        {"voucher": b"w" * 32},
        {"tunnel_id": b"u" * 16},
        {"answers": NOTHING},
        {"partner": b"x" * 32},
        {"author": b"x" * 32},
        {"key": b"x" * 32},
        {"partner_key": b"x" * 32},
    ],
)
def test_what_differs_in_anything_is_no_pair(fields: dict[str, object]) -> None:
    spent, earned = a_pair()
    assert not changed(earned, **fields).answers(spent)


def test_only_a_proposal_to_us_is_accepted() -> None:
    spent, earned = a_pair()
    with pytest.raises(BadBlock, match="not a proposal to us"):
        blocks.accept(party(3), None, spent, 1)
    with pytest.raises(BadBlock, match="not a proposal to us"):
        blocks.accept(party(1), None, earned, 1)
    with pytest.raises(BadBlock, match="not a proposal to us"):
        blocks.accept(party(2), None, changed(spent, delta=50), 1)


class Market(RuleBasedStateMachine):
    """Machines that pay each other, some of whom answer late, twice, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.parties = [
            Party(machine_id=bytes([n]) * 32, signer=ToySigner(bytes([n]) * 32)) for n in range(1, 5)
        ]
        self.chains: list[list[Block]] = [[] for _ in self.parties]
        self.signatures = ToySignatures()

    @initialize()
    def begin(self) -> None:
        self.proposals: list[tuple[int, Block]] = []

    @rule(payer=st.integers(0, 3), payee=st.integers(0, 3), amount=st.integers(0, MAX_AMOUNT))
    def pays(self, payer: int, payee: int, amount: int) -> None:
        if payer != payee:
            chain = self.chains[payer]
            before = chain[-1] if chain else None
            other = self.parties[payee]
            to = Partner(machine_id=other.machine_id, key=other.signer.public)
            tunnel_id = len(self.proposals).to_bytes(16, "big")
            made = blocks.propose(self.parties[payer], before, to, tunnel_id, VOUCHER, amount, 7)
            chain.append(made)
            self.proposals.append((payee, made))

    @rule(place=st.integers(0, 99))
    def answers(self, place: int) -> None:
        if self.proposals:
            payee, proposal = self.proposals[place % len(self.proposals)]
            chain = self.chains[payee]
            chain.append(blocks.accept(self.parties[payee], chain[-1] if chain else None, proposal, 8))

    @invariant()
    def every_chain_holds(self) -> None:
        for chain in self.chains:
            before = None
            for block in chain:
                blocks.check(blocks.read(block.raw), self.signatures)
                assert block.follows(before)
                before = block

    @invariant()
    def all_pairs_together_are_nothing(self) -> None:
        everything = {block.hash: block for chain in self.chains for block in chain}
        pairs = {
            (other.hash, block.hash)
            for block in everything.values()
            if (other := everything.get(block.said.answers)) is not None and block.answers(other)
        }
        total = sum(everything[one].said.delta + everything[two].said.delta for one, two in pairs)
        assert total == 0
        assert {one for one, _ in pairs} <= {proposal.hash for _, proposal in self.proposals}


TestMarket = Market.TestCase
TestMarket.settings = settings(max_examples=30, stateful_step_count=20)


# ------------------------------------------------------------------ forks


def test_two_blocks_with_one_number_prove_themselves() -> None:
    one, _ = a_pair(50)
    other, _ = a_pair(51)
    proof = blocks.fork(one, other)
    assert proof == blocks.fork(other, one)
    assert set(blocks.read_fork(proof, SIGNATURES)) == {one, other}


def test_a_block_that_names_another_one_before_it_proves_a_fork() -> None:
    """Who holds the first is shown the second, and need not be shown what it hides."""
    first, _ = a_pair()
    hidden, _ = a_pair(51)
    second, _ = a_pair(70, hidden)
    assert set(blocks.read_fork(blocks.fork(first, second), SIGNATURES)) == {first, second}
    third, _ = a_pair(70, second)
    assert not blocks.contradict(first, third), "what lies between may be as they say"
    assert not blocks.contradict(hidden, second)


def test_what_is_no_fork_proves_nothing() -> None:
    first, _ = a_pair()
    second, _ = a_pair(50, first)
    theirs = blocks.propose(party(3), None, partner(2), TUNNEL, VOUCHER, 1, 1_000)
    for one, other in ((first, first), (first, second), (first, theirs)):
        with pytest.raises(BadBlock, match="not two blocks that contradict each other"):
            blocks.read_fork(blocks.fork(one, other), SIGNATURES)


def test_a_fork_that_somebody_made_up_does_not_hold() -> None:
    first, _ = a_pair()
    said = msgspec.structs.replace(first.said, delta=-51)
    signed = msgspec.msgpack.encode(said)
    forged = blocks.read(signed + signer(3).sign(blocks.LABEL, signed))
    with pytest.raises(BadBlock, match="signature does not hold"):
        blocks.read_fork(blocks.fork(first, forged), SIGNATURES)


def test_a_proof_in_the_other_order_is_not_passed_on_as_a_second_one() -> None:
    one, other = sorted((a_pair(50)[0], a_pair(51)[0]), key=lambda block: block.raw)
    turned = len(other.raw).to_bytes(2, "big") + other.raw + one.raw
    with pytest.raises(BadBlock):
        blocks.read_fork(turned, SIGNATURES)
