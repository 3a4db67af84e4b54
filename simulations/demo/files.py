"""The files of one demo: what home serves, what the café gets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto.identity import KeyBundle
from simulations.demo.search import card

SAMPLE_BYTES: Final = 3_000_000
_SEED = 1287  # the same file in every run
_PART = 1 << 20


@dataclass(frozen=True)
class Files:
    """In `folder`, which is there. `web` is served by home; `got` is where the café puts a file of it."""

    folder: Path

    @property
    def web(self) -> Path:
        return self.folder / "web"

    @property
    def whole(self) -> Path:
        return self.web / "file"

    @property
    def sample(self) -> Path:
        return self.web / "sample"

    @property
    def identities(self) -> Path:
        return self.web / "identities"

    def got(self, path: Path) -> Path:
        return self.folder / f"{path.name}.got"

    def make(self, size: int) -> None:
        """`whole`: random bytes, the same in every run, which nothing compresses; `sample`: its beginning."""
        self.web.mkdir()
        chance = random.Random(_SEED)  # noqa: S311  a file's content, not a secret
        with self.whole.open("wb") as whole:
            for at in range(0, size, _PART):
                whole.write(chance.randbytes(min(_PART, size - at)))
        with self.whole.open("rb") as whole:
            self.sample.write_bytes(whole.read(SAMPLE_BYTES))

    def make_identities(self, identities: Mapping[str, KeyBundle]) -> None:
        self.identities.write_bytes(card(identities))

    def digests(self) -> tuple[str, str]:
        """SHA-256 in hex: of what home sent, and of what the café got."""
        return _sha256(self.whole), _sha256(self.got(self.whole))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
