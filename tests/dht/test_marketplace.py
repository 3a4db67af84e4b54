"""The offers that a node knows: newest only, filtered, ranked, bounded, and nobody's in another's name."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import marketplace, offers
from dht.marketplace import MAX_OFFERS, Market, Probe
from dht.records import LIFE_S, Records
from dht.signatures import Ed25519Signatures
from tests.dht.record_kit import (
    NOW_MS,
    UNIX,
    ToySignatures,
    an_offer,
    entropy,
    machine,
    offer_record,
    signer,
    toy,
    word,
)


def market() -> Market:
    return Market(Records(ToySignatures()), entropy)


def offered(number: int, accept: tuple[str, ...] = ("ANY",), per_gb: int = 50) -> bytes:
    return offers.make(an_offer(number, per_gb, accept=accept), NOW_MS, toy(number), 0)[-1].raw


def numbers(found: list[marketplace.Listing]) -> list[int]:
    return [int.from_bytes(listing.offer.machine_id, "big") for listing in found]


# ------------------------------------------------------------------ learning


def test_an_offer_is_news_once() -> None:
    known = market()
    records = offers.make(an_offer(1, accept=("EU", "CH")), NOW_MS, toy(1), 0)
    news = known.learn(records[0].raw, UNIX)
    assert news is not None
    assert news.offer == an_offer(1, accept=("EU", "CH"))
    assert (news.signer, news.sequence, news.expires) == (toy(1).public, NOW_MS, UNIX + LIFE_S)
    assert (news.checked, news.proven) == (None, False)
    assert [known.learn(record.raw, UNIX) for record in records] == [None] * 3
    assert known.listings(UNIX) == [news]


def test_an_offer_announced_again_is_no_news_but_lives_longer() -> None:
    known = market()
    known.learn(offer_record(1).raw, UNIX)
    assert known.learn(offer_record(1, NOW_MS + 3_600_000).raw, UNIX + 3600) is None
    known.expire(UNIX + LIFE_S)
    assert numbers(known.listings(UNIX + LIFE_S)) == [1]
    known.expire(UNIX + LIFE_S + 3600)
    assert len(known) == 0


def test_a_new_price_is_news() -> None:
    known = market()
    known.learn(offer_record(1).raw, UNIX)
    news = known.learn(offer_record(1, NOW_MS + 1, per_gb=60).raw, UNIX)
    assert news is not None
    assert [listing.offer.price_per_gb_zeq for listing in known.listings(UNIX)] == [60]


def test_a_withdrawal_is_news_and_ends_the_offer() -> None:
    known = market()
    known.learn(offer_record(1).raw, UNIX)
    news = known.learn(offer_record(1, NOW_MS + 1, active=False).raw, UNIX)
    assert news is not None
    assert not news.offer.active
    assert known.listings(UNIX) == []
    assert known.learn(offer_record(1, NOW_MS + 2, active=False).raw, UNIX) is None


def test_attack_a_withdrawn_offer_is_not_brought_back_by_replay() -> None:
    known = market()
    active, gone = offer_record(1), offer_record(1, NOW_MS + 1000, active=False)
    known.learn(gone.raw, UNIX)
    for later in range(0, LIFE_S + 1, 600):
        known.expire(UNIX + later)
        assert known.learn(active.raw, UNIX + later) is None
        assert known.listings(UNIX + later) == []
    assert known.counters == {"offer refused: expired": 1}


def test_attack_two_offers_of_one_moment_end_alike_everywhere() -> None:
    one, other = offer_record(1, per_gb=1).raw, offer_record(1, per_gb=2).raw
    first, second = market(), market()
    for raw in (one, other):
        first.learn(raw, UNIX)
    for raw in (other, one):
        second.learn(raw, UNIX)
    assert first.listings(UNIX) == second.listings(UNIX)


def test_attack_an_offer_from_the_future_is_refused() -> None:
    known = market()
    assert known.learn(offer_record(1, NOW_MS + 3_600_000).raw, UNIX) is None
    assert known.counters == {"offer refused: sequence from the future": 1}


def test_attack_a_forged_offer_is_refused() -> None:
    known = Market(Records(Ed25519Signatures()), entropy)
    good = offers.make(an_offer(), NOW_MS, signer(1), 0)[-1].raw
    assert known.learn(good[:-1] + bytes([good[-1] ^ 1]), UNIX) is None
    assert known.learn(good, UNIX) is not None
    assert known.counters == {"offer refused: bad signature": 1}


def test_a_record_that_is_no_offer_is_refused() -> None:
    known = market()
    assert known.learn(word(toy(1)).raw, UNIX) is None
    assert known.counters == {"offer refused: not an offer": 1}


@given(st.binary(max_size=700))
def test_arbitrary_bytes_are_no_news(data: bytes) -> None:
    known = market()
    assert known.learn(data, UNIX) is None
    assert sum(known.counters.values()) == 1


# ------------------------------------------------------------------ showing


def test_offers_are_filtered_by_class_and_price() -> None:
    known = market()
    for number, (accept, price) in enumerate(
        [(("EU",), 50), (("US",), 50), (("ANY",), 50), (("DE", "CH"), 50), (("EU",), 61)]
    ):
        known.learn(offered(number, accept, price), UNIX)
    assert sorted(numbers(known.listings(UNIX))) == [0, 1, 2, 3, 4]
    assert sorted(numbers(known.listings(UNIX, "EU"))) == [0, 2, 4]
    assert sorted(numbers(known.listings(UNIX, "DE"))) == [0, 2, 3, 4]
    assert sorted(numbers(known.listings(UNIX, "CH"))) == [2, 3]
    assert sorted(numbers(known.listings(UNIX, "EU", max_per_gb=60))) == [0, 2]
    assert known.listings(UNIX, "EU", max_per_gb=49) == []
    assert known.listings(UNIX + LIFE_S) == [], "also before it is swept"


def test_reached_offers_come_first_unreachable_ones_last_and_then_the_cheapest() -> None:
    known = market()
    for number, price in enumerate([70, 60, 50, 60, 60]):
        known.learn(offered(number, per_gb=price), UNIX)
    known.check(toy(0).public, Probe(True, 9000, UNIX))
    known.check(toy(2).public, Probe(False, None, UNIX))
    known.check(toy(3).public, Probe(True, 8000, UNIX))
    known.check(toy(4).public, Probe(True, 7000, UNIX + 5))
    known.check(toy(9).public, Probe(True, 1, UNIX))
    found = known.listings(UNIX)
    assert numbers(found) == [4, 3, 0, 1, 2]
    assert found[0].checked == Probe(True, 7000, UNIX + 5)


def test_a_check_goes_with_its_offer() -> None:
    known = market()
    known.learn(offered(1), UNIX)
    known.check(toy(1).public, Probe(True, 1, UNIX))
    known.expire(UNIX + LIFE_S)
    known.learn(offers.make(an_offer(1), NOW_MS + LIFE_S * 1000, toy(1), 0)[-1].raw, UNIX + LIFE_S)
    assert known.listings(UNIX + LIFE_S)[0].checked is None


# ------------------------------------------------------------------ attack: in another's name


def test_attack_an_offer_in_another_machines_name_falls_when_the_machine_shows_its_keys() -> None:
    bundle = machine(1).bundle
    true = msgspec.structs.replace(an_offer(), machine_id=bundle.machine_id)
    lure = msgspec.structs.replace(true, price_per_gb_zeq=0)
    known = Market(Records(Ed25519Signatures()), entropy)
    known.learn(offers.make(lure, NOW_MS + 1, signer(2), 0)[-1].raw, UNIX)
    known.prove(bundle)
    assert len(known.listings(UNIX)) == 1, "without an offer of its own it says nothing against another's"
    known.learn(offers.make(true, NOW_MS, signer(1), 0)[-1].raw, UNIX)
    assert len(known.listings(UNIX)) == 2
    assert not any(listing.proven for listing in known.listings(UNIX))
    known.prove(bundle)
    found = known.listings(UNIX)
    assert [(listing.offer, listing.proven) for listing in found] == [(true, True)]
    known.learn(offers.make(lure, NOW_MS + 9, signer(2), 0)[-1].raw, UNIX)
    assert known.listings(UNIX) == found


def test_attack_anothers_keys_prove_nothing_for_an_offer_in_a_machines_name() -> None:
    known = Market(Records(Ed25519Signatures()), entropy)
    lure = msgspec.structs.replace(an_offer(), machine_id=machine(1).machine_id)
    known.learn(offers.make(lure, NOW_MS, signer(2), 0)[-1].raw, UNIX)
    known.prove(machine(2).bundle)
    assert not known.listings(UNIX)[0].proven


# ------------------------------------------------------------------ attack: floods


def test_attack_a_flood_of_offers_is_bounded_and_pushes_out_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marketplace, "MAX_OFFERS", 256)
    known = market()
    checked, diligent = offer_record(1), [offer_record(2 + number, bits=4) for number in range(40)]
    for record in (checked, *diligent):
        known.learn(record.raw, UNIX)
    known.check(checked.public, Probe(True, 5, UNIX))
    for number in range(2000):
        known.learn(offer_record(1000 + number).raw, UNIX)
        assert len(known) <= 256
    signers = {listing.signer for listing in known.listings(UNIX)}
    assert signers >= {record.public for record in (checked, *diligent)}
    assert known.counters["offer dropped for want of room"] > 1000


def test_what_is_known_and_what_was_checked_are_bounded() -> None:
    known = market()
    for number in range(MAX_OFFERS + 10):
        known.learn(offer_record(number).raw, UNIX)
        known.check(toy(number).public, Probe(True, 1, UNIX))
    assert len(known) <= MAX_OFFERS
    assert sum(listing.checked is not None for listing in known.listings(UNIX)) <= marketplace.MAX_PROBES


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=20))
def test_in_any_order_each_signers_newest_offer_stands(heard: list[tuple[int, int, bool]]) -> None:
    known = market()
    newest: dict[int, tuple[int, bool]] = {}
    for number, later, active in heard:
        known.learn(offer_record(number, NOW_MS + later, active=active).raw, UNIX)
        newest[number] = max(newest.get(number, (-1, False)), (later, active))
    shown = set(numbers(known.listings(UNIX)))
    assert shown == {number for number, (_, active) in newest.items() if active}
