"""Log lines: their three shapes, and that no value can forge one."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import logs

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """pytest's own handlers come back."""
    root, ours = logging.getLogger(), logging.getLogger("zeqnode")
    before = root.handlers[:], root.level, ours.level
    root.handlers[:] = []  # set_up would close them
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def lines(level: str = "info", style: str = "text") -> tuple[logs.Log, io.StringIO]:
    stream = io.StringIO()
    logs.set_up(level, style, {}, stream)
    return logs.Log("test"), stream


def test_text_has_time_level_event_and_fields() -> None:
    log, stream = lines()
    log.info("connected", peer="home", endpoint="[2001:db8::1]:51777", rtt_ms=1.5, why=None, roamed=True)
    time, rest = stream.getvalue().split(" ", 1)
    assert TIME.fullmatch(time)
    assert rest == "info connected peer=home endpoint=[2001:db8::1]:51777 rtt_ms=1.5 why=null roamed=true\n"


def test_json_has_the_same() -> None:
    log, stream = lines(style="json")
    log.warning("refused", peer="a b", address=IPv6Address("::1"), count=3)
    found = json.loads(stream.getvalue())
    assert TIME.fullmatch(found.pop("time"))
    assert found == {"level": "warning", "event": "refused", "peer": "a b", "address": "::1", "count": 3}


@pytest.mark.parametrize(("method", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)])
@pytest.mark.parametrize("style", ["text", "json"])
def test_the_journal_gets_the_level_as_a_number_and_no_time(
    method: str, priority: int, style: str, tmp_path: Path
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        logs.set_up("debug", style, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, stream)
        getattr(logs.Log("test"), method)("went by", peer="home")
        stream.seek(0)
        number, text = stream.read(3), stream.read()
    assert number == f"<{priority}>"
    if style == "json":
        assert json.loads(text) == {"level": method, "event": "went by", "peer": "home"}
    else:
        assert text == "went by peer=home\n"


def test_another_stream_than_the_journal_has_the_time(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        logs.set_up("info", "text", {"JOURNAL_STREAM": "8:1"}, stream)
        logs.Log("test").info("went by")
        stream.seek(0)
        assert TIME.match(stream.read())


def test_what_is_below_the_level_is_not_written() -> None:
    log, stream = lines("warning")
    log.debug("no")
    log.info("no")
    log.warning("yes")
    assert stream.getvalue().endswith(" warning yes\n")
    assert stream.getvalue().count("\n") == 1


def test_set_up_again_replaces_the_first() -> None:
    log, first = lines("debug")
    _, second = lines("error", "json")
    log.info("no")
    log.error("yes")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == "yes"


def test_other_packages_are_heard_from_warning_on() -> None:
    _, stream = lines("debug")
    other = logging.getLogger("somebody.else")
    other.info("chatter")
    other.warning("%s is odd", "this")
    assert stream.getvalue().partition(" ")[2] == "warning this is odd logger=somebody.else\n"


def test_a_traceback_stays_on_its_line() -> None:
    log, stream = lines()
    try:
        raise ValueError("out of order\nreally")
    except ValueError:
        log.exception("a fault of ours", op="status")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: out of order" in stream.getvalue()
    assert "test_logs.py" in stream.getvalue()


@given(st.dictionaries(st.sampled_from(["peer", "why", "endpoint"]), st.text()))
def test_no_value_makes_another_line_or_another_field(fields: dict[str, str]) -> None:
    log, stream = lines()
    log.info("event", **fields)
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()
    names = [word.partition("=")[0] for word in shlex.split(text)[3:]]
    assert names == list(fields)


@given(st.dictionaries(st.sampled_from(["peer", "why", "endpoint"]), st.text()))
def test_json_gives_every_value_back(fields: dict[str, str]) -> None:
    log, stream = lines(style="json")
    log.info("event", **fields)
    assert len(stream.getvalue().splitlines()) == 1
    assert json.loads(stream.getvalue()).items() >= fields.items()
