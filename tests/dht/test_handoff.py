"""Records follow their keys, in a mesh to which somebody comes now and then and in one that grows at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgpack
import pytest

from dht import contacts
from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.handoff import HEIRS, KEYS, NEWCOMERS, Handoff
from dht.messages import Store, decode_dht
from dht.questions import Questions
from dht.routing import RoutingTable

OWN = 1 << 255  # far from the keys, which begin with eight zeros and more


class Shelf:
    """One record under each key."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = list(keys)

    def keys(self) -> list[bytes]:
        return self._keys

    def values(self, key: bytes, unix: int) -> bytes:
        packed: bytes = msgpack.packb([b"record of " + key[:4]])
        return packed

    def put(self, key: bytes, record: bytes, network: bytes, unix: int) -> int:
        raise AssertionError

    def center(self, node_id: bytes) -> None:
        raise AssertionError


def contact(number: int) -> Contact:
    return contacts.at(number.to_bytes(24, "big"), bytes([60, number >> 8, number & 255, 1, 0, 9]))


def key(number: int) -> bytes:
    return bytes(1) + number.to_bytes(31, "big")


class Node:
    def __init__(self, keys: int = 1) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        draw = iter(range(1 << 30))
        self._questions = Questions(
            lambda size: next(draw).to_bytes(4, "big").rjust(size, b"x"), self.outgoing, Counter()
        )
        self.handoff = Handoff(Shelf([key(number) for number in range(keys)]), self._questions)
        self.table = RoutingTable(OWN, 0)

    def meet(self, *found: Contact) -> None:
        """Contacts that gave us a token: else each would be pinged for one first."""
        for one in found:
            self._questions._remember(one.endpoint, bytes(8), 0)
            self.table.add_contact(one, 0)
            self.handoff.came(one)

    def run(self) -> list[tuple[Endpoint, bytes]]:
        """To whom which key goes."""
        self.outgoing.clear()
        self.handoff.run(self.table, 0, 0)
        sent = [(decode_dht(datagram[1:]), to) for datagram, to in self.outgoing]
        return [(to, message.key) for message, to in sent if isinstance(message, Store)]


def closest(found: Sequence[Contact], wanted: bytes = key(0)) -> list[Contact]:
    target = int.from_bytes(wanted, "big")
    return sorted((one for one in found if one.long_id < OWN), key=lambda one: one.long_id ^ target)


CLOSER = closest([contact(number) for number in range(1, 400)])
"""Than our own id is to any of the keys."""


def test_who_comes_closer_gets_what_we_were_closest_to() -> None:
    node = Node()
    node.meet(CLOSER[50])
    assert node.run() == [(CLOSER[50].endpoint, key(0))]
    assert node.run() == [], "once"


def test_who_was_not_closest_leaves_it_to_who_was() -> None:
    node = Node()
    node.meet(CLOSER[50])
    node.run()
    node.meet(CLOSER[10])
    assert node.run() == []


def test_who_is_farther_gets_nothing() -> None:
    node = Node()
    node.meet(*(one for one in map(contact, range(1, 20)) if one.long_id > OWN))
    assert node.run() == []


def test_of_many_who_came_at_once_the_closest_get_it() -> None:
    """They were all there when we looked, and none of them has it: taken one by one, each would seem to have
    come to where another was closer than we."""
    node = Node()
    node.meet(*CLOSER[5:15])
    assert node.run() == [(one.endpoint, key(0)) for one in closest(list(node.table))[:HEIRS]]


def test_what_is_too_much_for_one_run_is_done_in_the_next() -> None:
    node = Node(keys=2 * KEYS)
    node.meet(CLOSER[50])
    runs = [node.run() for _ in range(4)]
    assert [len(each) for each in runs] == [KEYS, KEYS, 0, 0]
    assert {wanted for each in runs for _, wanted in each} == {key(number) for number in range(2 * KEYS)}


@pytest.mark.parametrize("number", [NEWCOMERS, 3 * NEWCOMERS])
def test_no_more_newcomers_are_remembered_than_there_is_room_for(number: int) -> None:
    node = Node()
    for _ in range(number):
        node.handoff.came(CLOSER[0])
    assert len(node.handoff._newcomers) == NEWCOMERS
