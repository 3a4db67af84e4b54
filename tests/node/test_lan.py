"""Nodes of one local network: what is asked, answered and believed, and two of them over real multicast."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node import lan
from node.lan import ANSWER_AGAIN_SECONDS, ANSWERED_MAX, ASK_AT_MOST_SECONDS, BELIEVED_MAX, Lan, Manners
from tun.addresses import Address

TAG, OTHER = b"homehome", b"cafecafe"


def test_a_question_and_its_answer_byte_by_byte() -> None:
    question = Manners(TAG, 51777).question(0.0)
    assert question == b"zql1\x01" + struct.pack(">H", 51777) + TAG
    found = Manners(OTHER, 4000).to_question(question, "192.0.2.1", 0.0)
    assert found == (51777, b"zql1\x02" + struct.pack(">H", 4000) + TAG)


def test_asking_has_a_rate() -> None:
    manners = Manners(TAG, 1)
    assert manners.question(0.0)
    assert manners.question(ASK_AT_MOST_SECONDS - 0.1) is None
    assert manners.question(ASK_AT_MOST_SECONDS)


def test_an_asker_is_answered_once_a_minute_and_oneself_never() -> None:
    manners, question = Manners(TAG, 1), Manners(OTHER, 2).question(0.0)
    assert question
    assert manners.to_question(question, "192.0.2.2", 0.0)[1]
    assert manners.to_question(question, "192.0.2.2", ANSWER_AGAIN_SECONDS - 1) == (None, None)
    assert manners.to_question(question, "192.0.2.2", ANSWER_AGAIN_SECONDS)[1]
    own = manners.question(0.0)
    assert own
    assert manners.to_question(own, "192.0.2.1", 0.0) == (None, None)


def test_a_flood_from_many_hosts_is_answered_to_a_bound() -> None:
    manners, question = Manners(TAG, 1), Manners(OTHER, 2).question(0.0)
    assert question
    answers = [manners.to_question(question, f"h{number}", 1.0)[1] for number in range(ANSWERED_MAX + 50)]
    assert sum(answer is not None for answer in answers) == ANSWERED_MAX
    assert manners.to_question(question, "later", 1.0 + ANSWER_AGAIN_SECONDS)[1]


def test_answers_that_nobody_asked_for_or_that_come_late_count_for_nothing() -> None:
    manners = Manners(TAG, 1)
    answer = b"zql1\x02\x10\x00" + TAG
    assert manners.to_answer(answer, 0.0) is None
    manners.question(0.0)
    assert manners.to_answer(answer, 1.0) == 4096
    assert manners.to_answer(answer[:-8] + OTHER, 1.0) is None
    assert manners.to_answer(answer, ASK_AT_MOST_SECONDS) is None


def test_a_liar_names_no_more_than_a_few() -> None:
    manners = Manners(TAG, 1)
    manners.question(0.0)
    answers = [manners.to_answer(b"zql1\x02\x10\x00" + TAG, 1.0) for _ in range(BELIEVED_MAX + 5)]
    assert answers == [4096] * BELIEVED_MAX + [None] * 5


@given(st.binary(max_size=40) | st.builds(lambda rest: b"zql1" + rest, st.binary(min_size=11, max_size=11)))
def test_any_bytes_are_taken_or_left(datagram: bytes) -> None:
    manners = Manners(TAG, 1)
    manners.question(0.0)
    port, answer = manners.to_question(datagram, "h", 0.0)
    assert (port is None) == (answer is None)
    assert answer is None or len(answer) <= len(datagram)
    assert manners.to_answer(datagram, 0.0) != 0


async def test_two_nodes_of_one_link_find_each_other() -> None:
    """Over the loopback interface, which is a link like any other here."""
    heard: dict[str, list[Address]] = {"home": [], "cafe": []}
    both = trio.Event()

    def note(name: str, address: Address) -> None:
        heard[name].append(address)
        if all(heard.values()):
            both.set()

    def hears(name: str, port: int) -> Lan:
        others = [link for _, link in socket.if_nameindex() if link != "lo"]
        return Lan(port, others, lambda address: note(name, address), loopback=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hears("home", 1001).run)
        nursery.start_soon(hears("cafe", 1002).run)
        with trio.fail_after(10):
            await both.wait()
        nursery.cancel_scope.cancel()
    assert {port for _, port in heard["home"]} == {1002}
    assert {port for _, port in heard["cafe"]} == {1001}


@pytest.mark.parametrize(
    ("family", "here"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
async def test_what_is_sent_to_this_machine_alone_misses_the_group(
    family: socket.AddressFamily, here: str
) -> None:
    question = Manners(OTHER, 2).question(0.0)
    assert question
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Lan(1001, (), lambda _address: pytest.fail("heard"), loopback=True).run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.socket.socket(family, socket.SOCK_DGRAM) as stranger:
            await stranger.connect((here, lan.PORT))
            await stranger.send(question)
            with pytest.raises(ConnectionRefusedError):
                await stranger.recv(100)
        nursery.cancel_scope.cancel()
