"""ZeqKeyEx and the first ZeqSSL seed between two machines with vaults of their own, over sealed events."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from crypto import keyex
from crypto.errors import HandshakeRefused
from crypto.identity import fingerprint, slug
from crypto.kem import KEM_CIPHERTEXT_BYTES, RealPrimitives
from crypto.keyex import Published
from dht.locations import Location
from node import identity_store
from node.asking import AskRefused, Unanswered
from node.discovery_face import SlugFound
from node.keyex import errors, service
from node.keyex.directory import Directory
from node.keyex.peer_seed import PeerSeeds, purpose
from node.keyex.service import HANDSHAKE, KEM_PURPOSE, PUBKEY, KeyExchange, initiated
from node.links import Links
from node.mode_b_stream import ModeBStream
from node.store import PeerRow
from node.vault.errors import NoSuchSecret, NotPermitted
from node.vault.secrets import Secrets, open_secrets
from node.zeqssl import open_stream, serve
from tests.node.ask_world import LOOKUP, Mailbox, World, running

ENV = {"ZEQ_FIELD_KEY": "0f" * 32}
ORIGIN = "https://zeqond.com"


class Finder:
    """A mesh that knows every machine of the world, by the same lookup secret."""

    def __init__(self, world: World) -> None:
        self.links = Links()
        self._world = world

    async def find_slug(self, name: str) -> SlugFound | None:
        bundles = [box.keys.bundle for box in self._world.boxes.values() if box.listed]
        return SlugFound(1, tuple(bundle for bundle in bundles if slug(bundle.machine_id) == name))

    async def find_machine(
        self, machine_id: bytes, ed25519: bytes | None, lookup_secret: bytes
    ) -> Location | None:
        return Location(1, (self._world.boxes[machine_id].endpoint,))


class Machine:
    """`pins`: machine_ids by slug. `peers`: rows by machine_id."""

    def __init__(self, box: Mailbox, secrets: Secrets) -> None:
        self.box = box
        self.secrets = secrets
        self.pins: dict[str, bytes] = {}
        self.peers: dict[bytes, PeerRow] = {}
        self.directory = Directory(Finder(box.world), lambda: self.peers, self.pins.get)
        self.restart()

    def restart(self) -> None:
        """All that is not in the vault is gone."""
        asking = (self.box.asking, self.box.answering)
        self.exchange = KeyExchange(self.box.keys, self.secrets, self.directory, *asking)
        self.seeds = PeerSeeds(self.exchange, self.directory, self.secrets)

    @property
    def slug(self) -> str:
        return slug(self.box.keys.machine_id)


@pytest.fixture(autouse=True)
def _one_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.keyex.directory.listed_secret", lambda _machine_id: LOOKUP)


@asynccontextmanager
async def machines(folder: Path, *, answering: bool = True) -> AsyncIterator[tuple[Machine, Machine]]:
    """`home`, which nobody finds but is a peer of `cafe`; and that, which is listed, and pinned at home."""
    world = World()
    async with AsyncExitStack() as stack:
        made = []
        for listed in (False, True):
            state = folder / str(listed)
            identity_store.create(state, identity_store.source_from(ENV))
            secrets = await stack.enter_async_context(open_secrets(state, ENV))
            made.append(Machine(world.add(listed), secrets))
        home, cafe = made
        home.pins[cafe.slug] = cafe.box.keys.machine_id
        keys = home.box.keys
        named = (keys.machine_id, keys.bundle.raw, "home", LOOKUP, (), (), None, True, 0, 0)
        cafe.peers[keys.machine_id] = PeerRow(*named)
        cafe.box.friends.add(keys.machine_id)
        boxes = [home.box, cafe.box] if answering else [home.box]
        async with running(*boxes):
            yield home, cafe


async def kept(machine: Machine) -> list[str]:
    """Names of the secrets that are this service's."""
    names = [info.purpose for info in await machine.secrets.names()]
    return [name for name in names if name.startswith(("keyex.", "ssl."))]


# ---------------------------------------------------------------------------- keys


async def test_the_key_is_made_once_and_outlives_the_run(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        found: list[Published] = []

        async def ask(machine: Machine) -> None:
            found.append(await machine.exchange.pubkey(cafe.slug))

        async with trio.open_nursery() as nursery:  # all at the same time, before there is a key
            for machine in (home, cafe, home, cafe):
                nursery.start_soon(ask, machine)
        cafe.restart()
        await ask(home)
        assert len(set(found)) == 1
        assert found[0].machine_id == cafe.box.keys.machine_id
        found[0].check(cafe.box.keys.bundle, found[0].fingerprint)
        assert found[0].public != cafe.box.keys.bundle.ml_kem, "no tunnel's key"
        assert await kept(cafe) == [KEM_PURPOSE]
        assert not await kept(home)


async def test_the_key_is_nobodys_to_fetch_and_strangers_leave_no_trace_in_the_audit(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        await home.exchange.pubkey(cafe.slug)
        before = len(await cafe.secrets.audit(100))
        _, ciphertext = keyex.initiate(await home.exchange.pubkey(cafe.slug), RealPrimitives())
        await home.exchange.handshake(cafe.slug, ciphertext)
        assert len(await cafe.secrets.audit(100)) == before
        with pytest.raises(NotPermitted):
            await cafe.secrets.get(KEM_PURPOSE, by=cafe.secrets.owner)


async def test_a_machine_is_named_by_slug_and_fingerprint_without_a_pin(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        home.pins.clear()
        with pytest.raises(errors.SlugUnpinned):
            await home.exchange.pubkey(cafe.slug)
        name = f"{cafe.slug}~{fingerprint(cafe.box.keys.machine_id)[:19]}"
        assert (await home.exchange.pubkey(name)).machine_id == cafe.box.keys.machine_id
        own = await cafe.exchange.pubkey(name)
        assert own == await cafe.exchange.pubkey(cafe.slug)


async def test_a_key_that_the_machine_has_not_signed_is_refused(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        right = service._Key((await cafe.exchange.pubkey(cafe.slug)).public, bytes(64))
        for answer in (service._encode(right), b"", service._encode([bytes(7), bytes(64)])):

            async def lie(_author: object, _payload: bytes, answer: bytes = answer) -> bytes:
                return answer

            cafe.box.answering.handle(PUBKEY, lie)
            with pytest.raises(errors.FalseKey, match="not signed by it"):
                await home.exchange.pubkey(cafe.slug)


def test_a_key_that_is_none_is_refused() -> None:
    for public in (b"", b"\xff" * 1184):
        with pytest.raises(errors.FalseKey, match="published a key that is none"):
            initiated(Published(bytes(32), public, bytes(64)))


# ---------------------------------------------------------------------------- handshakes


@pytest.mark.parametrize("local", [True, False])
async def test_a_handshake_gives_both_one_key_and_confirms_it(local: bool, tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        asked = cafe if local else home
        agreed, ciphertext = initiated(await asked.exchange.pubkey(cafe.slug))
        confirmed = await asked.exchange.handshake(cafe.slug, ciphertext)
        agreed.confirm(confirmed.confirmation)
        assert confirmed.machine_id == cafe.box.keys.machine_id
        assert cafe.exchange.session_key(confirmed.session_id) == agreed.record_key
        assert (await asked.exchange.handshake(cafe.slug, ciphertext)).session_id == confirmed.session_id
        with pytest.raises(errors.NoSession):
            home.exchange.session_key(confirmed.session_id)


async def test_a_ciphertext_of_another_key_confirms_nothing(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        agreed, ciphertext = initiated(await home.exchange.pubkey(home.slug))
        confirmed = await home.exchange.handshake(cafe.slug, ciphertext)
        with pytest.raises(HandshakeRefused):
            agreed.confirm(confirmed.confirmation)


async def test_what_is_no_ciphertext_is_refused_before_it_is_sent_and_where_it_comes(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        for size in (0, KEM_CIPHERTEXT_BYTES - 1, KEM_CIPHERTEXT_BYTES + 1):
            with pytest.raises(errors.BadRequest, match="1088 bytes"):
                await home.exchange.handshake(cafe.slug, bytes(size))
        assert not cafe.box.heard
        with pytest.raises(AskRefused) as refused:
            await home.box.asking.ask(cafe.box.recipient(), HANDSHAKE, b"short")
        assert refused.value.code == "INVALID_REQUEST"


async def test_an_answer_that_is_no_confirmation_is_refused(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):

        async def lie(_author: object, _payload: bytes) -> bytes:
            return service._encode([bytes(16), bytes(47), -1])

        cafe.box.answering.handle(HANDSHAKE, lie)
        with pytest.raises(AskRefused, match="cannot be read"):
            await home.exchange.handshake(cafe.slug, bytes(KEM_CIPHERTEXT_BYTES))


async def test_a_machine_that_does_not_answer_is_said_not_to(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, answering=False) as (home, cafe):
        with pytest.raises(Unanswered):
            await home.exchange.pubkey(cafe.slug)


# ---------------------------------------------------------------------------- seeds


async def agreed_on(home: Machine, cafe: Machine) -> tuple[str, str]:
    """Both commitments, as a person gets them who asks both machines."""
    pin = (await home.exchange.pubkey(cafe.slug)).fingerprint
    initiated = await home.seeds.initiate(home.slug, ORIGIN, cafe.slug, pin.upper())
    assert (initiated.peer_machine_id, initiated.fingerprint) == (cafe.box.keys.machine_id, pin)
    responded = await cafe.seeds.respond(cafe.slug, home.slug, initiated.cipher_text)
    assert responded.peer_machine_id == home.box.keys.machine_id
    return initiated.seed_commitment, responded.seed_commitment


async def test_both_sides_commit_to_one_seed_and_keep_it(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        first = await agreed_on(home, cafe)
        assert first[0] == first[1]
        ours = await home.secrets.get(purpose(cafe.box.keys.machine_id), by=home.secrets.owner)
        theirs = await cafe.secrets.get(purpose(home.box.keys.machine_id), by=cafe.secrets.owner)
        assert ours == theirs
        assert keyex.commitment(ours) == first[0]
        second = await agreed_on(home, cafe)
        assert second[0] == second[1] != first[0]


async def test_a_bad_pin_keeps_nothing(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        for pin in ("", "0" * 64, "not hex"):
            with pytest.raises(errors.PinMismatch) as mismatch:
                await home.seeds.initiate(home.slug, ORIGIN, cafe.slug, pin)
            assert (mismatch.value.code, mismatch.value.status) == ("fingerprint_mismatch", 409)
            assert mismatch.value.fingerprint == (await cafe.exchange.pubkey(cafe.slug)).fingerprint
        assert not await kept(home)
        with pytest.raises(NoSuchSecret):
            await home.seeds.shared(cafe.box.keys.machine_id)


async def test_only_this_machine_acts_and_never_with_itself(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        own = f"{cafe.slug}~{fingerprint(cafe.box.keys.machine_id)}"
        text = bytes(KEM_CIPHERTEXT_BYTES)
        calls: list[tuple[type[Exception], Callable[[], object]]] = [
            (errors.NotOurs, partial(home.seeds.initiate, cafe.slug, ORIGIN, cafe.slug, "")),
            (errors.NotOurs, partial(home.seeds.respond, cafe.slug, home.slug, text)),
            (errors.InvalidTarget, partial(home.seeds.initiate, home.slug, ORIGIN, home.slug, "")),
            (errors.InvalidTarget, partial(cafe.seeds.respond, cafe.slug, own, text)),
            (errors.InvalidTarget, partial(home.seeds.respond, home.slug, "cafe", text)),
            (errors.BadRequest, partial(home.seeds.initiate, home.slug, "cafe", cafe.slug, "")),
            (
                errors.OriginMismatch,
                partial(home.seeds.initiate, home.slug, "http://127.0.0.1", cafe.slug, ""),
            ),
            (errors.BadRequest, partial(home.seeds.respond, home.slug, cafe.slug, b"")),
        ]
        for expected, call in calls:
            with pytest.raises(expected):
                await call()  # type: ignore[misc]
        assert not cafe.box.heard, "none of this asks anybody"


async def test_a_ciphertext_for_somebody_else_shows_in_the_commitments(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        pin = (await home.exchange.pubkey(cafe.slug)).fingerprint
        initiated = await home.seeds.initiate(home.slug, ORIGIN, cafe.slug, pin)
        wrong = await cafe.seeds.respond(cafe.slug, home.slug, os.urandom(KEM_CIPHERTEXT_BYTES))
        assert wrong.seed_commitment != initiated.seed_commitment


async def test_a_stream_between_two_machines_from_first_contact_on(tmp_path: Path) -> None:
    async with machines(tmp_path) as (home, cafe):
        await agreed_on(home, cafe)
        at_home = await home.seeds.shared(cafe.box.keys.machine_id)
        at_cafe = await cafe.seeds.shared(home.box.keys.machine_id)

        async def echo(stream: ModeBStream, machine_id: bytes) -> None:
            assert machine_id == home.box.keys.machine_id
            async for some in stream:
                await stream.send_all(some)

        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(serve, echo, "127.0.0.1", 0, lambda: [at_cafe]))
            port = listener.socket.getsockname()[1]
            async with await open_stream("127.0.0.1", port, at_home) as stream:
                await stream.send_all(b"first touch")
                assert await stream.receive_some() == b"first touch"
            nursery.cancel_scope.cancel()
