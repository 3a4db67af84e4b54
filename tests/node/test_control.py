"""The control socket: requests and answers over a real Unix socket, and who may ask."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node import control, control_socket
from node.control import Asker, Handler, Progress
from node.errors import NotRunning, Refused, StorageFailed, Unreachable, Usage, UserError
from tests.rights import NOBODY, needs_other_users


async def echo(op: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    match op:
        case "slow":
            for step in range(3):
                await progress(f"step {step}")
        case "refuse":
            raise Unreachable("cafe does not answer; is it switched on?")
        case "break":
            raise ZeroDivisionError
        case "nonsense":
            return {"what": object()}
        case "hang":
            await trio.sleep_forever()
    return {"op": op, **arguments}


@asynccontextmanager
async def serving(path: Path, handler: Handler = echo) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: control.serve(path, handler, task_status=task_status))
        yield path
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / control.SOCKET_NAME


async def raw(path: Path, data: bytes, *, finish: bool = True) -> bytes:
    """What comes back for these bytes, up to the end of the connection."""
    stream = await trio.open_unix_socket(path)
    answer = b""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):  # turned away in the middle of a request
            await stream.send_all(data)
            if finish:
                await stream.send_eof()
        with contextlib.suppress(trio.BrokenResourceError):
            async for part in stream:
                answer += part
    return answer


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def error_in(answer: bytes) -> tuple[str, int]:
    line = json.loads(answer)
    return line["error"], line["exit_code"]


async def test_an_answer_carries_the_arguments_back(path: Path) -> None:
    async with serving(path):
        assert await control.call(path, "status", deep={"é": [1, None]}) == {
            "op": "status",
            "deep": {"é": [1, None]},
        }


async def test_progress_comes_in_order_before_the_answer(path: Path) -> None:
    seen: list[str] = []
    async with serving(path):
        assert await control.call(path, "slow", on_progress=seen.append) == {"op": "slow"}
        assert await control.call(path, "slow") == {"op": "slow"}
    assert seen == ["step 0", "step 1", "step 2"]


async def test_a_users_error_arrives_with_its_sentence_and_code(path: Path) -> None:
    async with serving(path):
        with pytest.raises(Unreachable, match=r"^cafe does not answer; is it switched on\?$"):
            await control.call(path, "refuse")


@pytest.mark.parametrize("op", ["break", "nonsense"])
async def test_a_fault_of_ours_is_logged_and_the_node_lives_on(
    op: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path):
        with pytest.raises(UserError, match="fault of its own") as caught:
            await control.call(path, op)
        assert caught.value.exit_code == 1
        assert await control.call(path, "fine") == {"op": "fine"}
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info


async def test_no_node_is_a_sentence_that_starts_one(path: Path) -> None:
    with pytest.raises(NotRunning, match=f"sudo zeqnode run --state {path.parent}$"):
        await control.call(path, "status")
    with pytest.raises(NotRunning, match=r"no node is running on /var/lib/zeqnode; .*: sudo zeqnode run$"):
        raise control_socket.not_running(Path("/var/lib/zeqnode"))


async def test_a_dead_nodes_socket_is_no_node_and_gives_way(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotRunning):
        await control.call(path, "status")
    async with serving(path):
        assert await control.call(path, "status") == {"op": "status"}


def test_another_kind_of_file_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(StorageFailed, match="is no socket"):
        control_socket.listen(path)
    assert path.read_text() == "precious"


async def test_the_socket_is_gone_after_the_end(path: Path) -> None:
    async with serving(path):
        assert stat.S_ISSOCK(os.stat(path).st_mode)
    assert path.name not in os.listdir(path.parent)


async def test_only_the_owner_may_open_it_whatever_the_umask(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "GROUP", "no-such-group-here")
    before = os.umask(0)
    try:
        async with serving(path):
            assert mode_of(path) == 0o600
    finally:
        os.umask(before)


@needs_other_users
async def test_the_group_may_open_it_where_there_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "GROUP", "nogroup")
    async with serving(path):
        assert mode_of(path) == 0o660
        assert os.stat(path).st_gid == control_socket.group_id()


@needs_other_users
async def test_the_group_passes_a_state_directory_that_was_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "GROUP", "nogroup")
    path.parent.chmod(0o700)
    async with serving(path):
        assert mode_of(path.parent) == 0o710
        assert os.stat(path.parent).st_gid == control_socket.group_id()


async def test_a_state_directory_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-very-long-directory-name"] * 6)
    deep.mkdir(parents=True)
    path = deep / control.SOCKET_NAME
    assert len(bytes(path)) > 107
    with pytest.raises(NotRunning):
        await control.call(path, "status")
    async with serving(path):
        assert await control.call(path, "status") == {"op": "status"}
    assert path.name not in os.listdir(path.parent)


async def test_no_directory_is_a_sentence(tmp_path: Path) -> None:
    for state in (tmp_path / "none", tmp_path.joinpath(*["long-and-missing"] * 8)):
        with pytest.raises(NotRunning):
            await control.call(state / control.SOCKET_NAME, "status")
        with pytest.raises(StorageFailed):
            await control.serve(state / control.SOCKET_NAME, echo)


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"op": 1}\n',
        b"\xff\xfe\n",
        b"[" * 30000 + b"\n",
        b'{"op": "x"\n',
        b"9" * 9999 + b"\n",
    ],
)
async def test_what_is_no_request_is_told_so(request_line: bytes, path: Path) -> None:
    async with serving(path):
        message, code = error_in(await raw(path, request_line))
        assert (code, "one line of JSON" in message) == (2, True)
        assert await control.call(path, "fine") == {"op": "fine"}


async def test_a_request_has_a_bound(path: Path) -> None:
    limit = control.REQUEST_BYTES_MAX
    async with serving(path):
        largest = b'{"op": "' + b"x" * (limit - 11) + b'"}\n'
        assert len(largest) == limit
        assert len(json.loads(await raw(path, largest))["ok"]["op"]) == limit - 11
        for too_long in (b" " + largest, b"x" * (limit + 1)):
            message, code = error_in(await raw(path, too_long, finish=False))
            assert (code, "at most 65536 bytes" in message) == (2, True)


async def test_a_connection_that_says_nothing_is_forgotten(path: Path) -> None:
    async with serving(path):
        assert await raw(path, b"") == b""
        assert await raw(path, b'{"op": "unfinished"}') == b""


async def test_a_slow_request_is_cut_off_after_ten_seconds(path: Path, autojump_clock: MockClock) -> None:
    async with serving(path):
        start = trio.current_time()
        message, code = error_in(await raw(path, b'{"op":', finish=False))
        assert (code, "within 10 s" in message) == (2, True)
        assert trio.current_time() - start == 10


async def test_a_silent_node_is_given_up(path: Path, autojump_clock: MockClock) -> None:
    async with serving(path):
        with pytest.raises(UserError, match="has not answered for 30 s"):
            await control.call(path, "hang")


async def test_a_node_that_stops_says_so(path: Path) -> None:
    got: list[str] = []

    async def ask() -> None:
        with pytest.raises(UserError, match="stopped before it answered") as caught:
            await control.call(path, "hang")
        got.append(str(caught.value))

    asked = trio.Event()

    async def handler(op: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        asked.set()
        return await echo(op, arguments, progress)

    async with trio.open_nursery() as nursery, serving(path, handler):
        nursery.start_soon(ask)
        await asked.wait()
    assert got


async def test_what_was_asked_is_done_also_when_the_asker_has_gone(path: Path) -> None:
    gone, done = trio.Event(), trio.Event()

    async def handler(_op: str, _arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        await gone.wait()
        for _ in range(3):
            await progress("nobody hears this")
        done.set()
        return {}

    async with serving(path, handler):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b'{"op": "join"}\n')
        await stream.aclose()
        gone.set()
        await done.wait()


async def test_an_asker_that_never_reads_is_given_up(path: Path, autojump_clock: MockClock) -> None:
    done = trio.Event()

    async def handler(_op: str, _arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        await progress("x" * 10_000_000)
        done.set()
        return {}

    async with serving(path, handler):
        stream = await trio.open_unix_socket(path)
        async with stream:
            await stream.send_all(b'{"op": "join"}\n')
            await done.wait()
            assert trio.current_time() > 0


async def test_no_more_than_32_at_once(path: Path) -> None:
    waiting, release = trio.Event(), trio.Event()
    inside = 0

    async def handler(op: str, _arguments: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        nonlocal inside
        inside += 1
        if inside == control.CONNECTIONS_MAX:
            waiting.set()
        await release.wait()
        return {"op": op}

    async with serving(path, handler), trio.open_nursery() as nursery:
        for _ in range(control.CONNECTIONS_MAX):
            nursery.start_soon(control.call, path, "wait")
        await waiting.wait()
        with pytest.raises(UserError, match="busy with 32 other commands"):
            await control.call(path, "one too many")
        release.set()
    async with serving(path, handler):
        assert await control.call(path, "room again") == {"op": "room again"}


def in_child_as(uid: int, gid: int, groups: list[int], path: Path) -> bytes:
    """What another user reads at the socket; a fork, as it may not run our Python."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                with contextlib.suppress(BrokenPipeError):  # turned away before it has asked
                    client.sendall(b'{"op": "status"}\n')
                while part := client.recv(65536):
                    os.write(writer, part)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A socket's place where other users may come: pytest's own directories are closed to them."""
    with tempfile.TemporaryDirectory() as state:
        os.chmod(state, 0o755)
        yield Path(state) / control.SOCKET_NAME


@needs_other_users
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("uid", "gid", "groups", "admitted"),
    [
        (NOBODY, 7001, [], False),
        (NOBODY, 7001, [7002, 7003], False),
        (NOBODY, 7077, [], True),
        (NOBODY, 7001, [7002, 7077], True),
        (NOBODY, 7001, list(range(8000, 8300)), False),
        (0, 0, [], True),
    ],
    ids=["stranger", "other groups", "first group", "second group", "too many groups", "root"],
)
async def test_the_kernel_says_who_asks(
    uid: int,
    gid: int,
    groups: list[int],
    admitted: bool,
    open_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "group_id", lambda: 7077)
    async with serving(open_path):
        os.chmod(open_path, 0o666)  # the file's own protection is gone: only the kernel's word is left
        answer = json.loads(await trio.to_thread.run_sync(in_child_as, uid, gid, groups, open_path))
    if admitted:
        assert answer == {"ok": {"op": "status"}}
    else:
        assert answer["exit_code"] == Refused.exit_code
        assert "may not control the node" in answer["error"]


async def test_usage_is_kept_apart_from_failure(path: Path) -> None:
    async def handler(_op: str, _arguments: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        raise Usage("there is no command frobnicate; see zeqnode --help")

    async with serving(path, handler):
        with pytest.raises(Usage):
            await control.call(path, "frobnicate")


# ---------------------------------------------------------------------------- watching


async def numbers(until: int, ended: trio.Event | None = None) -> AsyncGenerator[dict[str, Any], None]:
    try:
        for number in range(until):
            yield {"number": number}
        if ended is not None:
            await trio.sleep_forever()
    finally:
        if ended is not None:
            ended.set()


async def test_what_is_watched_comes_in_order_and_then_the_answer(path: Path) -> None:
    async def handler(_op: str, _arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        await asker("first")
        await asker.watch(numbers(3))
        return {"done": True}

    seen: list[object] = []
    async with serving(path, handler):
        words: dict[str, Any] = {"on_progress": seen.append, "on_item": seen.append}
        assert await control.call(path, "watch", **words) == {"done": True}
        assert await control.call(path, "watch") == {"done": True}, "also for who looks at none of it"
    assert seen == ["first", {"number": 0}, {"number": 1}, {"number": 2}]


async def test_watching_ends_with_the_watcher(path: Path) -> None:
    ended, done = trio.Event(), trio.Event()

    async def handler(_op: str, _arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        await asker.watch(numbers(1, ended))
        done.set()
        return {}

    async with serving(path, handler):
        async with trio.open_nursery() as nursery:

            def first(_item: dict[str, Any]) -> None:
                nursery.cancel_scope.cancel()

            await control.call(path, "watch", on_item=first, timeout=math.inf)
        await ended.wait()
        await done.wait()


async def test_a_silent_watch_is_not_given_up(path: Path, autojump_clock: MockClock) -> None:
    async def rarely() -> AsyncGenerator[dict[str, Any], None]:
        await trio.sleep(86_400)
        yield {"day": 1}

    async def handler(_op: str, _arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        await asker.watch(rarely())
        return {}

    seen: list[dict[str, Any]] = []
    async with serving(path, handler):
        await control.call(path, "watch", on_item=seen.append, timeout=math.inf)
    assert seen == [{"day": 1}]


async def test_what_cannot_be_watched_is_a_sentence(path: Path) -> None:
    async def refused() -> AsyncGenerator[dict[str, Any], None]:
        yield {"number": 1}
        raise Usage("there is no tag of that kind")

    async def handler(_op: str, _arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        await asker.watch(refused())
        return {}

    async with serving(path, handler):
        with pytest.raises(Usage, match="no tag of that kind"):
            await control.call(path, "watch")


async def test_watchers_leave_room_for_commands_that_end(path: Path) -> None:
    inside, full = 0, trio.Event()

    async def one() -> AsyncGenerator[dict[str, Any], None]:
        nonlocal inside
        inside += 1
        if inside == control.WATCHERS_MAX:
            full.set()
        yield {}
        await trio.sleep_forever()

    async def handler(op: str, _arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        if op == "watch":
            await asker.watch(one())
        return {"op": op}

    async with serving(path, handler), trio.open_nursery() as nursery:
        for _ in range(control.WATCHERS_MAX):
            nursery.start_soon(partial(control.call, path, "watch", timeout=math.inf))
        await full.wait()
        with pytest.raises(UserError, match="16 commands are watching"):
            await control.call(path, "watch")
        assert await control.call(path, "status") == {"op": "status"}
        nursery.cancel_scope.cancel()
