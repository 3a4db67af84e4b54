"""Questions: whose answer counts, how long one waits, what is shown and padded."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dht import contacts
from dht.contacts import Contact
from dht.endpoints import Endpoint
from dht.messages import PADDED_BYTES, Find, Nodes, Ping, Pong, Store, Stored, decode_dht, encode_dht
from dht.patience import FIRST_US, LEAST_US, SILENCES_SLOW, Patience
from dht.questions import NEVER_US, TOKEN_S, TOKENS, UNDER_WAY, Answer, Question, Questions
from tests.dht.overlay_world import SECOND, entropy

TAIL, TOKEN, KEY = bytes(range(24)), b"token 8b", bytes(32)


def contact(number: int) -> Contact:
    return contacts.at(bytes([number]) * 24, bytes([11, number, 0, 1, 0xCA, 0x41]))


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[Question, Answer]] = []
        self.silent: list[Question] = []

    def answered(self, question: Question, answer: Answer, contact: Contact | None, now_us: int, /) -> None:
        self.heard.append((question, answer))

    def unanswered(self, question: Question, now_us: int, /) -> None:
        self.silent.append(question)


def questions() -> Questions:
    made = Questions(entropy("questions"), [], Counter())
    made.tail = TAIL
    return made


def sent(made: Questions) -> list[tuple[bytes, Endpoint]]:
    out = made.outgoing[:]
    made.outgoing.clear()
    return out


def transaction(datagram: bytes) -> bytes:
    return decode_dht(datagram[1:]).t


def pong(datagram: bytes, token: bytes = TOKEN) -> Pong:
    return Pong(transaction(datagram), TAIL, bytes(6), token)


# ------------------------------------------------------------------ whose answer counts


def test_only_who_was_asked_answers_and_only_once() -> None:
    made, listener = questions(), Listener()
    made.ping(contact(1), listener, 0)
    [(datagram, to)] = sent(made)
    assert to == contact(1).endpoint
    assert made.settle(pong(datagram), contact(2).endpoint, 10) is None
    guess = bytearray(transaction(datagram))
    guess[0] ^= 1
    assert made.settle(Pong(bytes(guess), TAIL, bytes(6), TOKEN), to, 10) is None
    assert made.counters["answer that nobody asked for"] == 2
    question = made.settle(pong(datagram), to, 10)
    assert question is not None
    assert question.asker is listener
    assert made.settle(pong(datagram), to, 11) is None


def test_an_answer_to_another_question_does_not_end_it() -> None:
    made = questions()
    made.ping(contact(1), Listener(), 0)
    [(datagram, to)] = sent(made)
    wrong = Nodes(transaction(datagram), TAIL, bytes(6), TOKEN, b"")
    assert made.settle(wrong, to, 10) is None
    assert made.counters["answer of the wrong kind"] == 1
    assert made.settle(pong(datagram), to, 10) is not None


def test_what_was_learnt_of_the_network_outlives_an_answer() -> None:
    """Else no wait would ever fit the round trips, and no interval the churn."""
    made = questions()
    for number in range(12):
        made.ping(contact(1), Listener(), number * 10_000_000)
        [(datagram, to)] = sent(made)
        if number % 2:
            assert made.expire(number * 10_000_000 + 2_000_000)
        else:
            assert made.settle(pong(datagram), to, number * 10_000_000 + 20_000) is not None
    assert made.patience.failing > 50
    assert made.patience.wait_us() < 1_000_000


def test_transactions_do_not_repeat() -> None:
    made = questions()
    for number in range(200):
        made.ping(contact(number % 100 + 1), Listener(), number)
    assert len({transaction(datagram) for datagram, _ in sent(made)}) == 200


def test_so_many_are_under_way_and_no_more() -> None:
    made = questions()
    asked = [made.ping(contact(1), Listener(), 0) for _ in range(UNDER_WAY + 1)]
    assert asked == [True] * UNDER_WAY + [False]
    assert made.counters["question not asked: too many under way"] == 1
    assert len(made.outgoing) == UNDER_WAY


# ------------------------------------------------------------------ silence


@given(st.lists(st.tuples(st.integers(0, SECOND), st.booleans(), st.integers(0, 2 * SECOND)), max_size=40))
def test_nobody_is_waited_for_longer_than_a_moment_and_all_end(steps: list[tuple[int, bool, int]]) -> None:
    """Every question ends once: answered, or not, and no later than its time allows."""
    made, now_us, ended = questions(), 0, 0
    for pause_us, answer, after_us in steps:
        now_us += pause_us
        made.ping(contact(1), Listener(), now_us)
        [(datagram, to)] = sent(made)
        for question in made.expire(now_us):
            ended += 1
            assert now_us >= question.deadline_us >= question.sent_us + LEAST_US
        if answer:
            now_us += after_us
            ended += made.settle(pong(datagram), to, now_us) is not None
    while made.deadline_us() != NEVER_US:
        assert made.deadline_us() <= now_us + FIRST_US
        now_us = max(now_us, made.deadline_us())
        ended += len(made.expire(now_us))
    assert ended == len(steps)


def test_a_store_is_sent_twice_a_ping_once() -> None:
    made, listener = questions(), Listener()
    made.store(contact(1), KEY, 0, 1, b"record", listener, 0)
    made.ping(contact(2), listener, 0)
    first = sent(made)[0]
    assert [question.endpoint for question in made.expire(FIRST_US)] == [contact(2).endpoint]
    assert sent(made) == [first]
    question = made.settle(Stored(transaction(first[0]), TAIL, bytes(6), TOKEN, 0), first[1], FIRST_US + 1)
    assert question is not None
    assert made.expire(10 * SECOND) == []


def test_patience_follows_the_round_trips() -> None:
    patience = Patience()
    assert patience.wait_us() == FIRST_US == 1_500_000
    for _ in range(50):
        patience.answered(50_000)
    assert patience.wait_us() == LEAST_US == 400_000
    for number in range(50):
        patience.answered(300_000 + number % 2 * 100_000)
    assert 400_000 < patience.wait_us() < 800_000
    for _ in range(SILENCES_SLOW):
        patience.silent()
    assert patience.wait_us() == FIRST_US, "it may be the network that has become slow"


def test_questions_learn_patience_from_their_answers() -> None:
    made, now_us = questions(), 0
    for _ in range(30):
        made.ping(contact(1), Listener(), now_us)
        [(datagram, to)] = sent(made)
        now_us += 2 * SECOND
        assert made.settle(pong(datagram), to, now_us - 2 * SECOND + 50_000) is not None
    made.ping(contact(1), Listener(), now_us)
    assert made.deadline_us() == now_us + LEAST_US
    made.expire(now_us + LEAST_US)
    assert made.patience.failing > 0


@given(st.lists(st.one_of(st.none(), st.integers(0, 10**7)), max_size=300))
def test_patience_has_bounds(trips: list[int | None]) -> None:
    patience = Patience()
    for trip_us in trips:
        if trip_us is None:
            patience.silent()
        else:
            patience.answered(trip_us)
        assert LEAST_US <= patience.wait_us() <= FIRST_US
        assert 0 <= patience.failing <= 1000


def test_failing_is_a_share_of_the_last_dozens() -> None:
    patience = Patience()
    for number in range(500):
        if number % 4:
            patience.answered(50_000)
        else:
            patience.silent()
    assert 200 < patience.failing < 300


# ------------------------------------------------------------------ tokens and padding


def test_without_a_token_a_question_is_padded_and_with_one_it_is_not() -> None:
    made = questions()
    for tail in (TAIL, b""):
        made.tail = tail
        made.find(contact(1), KEY, Listener(), 0)
        made.get(contact(1), KEY, 0, Listener(), 0)
        assert all(PADDED_BYTES <= len(datagram) <= PADDED_BYTES + 26 for datagram, _ in sent(made))
    made.ping(contact(1), Listener(), 0)
    [(datagram, to)] = sent(made)
    made.settle(pong(datagram), to, 10)
    made.find(contact(1), KEY, Listener(), 20)
    [(datagram, _)] = sent(made)
    assert len(datagram) < 100
    found = decode_dht(datagram[1:])
    assert isinstance(found, Find)
    assert (found.token, found.tail, found.target, found.pad) == (TOKEN, b"", KEY, b"")


def test_tokens_grow_old_and_only_so_many_are_kept() -> None:
    made = questions()
    for number in range(1, TOKENS + 2):
        made.ping(contact(number), Listener(), 0)
        [(datagram, to)] = sent(made)
        made.settle(pong(datagram), to, 10)
    assert made.token(contact(1).endpoint, 10) == b"", "the first has made room"
    assert made.token(contact(2).endpoint, TOKEN_S * SECOND - 1) == TOKEN
    assert made.token(contact(2).endpoint, TOKEN_S * SECOND) == b""
    assert made.called(contact(2).endpoint, 10)
    assert not made.called(contact(99).endpoint, 10)


@given(st.binary(max_size=7))
def test_a_token_of_another_length_is_none(token: bytes) -> None:
    made = questions()
    made.ping(contact(1), Listener(), 0)
    [(datagram, to)] = sent(made)
    assert made.settle(pong(datagram, token), to, 10) is not None
    assert made.token(to, 10) == b""


def test_messages_carry_what_was_asked() -> None:
    made = questions()
    made.store(contact(1), KEY, 2, 3, b"chunk", Listener(), 0)
    made.ping(contact(1).endpoint, Listener(), 0)
    store, ping = (decode_dht(datagram[1:]) for datagram, _ in sent(made))
    assert store == Store(store.t, TAIL, b"", KEY, 2, 3, b"chunk")
    assert isinstance(ping, Ping)
    assert len(encode_dht(ping)) * 3 >= len(encode_dht(Pong(ping.t, TAIL, bytes(18), TOKEN)))
