"""Tokens: made, checked, expired and revoked, in the store and as a person meets them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node import control
from node.cli import _ended_by
from node.commands.tokens import DEFAULT_DAYS as SHOWN_DAYS
from node.commands.tokens import token as command
from node.control import Asker
from node.database import Database
from node.errors import StorageFailed, Usage
from node.tokens import DAYS_MAX, DEFAULT_DAYS, FILE, MIGRATIONS, TOKENS_MAX, Tokens, open_tokens

DAY = 86_400


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tokens(tmp_path: Path, clock: Clock) -> AsyncIterator[Tokens]:
    async with open_tokens(tmp_path / FILE, clock) as opened:
        yield opened


async def test_a_token_is_47_characters_and_kept_as_a_hash(tokens: Tokens, tmp_path: Path) -> None:
    token, text = await tokens.new("laptop", "read", 30)
    assert len(text) == 47
    assert text.startswith("zsm_")
    assert token.hash == hashlib.sha256(text.encode()).digest()
    assert token.id == token.hash.hex()[:16]
    assert (token.name, token.scope, token.created, token.expires) == (
        "laptop",
        "read",
        1_000_000,
        1_000_000 + 30 * DAY,
    )
    assert tokens.check(text) == token
    kept = b"".join((tmp_path / name).read_bytes() for name in (FILE, f"{FILE}-wal"))
    assert text.encode() not in kept
    assert text[4:].encode() not in kept
    assert token.hash in kept
    assert token.hash.hex() not in repr(token)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


async def test_it_is_there_after_a_restart_and_gone_when_revoked(tmp_path: Path) -> None:
    async with open_tokens(tmp_path / FILE) as tokens:
        kept, text = await tokens.new("kept", "write", 1)
        _, other = await tokens.new("other", "write", 1)
        assert (await tokens.revoke("other")).name == "other"
        assert tokens.check(other) is None
    async with open_tokens(tmp_path / FILE) as tokens:
        assert tokens.all() == [kept]
        assert tokens.check(text) == tokens.by_id(kept.id) == kept
        assert tokens.check(other) is None
        await tokens.revoke(kept.id)
        assert tokens.check(text) is tokens.by_id(kept.id) is None


async def test_it_expires_to_the_second(tokens: Tokens, clock: Clock) -> None:
    token, text = await tokens.new("brief", "write", 1)
    clock.now += DAY - 0.1
    assert tokens.check(text) == token
    clock.now += 0.1
    assert tokens.check(text) is tokens.by_id(token.id) is None
    assert tokens.all() == [token]


async def test_what_is_not_quite_a_token_opens_nothing(tokens: Tokens) -> None:
    _, text = await tokens.new("laptop", "write", 1)
    wrong = [
        text[:-1],
        text + "A",
        text.upper(),
        text[4:],
        "",
        "zsm_",
        text + "\n",
        " " + text,
        text[:-1] + "é",
    ]
    assert not any(map(tokens.check, wrong))


@given(text=st.text(max_size=60))
def test_no_text_opens_what_has_no_tokens(text: str) -> None:
    with TemporaryDirectory() as folder, closing(Database.open(Path(folder) / FILE, MIGRATIONS)) as database:
        assert Tokens(database).check(text) is None


@pytest.mark.parametrize(
    ("name", "scope", "days"),
    [
        ("", "read", 1),
        ("Big Name", "read", 1),
        ("a", "admin", 1),
        ("a", "read", 0),
        ("a", "read", DAYS_MAX + 1),
    ],
)
async def test_what_makes_no_token(tokens: Tokens, name: str, scope: str, days: int) -> None:
    with pytest.raises(Usage):
        await tokens.new(name, scope, days)
    assert tokens.all() == []


async def test_two_at_once_do_not_get_one_name(tokens: Tokens) -> None:
    refused: list[Usage] = []

    async def make() -> None:
        try:
            await tokens.new("same", "read", 1)
        except Usage as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        nursery.start_soon(make)
    assert len(refused) == 1
    assert len(tokens.all()) == 1


async def test_there_are_not_too_many(tokens: Tokens) -> None:
    token, _ = await tokens.new("first", "read", 1)
    tokens._tokens += [token] * (TOKENS_MAX - 1)
    with pytest.raises(Usage, match="revoke some"):
        await tokens.new("more", "read", 1)
    del tokens._tokens[1:]


async def test_what_cannot_be_kept_does_not_open(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageFailed("no space")

    _, text = await tokens.new("kept", "read", 1)
    monkeypatch.setattr(tokens._db, "execute", fail)
    with pytest.raises(StorageFailed):
        await tokens.new("lost", "read", 1)
    with pytest.raises(StorageFailed):
        await tokens.revoke("kept")
    assert [each.name for each in tokens.all()] == ["kept"]
    assert tokens.check(text) is not None


async def test_a_cancelled_caller_leaves_memory_and_disk_alike(tmp_path: Path) -> None:
    async with open_tokens(tmp_path / FILE) as tokens:
        with trio.CancelScope() as scope:
            scope.cancel()
            await tokens.new("cancelled", "read", 1)
        names = [each.name for each in tokens.all()]
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM tokens")] == names
    connection.close()


# ---------------------------------------------------------------------- the command


@pytest.fixture
async def run(
    tmp_path: Path, tokens: Tokens, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Callable[..., Any]]:
    """Runs `zeqnode token …` against a control socket; its exit code, output and errors."""

    async def handle(op: str, arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        return await tokens.operations[op](arguments, asker)

    def call(words: tuple[str, ...]) -> int:
        try:
            command(
                [*words, "--state", str(tmp_path)],
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
        except Exception as error:
            return _ended_by(error)
        return 0

    async def run_it(*words: str) -> tuple[int, str, str]:
        code = await trio.to_thread.run_sync(call, words)
        output = capsys.readouterr()
        return code, output.out, output.err

    async with trio.open_nursery() as nursery:
        path = tmp_path / control.SOCKET_NAME
        await nursery.start(lambda task_status: control.serve(path, handle, task_status=task_status))
        yield run_it
        nursery.cancel_scope.cancel()


async def test_the_token_alone_goes_to_standard_output(run: Callable[..., Any], tokens: Tokens) -> None:
    code, out, err = await run("new", "laptop")
    found = tokens.check(out.strip())
    assert code == 0
    assert found is not None
    assert (found.scope, found.expires - found.created) == ("write", DEFAULT_DAYS * DAY)
    assert SHOWN_DAYS == DEFAULT_DAYS
    assert f"zeqnode token revoke {found.id}" in err
    code, out, err = await run("revoke", found.id)
    assert (code, out, err) == (0, "Token laptop is revoked.\n", "")
    assert tokens.all() == []


async def test_tokens_are_listed_without_their_secrets(run: Callable[..., Any], clock: Clock) -> None:
    assert (await run("list"))[1] == "No tokens yet: sudo zeqnode token new NAME\n"
    _, out, _ = await run("new", "laptop", "--scope", "read", "--days", "2", "--json")
    made = json.loads(out)
    text = made.pop("token")
    assert made == {
        "id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "name": "laptop",
        "scope": "read",
        "created": 1_000_000,
        "expires": 1_000_000 + 2 * DAY,
        "state": "open",
    }
    clock.now += 2 * DAY
    _, out, _ = await run("list", "--json")
    assert json.loads(out) == {"tokens": [made | {"state": "expired"}]}
    _, out, _ = await run("list")
    assert out.split() == [
        "ID",
        "NAME",
        "SCOPE",
        "STATE",
        "EXPIRES",
        made["id"],
        "laptop",
        "read",
        "expired",
        *out.split()[-2:],
    ]
    _, out, _ = await run("revoke", "laptop", "--json")
    assert json.loads(out) == {"revoked": made | {"state": "expired"}}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("new", "Laptop 1"), "the name of a token must be"),
        (("new", "a", "--scope", "all"), "--scope is read or write, not 'all'"),
        (("new", "a", "--days", "0"), "--days is 1 to 3650, not 0"),
        (("revoke", "nobody"), "there is no token 'nobody'; see: zeqnode token list"),
    ],
)
async def test_wrong_words_are_told(run: Callable[..., Any], words: tuple[str, ...], sentence: str) -> None:
    code, out, err = await run(*words)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("token_new", {}),
        ("token_new", {"name": 1}),
        ("token_new", {"name": "a", "scope": None}),
        ("token_new", {"name": "a", "days": True}),
        ("token_revoke", {}),
        ("token_revoke", {"token": ["a"]}),
    ],
)
async def test_other_programs_may_ask_nonsense(tokens: Tokens, op: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(Usage):
        await tokens.operations[op](arguments, None)  # type: ignore[arg-type]
