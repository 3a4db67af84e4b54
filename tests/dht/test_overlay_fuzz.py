"""True datagrams of a talking network, turned, cut and lengthened, before the true ones: nothing ends."""

from __future__ import annotations

from random import Random

import pytest

from dht.endpoints import Endpoint
from tests.dht.overlay_world import World

COPIES = 12  # of each datagram, each spoilt in its own way
KEY = bytes(range(32))
RECORDS = [b"a:" + bytes(2500), b"b:short"]


def spoil(datagram: bytes, draw: Random) -> bytes:
    """Bits turned, the end cut off or lengthened, bytes of it doubled. The first byte stays: it says whose
    it is."""
    spoilt = bytearray(datagram)
    how = draw.randrange(4)
    place = draw.randrange(1, len(spoilt))
    if how == 0:
        del spoilt[place:]
    elif how == 1:
        spoilt += draw.randbytes(draw.randrange(1, 64))
    elif how == 2:
        spoilt[place:place] = spoilt[place : place + draw.randrange(1, 40)]
    else:
        for _ in range(draw.randrange(1, 4)):
            spoilt[draw.randrange(1, len(spoilt))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


@pytest.mark.parametrize("seed", range(1, 9))
def test_spoilt_datagrams_of_every_kind_end_nothing(seed: int) -> None:
    world, draw, kinds = World(seed), Random(seed), set[int]()

    def channel(datagram: bytes, source: Endpoint, target: Endpoint) -> bool:
        kinds.add(datagram[2])
        for _ in range(COPIES):
            # Not through `send`, which would spoil it again.
            world.at(world.now_us, world._deliver, spoil(datagram, draw), source, target)
        return True

    world.filter = channel
    nodes = world.grow(8)
    for node in nodes:
        node.overlay.check_reach(world.now_us)
        node.settle()
    world.run(5)
    world.put(nodes[1], RECORDS, KEY)
    world.get(nodes[6], KEY, enough=False)
    world.find(nodes[7], KEY)
    assert kinds >= {1, 2, 3, 4, 5, 6, 16, 17, 18, 19, 20}, "every kind that there is"
    refused = sum((node.overlay.counters for node in nodes), start=nodes[0].overlay.counters.copy())
    assert refused["not a message"] > 100
    # Whoever stands on the way can spoil what goes there; what comes after it is whole.
    world.filter = lambda _datagram, _source, _target: True
    world.run(60)
    assert world.put(nodes[2], RECORDS, KEY).stored > 0
    records, _ = world.get(nodes[5], KEY, enough=False)
    assert set(records) >= set(RECORDS)
