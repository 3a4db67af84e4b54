"""The demo's search finds what is there, however it is packed, and nothing else."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import KeyBundle, MachineKeys, fingerprint, slug
from simulations.demo.search import FILE, FORMS, FileWindows, card, doubts, search

IDENTITIES = {
    name: MachineKeys.from_bytes(bytes(range(first, first + 128))).bundle
    for name, first in (("home", 0), ("cafe", 100))
}
CONTENT = random.Random(1).randbytes(200_000)
WINDOWS = FileWindows(CONTENT)
NOISE = random.Random(2).randbytes(50_000)
WIRE = 1332  # bytes of a file in a packet through the tunnel


def frames(content: bytes, head: bytes = b"head of the frame \x5a") -> bytes:
    """As TCP cuts it, with something in front of each part."""
    return b"".join(head + content[at : at + WIRE] for at in range(0, len(content), WIRE))


def count(recording: bytes) -> dict[str, int]:
    return dict(search(recording, WINDOWS, IDENTITIES))


def test_a_file_in_packets_is_found_nearly_window_by_window() -> None:
    found = WINDOWS.count(frames(CONTENT))
    # 15 of 1,332 places are too near to a packet's end for a whole window
    assert 0.95 * len(WINDOWS.windows) < found <= len(WINDOWS.windows)


def test_noise_holds_nothing() -> None:
    assert set(count(NOISE).values()) == {0}


@given(st.data())
def test_any_stretch_that_is_longer_than_the_gap_is_found_wherever_it_stands(data: st.DataObject) -> None:
    length = WINDOWS.longest_gap + 16
    at = data.draw(st.integers(0, len(CONTENT) - length))
    where = data.draw(st.integers(0, len(NOISE)))
    assert WINDOWS.count(NOISE[:where] + CONTENT[at : at + length] + NOISE[where:]) >= 1


@pytest.mark.parametrize(
    ("content", "gap", "windows"),
    [
        (b"", 0, 0),
        (bytes(100), 100, 0),
        (b"\x5a" * 16, 16, 1),
        (bytes(10) + b"\x5a" + bytes(30), 31, 1),
        (b"\x5a" + bytes(14), 15, 0),  # too short for a window
    ],
)
def test_windows_of_small_files(content: bytes, gap: int, windows: int) -> None:
    found = FileWindows(content)
    assert (found.longest_gap, len(found.windows)) == (gap, windows)


def test_the_card_holds_every_form_of_every_identity() -> None:
    found = count(NOISE + card(IDENTITIES) + NOISE)
    assert found.pop(FILE) == 0
    assert set(found) == {f"{name} {form}" for name in IDENTITIES for form in FORMS}
    assert all(found.values())


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("part", ["machine_id", "ed25519", "x25519", "ml_kem"])
@pytest.mark.parametrize(
    ("form", "encode"),
    [
        ("raw", bytes),
        ("hex", lambda part: part.hex().encode()),
        ("hex", lambda part: part.hex().upper().encode()),
        ("base32", base64.b32encode),
        ("base32", lambda part: base64.b32encode(part).lower()),
    ],
)
def test_each_key_is_found_in_each_writing(
    name: str, part: str, form: str, encode: Callable[[bytes], bytes]
) -> None:
    found = count(NOISE + encode(getattr(IDENTITIES[name], part)) + NOISE)
    assert [key for key, n in found.items() if n] == [f"{name} {form}"]


@pytest.mark.parametrize("shift", range(5))
@pytest.mark.parametrize("part", ["machine_id", "ed25519", "x25519", "ml_kem"])
def test_base32_is_found_at_every_alignment(part: str, shift: int) -> None:
    text = base64.b32encode(bytes(shift) + getattr(IDENTITIES["home"], part))
    assert count(text)["home base32"] >= 1


@pytest.mark.parametrize("half", [0, 1])
def test_half_a_bundle_is_enough(half: int) -> None:
    """It does not fit into one datagram."""
    bundle: KeyBundle = IDENTITIES["cafe"]
    raw = bundle.to_bytes()
    middle = len(raw) // 2
    assert count(raw[half * middle : (half + 1) * middle])["cafe raw"] >= 1


@pytest.mark.parametrize("shown", [fingerprint, slug])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_names_are_found_as_they_are_shown(shown: Callable[[bytes], str], case: Callable[[str], str]) -> None:
    text = case(shown(IDENTITIES["home"].machine_id)).encode()
    assert count(NOISE + text)["home name"] == 1


@pytest.mark.parametrize(
    ("untunnelled", "tunnelled", "reason"),
    [
        ({"file": 9, "home raw": 1}, {"file": 0, "home raw": 0}, None),
        ({"file": 9, "home raw": 1}, {"file": 0, "home raw": 2}, "in spite of the tunnel: home raw 2 times"),
        ({"file": 9, "home raw": 0}, {"file": 0, "home raw": 0}, "not even find without a tunnel: home raw"),
    ],
)
def test_doubts(untunnelled: dict[str, int], tunnelled: dict[str, int], reason: str | None) -> None:
    found = doubts(untunnelled, tunnelled)
    assert (reason is None) == (found is None)
    assert found is None or (reason is not None and reason in found)
