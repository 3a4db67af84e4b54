"""The routing table: who is known, sorted by how many leading bits of the id they share with ours.

    bucket 0      ids that differ from ours in the first bit                       up to k = 20
    bucket 1      those that share one bit and differ in the second                up to k
    …
    bucket last   ids that share at least as many bits as there are buckets before; when it is full, it splits

On the classes of the kademlia package. Its clock is left out (seconds are passed in), its ids have 160 bits,
its neighbours are those of a few buckets only, and it pings for itself: those parts are replaced. Buckets
stand in the order of what they share with us, not of their ranges: the right one is found by counting bits.

A node of a world of thousands has this table too, hence no object per entry: contacts are shared by all who
know them (dht/contacts.py), and when each was last heard stands in an array.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from kademlia.routing import KBucket
from kademlia.routing import RoutingTable as KademliaTable

from dht.contacts import ID_BYTES, Contact

K: Final = 20  # Kademlia's, section 2.4 of its paper
ID_BITS: Final = 8 * ID_BYTES
IN_BUCKET: Final = 2  # ids of one network; go-libp2p has these two limits
IN_TABLE: Final = 3
REPLACEMENTS: Final = 8  # contacts that wait for room, for each bucket
SILENCES: Final = 2  # questions in a row without an answer: the contact goes
STALE_S: Final = 900  # a full bucket's oldest is asked whether it lives when it was silent for so long
LONELY_S: Final = 3600  # a bucket that no lookup went through for an hour is refreshed
_NOBODY: Final[list[Contact]] = []  # of all buckets where nobody waits, as mostly; never changed


class Bucket(KBucket):  # type: ignore[misc]  # kademlia has no types
    """`nodes` keeps the order in which they came; in the same order stands in `seen` the second of each one's
    last proof of life. A list: for so few, a dict takes more than twice the memory."""

    nodes: list[Contact]
    replacement_nodes: list[Contact]

    def __init__(self, ksize: int, second: int) -> None:
        # Not the parent's: it asks the clock, and has two ordered dicts.
        self.ksize = ksize
        self.nodes = []
        self.replacement_nodes = _NOBODY
        self.seen = array("i")
        self.looked_s = second

    @property
    def ids(self) -> list[bytes]:
        """In the order of `nodes`. Not kept: it would be a third of a bucket's memory."""
        return [node.id for node in self.nodes]

    def get_nodes(self) -> list[Contact]:
        return list(self.nodes)

    def touch(self, contact: Contact, second: int) -> bool:
        """It lives. Whether it is here."""
        try:
            self.seen[self.ids.index(contact.id)] = second
        except ValueError:
            return False
        return True

    def append(self, contact: Contact, second: int) -> None:
        self.nodes.append(contact)
        self.seen.append(second)

    def remove_node(self, contact: Contact) -> bool:
        """Out of the bucket, or of those that wait; whether it was in the bucket."""
        self.forget_replacement(contact)
        ids = self.ids
        if contact.id not in ids:
            return False
        place = ids.index(contact.id)
        del self.nodes[place], self.seen[place]
        return True

    def forget_replacement(self, contact: Contact) -> None:
        for place, other in enumerate(self.replacement_nodes):
            if other.id == contact.id:
                del self.replacement_nodes[place]
                return

    def keep_replacement(self, contact: Contact) -> None:
        """The newest last; the oldest makes room, or one of the same network where that has its share."""
        if self.replacement_nodes is _NOBODY:
            self.replacement_nodes = []
        waiting = self.replacement_nodes
        self.forget_replacement(contact)
        alike = [place for place, other in enumerate(waiting) if other.network == contact.network]
        if len(alike) >= IN_BUCKET:
            del waiting[alike[0]]
        elif len(waiting) >= REPLACEMENTS:
            del waiting[0]
        waiting.append(contact)

    def oldest(self) -> tuple[Contact, int]:
        """Whom we have not heard for longest, and the second we last did. Of a bucket that is not empty."""
        second = min(self.seen)
        return self.nodes[self.seen.index(second)], second

    def divide(self, deeper: Bucket, own: int, level: int) -> None:
        """Those who share more than `level` bits with us move over."""
        for contact, second in list(zip(self.nodes, self.seen, strict=True)):
            if _shared(own, contact.long_id) > level:
                self.remove_node(contact)
                deeper.append(contact, second)
        for contact in list(self.replacement_nodes):
            if _shared(own, contact.long_id) > level:
                self.replacement_nodes.remove(contact)
                deeper.keep_replacement(contact)


class RoutingTable(KademliaTable):  # type: ignore[misc]
    """`own`: our id as a number. Everybody who is entered has proven that they are where they say."""

    buckets: list[Bucket]

    def __init__(self, own: int, second: int, ksize: int = K) -> None:
        self.ksize = ksize
        self.failures: dict[bytes, int] = {}  # by id: questions in a row that were not answered
        self._begin(own, second)

    def _begin(self, own: int, second: int) -> None:
        self.own = own
        self.size = 0
        self._crowds = array("B", bytes(256))  # contacts by the last byte of their networks
        # Nobody has seen to it yet, nor to those that it will be divided into.
        self.buckets = [Bucket(self.ksize, second - LONELY_S)]

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self.buckets:
            yield from bucket.nodes

    def __contains__(self, contact: Contact) -> bool:
        return contact.id in self.buckets[self.get_bucket_for(contact)].ids

    def get_bucket_for(self, node: Contact) -> int:
        return self.level(node.long_id)

    def level(self, long_id: int) -> int:
        """The index of the bucket that an id belongs in."""
        shared = ID_BITS - (self.own ^ long_id).bit_length()
        last = len(self.buckets) - 1
        return shared if shared < last else last

    def turn(self, own: int, second: int) -> None:
        """Our id is another: everybody is sorted anew."""
        before = self.buckets
        self._begin(own, second)
        for bucket in before:
            for contact, seen in zip(bucket.nodes, bucket.seen, strict=True):
                self.add_contact(contact, seen)

    # ------------------------------------------------------------------ who comes and goes

    def add_contact(self, contact: Contact, second: int) -> Contact | None:
        """This contact has just proven that it lives. Returns whom to ping: the oldest of a full bucket, when
        it was silent for STALE_S; the new one waits among the replacements meanwhile."""
        index = self.get_bucket_for(contact)
        bucket = self.buckets[index]
        if bucket.touch(contact, second):
            if self.failures:
                self.failures.pop(contact.id, None)
            return None
        if len(bucket) >= self.ksize and bucket is not self.buckets[-1]:
            bucket.keep_replacement(contact)
            oldest, seen = bucket.oldest()
            return oldest if second - seen >= STALE_S else None
        if contact.long_id == self.own or not self._network_has_room(contact, bucket):
            return None
        while len(bucket) >= self.ksize and bucket is self.buckets[-1]:
            self.split_bucket(index)
            index = self.get_bucket_for(contact)
            bucket = self.buckets[index]
        if len(bucket) < self.ksize:
            self._enter(bucket, contact, second)
        else:
            bucket.keep_replacement(contact)
        return None

    def split_bucket(self, index: int) -> None:
        """Ours, the last one."""
        bucket = self.buckets[index]
        deeper = Bucket(self.ksize, bucket.looked_s)
        bucket.divide(deeper, self.own, index)
        self.buckets.append(deeper)

    def _enter(self, bucket: Bucket, contact: Contact, second: int) -> None:
        bucket.forget_replacement(contact)
        bucket.append(contact, second)
        self.size += 1
        self._crowds[contact.network[-1]] += 1

    def _network_has_room(self, contact: Contact, bucket: Bucket) -> bool:
        network = contact.network
        if self._crowds[network[-1]] < IN_BUCKET:
            return True  # as mostly: nobody has to be looked at
        if [other.network for other in bucket.nodes].count(network) >= IN_BUCKET:
            return False
        all_networks = [other.network for one in self.buckets for other in one.nodes]
        return all_networks.count(network) < IN_TABLE

    def wants(self, contact: Contact) -> bool:
        """Whether it would be entered if it proved itself: there is room, and it is not there yet."""
        bucket = self.buckets[self.get_bucket_for(contact)]
        if contact.id in bucket.ids or contact.long_id == self.own:
            return False
        room = len(bucket) < self.ksize or bucket is self.buckets[-1]
        return room and self._network_has_room(contact, bucket)

    def failed(self, contact: Contact, second: int) -> bool:
        """It did not answer. After SILENCES of that, or where another waits for its place, it goes: True.
        Who takes the place counts as stale, so that it is asked soon."""
        bucket = self.buckets[self.get_bucket_for(contact)]
        bucket.forget_replacement(contact)
        if contact.id not in bucket.ids:
            return False
        failures = self.failures.get(contact.id, 0) + 1
        if failures < SILENCES and not bucket.replacement_nodes:
            self.failures[contact.id] = failures
            return False
        self.remove_contact(contact)
        while bucket.replacement_nodes and len(bucket) < self.ksize:
            waiting = bucket.replacement_nodes.pop()
            if self._network_has_room(waiting, bucket):
                self._enter(bucket, waiting, second - STALE_S)
        return True

    def remove_contact(self, contact: Contact) -> None:
        if self.buckets[self.get_bucket_for(contact)].remove_node(contact):
            self.size -= 1
            self._crowds[contact.network[-1]] -= 1
        self.failures.pop(contact.id, None)

    # ------------------------------------------------------------------ who is where

    def find_neighbors(self, target: int, k: int = K) -> list[Contact]:
        """The k closest to `target` of all that are not failing, in no particular order; where those are
        fewer, the failing too, as one lost datagram makes nobody dead.

        Exact, and without sorting everybody: first come those of the target's own bucket, then those who
        share more bits with us than the target does, then one bucket after another towards the first."""
        index = self.level(target)
        found = self._living(self.buckets[index : index + 1])
        if len(found) < k:
            nearer = self._living(self.buckets[index + 1 :])
            if len(found) + len(nearer) > k:
                return found + _closest(nearer, target, k - len(found))
            found += nearer
        elif len(found) > k:
            return _closest(found, target, k)
        while len(found) < k and index > 0:
            index -= 1
            further = self._living(self.buckets[index : index + 1])
            found += further if len(found) + len(further) <= k else _closest(further, target, k - len(found))
        if len(found) < k and self.failures:
            failing = [contact for contact in self if contact.id in self.failures]
            found += _closest(failing, target, k - len(found))
        return found

    def closer_than_we(self, target: int) -> Iterator[Contact]:
        """Those that are closer to `target` than our own id is, the failing left out. They share with us as
        many bits as the target does, or more."""
        own = self.own ^ target
        for bucket in self.buckets[self.level(target) :]:
            for contact in bucket.nodes:
                if contact.long_id ^ target < own and contact.id not in self.failures:
                    yield contact

    def spread(self, target: int) -> list[Contact]:
        """Of each quarter of all ids the contact closest to `target`, where there is one that is not failing.
        Who surrounds us, or the target, stands in one of them."""
        best: dict[int, Contact] = {}
        for contact in self._living(self.buckets):
            quarter = contact.long_id >> (ID_BITS - 2)
            other = best.get(quarter)
            if other is None or contact.long_id ^ target < other.long_id ^ target:
                best[quarter] = contact
        return list(best.values())

    def _living(self, buckets: Iterable[Bucket]) -> list[Contact]:
        found = [contact for bucket in buckets for contact in bucket.nodes]
        if self.failures:
            failures = self.failures
            return [contact for contact in found if contact.id not in failures]
        return found

    def stale(self, second: int, age_s: int, limit: int) -> list[Contact]:
        """Up to `limit` of those that were silent for so many seconds, the longest silent first."""
        silent = [
            (seen, contact.long_id, contact)
            for bucket in self.buckets
            for seen, contact in zip(bucket.seen, bucket.nodes, strict=True)
            if second - seen >= age_s
        ]
        return [contact for _, _, contact in sorted(silent)[:limit]]

    def touched(self, target: int, second: int) -> None:
        """A lookup went there. Our own bucket stays untouched, as it is yet to be divided into others."""
        bucket = self.buckets[self.level(target)]
        if bucket is not self.buckets[-1]:
            bucket.looked_s = second

    def lonely_buckets(self, second: int) -> list[int]:
        """Indexes of buckets that no lookup went through for LONELY_S; our own last one is not among them."""
        return [i for i, bucket in enumerate(self.buckets[:-1]) if second - bucket.looked_s >= LONELY_S]

    def id_in(self, index: int, random: bytes) -> int:
        """An id of bucket `index`, from 32 random bytes."""
        bit = 1 << (ID_BITS - 1 - index)
        return ((self.own ^ bit) & ~(bit - 1)) | (int.from_bytes(random, "big") & (bit - 1))


def _shared(one: int, other: int) -> int:
    return ID_BITS - (one ^ other).bit_length()


def _closest(contacts: list[Contact], target: int, count: int) -> list[Contact]:
    return sorted(contacts, key=lambda contact: contact.long_id ^ target)[:count]
