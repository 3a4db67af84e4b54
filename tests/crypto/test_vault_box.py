from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.vault_box import BOX_BYTES, NONCE_BYTES, Boxes
from crypto.vault_keys import VaultDamaged

BOXES = Boxes(bytes(range(32)))


def test_key_schedule_and_box_are_fixed() -> None:
    assert BOXES.derived(b"audit").hex() == "5b3ec80f3db6a36d570581458994c1d5970a59b7451fa40ebd0ffac5446969c9"
    assert (
        BOXES.mac(b"audit", b"abc").hex()
        == "cbd07dab9c21f994b2709de63e27daecc00f4750df24458b7e4f1bddb7a3edc4"
    )
    assert (
        BOXES.seal("a", b"b", b"c", bytes(NONCE_BYTES)).hex()
        == "000000000000000000000000cbb9e1a8c407b8612bae275cff6bfd9257"
    )


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.binary(max_size=40), st.binary(max_size=200))
def test_a_box_opens_under_its_name_and_with_its_data_only(name: str, data: bytes, secret: bytes) -> None:
    box = BOXES.seal(name, data, secret, bytes(NONCE_BYTES))
    assert len(box) == len(secret) + BOX_BYTES
    assert BOXES.open(name, data, box) == secret
    changed: list[tuple[Boxes, str, bytes, bytes]] = [
        (BOXES, name + "x", data, box),
        (BOXES, name, data + b"x", box),
        (BOXES, name, data, box[:-1]),
        (Boxes(bytes(32)), name, data, box),
    ]
    for boxes, its_name, its_data, its_box in changed:
        with pytest.raises(VaultDamaged):
            boxes.open(its_name, its_data, its_box)


@given(st.binary(max_size=60))
def test_any_bytes_are_damage(box: bytes) -> None:
    with pytest.raises(VaultDamaged):
        BOXES.open("a", b"", box)


def test_no_key_is_shown() -> None:
    assert "0102" not in repr(BOXES)
    assert "\\x01" not in repr(BOXES)
