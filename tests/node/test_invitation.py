from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import partial

import msgpack
import pytest
import segno
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.identity import MachineKeys, sign
from node.invitation import (
    LABEL,
    Invitation,
    InvitationDamaged,
    InvitationExpired,
    InvitationTooNew,
    NotAnInvitation,
    clean_name,
    encode,
    is_address,
    parse,
    qr_lines,
)

KEYS = MachineKeys.from_bytes(bytes(range(128)))
SIGN = partial(sign, KEYS)
EXPIRES = 1_790_000_000
INVITATION = Invitation(
    machine_id=KEYS.machine_id,
    ed25519=KEYS.bundle.ed25519,
    name="ada-home",
    addresses=("192.0.2.17:51777", "[2001:db8::1]:51777", "ada.example:51777"),
    homes=(b"H" * 32,),
    lookup_secret=b"L" * 16,
    token=b"T" * 16,
    expires=EXPIRES,
)
TEXT = encode(INVITATION, SIGN)


def signed(body: bytes) -> str:
    """What a hostile author can make: anything, with a signature that holds for their own key."""
    return "zeq://" + base64.urlsafe_b64encode(body + SIGN(LABEL, body)).rstrip(b"=").decode()


def test_the_text_is_fixed() -> None:
    assert TEXT == (
        "zeq://AZjEIJsmKQ6yVZJG8n0VdbINmzwn7aZD9B5s4Ab0_znzX2-5xCADoQe_884Qvh1w3RjnS8CZZ-"
        "TWMJulDV8d3IZkElUxuKhhZGEtaG9tZZOwMTkyLjAuMi4xNzo1MTc3N7NbMjAwMTpkYjg6OjFdOjUxNz"
        "c3sWFkYS5leGFtcGxlOjUxNzc3kcQgSEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEjEEExMTE"
        "xMTExMTExMTExMTEzEEFRUVFRUVFRUVFRUVFRUVFTOarE7gHGKRJ8QRST3WUcFy5y1W4D-iprf9AySO5"
        "2aris-Jp-luvxRc7raM6fZNfZdXCY6lQp6lTKFbUD01daR39Wg5g4"
    )
    assert len(TEXT) <= 500


invitations = st.builds(
    partial(replace, INVITATION),
    name=st.from_regex(r"([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)?", fullmatch=True),
    addresses=st.lists(
        st.one_of(
            st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65535)),
            st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(1, 65535)),
            st.builds("{}:{}".format, st.sampled_from(["example", "a.b-c.example"]), st.integers(1, 65535)),
        ),
        max_size=8,
    ).map(tuple),
    homes=st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
    lookup_secret=st.binary(min_size=16, max_size=16),
    token=st.binary(min_size=16, max_size=16),
    expires=st.integers(1, 253_402_300_799),
)


@given(invitations)
def test_round_trip(invitation: Invitation) -> None:
    assert parse(encode(invitation, SIGN), invitation.expires - 1) == invitation


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {TEXT}\n",
        "\r\n".join(TEXT[at : at + 60] for at in range(0, len(TEXT), 60)),
        " ".join(TEXT),
        f"<{TEXT}>",
        f'"{TEXT}"',
        TEXT.replace("zeq://", "ZEQ://"),
        f"\ufeff{TEXT[:99]}\u200b\u00ad{TEXT[99:]}\u00a0",
    ],
)
def test_what_pasting_does_to_a_text_does_not_matter(pasted: str) -> None:
    assert parse(pasted, 0) == INVITATION


def test_every_flipped_byte_is_refused() -> None:
    data = base64.urlsafe_b64decode(TEXT[6:] + "=" * (-len(TEXT[6:]) % 4))
    for at in range(len(data)):
        for bit in (0x01, 0x80):
            flipped = bytearray(data)
            flipped[at] ^= bit
            text = "zeq://" + base64.urlsafe_b64encode(flipped).rstrip(b"=").decode()
            with pytest.raises(InvitationTooNew if at == 0 and bit == 0x80 else InvitationDamaged):
                parse(text, 0)


def test_every_mistyped_letter_and_every_cut_is_refused() -> None:
    for at in range(len(TEXT)):
        for other in ("A", "b", "_", "+", "é"):
            if other.lower() != TEXT[at].lower():
                with pytest.raises((InvitationDamaged, NotAnInvitation, InvitationTooNew)):
                    parse(TEXT[:at] + other + TEXT[at + 1 :], 0)
        with pytest.raises((InvitationDamaged, NotAnInvitation)):
            parse(TEXT[:at], 0)
    for more in ("A", "AA", "AAAA", "=", "==", TEXT):
        with pytest.raises(InvitationDamaged):
            parse(TEXT + more, 0)


@settings(max_examples=200)
@given(st.one_of(st.text(), st.text("zeq:/Ab9-_ \n").map("zeq://".__add__), st.binary().map(signed)))
def test_any_text_is_refused_in_an_orderly_way(text: str) -> None:
    with pytest.raises((NotAnInvitation, InvitationDamaged, InvitationTooNew)):
        parse(text, 0)


def test_an_expired_one_says_until_when_it_was_good() -> None:
    assert parse(TEXT, EXPIRES - 1) == INVITATION
    with pytest.raises(InvitationExpired, match="until 2026-09-21 14:13 UTC; ask for a new one") as expired:
        parse(TEXT, EXPIRES)
    assert expired.value.exit_code == 5


def test_other_texts_and_newer_versions_say_what_they_are() -> None:
    with pytest.raises(NotAnInvitation, match="begins with zeq://") as wrong:
        parse("https://example.org/", 0)
    assert wrong.value.exit_code == 2
    with pytest.raises(NotAnInvitation):
        parse("zeq://" + "A" * 5000, 0)
    with pytest.raises(InvitationTooNew, match="update"):
        parse(signed(b"\x02 whatever that will be"), 0)


FIELDS = [
    INVITATION.machine_id,
    INVITATION.ed25519,
    "ada",
    ["192.0.2.1:1"],
    [],
    bytes(16),
    bytes(16),
    EXPIRES,
]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, b"short"),
        (0, "text"),
        (2, "UPPER"),
        (2, "ada\x1b[2J"),
        (2, "x" * 33),
        (2, "-x"),
        (2, 7),
        (2, b"ada"),
        (3, "192.0.2.1:1"),
        (3, ""),
        (3, ["192.0.2.1"]),
        (3, [7]),
        (3, ["192.0.2.1:1"] * 9),
        (3, {"192.0.2.1:1": 1}),
        (4, [bytes(32)] * 4),
        (4, [bytes(31)]),
        (5, bytes(15)),
        (6, None),
        (7, -1),
        (7, True),
        (7, 1.5),
        (7, 2**63),
    ],
)
def test_a_hostile_author_cannot_put_in_what_is_not_drawn(index: int, value: object) -> None:
    assert parse(signed(b"\x01" + msgpack.packb(FIELDS)), 0).name == "ada"
    with pytest.raises(InvitationDamaged):
        parse(signed(b"\x01" + msgpack.packb([*FIELDS[:index], value, *FIELDS[index + 1 :]])), 0)


@pytest.mark.parametrize("array", [FIELDS[:-1], [*FIELDS, 0], {}, 7, None])
def test_another_shape_is_refused(array: object) -> None:
    with pytest.raises(InvitationDamaged):
        parse(signed(b"\x01" + msgpack.packb(array)), 0)
    with pytest.raises(InvitationDamaged):
        parse(signed(b"\x01" + msgpack.packb(FIELDS) + b"\0"), 0)


def test_the_bundle_that_comes_must_be_the_one_that_was_meant() -> None:
    INVITATION.confirm(KEYS.bundle)
    other = MachineKeys.from_bytes(bytes(128)).bundle
    for invitation in (
        replace(INVITATION, machine_id=other.machine_id),
        replace(INVITATION, ed25519=other.ed25519),
        replace(INVITATION, machine_id=other.machine_id, ed25519=other.ed25519),
    ):
        with pytest.raises(InvitationDamaged, match="fingerprints"):
            invitation.confirm(KEYS.bundle)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ada's Café", "ada-s-cafe"),
        ("  --x--  ", "x"),
        ("日本", ""),
        ("a" * 31 + " b", "a" * 31),
        ("x\x1b[31m", "x-31m"),
    ],
)
def test_clean_name(text: str, name: str) -> None:
    assert clean_name(text) == name


@given(st.text())
def test_every_cleaned_name_may_be_carried(text: str) -> None:
    assert replace(INVITATION, name=clean_name(text)).name == clean_name(clean_name(text))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("192.0.2.1:51777", True),
        ("[2001:DB8::1]:1", True),
        ("Ada.Example:65535", True),
        ("localhost:80", True),
        ("192.0.2.1", False),
        ("192.0.2.1:0", False),
        ("192.0.2.1:65536", False),
        ("192.0.2.1:080", False),
        ("192.0.2.1:٣", False),
        ("192.0.2.256:80", False),
        ("192.0.2:80", False),
        ("2001:db8::1:80", False),
        ("[fe80::1%eth0]:80", False),
        ("[192.0.2.1]:80", False),
        ("[::1:80", False),
        (":80", False),
        ("a..b:80", False),
        ("-a:80", False),
        ("a" * 64 + ":80", False),
        (".".join(["a" * 60] * 5) + ":80", False),
        ("a b:80", False),
        ("a/b:80", False),
        ("ä.example:80", False),
        (7, False),
    ],
)
def test_is_address(text: object, good: bool) -> None:
    assert is_address(text) is good


def test_the_qr_code_has_its_modules_and_a_quiet_zone_and_fits_80_columns() -> None:
    lines = qr_lines(TEXT).split("\n")
    rows = []
    for line in lines:
        found = re.fullmatch(r"\x1b\[38;5;16;48;5;231m([ ▀▄█]+)\x1b\[0m", line)
        assert found
        rows.append([char in "▀█" for char in found[1]])
        rows.append([char in "▄█" for char in found[1]])
    size = len(rows[0])
    assert size <= 80
    expected = [[bool(cell) for cell in row] for row in segno.make_qr(TEXT, error="l").matrix]
    assert [row[4:-4] for row in rows[4 : 4 + len(expected)]] == expected
    assert not any(map(any, rows[:4] + rows[4 + len(expected) :]))
    assert not any(any(row[:4] + row[-4:]) for row in rows)
    assert len(rows) - len(expected) >= 8
