"""Log lines that people read and programs split: an event, then its fields.

    2026-11-20T11:22:33Z info connected peer=home endpoint=198.51.100.7:51777        text
    {"time": "2026-11-20T11:22:33Z", "level": "info", "event": "connected", "peer": "home", …}      json
    <6>connected peer=home endpoint=198.51.100.7:51777                                under systemd

Under systemd (where JOURNAL_STREAM in the environment names our stream, systemd.exec(5)) the journal keeps
the time, and takes the level from the number in front (sd-daemon(3)). One event is one line: control
characters in a value are escaped, so that a peer's text cannot forge one. Keys, secrets, tokens and
invitations are never fields.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_ROOT: Final = "zeqnode"
_FIELDS: Final = "zeqnode_fields"
_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:,/+@~%[]")


class Log:
    """The log of one part of the program: `Log("control").info("connected", peer="home")`."""

    def __init__(self, part: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{part}")

    def debug(self, event: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled, for faults of our own."""
        self._write(logging.ERROR, event, fields, sys.exc_info()[1])

    def _write(
        self, level: int, event: str, fields: dict[str, object], error: BaseException | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, exc_info=error, extra={_FIELDS: fields})


def set_up(level: str, style: str, env: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send the log to `stream` (standard error): debug, info, warning or error; style text or json.

    May be called again, as after a reload. What other packages log arrives from level warning on.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(style, under_systemd=_is_the_journal(handler.stream, env)))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_ROOT).setLevel(level.upper())


def _is_the_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """A child of a service inherits the variable, but perhaps not the stream."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # no file: a buffer of a test, say
        return False
    return env.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Formatter(logging.Formatter):
    def __init__(self, style: str, *, under_systemd: bool) -> None:
        super().__init__()
        self._json = style == "json"
        self._under_systemd = under_systemd

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {"logger": record.name}),
        }
        if record.exc_info and record.exc_info[1]:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        priority = ""
        if self._under_systemd:
            priority = f"<{_PRIORITIES.get(record.levelno, 5)}>"
        else:
            time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            fields = {"time": time, **fields}
        return priority + (json.dumps(fields, default=str) if self._json else self._text(fields))

    def _text(self, fields: dict[str, Any]) -> str:
        head = "event" if self._under_systemd else "time level event"
        start = " ".join(_one_line(fields[name]) for name in head.split())
        rest = [
            f"{name}={_quoted(fields[name])}" for name in fields if name not in ("time", "level", "event")
        ]
        return " ".join([start, *rest])


def _quoted(value: object) -> str:
    """As it is where it is one word, else as a JSON string; None and numbers as JSON has them."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    return text if text and set(text) <= _BARE else json.dumps(text, ensure_ascii=not text.isprintable())


def _one_line(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
