"""A TOML table read with sentences for whoever wrote it. Pure."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from node.errors import Usage
from simulations.lab.errors import TopologyError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,13}")  # names become device names: at most 15 bytes in the kernel
_RESERVED = ("all", "default", "lo")  # they mean something else among the sysctls of devices


class Table:
    """One TOML table that is consumed key by key; what is left at the end is unknown."""

    error: ClassVar[type[Usage]] = TopologyError

    def __init__(self, source: str, name: str, content: dict[str, Any]) -> None:
        self.source, self.name, self._content, self._known = source, name, dict(content), list[str]()

    def fail(self, sentence: str) -> Usage:
        return self.error(f"{self.source}: {f'[{self.name}]: ' if self.name else ''}{sentence}")

    def take(self, key: str, kind: type | tuple[type, ...], what: str, default: Any = None) -> Any:
        self._known.append(key)
        value = self._content.pop(key, default)
        if value is not default and (
            not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        ):
            raise self.fail(f"{key} must be {what}, not {value!r}.")
        return value

    def tables(self, key: str) -> list[Table]:
        found = self.take(key, dict, "a table", {})
        tables = []
        for name, content in found.items():
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise self.fail(
                    f"{key}.{name}: a name has 1 to 14 of a-z, 0-9 and -, begins with a letter, "
                    f"and is none of {', '.join(_RESERVED)}."
                )
            if not isinstance(content, dict):
                raise self.fail(f"{key}.{name} must be a table: write [{key}.{name}].")
            tables.append(type(self)(self.source, f"{key}.{name}", content))
        return tables

    @property
    def short(self) -> str:
        """ "home" of [hosts.home]."""
        return self.name.partition(".")[2]

    def finish(self) -> None:
        for key in self._content:
            known = f"it knows {', '.join(self._known)}" if self._known else "it takes no keys"
            raise self.fail(f"unknown key {key!r}; {known}.")
