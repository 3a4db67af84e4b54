"""Is it on the wire? Searching a recording for a file's bytes and for identities. Pure.

The file. Every place where it has the byte 0x5A starts a window of 16 bytes: one place in 256, chosen by the
content, so the same places are chosen wherever the bytes turn up, whatever headers stand before them. Each
0x5A of the recording, with the 15 bytes after it, is looked up among the file's windows. A full packet of the
file holds five windows on average, and any stretch of the file longer than `longest_gap` + 16 bytes holds
one for certain. Two windows that are alike by chance: about 1 in 10²⁷ for files of 100 MB.

An identity. From machine_id and each public key 16 to 20 bytes are taken (of ML-KEM's three pieces, because
it does not fit into one datagram), and looked for raw, in hex and in base32, upper and lower case. Base32
writes five bytes as eight letters, so each piece is written at all five alignments; the fingerprint in its
groups and the slug are looked for as they are shown to people.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from mmap import mmap

from crypto.identity import KeyBundle, fingerprint, slug

FORMS = ("raw", "hex", "base32", "name")
FILE = "file"
_WINDOWS = re.compile(rb"\x5a(?=(.{15}))", re.DOTALL)  # it gives the 15 bytes; what stands first is known
_PIECE = 16
_ALIGNMENTS = 5
_ML_KEM_AT = (0, 400, 800)


class FileWindows:
    """The windows of a file. `longest_gap`: bytes between two of them, at most."""

    def __init__(self, data: bytes | mmap) -> None:
        self.windows: frozenset[bytes] = frozenset(_WINDOWS.findall(data))
        places = [0, *(match.start() for match in _WINDOWS.finditer(data)), len(data)]
        self.longest_gap = max(after - before for before, after in pairwise(places))

    def count(self, recording: bytes) -> int:
        """How many windows of the recording are windows of the file."""
        return sum(1 for window in _WINDOWS.findall(recording) if window in self.windows)


def pieces(bundle: KeyBundle) -> dict[str, list[bytes]]:
    """What to look for, by form; all but "raw" in lower case."""
    parts = [bundle.machine_id, bundle.ed25519, bundle.x25519, *(bundle.ml_kem[at:] for at in _ML_KEM_AT)]
    raw = [part[:_PIECE] for part in parts]
    return {
        "raw": raw,
        "hex": [piece.hex().encode() for piece in raw],
        "base32": [
            base64.b32encode(part[at : at + 20]).lower()[:26] for part in parts for at in range(_ALIGNMENTS)
        ],
        "name": [fingerprint(bundle.machine_id).encode().lower(), slug(bundle.machine_id).encode().lower()],
    }


def search(
    recording: bytes, windows: FileWindows, identities: Mapping[str, KeyBundle]
) -> Iterator[tuple[str, int]]:
    """("file", n), then for each machine and form ("home raw", n); n is how often it was found."""
    yield FILE, windows.count(recording)
    lowered = recording.lower()
    for name, bundle in identities.items():
        for form, needles in pieces(bundle).items():
            haystack = recording if form == "raw" else lowered
            yield f"{name} {form}", sum(haystack.count(needle) for needle in needles)


def card(identities: Mapping[str, KeyBundle]) -> bytes:
    """Everything that `search` looks for, as a file, so that a search can be seen to find it."""
    lines: list[bytes] = []
    for bundle in identities.values():
        for part in (bundle.machine_id, bundle.ed25519, bundle.x25519, bundle.ml_kem):
            lines += [part, part.hex().encode(), base64.b32encode(part)]
        lines += [fingerprint(bundle.machine_id).encode(), slug(bundle.machine_id).encode()]
    return b"\n".join(lines)


def doubts(untunnelled: Mapping[str, int], tunnelled: Mapping[str, int]) -> str | None:
    """None if all is found in the one and nothing in the other; else a sentence."""
    if leaked := [f"{key} {count} times" for key, count in tunnelled.items() if count]:
        return f"on the wire in spite of the tunnel: {', '.join(leaked)}"
    if missed := [key for key, count in untunnelled.items() if not count]:
        return f"the search does not even find without a tunnel: {', '.join(missed)}"
    return None
