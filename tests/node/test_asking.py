"""Machines that ask each other: once answered, whatever is lost on the way, and within rates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from crypto.errors import LocalFault, PeerFault
from crypto.identity import KeyBundle, MachineKeys
from dht.letters import BODY_BYTES
from dht.tags import Tagged
from node import answering, asks
from node.answering import Declined
from node.asking import AGAIN_SECONDS, ASK_SECONDS, TRIES, AskRefused, Unanswered
from node.asks import ANSWER_TAG, ASK_TAG, PAYLOAD_BYTES, Answer, Ask, BadAsk, Status, code_of
from node.errors import Refused, UserError
from node.replies import OPEN_MAX, Replies
from tests.node.ask_world import LOOKUP, Mailbox, World, running

ASK = Ask(
    id=b"i" * 16,
    method="keyex.pubkey",
    payload=b"hello",
    secret=b"s" * 16,
    endpoints=(bytes([192, 0, 2, 1, 202, 65]),),
    homes=((bytes([192, 0, 2, 2, 202, 65]), b"h" * 16),),
)


async def echo(author: KeyBundle, payload: bytes) -> bytes:
    return author.machine_id[:4] + payload


# ---------------------------------------------------------------------------- the wire


def test_the_bytes_are_fixed() -> None:
    assert (
        asks.encode(ASK).hex()
        == "9701c41069696969696969696969696969696969ac6b657965782e7075626b6579c40568656c6c6f"
        "c4107373737373737373737373737373737391c406c0000201ca419192c406c0000202ca41c41068686868686868686868686868686868"
    )
    answer = Answer(id=b"i" * 16, status=Status.DONE, payload=b"hello")
    assert asks.encode(answer).hex() == "9401c410" + "69" * 16 + "00c40568656c6c6f"
    assert asks.decode_ask(asks.encode(ASK)) == ASK
    assert asks.decode_answer(asks.encode(answer)) == answer


def _changed(at: int, by: int) -> bytes:
    changed = bytearray(asks.encode(ASK))
    changed[at % len(changed)] ^= by
    return bytes(changed)


def test_the_largest_question_fits_into_an_event() -> None:
    ask = msgspec.structs.replace(
        ASK,
        method="m" * 40,
        payload=bytes(PAYLOAD_BYTES),
        endpoints=tuple(bytes([number]) * 18 for number in range(8)),
        homes=tuple((bytes([number]) * 18, bytes(16)) for number in range(3)),
    )
    body = asks.encode(ask)
    assert len(body) <= BODY_BYTES
    assert asks.decode_ask(body) == ask
    assert (
        len(asks.encode(Answer(id=bytes(16), status=Status.DONE, payload=bytes(PAYLOAD_BYTES)))) <= BODY_BYTES
    )


@given(st.binary(max_size=200) | st.builds(_changed, st.integers(0, 200), st.integers(1, 255)))
def test_whatever_is_no_message_is_said_to_be_none(body: bytes) -> None:
    for decode in (asks.decode_ask, asks.decode_answer):
        try:
            decode(body)
        except BadAsk:
            continue


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"id": b"short"},
        {"method": "Not a method"},
        {"method": "m" * 41},
        {"payload": bytes(PAYLOAD_BYTES + 1)},
        {"secret": bytes(15)},
        {"endpoints": (b"12345",)},
        {"endpoints": (bytes(6),) * 9},
        {"homes": ((bytes(6), bytes(15)),)},
        {"homes": ((bytes(6), bytes(16)),) * 4},
    ],
)
def test_a_question_out_of_bounds_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(BadAsk):
        asks.decode_ask(asks.encode(msgspec.structs.replace(ASK, **wrong)))


def test_a_code_of_a_stranger_is_a_code_or_nothing() -> None:
    assert code_of(b"NOT_HERE_7") == "NOT_HERE_7"
    for payload in (b"", b"lower", b"A" * 41, b"A\n", b"\xff\xfe", b"\x1b[2J"):
        assert code_of(payload) == "REFUSED"


# ---------------------------------------------------------------------------- reply secrets


def test_all_that_are_open_count_and_none_that_is_closed() -> None:
    told: list[tuple[bytes, ...]] = []
    secrets = iter([b"1" * 16, b"2" * 16])
    replies = Replies(told.append, lambda _count: next(secrets))
    with replies.secret() as first:
        with suppress(ZeroDivisionError), replies.secret() as second:
            assert told[-1] == (first, second) == (b"1" * 16, b"2" * 16)
            raise ZeroDivisionError
        assert told[-1] == (first,)
    assert not told[-1]


def test_not_more_are_open_than_may_be_tried_with_every_event() -> None:
    replies = Replies(lambda _secrets: None)
    opened = [replies.secret() for _ in range(OPEN_MAX)]
    for each in opened:
        each.__enter__()
    with pytest.raises(Refused, match="try again in a minute"), replies.secret():
        pass
    opened[0].__exit__(None, None, None)
    with replies.secret():
        pass


# ---------------------------------------------------------------------------- question and answer


async def test_an_unlisted_machine_asks_a_listed_one_and_is_answered() -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add()
    answerer.answering.handle("say.it", echo)
    async with running(asker, answerer):
        assert (
            await asker.asking.ask(answerer.recipient(), "say.it", b"!") == asker.keys.machine_id[:4] + b"!"
        )
    assert asker.reply_secrets == ()
    assert [tag for tag, _ in asker.heard] == [ANSWER_TAG]


async def test_an_answer_goes_to_all_places_and_homes_that_the_asker_named() -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add()
    answerer.answering.handle("say.it", echo)
    homes = ((bytes([192, 0, 2, 99, 1, 1]), b"h" * 16), (bytes(18), b"k" * 16))
    asker.homes = homes
    async with running(asker, answerer):
        await asker.asking.ask(answerer.recipient(), "say.it", b"")
    _, back = world.called
    assert (back.bundle, back.endpoints, back.homes) == (asker.keys.bundle, (asker.endpoint,), homes)
    assert back.secret != LOOKUP


async def test_many_questions_at_once_get_each_its_own_answer() -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add()
    answerer.friends.add(asker.keys.machine_id)
    answerer.answering.handle("say.it", echo)
    found = {}

    async def one(number: int) -> None:
        payload = bytes([number])
        found[number] = (await asker.asking.ask(answerer.recipient(), "say.it", payload))[4:]

    async with running(asker, answerer), trio.open_nursery() as nursery:
        for number in range(answering.PER_AUTHOR[1]):
            nursery.start_soon(one, number)
    assert found == {number: bytes([number]) for number in range(answering.PER_AUTHOR[1])}


@pytest.mark.parametrize("lost", [ASK_TAG, ANSWER_TAG])
async def test_what_is_lost_is_sent_again_and_done_once(lost: str, autojump_clock: MockClock) -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add()
    done = []

    async def count(_author: KeyBundle, payload: bytes) -> bytes:
        done.append(payload)
        return b"done"

    answerer.answering.handle("count.it", count)
    losses = [True, True]
    world.lose = lambda tag, _body: tag == lost and bool(losses) and losses.pop()
    async with running(asker, answerer):
        assert await asker.asking.ask(answerer.recipient(), "count.it", b"x") == b"done"
    assert done == [b"x"]
    assert trio.current_time() == pytest.approx(2 * AGAIN_SECONDS)


async def test_who_is_not_there_is_not_waited_for_to_the_end(autojump_clock: MockClock) -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add(listed=False)
    async with running(asker):
        with pytest.raises(Unanswered, match="is not reached: is its node running"):
            await asker.asking.ask(answerer.recipient(), "say.it", b"")
    assert trio.current_time() == pytest.approx(TRIES * AGAIN_SECONDS)


async def test_who_takes_the_question_and_says_nothing_is_given_up(autojump_clock: MockClock) -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add()
    async with running(asker):
        with pytest.raises(Unanswered, match="was asked and has not answered") as failed:
            await asker.asking.ask(answerer.recipient(), "say.it", b"")
    assert trio.current_time() == pytest.approx(ASK_SECONDS)
    assert (failed.value.code, failed.value.status, failed.value.exit_code) == ("UNREACHABLE", 504, 4)


async def test_refusals_and_failures_are_told() -> None:
    world = World()
    asker, answerer = world.add(listed=False), world.add()
    failures: list[Exception] = [Declined("NOT_TODAY"), PeerFault("nonsense"), UserError("the disk is full")]

    async def fail(_author: KeyBundle, _payload: bytes) -> bytes:
        raise failures.pop(0)

    answerer.answering.handle("fail", fail)
    async with running(asker, answerer):
        codes = []
        for method in ("fail", "fail", "fail", "unheard.of"):
            with pytest.raises(AskRefused) as refused:
                await asker.asking.ask(answerer.recipient(), method, b"")
            codes.append(refused.value.code)
        with pytest.raises(LocalFault, match="3584 bytes"):
            await asker.asking.ask(answerer.recipient(), "fail", bytes(PAYLOAD_BYTES + 1))
    assert codes == ["NOT_TODAY", "PEER_FAILED", "PEER_FAILED", "UNSUPPORTED"]


async def test_an_answer_counts_only_from_who_was_asked(autojump_clock: MockClock) -> None:
    """Somebody who has seen the id, and even the reply secret, of a question."""
    world = World()
    asker, answerer, liar = world.add(listed=False), world.add(), world.add()

    async def lie(_author: KeyBundle, _payload: bytes) -> bytes:
        ask = asks.decode_ask(answerer.heard[-1][1])
        body = asks.encode(Answer(id=ask.id, status=Status.DONE, payload=b"lie"))
        assert world.bring(liar, asker.recipient(ask.secret), ANSWER_TAG, body)
        gossiped = Tagged((1,), ANSWER_TAG, answerer.keys.machine_id, b"", body, 7)
        asker.tell(gossiped)
        assert world.bring(answerer, asker.recipient(ask.secret), ANSWER_TAG, b"not an answer")
        return b"truth"

    answerer.answering.handle("say.it", lie)
    async with running(asker, answerer):
        assert await asker.asking.ask(answerer.recipient(), "say.it", b"") == b"truth"
    assert asker.counters == {"answer to no question of ours": 2, "answer that cannot be read": 1}


# ---------------------------------------------------------------------------- rates, and what is no question


def question(author: MachineKeys, number: int, bundle: bytes | None = None) -> Tagged:
    body = asks.encode(msgspec.structs.replace(ASK, id=number.to_bytes(16, "big"), method="say.it"))
    return Tagged((1,), ASK_TAG, author.machine_id, author.bundle.raw if bundle is None else bundle, body, 7)


async def served(world: World, box: Mailbox, *events: Tagged) -> list[bytes]:
    """Whom the handler saw."""
    seen = []

    async def see(author: KeyBundle, _payload: bytes) -> bytes:
        seen.append(author.machine_id)
        return b""

    world.lose = lambda _tag, _body: True
    world.boxes |= {event.author: world.boxes.get(event.author, box) for event in events}
    box.answering.handle("say.it", see)
    async with running(box):
        for event in events:
            box.tell(event)
            await trio.testing.wait_all_tasks_blocked()
    return seen


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A clock that stands, or is set."""

    def at(now_us: int) -> None:
        monkeypatch.setattr(answering, "boot_us", lambda: now_us)

    at(1_000_000)
    return at


async def test_one_author_has_its_rate(stopped: Callable[[int], None]) -> None:
    world = World()
    box, author = world.add(), world.add().keys
    box.friends.add(author.machine_id)
    burst = answering.PER_AUTHOR[1]
    assert len(await served(world, box, *[question(author, number) for number in range(burst + 3)])) == burst
    assert box.counters == {"question above the rate that is answered": 3}
    stopped(2_000_000)
    assert len(await served(world, box, question(author, 99), question(author, 100))) == 1


async def test_strangers_share_a_rate_and_hold_up_no_friend(stopped: Callable[[int], None]) -> None:
    world = World()
    box, friend = world.add(), world.add().keys
    box.friends.add(friend.machine_id)
    strangers = [MachineKeys.generate() for _ in range(answering.STRANGERS[1] + 4)]
    events = [question(each, 1) for each in strangers]
    seen = await served(world, box, *events, question(friend, 1))
    assert len(seen) == answering.STRANGERS[1] + 1
    assert seen[-1] == friend.machine_id


async def test_what_takes_long_is_bounded_too() -> None:
    world = World()
    box, friend = world.add(), world.add().keys
    box.friends.add(friend.machine_id)
    strangers = [MachineKeys.generate() for _ in range(answering.STRANGERS_MAX + 2)]
    begun = []

    async def wait(author: KeyBundle, _payload: bytes) -> bytes:
        begun.append(author.machine_id)
        await trio.sleep_forever()

    box.answering.handle("say.it", wait)
    async with running(box):
        for event in [*(question(each, 1) for each in strangers), question(friend, 1), question(friend, 1)]:
            box.tell(event)
        await trio.testing.wait_all_tasks_blocked()
        assert len(begun) == answering.STRANGERS_MAX + 1
        assert friend.machine_id in begun
    assert box.counters == {
        "question above the rate that is answered": 2,
        "question that is being answered": 1,
    }


async def test_what_is_no_question_is_counted(stopped: Callable[[int], None]) -> None:
    world = World()
    box, author = world.add(), world.add().keys
    garbage = Tagged((1,), ASK_TAG, author.machine_id, author.bundle.raw, b"garbage", 7)
    keyless = author.bundle.raw[:64] + b"\xff" * 1184
    assert not await served(world, box, garbage, question(author, 1, b""), question(author, 2, keyless))
    assert box.counters == {
        "question that cannot be read": 1,
        "question that was not sealed": 1,
        "question of a machine without keys": 1,
    }


async def test_answers_are_kept_for_a_while_and_then_given_up(
    stopped: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "KEPT", 2)
    world = World()
    box, author = world.add(), world.add().keys
    events = [question(author, number) for number in (1, 2, 1, 3, 1)]
    assert len(await served(world, box, *events)) == 4, "1, 2, 3, and 1 again when it was forgotten"


async def test_what_failed_is_done_anew_when_it_is_asked_again(stopped: Callable[[int], None]) -> None:
    world = World()
    box, author = world.add(), world.add().keys
    done: list[int] = []

    async def fail_first(_author: KeyBundle, _payload: bytes) -> bytes:
        done.append(len(done))
        if done == [0]:
            raise UserError("the disk is full")
        return b""

    box.answering.handle("say.it", fail_first)
    async with running(box):
        for _ in range(3):
            box.tell(question(author, 1))
            await trio.testing.wait_all_tasks_blocked()
    assert done == [0, 1]
