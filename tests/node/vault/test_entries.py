from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.vault_box import Boxes
from crypto.zid import zid
from node.vault import entries
from node.vault.entries import About, Entry, Outcome, What
from node.vault.errors import BadPurpose

ZID = zid(bytes(range(32)))
MACHINE = entries.machine(bytes(range(32)))
ABOUT = About(purpose="vpn.tunnel.1.key", by=ZID, permissions=(MACHINE,), made=7, expires=9)
ENTRY = Entry(number=1, zeqond=7, what=What.PUT, outcome=Outcome.DONE, purpose="vpn.tunnel.1.key", by=MACHINE)


def test_what_stands_beside_a_secret_is_fixed() -> None:
    raw = entries.encode(ABOUT)
    assert raw.hex() == (
        "9601b076706e2e74756e6e656c2e312e6b6579d93c7a69643a6161617165617965617564616f6361"
        "6a626966717964696f623469626365717463716b726d66797964656e62776861356479707a676d79"
        "7091d9486d616368696e653a30303031303230333034303530363037303830393061306230633064"
        "3065306631303131313231333134313531363137313831393161316231633164316531660709"
    )
    assert entries.read_about(raw) == ABOUT


def test_an_entry_and_its_link_are_fixed() -> None:
    raw = entries.encode(ENTRY)
    assert raw.hex() == (
        "97010107a3707574a4646f6e65b076706e2e74756e6e656c2e312e6b6579d9486d616368696e653a"
        "30303031303230333034303530363037303830393061306230633064306530663130313131323133"
        "313431353136313731383139316131623163316431653166"
    )
    assert entries.read_entry(raw) == ENTRY
    assert (
        entries.link(Boxes(bytes(32)), bytes(32), raw).hex()
        == "2cf2dbc7346263dd65c2e5333f0d6f42dddc8c375ff2983746f699278cc1b705"
    )


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (entries.read_about, entries.read_entry):
        with contextlib.suppress(ValueError):
            read(data)


def test_who_may_have_it_and_until_when() -> None:
    assert ABOUT.admits(ZID)
    assert ABOUT.admits(MACHINE)
    assert not ABOUT.admits(entries.machine(bytes(32)))
    assert [ABOUT.is_over(zeqond) for zeqond in (8, 9)] == [False, True]
    forever = About(purpose="a", by=ZID, permissions=(), made=7, expires=None)
    assert not forever.is_over(2**62)


def test_a_machine_is_told_from_an_owner() -> None:
    assert entries.machine_id_of(MACHINE) == bytes(range(32))
    assert entries.machine_id_of(ZID) is None
    entries.check_principal(MACHINE)
    entries.check_principal(ZID)


@pytest.mark.parametrize(
    "text", ["", "root", "machine:", MACHINE.upper(), MACHINE[:-1], MACHINE + "0", ZID.upper(), ZID[:-1]]
)
def test_others_are_nobody(text: str) -> None:
    with pytest.raises(ValueError, match="ZID"):
        entries.check_principal(text)


@pytest.mark.parametrize("purpose", ["a", "é" * 127, "x" * 255, "vpn.tunnel.8f7e….key"])
def test_names_of_secrets(purpose: str) -> None:
    entries.check_purpose(purpose)


@pytest.mark.parametrize("purpose", ["", "x" * 256, "é" * 128, "a b", "a\n", "\x00", "\ud800", "\u202e"])
def test_names_that_no_secret_has(purpose: str) -> None:
    with pytest.raises(BadPurpose, match="1 to 255 bytes") as bad:
        entries.check_purpose(purpose)
    assert (bad.value.exit_code, bad.value.status) == (2, 400)
