"""The offers that are known here. Gossip and the DHT bring whole records, so that each proves itself.

    record ─▶ newer than the signer's last? ─▶ known ─▶ withdrawn? kept as that ─▶ expires

Signers are free, so what is known is bounded, and of too many offers those go first that have paid the least
work and that a secret of ours does not prefer: nobody can make keys that we keep rather than others. Offers
that were checked stay. What an offer says is a claim; what was checked is told apart, and by whom it was
signed is part of it: an offer counts as one signer's, and another's for the same machine is no rival once the
machine's own keys have shown which of them is its own.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from crypto.identity import KeyBundle
from dht import offers, sets
from dht.offers import ANY, Offer
from dht.records import BadRecord, Record, Records

MAX_OFFERS: Final = 4096
MAX_PROBES: Final = 1024
_signer = attrgetter("public")


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of trying the relay at `unix` (s); `rtt_us` is None where it was not reached."""

    reachable: bool
    rtt_us: int | None
    unix: int


@dataclass(frozen=True, slots=True)
class Listing:
    """One offer as it is shown. `proven`: the named machine's keys have been seen and signed it."""

    offer: Offer
    signer: bytes
    sequence: int  # Unix ms
    expires: int  # Unix s
    checked: Probe | None
    proven: bool


class Market:
    """`entropy(n)` gives n random bytes. Times: Unix seconds."""

    __slots__ = ("_expiry", "_known", "_owners", "_probes", "_records", "_secret", "counters")

    def __init__(
        self, records: Records, entropy: Callable[[int], bytes], counters: Counter[str] | None = None
    ) -> None:
        self.counters: Counter[str] = Counter() if counters is None else counters
        self._records = records
        self._secret = entropy(16)
        self._known: list[Record] = []  # by signer; a dict takes four times the memory, and more as it grows
        self._probes: dict[bytes, Probe] = {}  # by signer
        self._owners: dict[bytes, bytes] = {}  # machine_id -> the signer that its keys have shown
        self._expiry = 0  # nothing expires before this

    def __len__(self) -> int:
        """Offers, withdrawn ones among them."""
        return len(self._known)

    def learn(self, raw: bytes, unix: int) -> Listing | None:
        """An offer's record, from anywhere. An offer that is new or says something else comes back, a
        withdrawal as one that is not active; else None. Bad ones are counted."""
        try:
            record = self._records.read(raw)
            record.check_time(unix)
            offer = offers.read(record)
            known = self._of(record.public)
            if known is not None and _age(known) >= _age(record):
                return None  # the same under another class, or older: a replay ends no withdrawal
            self._records.verify(record)
        except BadRecord as bad:
            self.counters[f"offer refused: {bad}"] += 1
            return None
        self._expiry = min(self._expiry, record.expires) if self._known else record.expires
        self._put(record)
        if len(self._known) > MAX_OFFERS:
            self._make_room()
        news = known is None or offers.parse(known.body) != offer
        return self._listing(record, offer) if news and self._of(record.public) else None

    def check(self, signer: bytes, probe: Probe) -> None:
        """The offer of this signer has been tried."""
        if self._of(signer) is None:
            return
        self._probes.pop(signer, None)
        self._probes[signer] = probe
        if len(self._probes) > MAX_PROBES:
            del self._probes[next(iter(self._probes))]

    def prove(self, bundle: KeyBundle) -> None:
        """A machine has shown its keys: of the offers that name it, its own alone stand from now on."""
        record = self._of(bundle.ed25519)
        if record is not None and offers.parse(record.body).is_by(bundle, record.public):
            self._owners[bundle.machine_id] = bundle.ed25519

    def listings(self, unix: int, country: str = ANY, max_per_gb: int | None = None) -> list[Listing]:
        """What is offered to who asks for this country class at no more than this price (ZEQ for 10^9 bytes).

        Those that were reached come first, those that could not be last; then the cheapest per GB, per
        zeqond, the quickest. No tier of trust is in it yet."""
        found = []
        for record in self._known:
            offer = offers.parse(record.body)
            if unix >= record.expires or not offer.active or not offer.accepts(country):
                continue
            if max_per_gb is not None and offer.price_per_gb_zeq > max_per_gb:
                continue
            if self._owners.get(offer.machine_id, record.public) == record.public:
                found.append(self._listing(record, offer))
        return sorted(found, key=_rank)

    def expire(self, unix: int) -> None:
        """Forget what has expired; cheap when nothing has."""
        if not self._known or unix < self._expiry:
            return
        for record in [record for record in self._known if unix >= record.expires]:
            self._forget(record)
        self._expiry = min((record.expires for record in self._known), default=0)

    def _listing(self, record: Record, offer: Offer) -> Listing:
        signer = record.public
        proven = self._owners.get(offer.machine_id) == signer
        probe = self._probes.get(signer)
        return Listing(offer, signer, record.sequence, record.expires, probe, proven)

    def _make_room(self) -> None:
        weak = (record for record in self._known if record.public not in self._probes)
        for record in heapq.nsmallest(
            MAX_OFFERS // 16, weak, key=lambda record: sets.strength(record, self._secret)
        ):
            self._forget(record)
            self.counters["offer dropped for want of room"] += 1

    def _place(self, signer: bytes) -> int:
        """Where its offer stands, or would."""
        return bisect_left(self._known, signer, key=_signer)

    def _of(self, signer: bytes) -> Record | None:
        found = self._known[(place := self._place(signer)) : place + 1]
        return found[0] if found and found[0].public == signer else None

    def _put(self, record: Record) -> None:
        """In place of its signer's last."""
        place = self._place(record.public)
        self._known[place : place + (self._of(record.public) is not None)] = [record]

    def _forget(self, record: Record) -> None:
        signer = record.public
        del self._known[self._place(signer)]
        self._probes.pop(signer, None)
        machine_id = offers.parse(record.body).machine_id
        if self._owners.get(machine_id) == signer:
            del self._owners[machine_id]


def _age(record: Record) -> tuple[int, bytes]:
    """Of two offers for one moment, the same everywhere."""
    return record.sequence, record.body


def _rank(listing: Listing) -> tuple[int, int, int, int, bytes]:
    offer, checked = listing.offer, listing.checked
    tier = 1 if checked is None else 0 if checked.reachable else 2
    rtt_us = checked.rtt_us or 0 if checked is not None else 0
    return tier, offer.price_per_gb_zeq, offer.price_per_zeqond_zeq, rtt_us, listing.signer
