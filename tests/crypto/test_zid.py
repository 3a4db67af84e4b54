from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import KeyBundle, MachineKeys
from crypto.zid import (
    CLAIM_BYTES,
    CLAIM_ZEQONDS_MAX,
    BadClaim,
    BadZid,
    Claim,
    Owner,
    claim,
    parse_zid,
    read_claim,
    zid,
)

OWNER = Owner(bytes(range(32)))
KEYS = MachineKeys.from_bytes(bytes(range(128)))
OTHER = MachineKeys.from_bytes(bytes(range(1, 129)))
CLAIM = claim(OWNER, KEYS, 1000, 2000)


def test_the_text_form_is_fixed() -> None:
    assert OWNER.zid == "zid:aoqqpp7tzyil4hlq3umoos6atft6jvrqtosq2xy53sdgiesvgg4fb5qb"
    assert parse_zid(OWNER.zid) == parse_zid(OWNER.zid.upper()) == OWNER.public


def test_a_claim_is_fixed() -> None:
    assert len(CLAIM) == CLAIM_BYTES
    assert (
        hashlib.sha256(CLAIM).hexdigest()
        == "0c73b4b4c6a7c3a586399fe784456678770bca05439736c572955f93f4619d63"
    )


def test_a_claim_is_what_the_drawing_says() -> None:
    said = b"\x01" + OWNER.public + KEYS.machine_id + (1000).to_bytes(8, "big") + (2000).to_bytes(8, "big")
    assert CLAIM[:81] == said
    for public, label, signature in (
        (OWNER.public, b"zeqnode owner claim v1", CLAIM[81:145]),
        (KEYS.bundle.ed25519, b"zeqnode machine claim v1", CLAIM[145:]),
    ):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, bytes([len(label)]) + label + said)
    assert base64.b32encode(OWNER.public).decode().lower()[:50] == OWNER.zid[4:54]


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_one_text(public: bytes) -> None:
    assert parse_zid(zid(public)) == public


@given(st.integers(4, 59), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_slip_of_one_character_is_noticed(at: int, char: str) -> None:
    text = OWNER.zid[:at] + char + OWNER.zid[at + 1 :]
    if text != OWNER.zid:
        with pytest.raises(BadZid, match="copy it again"):
            parse_zid(text)


@pytest.mark.parametrize(
    "text", ["", "zid:", OWNER.zid[:-1], OWNER.zid + "a", OWNER.zid[4:], "zid:" + "1" * 56]
)
def test_what_is_no_zid_says_what_to_do(text: str) -> None:
    with pytest.raises(BadZid, match="copy"):
        parse_zid(text)


@given(st.text(max_size=70))
def test_any_text_is_a_zid_or_a_bad_one(text: str) -> None:
    try:
        public = parse_zid(text)
    except BadZid:
        return
    assert zid(public) == text.lower()


def test_a_claim_is_read_until_it_is_over() -> None:
    assert read_claim(CLAIM, KEYS.bundle, 1999) == Claim(OWNER.public, KEYS.machine_id, 1000, 2000)
    with pytest.raises(BadClaim, match="over"):
        read_claim(CLAIM, KEYS.bundle, 2000)


@pytest.mark.parametrize(("made", "expires"), [(5, 5), (9, 5), (0, CLAIM_ZEQONDS_MAX + 1), (5, 2**63)])
def test_absurd_times_are_refused(made: int, expires: int) -> None:
    with pytest.raises(BadClaim, match="too long"):
        read_claim(claim(OWNER, KEYS, made, expires), KEYS.bundle, 0)


def test_a_claim_about_another_machine_is_refused() -> None:
    with pytest.raises(BadClaim, match="another machine"):
        read_claim(CLAIM, OTHER.bundle, 1000)


def test_an_owner_cannot_take_a_machine_that_has_not_agreed() -> None:
    theirs = claim(Owner(bytes(32)), OTHER, 1000, 2000)
    mixed = theirs[:33] + KEYS.machine_id + theirs[65:]
    with pytest.raises(BadClaim, match="not signed"):
        read_claim(mixed, KEYS.bundle, 1000)
    swapped = CLAIM[:81] + CLAIM[145:] + CLAIM[81:145]
    with pytest.raises(BadClaim, match="not signed"):
        read_claim(swapped, KEYS.bundle, 1000)


@given(st.integers(0, CLAIM_BYTES - 1), st.integers(1, 255))
def test_every_changed_byte_is_refused(at: int, change: int) -> None:
    changed = bytearray(CLAIM)
    changed[at] ^= change
    with pytest.raises(BadClaim):
        read_claim(bytes(changed), KEYS.bundle, 1500)


@given(st.binary(max_size=220))
def test_any_bytes_are_refused_in_order(data: bytes) -> None:
    for made in (data, b"\x01" + data.ljust(CLAIM_BYTES, b"\0")[: CLAIM_BYTES - 1]):
        with pytest.raises(BadClaim):
            read_claim(made, KeyBundle(KEYS.bundle.raw), 0)


def test_no_secret_is_shown() -> None:
    assert OWNER.seed.hex() not in f"{OWNER!r}{OWNER}"
    assert Owner.generate().zid != Owner.generate().zid
