"""What nobody in the market can see: every block that was signed, every fork, and what was truly carried.

pair      a proposal and the one block that answers it; the sum over all pairs is looked at after each
fork      two blocks with one number that machines as the product is have in hand, and the proof by gossip:
          eight neighbours for each node, who check it with their ledger and pass on what is news
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from crypto.errors import PeerFault
from node.settlement import blocks
from node.settlement.blocks import Block
from simulations.dice import Dice
from simulations.market.town import MINUTE_US, Town
from simulations.toycrypto import ToySignatures

if TYPE_CHECKING:
    from simulations.market.machine import Machine

NEIGHBOURS: Final = 8
_LOSS_PPM: Final = 20_000


@dataclass(slots=True)
class Fork:
    """By one author's key: since when two others have two blocks with one number, and what became of it."""

    made_us: int
    place: tuple[bytes, int]
    found_us: int = -1
    reached: dict[bytes, None] = field(default_factory=dict)  # nodes whose ledger has the proof
    spread_us: int = -1  # 99 % of all nodes have it


class Watch:
    """`forks`: by the author's key. `worst_sum`: the farthest from 0 that the sum over all pairs ever was."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.forks: dict[bytes, Fork] = {}
        self.pairs = 0
        self.worst_sum = 0
        self.balances: Counter[bytes] = Counter()
        self.nodes: list[Machine] = []
        self.relays: list[Machine] = []
        self._sum = 0
        self._dice = Dice(town.seed, "gossip")
        self._by_id: dict[bytes, Machine] = {}
        self._neighbours: dict[bytes, list[Machine]] = {}
        self._places: dict[tuple[bytes, int], bytes] = {}
        self._proposals: dict[bytes, Block] = {}
        self._waiting: dict[bytes, list[Block]] = {}  # answers whose proposal has not been seen
        self._seen: set[bytes] = set()

    def settle_in(self, nodes: list[Machine]) -> None:
        """Who is in the mesh: each knows some others, and is known by as many at least."""
        self.nodes = nodes
        self._by_id = {node.machine_id: node for node in nodes}
        around: dict[bytes, dict[bytes, Machine]] = {node.machine_id: {} for node in nodes}
        for node in nodes:
            for _ in range(NEIGHBOURS // 2):
                other = self._dice.one_of(nodes)
                if other is not node:
                    around[node.machine_id][other.machine_id] = other
                    around[other.machine_id][node.machine_id] = node
        self.relays = [node for node in nodes if node.policy is not None]
        self._neighbours = {key: list(each.values()) for key, each in around.items()}

    def node(self, machine_id: bytes) -> Machine | None:
        """One that is in the mesh."""
        return self._by_id.get(machine_id)

    # ------------------------------------------------------------------ blocks

    def signed(self, block: Block) -> None:
        """By its author, just now, or as somebody else sees it."""
        if block.hash in self._seen:
            return
        self._seen.add(block.hash)
        if block.said.answers == blocks.NOTHING:
            self._proposals[block.hash] = block
            for answer in self._waiting.pop(block.hash, []):
                self._pair(block, answer)
        elif block.said.answers in self._proposals:
            self._pair(self._proposals[block.said.answers], block)
        else:
            self._waiting.setdefault(block.said.answers, []).append(block)

    def shown(self, block: Block) -> None:
        """Somebody else than its author has it."""
        self.signed(block)
        if self._places.setdefault(block.place, block.hash) != block.hash:
            self.forks.setdefault(block.said.key, Fork(self.town.now_us, block.place))

    def _pair(self, proposal: Block, answer: Block) -> None:
        """Whatever was written: only what the product takes for a pair counts, each block once."""
        if not answer.answers(proposal) or self._proposals.pop(proposal.hash, None) is None:
            return
        self.pairs += 1
        for block in (proposal, answer):
            self.balances[block.said.author] += block.said.delta
            self._sum += block.said.delta
        self.worst_sum = max(self.worst_sum, abs(self._sum))

    # ------------------------------------------------------------------ proofs

    def fork(self, finder: bytes, proof: bytes) -> None:
        """The ledger of this machine_id holds the proof: it tells its neighbours, once."""
        one = blocks.read_fork(proof, ToySignatures())[0]
        fork = self.forks.setdefault(one.said.key, Fork(self.town.now_us, one.place))
        node = self.node(finder)
        if node is None or finder in fork.reached:
            return
        if fork.found_us < 0:
            fork.found_us = self.town.now_us
        self._reached(fork, node, proof)

    def _reached(self, fork: Fork, node: Machine, proof: bytes) -> None:
        fork.reached[node.machine_id] = None
        if len(fork.reached) * 100 >= 99 * len(self.nodes) and fork.spread_us < 0:
            fork.spread_us = self.town.now_us
        for other in self._neighbours.get(node.machine_id, ()):
            if other.machine_id not in fork.reached and not self._dice.happens(_LOSS_PPM):
                self.town.call_in(self._dice.between(10_000, 150_000), self._gossip, fork, other, proof)

    def _gossip(self, fork: Fork, node: Machine, proof: bytes) -> None:
        if node.machine_id in fork.reached:
            return
        if not node.alive:
            self.town.call_in(MINUTE_US, self._gossip, fork, node, proof)
            return
        try:
            news = node.learn_fork(proof)
        except PeerFault:
            return
        if news:
            self._reached(fork, node, proof)
