"""A TOML file as its reader's eyes see it: sections of keys, and complaints with file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from node.config_values import Wrong, shown
from node.errors import Usage


class Document:
    """The file `path` with this text; a section is named by the tuple of its header's words."""

    def __init__(self, path: Path, text: str) -> None:
        """Raises Usage on anything that is not TOML."""
        self.path = path
        self._text = text
        try:
            self.content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise Usage(f"{path} is not valid TOML: {_toml_fault(error)}; mend it there") from None

    def table(self, name: tuple[str, ...]) -> Mapping[str, object]:
        """The section as it stands, empty if it is not there; raises Usage if it is no section."""
        value: object = self.content
        for depth, word in enumerate(name):
            value = value.get(word, {}) if isinstance(value, dict) else value
            if not isinstance(value, dict):
                raise Usage(
                    f"{self.place(name[:depth], word)}: {word} must be a section, [{'.'.join(name)}], of keys"
                )
        return value if isinstance(value, dict) else {}

    def section(
        self, name: tuple[str, ...], parsers: Mapping[str, Callable[[object], object]]
    ) -> dict[str, Any]:
        """The section's values, read by the parser of each key; raises Usage."""
        table = self.table(name)
        self.refuse_unknown(name, table, list(parsers))
        found: dict[str, Any] = {}
        for key, value in table.items():
            try:
                found[key] = parsers[key](value)
            except Wrong as error:
                raise Usage(f"{self.place(name, key)}: {key} in [{'.'.join(name)}] {error}") from None
        return found

    def refuse_unknown(self, section: tuple[str, ...], table: Mapping[str, object], known: list[str]) -> None:
        """Raise Usage, with the nearest of the known keys, if there is another one."""
        for key in table:
            if key not in known:
                nearest = get_close_matches(key, known, 1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
                word = shown(key)[1:-1]
                what = f"key {word} in [{'.'.join(section)}]" if section else f"section [{word}]"
                raise Usage(f"{self.place(section, key)}: there is no {what}; {hint}")

    def place(self, section: tuple[str, ...], key: str) -> str:
        """ "file, line n", for spellings whose line can be told, else the file alone."""
        line = _line_of(self._text, section, key)
        return f"{self.path}, line {line}" if line else str(self.path)


def _line_of(text: str, section: tuple[str, ...], key: str) -> int | None:
    """Where a key, or a section's own header, stands; None for spellings that this does not know."""
    here: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            here = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if here[: len(section) + 1] == (*section, key):
                return number
        elif here == section and re.match(rf"\s*([\"']?){re.escape(key)}\1\s*[=.]", line):
            return number
    return None


def _toml_fault(error: Exception) -> str:
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error).rstrip(".")
    return "nested too deeply" if isinstance(error, RecursionError) else "a number in it has too many digits"
