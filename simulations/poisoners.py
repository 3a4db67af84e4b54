"""Poisoners: they answer whatever they are asked, fast and falsely, and keep nothing.

what stands under a key   sealed right, signed by themselves · a bit turned · another machine's · expired ·
                          the oldest that they were ever given · bytes of no meaning · a list of 64 KB
who is close to it        themselves · ghosts: addresses where nobody is, with ids closer than any node's ·
                          masks: the very nodes that are closest, under ids that they do not have
where a question is from  all of them say the same elsewhere
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from functools import lru_cache
from hashlib import blake2s
from typing import Final

import msgspec

from dht import contacts, locations
from dht.contacts import PLACES, TAIL_BYTES, Contact
from dht.endpoints import Endpoint
from dht.locations import Location, Locator
from dht.messages import Get, Nodes, Store, Values
from dht.records import Kind
from simulations.attackers import NAMED, Attack, Circle, Head, Liar, join
from simulations.dice import Dice
from simulations.discoverers import Known
from simulations.places import PORT, Places
from simulations.population import Population
from simulations.scenario import SECOND_US
from simulations.toycrypto import ToySigner

GHOSTS: Final = 8_192  # networks, with eight places each, out of which they choose
FIRST_PAGE_BYTES: Final = 400  # beside twenty contacts
PAGE_BYTES: Final = 1_000
HUGE_RECORDS: Final = 120
EXPIRED_S: Final = 10_000
DAY_S: Final = 86_400
_SIGNER: Final = ToySigner(b"an attacker's seed of 32 bytes..")
_encode = msgspec.msgpack.Encoder().encode


class Ghosts:
    """Contacts that nobody is: of so many networks those whose ids are closest. Ids follow from networks, so
    whoever wants to be close chooses among networks; who need not receive there has them all."""

    def __init__(self, dice: Dice) -> None:
        places = Places(dice)
        found: list[tuple[int, bytes, int]] = []
        for _ in range(GHOSTS):
            endpoint = places.address() + PORT
            for place in range(PLACES):
                lead = contacts.node_id(_tail(place, b""), endpoint)[:8]
                found.append((int.from_bytes(lead, "big"), endpoint, place))
        self._found = sorted(found)
        self._dice = dice

    def near(self, target: int, count: int) -> list[Contact]:
        lead = target >> 192
        at = bisect_left(self._found, (lead, b"", 0))
        around = self._found[max(0, at - 2 * count) : at + 2 * count]
        around.sort(key=lambda one: one[0] ^ lead)
        random = self._dice.bits(64).to_bytes(8, "big")
        return [contacts.at(_tail(place, random), endpoint) for _, endpoint, place in around[:count]]


class Forgers(Circle):
    """`lying`: which of the lies about contacts they tell, in turn."""

    def __init__(self, population: Population, lies: Counter[str], dice: Dice) -> None:
        super().__init__(population, lies)
        self.ghosts = Ghosts(dice)
        self._dice = dice
        self._cores: dict[int, None] = {}
        self._locators: dict[bytes, Locator] = {}
        self._given: dict[bytes, dict[bytes, None]] = {}  # by key: records, the oldest first
        self._forged: dict[tuple[bytes, int, bool], bytes] = {}

    def given(self, key: bytes, record: bytes) -> None:
        self._given.setdefault(key, {})[record] = None

    def forged(self, key: bytes, unix: int, huge: bool) -> bytes:
        """msgpack's array of records that are none; the same for a minute, so that pages fit together."""
        name = key, unix // 60, huge
        values = self._forged.get(name)
        if values is None:
            if len(self._forged) > 256:
                self._forged.clear()
            values = self._forged[name] = _encode(self._records(key, unix, huge))
        return values

    def _records(self, key: bytes, unix: int, huge: bool) -> list[bytes]:
        found: list[bytes] = []
        locator = self._locator(key, unix)
        where = (self.members[self._dice.below(len(self.members))].endpoint,)
        if locator is not None:
            false = [Location(unix * 1000 + number, where) for number in range(HUGE_RECORDS if huge else 1)]
            found += [locations.seal(each, locator, _SIGNER).raw for each in false]
            self.lies["records signed by another than the machine"] += len(found)
            expired = Location((unix - EXPIRED_S) * 1000, where)
            found.append(locations.seal(expired, locator, _SIGNER).raw)
            self.lies["expired records"] += 1
        true = list(self._given.get(key, ()))
        if true:
            spoilt = bytearray(true[-1])
            spoilt[self._dice.below(len(spoilt))] ^= 1 << self._dice.below(8)
            found.append(bytes(spoilt))
            self.lies["records with a bit turned"] += 1
        if len(true) > 1:
            found.append(true[0])
            self.lies["records of before"] += 1
        if self._given:
            other = self._dice.one_of(list(self._given))
            if other != key:
                found.append(next(iter(self._given[other])))
                self.lies["records of another machine"] += 1
        found.append(self._dice.bits(800).to_bytes(100, "big"))
        self.lies["records of no meaning"] += 1
        return found

    def _locator(self, key: bytes, unix: int) -> Locator | None:
        if key not in self._locators:
            for host in self._population.present.items():
                if host.index not in self._cores:
                    self._cores[host.index] = None
                    known: Known = host.known
                    locator = Locator(Kind.LOCATION, known.machine_id, known.secret, unix // DAY_S, ToySigner)
                    self._locators[locator.key] = locator
        return self._locators.get(key)


class Poisoner(Liar):
    circle: Forgers

    def seen(self, source: Endpoint) -> Endpoint:
        return _elsewhere(source)

    def named(self, target: int) -> bytes:
        circle, lot = self.circle, self.draw(1)[0] & 3
        if lot == 0:
            return super().named(target)
        if lot == 1:
            circle.lies["names ghosts"] += 1
            return join(circle.ghosts.near(target, NAMED))
        if lot == 2:
            circle.lies["names nodes under false ids"] += 1
            return join(map(_masked, circle.honest_near(target)))
        circle.lies["names ghosts, its own, and nodes under false ids"] += 1
        masked = map(_masked, circle.honest_near(target, 7))
        return join([*circle.ghosts.near(target, 7), *circle.near(target, 6), *masked])

    def values(self, question: Get, head: Head, unix_us: int) -> Values | Nodes:
        if self.draw(1)[0] < 64 and not question.offset:
            self.circle.lies["nothing stored, it says"] += 1
            return super().values(question, head, unix_us)
        huge = self.contact.tail[1] & 7 == 0
        values = self.circle.forged(question.key, unix_us // SECOND_US, huge)
        offset, digest = question.offset, blake2s(values, digest_size=8).digest()
        page = values[offset : offset + (PAGE_BYTES if offset else FIRST_PAGE_BYTES)]
        named = b"" if offset else self.named(int.from_bytes(question.key, "big"))
        self.circle.lies["pages of forged records"] += 1
        return Values(*head, named, len(values), digest, offset, page)

    def given(self, question: Store) -> None:
        if question.parts == 1:
            self.circle.given(question.key, question.chunk)


class Poison(Attack):
    """They come with the nodes, and are as many of those whom a newcomer knows first as of all."""

    def prepare(self, joining_us: int) -> None:
        self._circle = Forgers(self._population, self.lies, self._dice)
        for number in range(self.count):
            self._world.call_at(joining_us * (number + 1) // (self.count + 1), self._join)

    def _join(self) -> None:
        host, now_us = self._anywhere(), self._world.now_us
        core = Poisoner(host, self._entropy(host), self._species, self._circle, now_us)
        core.bootstrap(self._population.introductions(), now_us)
        self._population.admit(host, core)
        self.networks = len({contact.network for contact in self._circle.members})


def _tail(place: int, random: bytes) -> bytes:
    return bytes([place]) + random.ljust(TAIL_BYTES - 1, b"\0")


def _masked(contact: Contact) -> Contact:
    """The same address, and an id that is nearly the same, but not its own."""
    return contacts.of(contact.tail[:-1] + bytes([contact.tail[-1] ^ 1]) + contact.endpoint)


@lru_cache(maxsize=4096)
def _elsewhere(source: Endpoint) -> Endpoint:
    """The same for all who say so: an address in another network."""
    return bytes([11 + source[0] % 80, source[1] ^ 1, *source[2:]])
