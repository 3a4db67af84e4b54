"""Who means the mesh no good: floods, forgeries, replays, boasts, and what they get. Sybils are next door."""

from __future__ import annotations

from crypto.pulse import ZEQOND_MS, zeqond
from dht import bulletin as bulletins
from dht.messages import Digest, GossipMessage, Have, Push
from dht.seen import CALM
from simulations.toycrypto import ToySigner
from tests.dht.mesh_attackers import Boaster, Make, Talker
from tests.dht.mesh_world import EPOCH_2026, World, chatter, gossip, mesh, percentile

SPAMMER = ToySigner(bytes(32))


def talker(world: World, make: Make) -> Talker:
    """It dials in, and nobody dials it."""
    core = Talker(list(world.listed), 5, world.now_us, make)
    world.put(core, world.address(0, 99_999), listed=False)
    return core


def test_a_flood_of_valid_bulletins_of_one_author_hardly_delays_others() -> None:
    world = mesh(40)
    honest = world.honest

    def make(theirs: bytes) -> list[GossipMessage]:
        """A hundred a second on each link."""
        now = zeqond((EPOCH_2026 + world.now_us) // 1000)
        return [
            Push(theirs, bulletins.compose("spam", b"%d" % spam.said + b"." * 99, SPAMMER, now, n, 0).wire)
            for n in range(world.now_us, world.now_us + 25)
        ]

    spam = talker(world, make)
    names = chatter(world, 20, nodes=honest)
    later = chatter(world, 20, nodes=honest)
    world.run(10)
    first = world.delays(names, honest)
    assert percentile(first, 0.9) <= 5, "until the block is full, it counts as everybody else"
    assert first[-1] <= 30, "and everything comes"
    assert percentile(world.delays(later, honest), 0.99) <= 5
    assert spam.said > 5 * CALM
    assert max(gossip(node).known for node in honest) < 3 * CALM
    assert world.counters["bulletins of authors that have too many"] > 0
    assert world.counters["neighbours cut off: flood"] > 0
    assert not world.counters["neighbours cut off: promises not kept"], "no honest neighbour is cut off"


def test_a_flood_of_authors_delays_only_those_whom_nobody_knew_before() -> None:
    """Each bulletin of the flood has a new author, and each link stays just below the limit."""
    world = mesh(16)
    honest = world.honest
    chatter(world, 1000, every_s=8)

    def make(theirs: bytes) -> list[GossipMessage]:
        now = zeqond((EPOCH_2026 + world.now_us) // 1000)
        news = [ToySigner(world.random.randbytes(32)) for _ in range(4 if world.random.random() < 0.7 else 5)]
        return [Push(theirs, bulletins.compose("spam", b"." * 99, each, now, 1, 0).wire) for each in news]

    talker(world, make)
    world.run(15)
    names = chatter(world, 10, every_s=0.5, nodes=honest)
    world.run(5)
    assert percentile(world.delays(names, honest), 0.98) <= 5
    assert min(gossip(node).known for node in honest) > CALM
    assert not [why for why in world.counters if "cut off" in why]


def test_forged_bulletins_go_no_further_and_cost_their_sender_its_links() -> None:
    world = mesh(40)
    honest = world.honest
    now = zeqond(EPOCH_2026 // 1000)

    def make(theirs: bytes) -> list[GossipMessage]:
        body = world.random.randbytes(99)
        good = bulletins.compose("spam", body, SPAMMER, now, 1, 0).wire
        return [Push(theirs, good[:-1] + bytes([good[-1] ^ 1]))]

    talker(world, make)
    names = chatter(world, 40, nodes=honest)
    assert percentile(world.delays(names, honest), 0.99) <= 3
    assert all(set(node.heard) <= set(world.published) for node in honest)
    assert 0 < world.counters["neighbours cut off: forged bulletin"] <= len(honest), "each is lied to once"


def test_replays_of_a_week_ago_go_no_further() -> None:
    world = mesh(40)
    honest = world.honest
    week = zeqond(EPOCH_2026 // 1000) - 7 * 86_400_000 // ZEQOND_MS
    old = [bulletins.compose("news", b"%d" % number, SPAMMER, week, number, 0).wire for number in range(50)]

    talker(world, lambda theirs: [Push(theirs, world.random.choice(old)) for _ in range(3)])
    names = chatter(world, 40, nodes=honest)
    assert percentile(world.delays(names, honest), 0.99) <= 3
    assert all(set(node.heard) <= set(world.published) for node in honest)
    assert world.counters["bulletins out of date"] > 0


def test_who_announces_and_does_not_give_delays_little_and_is_cut_off() -> None:
    world = mesh(40)
    honest = world.honest
    for number in range(20):
        boaster = Boaster(list(world.listed), number, world.now_us)
        world.put(boaster, world.address(1, 50_000 + number), listed=False)

    talker(world, lambda theirs: [Have(theirs, world.random.randbytes(12 * 3))])
    names = chatter(world, 80, nodes=honest)
    world.run(5)
    assert percentile(world.delays(names, honest), 0.99) <= 5
    assert world.counters["neighbours cut off: promises not kept"] > 0


def test_floods_of_ids_and_digests_are_bounded() -> None:
    world = mesh(10)
    honest = world.honest
    talker(
        world,
        lambda theirs: [
            *(Have(theirs, world.random.randbytes(12 * 90)) for _ in range(30)),
            Digest(theirs, world.random.randbytes(256)),
        ],
    )
    world.run(10)
    found = world.counters
    assert found["ids over a neighbour's limit"] > 0
    assert found["ids that there was no room for"] > 0
    assert found["digests over a neighbour's limit"] > 0
    world.kinds.clear()
    names = chatter(world, 20, nodes=honest)
    world.run(5)
    assert percentile(world.delays(names, honest), 0.9) <= 5
