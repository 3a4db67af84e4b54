"""How links of the mesh open, stay and end; what strangers can do to it, and what they cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import shake_256
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import endpoints
from dht.dialling import DIAL_US, TRIES
from dht.endpoints import Endpoint
from dht.link import IDS_US, PASSENGER, PUSH_US, SECOND_US, TRIAL, Link
from dht.links import BAR_US, EASY, IDLE_US, INBOUND, LOW, OUTBOUND, PROBE_US, PROBES, Links
from dht.messages import Alive, Close, GossipMessage, Open, Opened, Prune, encode_gossip

COOKIE = b"opener's"


def entropy(seed: int) -> Callable[[int], bytes]:
    calls: Iterator[int] = count()
    return lambda size: shake_256(seed.to_bytes(4, "big") + next(calls).to_bytes(8, "big")).digest(size)


def at(network: int, host: int = 1) -> Endpoint:
    return endpoints.pack(f"198.{network >> 8}.{network & 255}.{host}", 51777)


class Side:
    """Links with what they sent, and the candidates that they may dial."""

    def __init__(self, seed: int = 1, candidates: list[Endpoint] | None = None) -> None:
        self.sent: list[tuple[GossipMessage, Endpoint]] = []
        self.candidates = candidates or []
        self.counters: Counter[str] = Counter()
        self.now_us = 0
        self.links = Links(
            entropy(seed),
            0,
            lambda number: self.candidates[:number],
            lambda message, to: self.sent.append((message, to)),
            self.counters,
        )

    def take(self) -> list[tuple[GossipMessage, Endpoint]]:
        found = list(self.sent)
        self.sent.clear()
        return found

    def run(self, seconds: float) -> None:
        """Time passes, and nobody answers."""
        end_us = self.now_us + round(seconds * SECOND_US)
        while self.links.due_us <= end_us:
            self.now_us = max(self.now_us, self.links.due_us)
            self.links.tend(self.now_us)
        self.now_us = end_us

    def dialled(self, source: Endpoint, mine: bytes = COOKIE) -> Link | None:
        """A stranger opens a link as it should."""
        self.links.on_open(Open(mine), source, self.now_us)
        answer = self.take()[-1][0]
        if not isinstance(answer, Opened):
            return None
        return self.links.on_open(Open(mine, answer.mine), source, self.now_us)

    def dial(self, target: Endpoint) -> Link:
        """We open a link to who takes it."""
        self.candidates = [target]
        self.links.tend(max(self.now_us, self.links._dials.next_us))
        opens = [message for message, to in self.take() if to == target and isinstance(message, Open)]
        self.links.on_opened(Opened(opens[0].mine, b"a token.", taken=False), target, self.now_us)
        link = self.links.on_opened(Opened(opens[0].mine, b"a token.", taken=True), target, self.now_us)
        self.candidates = []
        assert link is not None
        self.take()
        return link


# ---------------------------------------------------------------------------- opening


def test_a_link_opens_in_two_round_trips_and_nothing_is_kept_after_the_first() -> None:
    a, b, here, there = Side(1, [at(2)]), Side(2), at(1), at(2)
    a.links.tend(0)
    [(first, to)] = a.take()
    assert isinstance(first, Open)
    assert (to, first.yours) == (there, b"")
    assert b.links.on_open(first, here, 0) is None
    assert not b.links.by_endpoint
    [(more, _)] = b.take()
    assert isinstance(more, Opened)
    assert not more.taken
    assert a.links.on_opened(more, there, 0) is None
    [(second, _)] = a.take()
    assert second == Open(first.mine, more.mine)
    accepted = b.links.on_open(Open(first.mine, more.mine), here, 0)
    [(last, _)] = b.take()
    assert isinstance(last, Opened)
    opened = a.links.on_opened(last, there, 0)
    assert accepted is not None
    assert opened is not None
    assert (opened.mine, opened.theirs) == (accepted.theirs, accepted.mine)
    assert (opened.outbound, accepted.outbound) == (True, False)


def test_a_forged_source_gets_less_than_it_sent_and_no_link() -> None:
    """Whatever a stranger claims as its address: one answer, smaller than three times the question."""
    side = Side()
    for number in range(100):
        question = Open(number.to_bytes(8, "big"))
        side.links.on_open(question, at(number), 0)
        [(answer, _)] = side.take()
        assert len(encode_gossip(answer)) <= 3 * len(encode_gossip(question))
    side.links.on_open(Open(COOKIE, b"guessed!"), at(5), 0)
    assert not side.take()
    assert not side.links.by_endpoint
    assert side.counters["links opened with a wrong token"] == 1


def test_a_token_is_good_for_its_address_only() -> None:
    side = Side()
    side.links.on_open(Open(COOKIE), at(1), 0)
    [(answer, _)] = side.take()
    assert isinstance(answer, Opened)
    assert side.links.on_open(Open(COOKIE, answer.mine), at(2), 0) is None


def test_an_answer_that_was_lost_is_given_again() -> None:
    side = Side()
    link = side.dialled(at(1))
    assert link is not None
    [(taken, _)] = side.take()
    assert side.links.on_open(Open(COOKIE, link.mine), at(1), 0) is None
    assert side.take() == [(taken, at(1))]
    assert list(side.links.by_endpoint.values()) == [link]


def test_who_began_anew_gets_a_new_link_once_its_address_is_proven() -> None:
    side = Side()
    old = side.dialled(at(1))
    side.links.on_open(Open(b"another."), at(1), 0)
    assert side.links.by_endpoint[at(1)] is old, "so far anybody could have said this"
    new = side.dialled(at(1), b"another.")
    assert new is not None
    assert old is not None
    assert not old.open
    assert side.links.by_endpoint == {at(1): new}


def test_both_at_once_are_one_link() -> None:
    """The lower cookie's Open counts, on both sides, whoever is heard first."""
    a, b, here, there = Side(1, [at(2)]), Side(2, [at(1)]), at(1), at(2)
    a.links.tend(0)
    b.links.tend(0)
    wire = [(here, there, m) for m, _ in a.take()] + [(there, here, m) for m, _ in b.take()]
    while wire:
        source, target, message = wire.pop(0)
        side = a if target == here else b
        if isinstance(message, Open):
            side.links.on_open(message, source, 0)
        elif isinstance(message, Opened):
            side.links.on_opened(message, source, 0)
        wire += [(target, source, m) for m, _ in side.take()]
    [mine], [theirs] = a.links.by_endpoint.values(), b.links.by_endpoint.values()
    assert (mine.mine, mine.theirs) == (theirs.theirs, theirs.mine)
    assert mine.outbound != theirs.outbound


def test_a_node_is_not_its_own_neighbour() -> None:
    side = Side(1, [at(1)])
    side.links.tend(0)
    for message, _ in side.take():
        assert isinstance(message, Open)
        side.links.on_open(message, at(1), 0)
    assert not side.take()
    assert not side.links.by_endpoint


def test_answers_that_nobody_asked_for_are_counted() -> None:
    side = Side(1, [at(2)])
    side.links.tend(0)
    side.take()
    assert side.links.on_opened(Opened(b"wrong...", COOKIE, taken=True), at(2), 0) is None
    assert side.links.on_opened(Opened(b"wrong...", COOKIE, taken=True), at(3), 0) is None
    side.links.on_refused(Close(b"wrong..."), at(2), 0)
    assert side.counters["answers to no Open of ours"] == 2
    assert at(2) in side.links._dials.pending


def test_who_does_not_answer_is_called_twice_and_then_left_alone() -> None:
    side = Side(1, [at(2)])
    side.run(55)
    calls = [message for message, _ in side.take()]
    assert len(calls) == TRIES
    side.run(30)
    assert len(side.take()) == TRIES, "after a minute, again"
    assert DIAL_US == SECOND_US


def test_who_refuses_is_left_alone_for_a_minute() -> None:
    side = Side(1, [at(2)])
    side.links.tend(0)
    [(call, _)] = side.take()
    assert isinstance(call, Open)
    side.links.on_refused(Close(call.mine), at(2), 0)
    side.run(59)
    assert not side.take()


def test_three_links_are_our_own_and_few_are_made_up_for() -> None:
    side = Side()
    for number in range(OUTBOUND):
        side.dial(at(number))
    side.candidates = [at(50), at(51), at(52)]
    side.run(side.links._dials.next_us / SECOND_US + 0.5)
    assert {to for _, to in side.take()} == {at(50)}, "one more, since there are not yet four"
    assert LOW == 4


# ---------------------------------------------------------------------------- staying


def test_a_silent_neighbour_is_asked_three_times_and_given_up() -> None:
    side = Side()
    side.dialled(at(1))
    side.take()
    quiet_s = (IDLE_US + 2 * PROBE_US) / SECOND_US
    side.run(quiet_s - 0.1)
    assert not side.take()
    side.run(PROBES * PROBE_US / SECOND_US)
    asked = side.take()
    assert asked == [(Alive(COOKIE, answer=True), at(1))] * PROBES
    side.run(0.2)
    assert not side.links.by_endpoint
    assert side.counters["neighbours that went silent"] == 1


def test_a_neighbour_that_is_heard_is_not_asked() -> None:
    side = Side()
    link = side.dialled(at(1))
    assert link is not None
    side.take()
    for _ in range(20):
        side.run(20)
        link.heard_us = side.now_us
    assert not [message for message, _ in side.take() if isinstance(message, Alive)]


@given(st.lists(st.sampled_from(["in", "out"]), max_size=40), st.data())
def test_every_open_link_has_a_bit_of_its_own(steps: list[str], data: st.DataObject) -> None:
    side = Side()
    for number, step in enumerate(steps):
        open_links = list(side.links.by_endpoint.values())
        if step == "in" or not open_links:
            side.dialled(at(number))
        else:
            side.links.close(data.draw(st.sampled_from(open_links)), 0)
        bits = [link.bit for link in side.links.by_endpoint.values()]
        assert len(set(bits)) == len(bits)
        assert all(bit.bit_count() == 1 for bit in bits)


# ---------------------------------------------------------------------------- who may come in


def test_a_third_of_one_network_is_refused_once_there_are_four() -> None:
    side = Side()
    for host in range(1, 5):
        assert side.dialled(at(1, host)) is not None, "a small network is a mesh, too"
    assert side.dialled(at(1, 9)) is None
    assert side.counters["links refused: two of that network"] == 1
    assert side.dialled(at(2)) is not None
    assert side.dialled(at(2, 2)) is not None
    assert side.dialled(at(2, 3)) is None


def test_places_for_strangers_are_bounded_and_a_lottery_decides() -> None:
    """Asking again and again wins nothing: the same networks are in, whoever asks how often."""

    def inside(order: list[int]) -> set[bytes]:
        side = Side()
        for number in order:
            side.dialled(at(number))
            assert len(side.links.by_endpoint) <= INBOUND
        return {link.network for link in side.links.by_endpoint.values()}

    once = inside(list(range(200)))
    assert once == inside(list(reversed(range(200))))
    assert once == inside([*range(100), *range(50), *range(200), *range(200)])
    assert len(once) == INBOUND


def full(side: Side) -> list[Link]:
    links = [side.dialled(at(number)) for number in range(INBOUND)]
    side.take()
    return [link for link in links if link is not None]


def test_passengers_go_for_strangers_and_their_network_has_had_its_try() -> None:
    side = Side()
    links = full(side)
    side.links.heard += TRIAL
    for link in links[1:]:
        link.useful(side.links.heard)
    first = links[0]
    assert side.dialled(at(500)) is None
    assert side.dialled(at(501)) is None, "the first is on trial now"
    assert not first.eager
    side.links.heard += TRIAL
    for link in links[1:]:
        link.useful(side.links.heard)
    assert side.dialled(at(502)) is not None
    assert not first.open
    assert side.dialled(first.endpoint) is None
    assert side.counters["links refused: barred network"] == 1
    side.now_us += BAR_US
    links[1].mark -= PASSENGER
    links[1].tested = True
    assert side.dialled(first.endpoint) is not None


def test_a_branch_of_the_tree_that_announces_when_it_is_tried_stays() -> None:
    side = Side()
    links = full(side)
    side.links.heard += TRIAL
    for link in links[1:]:
        link.useful(side.links.heard)
    side.links.on_open(Open(COOKIE), at(500), 0)
    [(answer, _)] = side.take()
    assert isinstance(answer, Opened)
    side.links.on_open(Open(COOKIE, answer.mine), at(500), 0)
    assert side.take() == [(Prune(COOKIE), links[0].endpoint), (Close(COOKIE), at(500))]
    links[0].useful(side.links.heard)
    side.links.heard += PASSENGER - 1
    for link in links[1:]:
        link.useful(side.links.heard)
    assert side.dialled(at(501)) is None
    assert links[0].open


def test_from_the_thirteenth_on_links_begin_lazy() -> None:
    side = Side()
    links = full(side)
    assert [link.eager for link in links] == [True] * EASY + [False] * (INBOUND - EASY)


def test_who_is_cut_off_does_not_come_back_from_its_network() -> None:
    side = Side()
    link = side.dialled(at(1))
    assert link is not None
    side.links.cut_off(link, 0, "flood")
    assert (Close(COOKIE), at(1)) in side.take()
    assert side.dialled(at(1, 77)) is None
    side.candidates = [at(1, 78)]
    side.run(BAR_US / SECOND_US - 60)
    assert not [to for _, to in side.take() if to == at(1, 78)], "nor do we dial it"
    side.run(180)
    assert [to for _, to in side.take() if to == at(1, 78)]


def test_links_of_ours_that_are_of_no_use_are_exchanged() -> None:
    side = Side()
    links = [side.dial(at(number)) for number in range(OUTBOUND)]
    side.candidates = [at(60), at(61)]
    for _ in range(12):
        side.links.heard += TRIAL
        links[0].useful(side.links.heard)
        for link in side.links.by_endpoint.values():
            link.heard_us = side.now_us
        side.run(15)
    assert links[0].open
    assert not any(link.open for link in links[1:])
    assert side.counters["passengers put out"] == 2
    assert {at(60), at(61)} <= {to for message, to in side.take() if isinstance(message, Open)}


def test_in_silence_the_oldest_is_exchanged_ever_more_seldom() -> None:
    side = Side()
    links = [side.dial(at(number)) for number in range(OUTBOUND)]
    gone = []
    for minute in range(60):
        for link in side.links.by_endpoint.values():
            link.heard_us = side.now_us
        side.candidates = [at(100 + minute)]
        side.run(20)
        for message, to in side.take():
            if isinstance(message, Open):
                side.links.on_opened(Opened(message.mine, COOKIE, taken=True), to, side.now_us)
        side.candidates = []
        side.run(40)
        gone.append(sum(not link.open for link in links))
    assert gone[-1] == OUTBOUND
    assert len(side.links.by_endpoint) <= OUTBOUND + 2


# ---------------------------------------------------------------------------- limits of one link


@pytest.mark.parametrize(
    ("limit", "at_once", "a_second"), [("push", 200, 20), ("send", 150, 18), ("ask", 200, 6)]
)
def test_limits_are_what_the_table_says(limit: str, at_once: int, a_second: int) -> None:
    link = Link(at(1), b"", b"", 0, outbound=True, bit=1, mark=0)
    allowed = {"push": link.may_push, "send": link.may_send, "ask": link.may_ask}[limit]
    assert sum(allowed(0) for _ in range(1000)) == at_once
    later = sum(allowed(second * SECOND_US) for second in range(1, 101) for _ in range(100))
    assert later in range(a_second * 100 - 2, a_second * 100 + 3)


def test_what_is_pulled_leaves_room_for_what_is_pushed() -> None:
    link = Link(at(1), b"", b"", 0, outbound=True, bit=1, mark=0)
    assert sum(link.may_send(0, pulled=True) for _ in range(500)) == 100
    assert sum(link.may_send(0) for _ in range(500)) == 50


def test_five_thousand_ids_a_second_are_read() -> None:
    link = Link(at(1), b"", b"", 0, outbound=True, bit=1, mark=0)
    assert sum(91 for _ in range(1000) if link.may_announce(91, 0)) in range(4900, 5001)
    assert link.may_announce(91, IDS_US)


def test_what_an_honest_neighbour_sends_is_always_read() -> None:
    """Who sends as often as it may is below the limit of who receives, whenever that is."""
    sender = Link(at(1), b"", b"", 0, outbound=True, bit=1, mark=0)
    receiver = Link(at(2), b"", b"", 0, outbound=True, bit=1, mark=0)
    for now_us in range(0, 60 * SECOND_US, PUSH_US // 3):
        if sender.may_send(now_us):
            assert receiver.may_push(now_us)
