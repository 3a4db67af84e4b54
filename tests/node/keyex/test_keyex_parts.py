"""Who is meant by a name, what an origin says, and for how long sessions are kept."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from crypto.identity import KeyBundle, MachineKeys, fingerprint, slug
from dht.locations import Location, listed_secret
from node.asking import Unanswered
from node.discovery_face import SlugFound
from node.keyex import sessions
from node.keyex.directory import RECORD_SECONDS, Directory
from node.keyex.errors import (
    BadRequest,
    InvalidTarget,
    NoSession,
    OriginMismatch,
    SlugUnpinned,
    TargetNotFound,
)
from node.keyex.origin import ORIGIN_CHARS, check_origin
from node.keyex.sessions import IN_ALL, LIFE_ZEQONDS, OF_ONE, Sessions
from node.links import Links
from node.store import PeerRow

CAFE, RIVAL = (MachineKeys.from_bytes(bytes([number]) * 128).bundle for number in (1, 2))
NAME = slug(CAFE.machine_id)
THERE = bytes([192, 0, 2, 7]) + (51777).to_bytes(2, "big")
LAST = bytes([192, 0, 2, 8]) + (51777).to_bytes(2, "big")


def row(bundle: KeyBundle, secret: bytes | None = b"l" * 16) -> PeerRow:
    where = ("192.0.2.7:51777", "cafe.example:1")
    named = (bundle.machine_id, bundle.raw, "cafe", secret, where, (), None, True, 0, 0)
    return PeerRow(*named, last_endpoint="192.0.2.8:51777")


class Mesh:
    """What it knows, and what it was asked."""

    def __init__(self, *claims: KeyBundle) -> None:
        self.links = Links()
        self.claims = claims
        self.silent = False
        self.location: Location | None = None
        self.asked: list[bytes | str] = []

    async def find_slug(self, slug: str) -> SlugFound | None:
        self.asked.append(slug)
        return None if self.silent else SlugFound(1, self.claims)

    async def find_machine(
        self, machine_id: bytes, ed25519: bytes | None, lookup_secret: bytes
    ) -> Location | None:
        self.asked.append(lookup_secret)
        if self.silent:
            await trio.sleep(3600)
        return self.location


def directory(mesh: Mesh, *rows: PeerRow, pin: bytes | None = None) -> Directory:
    return Directory(mesh, lambda: {each.machine_id: each for each in rows}, lambda _slug: pin)


# ---------------------------------------------------------------------------- names


async def test_a_peer_is_meant_by_its_slug_whoever_else_claims_it() -> None:
    mesh = Mesh(RIVAL)
    assert await directory(mesh, row(CAFE)).named(NAME) == CAFE
    assert mesh.asked == []


async def test_a_slug_alone_picks_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlugUnpinned) as unpinned:
        await directory(Mesh(CAFE)).named(NAME)
    [claim] = unpinned.value.claims
    assert (claim.slug, claim.fingerprint) == (NAME, fingerprint(CAFE.machine_id))
    assert f"{NAME}~{claim.fingerprint[:19]}" in str(unpinned.value)
    assert await directory(Mesh(CAFE)).named(f"{NAME}~{claim.fingerprint[:19]}") == CAFE


async def test_a_pin_ignores_rival_claims_and_a_fingerprint_tells_them_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.keyex.directory.slug", lambda _machine_id: NAME)
    mesh = Mesh(RIVAL, CAFE)
    assert await directory(mesh, pin=CAFE.machine_id).named(NAME) == CAFE
    for bundle in (CAFE, RIVAL):
        assert await directory(mesh).named(f"{NAME}~{fingerprint(bundle.machine_id)}") == bundle
    with pytest.raises(SlugUnpinned) as unpinned:
        await directory(mesh).named(NAME)
    assert len(unpinned.value.claims) == 2
    with pytest.raises(SlugUnpinned):
        await directory(mesh, row(CAFE), row(RIVAL)).named(NAME)


async def test_a_pin_to_a_machine_that_is_not_there_picks_no_other() -> None:
    with pytest.raises(SlugUnpinned):
        await directory(Mesh(CAFE), pin=RIVAL.machine_id).named(NAME)


async def test_nobody_is_told_from_no_answer() -> None:
    mesh = Mesh(RIVAL)  # whose slug is another: a claim that is not to the point
    with pytest.raises(TargetNotFound, match="no listed machine is called"):
        await directory(mesh).named(NAME)
    with pytest.raises(TargetNotFound):
        await directory(Mesh(CAFE)).named(f"{NAME}~{'a' * 16}")
    mesh.silent = True
    with pytest.raises(Unanswered, match="try again"):
        await directory(mesh).named(NAME)


@pytest.mark.parametrize(
    "name", ["", "cafe", "ZEQ0700000000", NAME + "~", NAME + "~abcd", NAME + "~" + "1" * 16, NAME + "\n"]
)
async def test_what_is_no_name_is_said_to_be_none(name: str) -> None:
    with pytest.raises(InvalidTarget, match="is no machine's name"):
        await directory(Mesh(CAFE)).named(name)


# ---------------------------------------------------------------------------- places


async def test_a_peer_is_asked_where_its_record_says_and_where_it_was() -> None:
    mesh = Mesh()
    home = (bytes([192, 0, 2, 9, 1, 1]), b"h" * 16)
    mesh.location = Location(1, (THERE, bytes([192, 0, 2, 1, 1, 1])), (home,))
    to = await directory(mesh, row(CAFE)).recipient(CAFE)
    assert to.endpoints == (THERE, bytes([192, 0, 2, 1, 1, 1]), LAST)
    assert (to.bundle, to.secret, to.homes) == (CAFE, b"l" * 16, (home,))
    assert mesh.asked == [b"l" * 16]


async def test_a_stranger_or_a_peer_that_was_met_in_the_market_is_asked_as_listed() -> None:
    mesh = Mesh()
    mesh.location = Location(1, (THERE,))
    for rows in ((), (row(CAFE, None),)):
        assert (await directory(mesh, *rows).recipient(CAFE)).secret == listed_secret(CAFE.machine_id)


async def test_a_record_that_does_not_come_is_not_waited_for_where_addresses_are_known(
    autojump_clock: MockClock,
) -> None:
    mesh = Mesh()
    mesh.silent = True
    to = await directory(mesh, row(CAFE)).recipient(CAFE)
    assert to.endpoints == (LAST, THERE)
    assert trio.current_time() == pytest.approx(RECORD_SECONDS)


async def test_who_is_nowhere_is_said_to_be() -> None:
    with pytest.raises(Unanswered, match="nothing is known of where"):
        await directory(Mesh()).recipient(CAFE)
    nowhere = replace(row(CAFE), endpoints=("cafe.example:1",), last_endpoint=None)
    with pytest.raises(Unanswered, match="nothing is known of where"):
        await directory(Mesh(), nowhere).recipient(CAFE)


# ---------------------------------------------------------------------------- origins

HOSTS = ["192.0.2.7", "2001:db8::7"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://zeqond.com",
        "http://zeqond.com:8080/path",
        "https://192.0.2.7",
        "https://192.0.2.7:51777/",
        "https://[2001:DB8:0::7]:1",
        f"https://{NAME}.zeq",
        f"https://{NAME.lower()}",
        f"https://{NAME}.zeq./",
    ],
)
def test_origins_that_fit(origin: str) -> None:
    check_origin(origin, NAME, HOSTS)


@pytest.mark.parametrize(
    "origin",
    [
        "https://192.0.2.8",
        "https://[::1]",
        "https://127.0.0.1:7777",
        "https://ZEQ07000000001.zeq",
        "https://zeq07000000001",
        "https://cafe.zeq",
    ],
)
def test_origins_of_another_place(origin: str) -> None:
    with pytest.raises(OriginMismatch, match="is not known to be at"):
        check_origin(origin, NAME, HOSTS)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "zeqond.com",
        "ftp://zeqond.com",
        "https://",
        "https://zeqond.com:99999",
        "https://[::1",
        "https://x\n",
        "https://" + "x" * ORIGIN_CHARS,
    ],
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(BadRequest, match="peer_origin is the URL"):
        check_origin(origin, NAME, HOSTS)


@given(st.text(max_size=60) | st.text(max_size=40).map("https://".__add__))
def test_whatever_is_given_as_an_origin_is_an_answer_or_a_sentence(origin: str) -> None:
    with suppress(BadRequest, OriginMismatch):
        check_origin(origin, NAME, HOSTS)


# ---------------------------------------------------------------------------- sessions


def test_a_session_is_there_for_an_hour() -> None:
    kept = Sessions()
    session = kept.add(b"1" * 16, b"k" * 32, CAFE.machine_id, 1000)
    assert session.expires_zeqond == 1000 + LIFE_ZEQONDS == 1000 + 4633
    assert kept.key(b"1" * 16, 1000 + LIFE_ZEQONDS - 1) == b"k" * 32
    for name, zeqond in ((b"1" * 16, 1000 + LIFE_ZEQONDS), (b"2" * 16, 1000)):
        with pytest.raises(NoSession, match="no key exchange"):
            kept.key(name, zeqond)
    assert (b"k" * 32).hex() not in repr(session)
    assert repr(b"k" * 32) not in repr(session)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=150))
def test_no_machine_takes_more_than_its_places(begun: list[tuple[int, int]]) -> None:
    kept = Sessions()
    model: dict[bytes, int] = {}  # by name to whose it is, the oldest first
    for by, number in begun:
        name = bytes([by, number])
        model.pop(name, None)
        own = [each for each, whose in model.items() if whose == by]
        if len(own) == OF_ONE:
            del model[own[0]]
        model[name] = by
        kept.add(name, b"", bytes([by]), 0)
        assert len(kept) == len(model)
        for each in model:
            kept.key(each, 0)


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "IN_ALL", 3)
    kept = Sessions()
    for number in range(5):
        kept.add(bytes([number]), b"", bytes([number]), 0)
    assert len(kept) == 3 <= IN_ALL
    kept.key(b"\2", 0)
    with pytest.raises(NoSession):
        kept.key(b"\1", 0)
