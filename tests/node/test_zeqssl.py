"""ZeqSSL Mode-B streams: as trio wants streams to be, over memory and over TCP; cuts are told from ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    MockClock,
    check_half_closeable_stream,
    lockstep_stream_pair,
    memory_stream_pair,
)

from crypto.errors import HandshakeRefused
from crypto.mode_b import IDLE_ZEQONDS, PLAINTEXT_BYTES, Direction
from crypto.mode_b_opening import HELLO_BYTES, Opening
from node import zeqssl
from node.errors import Unreachable
from node.mode_b_stream import CLOSE_SECONDS, Clock, ModeBStream
from node.zeqssl import Shared, accept_over, open_over, open_stream, serve

SEED = bytes(range(32))
HOME, CAFE = b"h" * 32, b"c" * 32
AT_HOME, AT_CAFE = Shared.of(HOME, CAFE, SEED), Shared.of(CAFE, HOME, SEED)
NOW = 2_293_617_891

Memory = trio.StapledStream[MemorySendStream, MemoryReceiveStream]
Pair = tuple[ModeBStream, ModeBStream]


class Watch:
    """A clock that is set."""

    def __init__(self) -> None:
        self.zeqond = NOW

    def __call__(self) -> int:
        return self.zeqond


async def joined(ours: trio.abc.Stream, theirs: trio.abc.Stream, clock: Clock = Watch()) -> Pair:  # noqa: B008
    found: dict[str, ModeBStream] = {}

    async def call() -> None:
        found["ours"] = await open_over(ours, AT_HOME, clock)

    async def answer() -> None:
        found["theirs"], who = await accept_over(theirs, [AT_CAFE], clock)
        assert who == HOME

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(answer)
    return found["ours"], found["theirs"]


async def over_memory(clock: Clock = Watch()) -> tuple[ModeBStream, ModeBStream, Memory, Memory]:  # noqa: B008
    one, two = memory_stream_pair()
    return *await joined(one, two, clock), one, two


# ---------------------------------------------------------------------------- as trio wants streams to be


async def test_it_keeps_all_promises_of_a_trio_stream(autojump_clock: MockClock) -> None:
    async def maker() -> Pair:
        return await joined(*memory_stream_pair())

    async def clogged() -> Pair:
        return await joined(*lockstep_stream_pair())

    await check_half_closeable_stream(maker, clogged)


@pytest.mark.parametrize("size", [0, 1, PLAINTEXT_BYTES, 5 * PLAINTEXT_BYTES + 7])
async def test_what_goes_in_comes_out_both_ways(size: int) -> None:
    ours, theirs, _, _ = await over_memory()
    said = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, memoryview(said))
            found = bytearray()
            while len(found) < size:
                found += await receiver.receive_some(1000)
        assert found == said
    await ours.send_eof()
    assert await theirs.receive_some() == b""
    await theirs.send_all(b"and yet it answers")
    await theirs.aclose()
    assert await ours.receive_some() == b"and yet it answers"
    assert await ours.receive_some() == b"" == await ours.receive_some()


async def test_keys_change_with_the_zeqond() -> None:
    clock = Watch()
    ours, theirs, one, two = await over_memory(clock)
    held(one)
    said = []
    for _ in range(3):
        await ours.send_all(b"x")
        record = one.send_stream.get_data_nowait()
        said.append(int.from_bytes(record[2:10], "big") - NOW)
        two.receive_stream.put_data(record)
        assert await theirs.receive_some() == b"x"
        clock.zeqond += 1
    assert said == [0, 1, 2]


# ---------------------------------------------------------------------------- cuts and other breakage


def held(end: Memory) -> None:
    """What this end sends stays here until the test passes it on."""
    end.send_stream.send_all_hook = None


async def test_a_cut_is_no_end() -> None:
    ours, theirs, one, _ = await over_memory()
    await ours.send_all(b"the first half")
    await one.send_stream.aclose()
    assert await theirs.receive_some() == b"the first half"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match=r"cut|broke off"):
            await theirs.receive_some()
    await theirs.send_all(b"this way it still goes")
    assert await ours.receive_some() == b"this way it still goes"


@given(st.integers(0, 49), st.integers(1, 255))
def test_a_changed_byte_breaks_the_stream(place: int, change: int) -> None:
    async def check() -> None:
        ours, theirs, one, two = await over_memory()
        held(one)
        await ours.send_all(b"x" * 23)
        record = one.send_stream.get_data_nowait()
        assert len(record) == 50
        record[place] ^= change
        two.receive_stream.put_data(record)
        two.receive_stream.put_eof()
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="receiving broke off"):
            await theirs.receive_some()

    trio.run(check)


async def test_a_send_that_was_cancelled_half_way_breaks_it() -> None:
    one, two = lockstep_stream_pair()
    ours, theirs = await joined(one, two)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.send_all(b"x")
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError, match="sending broke off"):
        await ours.send_all(b"y")
    await ours.aclose()
    found = bytearray()
    with pytest.raises(trio.BrokenResourceError, match="cut"):
        await drained(theirs, found)
    assert bytes(found) in (b"", b"x")


async def drained(stream: ModeBStream, into: bytearray) -> None:
    async for some in stream:
        into += some


async def test_a_day_without_a_word_takes_a_new_seed() -> None:
    clock = Watch()
    ours, _, _, _ = await over_memory(clock)
    clock.zeqond += IDLE_ZEQONDS + 1
    with pytest.raises(trio.BrokenResourceError, match="agree on a new seed"):
        await ours.send_all(b"x")
    await ours.aclose()


async def test_an_end_that_nobody_takes_does_not_hold_up_its_sender(
    autojump_clock: MockClock,
) -> None:
    ours, _ = await joined(*lockstep_stream_pair())
    began = trio.current_time()
    await ours.aclose()
    assert trio.current_time() - began == CLOSE_SECONDS


# ---------------------------------------------------------------------------- opening


async def test_a_caller_without_the_seed_is_refused_and_learns_nothing() -> None:
    one, two = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await open_over(one, Shared.of(HOME, CAFE, bytes(32)))

        nursery.start_soon(call)
        with pytest.raises(HandshakeRefused, match="nobody whose seed is here"):
            await accept_over(two, [AT_CAFE])
        await two.aclose()


async def test_a_machine_is_not_taken_in_by_its_own_words() -> None:
    """Somebody in between connects a machine to itself."""
    one, two = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await open_over(one, AT_HOME)

        nursery.start_soon(call)
        with pytest.raises(HandshakeRefused, match="nobody whose seed is here"):
            await accept_over(two, [AT_HOME])
        await two.aclose()


async def test_a_recorded_hello_opens_nothing() -> None:
    recorded = Opening(SEED, AT_HOME.direction, NOW, b"n" * 32).hello
    one, two = memory_stream_pair()
    await one.send_all(recorded + bytes(32))
    with pytest.raises(HandshakeRefused, match="confirmation"):
        await accept_over(two, [AT_CAFE], Watch())


async def test_who_has_another_clock_is_told() -> None:
    one, two = memory_stream_pair()
    ahead = Watch()
    ahead.zeqond += 3
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await accept_over(two, [AT_CAFE], ahead)

        nursery.start_soon(answer)
        with pytest.raises(HandshakeRefused, match="clocks differ by more than two zeqonds"):
            await open_over(one, AT_HOME, Watch())
        await one.aclose()


# ---------------------------------------------------------------------------- over TCP


@asynccontextmanager
async def serving(handler: zeqssl.Handler, known: list[Shared]) -> AsyncIterator[int]:
    """The port on which it is served."""
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(serve, handler, "127.0.0.1", 0, lambda: known))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def echo(stream: ModeBStream, _machine_id: bytes) -> None:
    async for some in stream:
        await stream.send_all(some)


async def test_machines_are_told_apart_by_their_seeds() -> None:
    third = b"t" * 32
    others = [Shared.of(CAFE, bytes([each]) * 32, bytes([each]) * 32) for each in range(20)]
    met = []

    async def greet(stream: ModeBStream, machine_id: bytes) -> None:
        met.append(machine_id)
        await stream.send_all(b"hello " + machine_id)

    at_cafe = [*others, AT_CAFE, Shared.of(CAFE, third, b"s" * 32)]
    async with serving(greet, at_cafe) as port:
        for own, shared in ((HOME, AT_HOME), (third, Shared.of(third, CAFE, b"s" * 32))):
            async with await open_stream("127.0.0.1", port, shared) as stream:
                assert b"".join([some async for some in stream]) == b"hello " + own
    assert met == [HOME, third]


async def test_megabytes_go_over_a_loopback() -> None:
    said = bytes(range(256)) * 16_384
    found = bytearray()

    async def say(stream: ModeBStream) -> None:
        await stream.send_all(said)
        await stream.send_eof()

    async with (
        serving(echo, [AT_CAFE]) as port,
        await open_stream("127.0.0.1", port, AT_HOME) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(say, stream)
        await drained(stream, found)
    assert found == said


async def test_what_strangers_do_ends_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeqssl, "OPEN_SECONDS", 0.05)
    async with serving(echo, [AT_CAFE]) as port:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(HELLO_BYTES), b"ZMB1"):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stranger:
                await stranger.send_all(said)
                with trio.fail_after(10):  # it is cut off though it never closes
                    try:
                        assert await stranger.receive_some() == b""
                    except trio.BrokenResourceError:
                        continue
        monkeypatch.setattr(zeqssl, "OPEN_SECONDS", 10.0)
        rude = await open_stream("127.0.0.1", port, AT_HOME)
        await rude.transport.aclose()
        async with await open_stream("127.0.0.1", port, AT_HOME) as stream:
            await stream.send_all(b"still there")
            assert await stream.receive_some() == b"still there"


async def test_those_that_prove_nothing_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeqssl, "OPENING_MAX", 2)
    async with serving(echo, [AT_CAFE]) as port:
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        with trio.fail_after(10):
            assert await silent[2].receive_some() == b""
        for each in silent:
            await each.aclose()


async def test_nobody_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo, [Shared.of(CAFE, HOME, bytes(32))]) as port:
        with pytest.raises(Unreachable, match=r"closed the ZeqSSL stream before it began: agree on a seed"):
            await open_stream("127.0.0.1", port, AT_HOME)
    with pytest.raises(Unreachable, match=rf"127.0.0.1 port {port} gives no answer"):
        await open_stream("127.0.0.1", port, AT_HOME)
    monkeypatch.setattr(zeqssl, "OPEN_SECONDS", 0.05)
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Unreachable, match="gives no answer"):
            await open_stream("127.0.0.1", silent.getsockname()[1], AT_HOME)


def test_a_seed_is_not_shown() -> None:
    assert SEED.hex() not in repr(AT_HOME)
    assert repr(SEED) not in repr(AT_HOME)
    assert {AT_HOME.direction, AT_CAFE.direction} == set(Direction)
