"""What strangers get for their questions: how much, and what they can make us do or keep."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import contacts
from dht.answers import PARTIAL_US, PARTIALS, PARTIALS_OF_A_NETWORK, RECORD_BYTES
from dht.deliveries import CHUNK_BYTES, KEPT, PARTS_MISSING, REFUSED, parts
from dht.endpoints import Endpoint
from dht.messages import (
    AMPLIFICATION,
    DATAGRAM_BYTES,
    PADDED_BYTES,
    DhtMessage,
    Dial,
    Find,
    Get,
    Nodes,
    Ping,
    Pong,
    Reach,
    Store,
    Stored,
    Values,
    decode_dht,
    encode_dht,
)
from dht.overlay import Overlay
from tests.dht.overlay_world import SECOND, UNIX_US, Shelf, entropy

T, TAIL, KEY = b"transact", bytes(range(24)), bytes(32)


def at(number: int, network: int = 1) -> Endpoint:
    return bytes([60, network >> 8, network & 255, number, 0xCA, 0x41])


class Server:
    """One overlay that knows 60 others, and who asks it."""

    def __init__(self, family: int = 4) -> None:
        self.now_us = 0
        self.shelf = Shelf()
        self.overlay = Overlay(family, TAIL, entropy("server"), 0, self.shelf, serving=True)
        pad = bytes(12) if family == 6 else b""
        for number in range(60):
            known = contacts.at(
                entropy(f"{number}")(24),
                bytes([32, 1, number, 0, 9, 9]) + pad if pad else at(1, 100 + number),
            )
            self.overlay.table.add_contact(known, 0)

    def ask(self, question: DhtMessage, source: Endpoint, size: int = 0) -> DhtMessage | None:
        """The answer, whatever else went out; the question is padded to `size`."""
        datagram = encode_dht(question)
        assert len(datagram) <= DATAGRAM_BYTES
        self.overlay.receive(datagram, source, self.now_us, UNIX_US + self.now_us)
        out: list[DhtMessage] = [
            decode_dht(answer[1:]) for answer, to in self.overlay.outgoing if to == source
        ]
        self.overlay.outgoing.clear()
        return next((answer for answer in out if answer.t == question.t), None)

    def token(self, source: Endpoint) -> bytes:
        pong = self.ask(Ping(T, b"", b"", bytes(16)), source)
        assert isinstance(pong, Pong)
        assert pong.you == source
        return pong.token

    def store(self, source: Endpoint, record: bytes, only: int | None = None, key: bytes = KEY) -> list[int]:
        """Statuses of all its parts, or of the first few."""
        token, statuses = self.token(source), []
        for part in range(parts(record))[:only]:
            chunk = record[part * CHUNK_BYTES :][:CHUNK_BYTES]
            stored = self.ask(Store(T, b"", token, key, part, parts(record), chunk), source)
            assert isinstance(stored, Stored)
            statuses.append(stored.status)
        return statuses


# ------------------------------------------------------------------ no amplifier


@given(
    st.sampled_from(["ping", "find", "get", "store", "reach", "dial"]),
    st.binary(max_size=700),
    st.binary(max_size=8),
    st.sampled_from([b"", bytes(24), bytes(range(1, 25))]),
    st.integers(0, 3000),
    st.booleans(),
)
def test_nobody_unproven_gets_more_than_three_times_the_question(
    kind: str, pad: bytes, token: bytes, tail: bytes, number: int, full: bool
) -> None:
    server, source = SERVERS[full], at(7, number)
    questions: dict[str, DhtMessage] = {
        "ping": Ping(T, tail, token, pad),
        "find": Find(T, tail, token, KEY, pad),
        "get": Get(T, tail, token, KEY, number, pad),
        "store": Store(T, tail, token, KEY, number % 3, 3, pad),
        "reach": Reach(T, tail, token),
        "dial": Dial(T, tail, token, at(5, 900), T),
    }
    datagram = encode_dht(questions[kind])
    server.now_us += SECOND
    server.overlay.receive(datagram, source, server.now_us, UNIX_US)
    out = [answer for answer, to in server.overlay.outgoing if to == source]
    server.overlay.outgoing.clear()
    assert sum(map(len, out)) <= AMPLIFICATION * len(datagram)


def _with_values(server: Server) -> Server:
    server.shelf.kept[KEY] = {b"a": b"a" * 3000}
    return server


SERVERS = [Server(), _with_values(Server())]


@pytest.mark.parametrize("family", [4, 6])
def test_a_padded_question_gets_twenty_contacts_and_fits(family: int) -> None:
    server = Server(family)
    source = at(7) if family == 4 else bytes([32, 1, 13, 184, *range(12), 0xCA, 0x41])
    nodes = server.ask(Find(T, TAIL[::-1], b"", KEY, bytes(PADDED_BYTES - 78)), source)
    assert isinstance(nodes, Nodes)
    assert len(nodes.contacts) == 20 * (30 if family == 4 else 42)
    short = server.ask(Find(T, TAIL[::-1], b"", KEY), source)
    assert isinstance(short, Nodes)
    assert 0 < len(short.contacts) < len(nodes.contacts)


@pytest.mark.parametrize("proven", [False, True])
def test_values_come_in_pages_that_fit_and_make_the_whole(proven: bool) -> None:
    server, source = Server(), at(7)
    server.shelf.kept[KEY] = {bytes([n]): bytes([n]) * 700 for n in range(9)}
    token = server.token(source) if proven else b""
    whole, total = b"", 1
    while len(whole) < total:
        pad = b"" if proven else bytes(PADDED_BYTES - 80)
        values = server.ask(Get(T, TAIL[::-1], token, KEY, len(whole), pad), source)
        assert isinstance(values, Values)
        assert len(encode_dht(values)) <= DATAGRAM_BYTES
        assert (values.offset, values.page != b"") == (len(whole), True)
        assert (values.contacts != b"") == (not whole)
        whole += values.page
        total = values.total
    assert msgspec.msgpack.decode(whole, type=list[bytes]) == list(server.shelf.kept[KEY].values())
    beyond = server.ask(Get(T, b"", token, KEY, 60_000, bytes(300)), source)
    assert isinstance(beyond, Values)
    assert beyond.page == b""


# ------------------------------------------------------------------ storing


@given(st.integers(1, RECORD_BYTES))
def test_a_record_of_any_size_is_put_together(size: int) -> None:
    server, record = Server(), bytes(range(256)) * 32
    statuses = server.store(at(7), record[:size])
    assert statuses == [PARTS_MISSING] * (len(statuses) - 1) + [KEPT]
    assert list(server.shelf.kept[KEY].values()) == [record[:size]]


def test_without_a_token_nothing_is_stored() -> None:
    server = Server()
    other = server.token(at(8))
    for token in (b"", bytes(8), other):
        stored = server.ask(Store(T, b"", token, KEY, 0, 1, b"record"), at(7))
        assert isinstance(stored, Stored)
        assert stored.status == REFUSED
    assert server.overlay.counters["store without a token"] == 3
    assert not server.shelf.kept


def test_who_shows_a_token_gets_the_newest_one() -> None:
    """The one shown may be about to run out, and who asks keeps what comes as fresh."""
    server = Server()
    old = server.token(at(7))
    server.now_us += 400 * SECOND
    pong = server.ask(Ping(T, b"", old, bytes(16)), at(7))
    assert isinstance(pong, Pong)
    assert pong.token != old
    server.now_us += 400 * SECOND
    stored = server.ask(Store(T, b"", pong.token, KEY, 0, 1, b"record"), at(7))
    assert isinstance(stored, Stored)
    assert stored.status == KEPT


def test_a_token_is_good_for_five_minutes_and_not_for_ten() -> None:
    server = Server()
    token = server.token(at(7))
    for now_s, status in ((299, KEPT), (599, KEPT), (1200, REFUSED)):
        server.now_us = now_s * SECOND
        stored = server.ask(Store(T, b"", token, KEY, 0, 1, b"record"), at(7))
        assert isinstance(stored, Stored)
        assert stored.status == status


def test_who_does_not_serve_stores_nothing_but_answers() -> None:
    server = Server()
    server.overlay.serve(False)
    assert server.store(at(7), b"record") == [REFUSED]
    pong = server.ask(Ping(T, b"", b"", bytes(16)), at(7))
    assert isinstance(pong, Pong)
    assert pong.tail == b""


def test_parts_that_do_not_fit_together_are_refused() -> None:
    server = Server()
    token = server.token(at(7))
    full = bytes(CHUNK_BYTES)
    for part, count, chunk in (
        (0, 0, full),
        (1, 1, full),
        (0, 1, b""),
        (1, 2, full),  # never began
        (0, 11, full),  # more than a record has
        (0, 0xFFFF, full),
        (0, 2, b"short"),
    ):
        stored = server.ask(Store(T, b"", token, KEY, part, count, chunk), at(7))
        assert isinstance(stored, Stored)
        assert stored.status == REFUSED, (part, count)
    assert not server.shelf.kept


def test_the_same_part_again_does_no_harm() -> None:
    server, source = Server(), at(7)
    token, record = server.token(source), bytes(2000)
    for part, status in ((0, 1), (0, 1), (1, 1), (0, 1), (1, 1), (2, 0)):
        chunk = record[part * CHUNK_BYTES :][:CHUNK_BYTES]
        stored = server.ask(Store(T, b"", token, KEY, part, 3, chunk), source)
        assert isinstance(stored, Stored)
        assert stored.status == status
    assert list(server.shelf.kept[KEY].values()) == [record]


def test_parts_of_strangers_take_only_so_much_room() -> None:
    """Thousands begin records and never end them; who ends one still can."""
    server, record = Server(), bytes(2000)
    for network in range(200):
        for number in range(1, 8):
            server.store(at(number, network), record, only=1)
    partials = server.overlay._desk.answers._partials
    assert len(partials) <= PARTIALS
    networks = [source[:3] for source, _ in partials]
    assert max(map(networks.count, networks)) <= PARTIALS_OF_A_NETWORK
    assert server.store(at(99, 500), record)[-1] == KEPT
    server.overlay._desk.answers.forget(PARTIAL_US)
    assert not partials


# ------------------------------------------------------------------ the table


def test_who_asks_without_a_token_is_pinged_and_then_in_the_table() -> None:
    server, met = Server(), 0
    for number in range(20):
        asker = contacts.at(entropy(f"a{number}")(24), at(7, 999 + number))
        wanted = server.overlay.table.wants(asker)
        server.overlay.receive(encode_dht(Find(T, asker.tail, b"", KEY)), asker.endpoint, 0, UNIX_US)
        assert asker not in server.overlay.table
        out = [decode_dht(datagram[1:]) for datagram, _ in server.overlay.outgoing]
        server.overlay.outgoing.clear()
        pings = [message for message in out if isinstance(message, Ping)]
        assert len(pings) == wanted
        for ping in pings:
            pong = encode_dht(Pong(ping.t, asker.tail, at(1, 2), b""))
            server.overlay.receive(pong, asker.endpoint, 10, UNIX_US)
            assert asker in server.overlay.table
            met += 1
    assert met > 2


def test_a_crowd_of_strangers_is_not_all_pinged() -> None:
    """Ten thousand ids from as many addresses: few are pinged, and none of them is in the table."""
    server = Server()
    known = server.overlay.size
    for number in range(10_000):
        source = at(number % 250 + 1, 1000 + number // 250)
        question = encode_dht(Find(T, entropy(f"s{number}")(24), b"", KEY))
        server.overlay.receive(question, source, number * 100, UNIX_US)
    pings = [d for d, _ in server.overlay.outgoing if isinstance(decode_dht(d[1:]), Ping)]
    assert len(pings) <= 40 + 10 + 1
    assert server.overlay.size == known


def test_with_a_token_the_asker_is_in_the_table_at_once() -> None:
    server = Server()
    for number in range(20):
        source = at(7, 999 + number)
        asker = contacts.at(entropy(f"t{number}")(24), source)
        if server.overlay.table.wants(asker):
            server.ask(Ping(T, asker.tail, server.token(source)), source)
            assert asker in server.overlay.table
            break
