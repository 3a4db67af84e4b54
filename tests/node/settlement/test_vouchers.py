"""Vouchers: their layout, what is none, and that only the next one of the same tunnel counts."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import verify
from dht.signatures import Ed25519Signatures
from node.settlement import vouchers
from node.settlement.terms import GB, MAX_AMOUNT, MAX_BYTES, MAX_LIFESPAN, MILLIONTHS, Unit, agree
from node.settlement.vouchers import BadVoucher, Tunnel, Voucher
from tests.dht.record_kit import ToySignatures, ToySigner, machine, signer

SIGNATURES = Ed25519Signatures()
PAYER = ToySigner(b"p" * 32)
TERMS = agree(Unit.GB, 50, 1000)


def a_tunnel(number: int = 1) -> Tunnel:
    payer = machine(1).bundle
    return Tunnel(
        session=bytes([number]) * 32,
        tunnel_id=bytes([number]) * 16,
        payer=payer.machine_id,
        payee=machine(2).machine_id,
        payer_key=payer.ed25519,
        terms=TERMS,
    )


def refused(data: bytes, tunnel: Tunnel | None = None, before: Voucher | None = None) -> str:
    with pytest.raises(BadVoucher) as bad:
        vouchers.check(data, tunnel or a_tunnel(), before, SIGNATURES)
    return str(bad.value)


def forged(raw: bytes, place: int, value: object) -> bytes:
    """Another value in one field, and the payer's true signature on it."""
    fields = msgpack.unpackb(raw[:-64])
    fields[place] = value
    payload: bytes = msgpack.packb(fields)
    return payload + signer(1).sign(vouchers.LABEL, payload)


# ------------------------------------------------------------------ layout


def test_a_voucher_is_laid_out_as_drawn() -> None:
    tunnel = a_tunnel()
    raw = vouchers.write(tunnel, 3, 1_000, 2_500, 17, signer(1))
    payload, signature = raw[:-64], raw[-64:]
    assert msgpack.unpackb(payload) == [
        *(1, b"\1" * 32, b"\1" * 16, machine(1).machine_id, machine(2).machine_id, TERMS.hash),
        *(3, 1_000, 2_500, 17, 175),
    ]
    verify(machine(1).bundle.ed25519, b"zeqnode voucher v1", payload, signature)
    assert sha256(raw).hexdigest() == "8058c49eae050990e76a75ede68e9753e0d3221104b1468c692016ebff3441cd"


def test_no_voucher_is_longer_than_it_may_be() -> None:
    tunnel = msgspec.structs.replace(a_tunnel(), terms=agree(Unit.GB, 1, MAX_LIFESPAN))
    raw = vouchers.write(tunnel, vouchers.MAX_SEQUENCE, MAX_BYTES // 2, MAX_BYTES // 2, MAX_LIFESPAN, PAYER)
    assert len(raw) <= vouchers.VOUCHER_BYTES
    assert vouchers.read(raw).amount <= MAX_AMOUNT


def test_the_last_one_may_be_the_seeds_sum() -> None:
    tunnel = a_tunnel()
    raw = vouchers.write(tunnel, 1, 700_000_000, 34_003_200, 472, signer(1), final=True)
    assert vouchers.check(raw, tunnel, None, SIGNATURES).amount == 50 * MILLIONTHS


# ------------------------------------------------------------------ what counts


def test_a_voucher_follows_the_last_one() -> None:
    tunnel = a_tunnel()
    one = vouchers.check(vouchers.write(tunnel, 1, 10, 10, 1, signer(1)), tunnel, None, SIGNATURES)
    two = vouchers.check(vouchers.write(tunnel, 2, 10, 20, 1, signer(1)), tunnel, one, SIGNATURES)
    assert two.amount > one.amount
    assert refused(vouchers.write(tunnel, 1, 10, 10, 1, signer(1)), before=two) == "not above the last one"
    assert refused(vouchers.write(tunnel, 2, 10, 20, 1, signer(1)), before=two) == "not above the last one"


@pytest.mark.parametrize("lower", ["up", "down", "zeqonds"])
def test_a_voucher_that_takes_anything_back_is_refused(lower: str) -> None:
    tunnel = a_tunnel()
    names = ("up", "down", "zeqonds")
    raw = vouchers.write(tunnel, 1, 5 * GB, 5 * GB, 100, signer(1))
    before = vouchers.check(raw, tunnel, None, SIGNATURES)
    up, down, zeqonds = (getattr(before, name) * (name != lower) * 2 for name in names)
    later = vouchers.write(tunnel, 2, up, down, zeqonds, signer(1))
    assert refused(later, before=before) == "not above the last one"


def test_a_voucher_of_another_tunnel_or_for_somebody_else_pays_nothing_here() -> None:
    raw = vouchers.write(a_tunnel(2), 1, 10, 10, 1, signer(1))
    assert refused(raw) == "of another tunnel"
    tunnel = a_tunnel()
    for name in ("session", "tunnel_id", "payer", "payee"):
        other = msgspec.structs.replace(tunnel, **{name: bytes(len(getattr(tunnel, name)))})
        assert refused(vouchers.write(tunnel, 1, 10, 10, 1, signer(1)), other) == "of another tunnel"
    cheaper = msgspec.structs.replace(tunnel, terms=agree(Unit.GB, 49, 1000))
    assert refused(vouchers.write(cheaper, 1, 10, 10, 1, signer(1))) == "of another tunnel"


def test_an_amount_that_is_not_the_price_is_refused() -> None:
    raw = vouchers.write(a_tunnel(), 1, 10 * GB, 10 * GB, 1, signer(1))
    for amount in (0, 1, 1_000 * MILLIONTHS - 1, 1_000 * MILLIONTHS + 1, MAX_AMOUNT):
        assert refused(forged(raw, 10, amount)) == "not the price of what it names"


def test_a_voucher_for_more_than_was_agreed_is_refused() -> None:
    raw = vouchers.write(a_tunnel(), 1, 10, 10, 1_001, signer(1))
    assert refused(raw) == "for more than the tunnel may carry"


def test_a_strangers_signature_does_not_hold() -> None:
    assert refused(vouchers.write(a_tunnel(), 1, 10, 10, 1, signer(3))) == "signature does not hold"


@pytest.mark.parametrize("place", range(11))
@pytest.mark.parametrize("value", [2**63, 2**64 - 1, -1, 1.0, True, "1", None, b"", [], 2**62 + 1])
def test_extremes_are_no_voucher(place: int, value: object) -> None:
    raw = vouchers.write(a_tunnel(), 1, 10, 10, 1, signer(1))
    if place != 10 or value != 2**62 + 1:
        assert refused(forged(raw, place, value)) in ("not a voucher", "wrong size")


@given(st.integers(0, 319), st.integers(1, 255))
def test_one_changed_byte_pays_nothing(place: int, change: int) -> None:
    tunnel = a_tunnel()
    raw = bytearray(vouchers.write(tunnel, 1, 10, 10, 1, signer(1)))
    raw[place % len(raw)] ^= change
    refused(bytes(raw))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for payload in (data, data + bytes(64)):
        with suppress(BadVoucher):
            vouchers.read(payload)


def test_the_signature_is_looked_at_last() -> None:
    signatures = ToySignatures()
    tunnel = msgspec.structs.replace(a_tunnel(), payer_key=PAYER.public)
    raw = vouchers.write(tunnel, 2, 10, 10, 1, PAYER)
    kept = vouchers.check(raw, tunnel, None, signatures)
    assert signatures.asked == 1
    for _ in range(100):
        with pytest.raises(BadVoucher):
            vouchers.check(raw, tunnel, kept, signatures)
    assert signatures.asked == 1, "a replay costs no signature"
