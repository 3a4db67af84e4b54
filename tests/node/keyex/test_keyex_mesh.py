"""The same over real nodes: their discovery, their UDP sockets, their DHT; one of them is listed nowhere."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from crypto.identity import fingerprint
from node import identity_store
from node.answering import Answering
from node.asking import Asking
from node.keyex import errors
from node.keyex.directory import Directory
from node.keyex.peer_seed import PeerSeeds
from node.keyex.service import KeyExchange, initiated
from node.mode_b_stream import ModeBStream
from node.replies import Replies
from node.vault.secrets import open_secrets
from node.zeqssl import open_stream, serve
from tests.node.crowd import Member, crowd

ENV = {"ZEQ_FIELD_KEY": "0f" * 32}


class Served:
    """A member of the crowd with what node/app.py gives it besides."""

    def __init__(self, member: Member, exchange: KeyExchange, seeds: PeerSeeds) -> None:
        self.member = member
        self.exchange = exchange
        self.seeds = seeds
        self.name = f"{member.slug}~{fingerprint(member.keys.machine_id)[:19]}"


async def with_keyex(member: Member, state: Path, stack: AsyncExitStack, nursery: trio.Nursery) -> Served:
    identity_store.create(state, identity_store.source_from(ENV))
    secrets = await stack.enter_async_context(open_secrets(state, ENV))
    discovery, rows = member.discovery, member._peers.rows
    counters = discovery.core.counters
    asking = Asking(discovery, Replies(discovery.answer_to), discovery.places, counters)
    answering = Answering(discovery, rows.__contains__, counters)
    directory = Directory(discovery, lambda: rows, lambda _slug: None)
    exchange = KeyExchange(member.keys, secrets, directory, asking, answering)
    await nursery.start(asking.run)
    await nursery.start(answering.run)
    return Served(member, exchange, PeerSeeds(exchange, directory, secrets))


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[list[Served]]:
    """Four nodes that know each other's mesh; the last but one is a relay."""
    async with (
        crowd(folder, 4) as (members, _wire),
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        for member in members[1:]:
            member.discovery.begin_at([members[0].address])
        made = []
        for number, member in enumerate(members):
            state = folder / f"vault {number}"
            made.append(await with_keyex(member, state, stack, nursery))
        with trio.fail_after(30):
            while not all(member.contacts for member in members):  # noqa: ASYNC110
                await trio.sleep(0.05)  # a table of contacts has no event to wait for
        yield made
        nursery.cancel_scope.cancel()


async def found(asker: Served, target: Served) -> None:
    """Until its claim is stored, which takes a few seconds after it is listed."""
    with trio.fail_after(60):
        while True:
            claims = await asker.member.discovery.find_slug(target.member.slug)
            if claims is not None and claims.claims:
                return
            await trio.sleep(0.2)


async def test_an_unlisted_node_and_a_relay_come_to_a_stream_from_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as [_, home, cafe, _]:
        with pytest.raises(errors.TargetNotFound):
            await home.exchange.pubkey(cafe.name)
        terms = {"per_gb": 50, "per_zeqond": 1, "max_tunnels": 8, "country": "DE", "accept": ["ANY"]}
        await cafe.member.ask("relay_offer", **terms)
        await found(home, cafe)
        with pytest.raises(errors.SlugUnpinned):
            await home.exchange.pubkey(cafe.member.slug)
        published = await home.exchange.pubkey(cafe.name)
        assert published == await cafe.exchange.pubkey(cafe.member.slug)
        agreed, ciphertext = initiated(published)
        agreed.confirm((await home.exchange.handshake(cafe.name, ciphertext)).confirmation)

        where = f"https://{cafe.member.address[0].removeprefix('::ffff:')}"
        with pytest.raises(errors.OriginMismatch):
            await home.seeds.initiate(home.member.slug, "https://127.1.1.1", cafe.name, published.fingerprint)
        begun = await home.seeds.initiate(home.member.slug, where, cafe.name, published.fingerprint)
        await cafe.member._peers.put(
            cafe.member._peers.new_row(home.member.keys.bundle, "home", os.urandom(16), ())
        )
        ended = await cafe.seeds.respond(cafe.member.slug, home.member.slug, begun.cipher_text)
        assert begun.seed_commitment == ended.seed_commitment
        await stream_between(home, cafe)


async def stream_between(home: Served, cafe: Served) -> None:
    at_home = await home.seeds.shared(cafe.member.keys.machine_id)
    at_cafe = await cafe.seeds.shared(home.member.keys.machine_id)

    async def greet(stream: ModeBStream, machine_id: bytes) -> None:
        assert machine_id == home.member.keys.machine_id
        await stream.send_all(b"hello " + await stream.receive_some())

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(serve, greet, "127.0.0.1", 0, lambda: [at_cafe]))
        port = listener.socket.getsockname()[1]
        async with await open_stream("127.0.0.1", port, at_home) as stream:
            await stream.send_all(b"home")
            assert await stream.receive_some() == b"hello home"
        nursery.cancel_scope.cancel()
