"""Claims of slugs: that they prove themselves, and that several may be true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import KeyBundle, slug
from dht import records, slugs
from dht.records import LIFE_S, BadRecord, Kind, Records
from dht.signatures import Ed25519Signatures
from tests.dht.record_kit import NOW_MS, UNIX, ToySignatures, machine, signer, toy, word

NAME = slug(machine(1).machine_id)


def test_a_claim_holds_the_bundle_that_the_slug_follows_from() -> None:
    claim = slugs.make(machine(1).bundle, NOW_MS, signer(1))
    assert claim.key == records.slug_key(NAME)
    assert claim.salt == NAME.encode()
    assert claim.body == machine(1).bundle.to_bytes()
    assert slugs.read(claim) == machine(1).bundle
    assert slugs.claims([claim.raw], NAME, Records(Ed25519Signatures()), UNIX) == [machine(1).bundle]


def test_claims_that_prove_nothing_are_left_out() -> None:
    good = slugs.make(machine(1).bundle, NOW_MS, signer(1))
    other = slugs.make(machine(2).bundle, NOW_MS, signer(2))
    forged = good.raw[:-1] + bytes([good.raw[-1] ^ 1])
    theft = records.make(Kind.SLUG, NAME.encode(), NOW_MS, machine(1).bundle.to_bytes(), signer(2))
    liar = records.make(Kind.SLUG, NAME.encode(), NOW_MS, machine(2).bundle.to_bytes(), signer(2))
    found = [b"", forged, other.raw, theft.raw, liar.raw, word(toy(1)).raw]
    reader = Records(Ed25519Signatures())
    assert slugs.claims(found, NAME, reader, UNIX) == []
    assert slugs.claims([*found, good.raw, good.raw], NAME, reader, UNIX) == [machine(1).bundle]
    assert slugs.claims([good.raw], NAME, reader, UNIX + LIFE_S) == []


def test_a_slug_that_several_machines_have_is_claimed_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine digits are few; a slug is a name, not a proof."""
    monkeypatch.setattr(slugs, "slug", lambda machine_id: NAME)
    made = [slugs.make(machine(number).bundle, NOW_MS, signer(number)).raw for number in (3, 1, 2)]
    found = slugs.claims(made, NAME, Records(Ed25519Signatures()), UNIX)
    assert [bundle.machine_id for bundle in found] == sorted(machine(n).machine_id for n in (1, 2, 3))


def test_a_bundle_whose_keys_are_none_is_left_out() -> None:
    """The storing node only hashes; the reader parses."""
    public = toy(1).public
    bundle = KeyBundle(public + bytes([0xFF]) * 1216)
    claim = slugs.make(bundle, NOW_MS, toy(1))
    assert slugs.read(claim) == bundle
    assert slugs.claims([claim.raw], slug(bundle.machine_id), Records(ToySignatures()), UNIX) == []


@given(st.binary(max_size=1260))
def test_whatever_body_a_signer_signs_reading_raises_nothing_else(body: bytes) -> None:
    with pytest.raises(BadRecord):
        slugs.read(records.make(Kind.SLUG, NAME.encode(), NOW_MS, body, toy(1)))


def test_what_a_slug_is() -> None:
    assert slugs.is_slug(NAME)
    for text in ("", "ZEQ0700000000", "ZEQ070000000012", "zeq07000000001", NAME + "\n", "ZEQ07" + "١" * 9):
        assert not slugs.is_slug(text)
