"""Discovery inside the node: its shell, own offers, probes, and peers that are found again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from crypto.identity import MachineKeys, fingerprint, slug
from dht.locations import Location
from dht.tags import Tagged
from node import discovery as shell
from node import reaching
from node.control import Asker, call, serve
from node.discovery import STATE_SETTING, Discovery
from node.errors import Unreachable, Usage
from node.mesh import OFF
from node.offering import OFFER_SETTING, WITHDRAWN_SECONDS, described, from_arguments
from node.peers import unix_now
from node.reaching import CALL_TAG, FIRST_WAIT_US, decode_call, encode_call
from node.store import Store, open_store
from tests.node.mesh_kit import LOOKUP, Kit, KnowingCore, kits, listed, listing
from tun.engine import boot_us

TERMS = {"per_gb": 50, "per_zeqond": 1, "max_tunnels": 8, "country": "DE", "accept": ["EU", "CH"]}


async def until(check: Callable[[], object], seconds: float = 10.0) -> None:
    with trio.fail_after(seconds):
        while not check():  # noqa: ASYNC110  it is other nodes that make it true
            await trio.sleep(0.01)


def told(kit: Kit) -> bytes:
    return msgspec.msgpack.encode([kit.endpoint()])


# ---------------------------------------------------------------------------- the shell


async def test_strange_datagrams_go_to_discovery_and_its_own_back_out_of_the_same_port(
    tmp_path: Path,
) -> None:
    async with kits(tmp_path, 1) as [kit]:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as other:
            await other.bind(("127.0.0.1", 0))
            await other.sendto(b"\xd0hello", (kit.address[0].removeprefix("::ffff:"), kit.address[1]))
            with trio.fail_after(5):
                answer, source = await other.recvfrom(100)
        assert (answer, source[1]) == (b"olleh\xd0", kit.address[1])


async def test_discovery_keeps_its_own_time(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit]:
        kit.found.due_us = boot_us() + 50_000
        kit.mesh.discovery.poke()
        await until(lambda: kit.found.asked_for("tick"))


@pytest.mark.parametrize(("kept", "loaded"), [(None, b""), (b"before", b"before"), (b"damaged", b"")])
async def test_what_it_knew_is_kept_and_damage_to_it_is_no_end(
    kept: bytes | None, loaded: bytes, tmp_path: Path
) -> None:
    core = KnowingCore()
    async with open_store(tmp_path / "node.db") as store:
        if kept is not None:
            await store.call(Store.set_setting, STATE_SETTING, kept)
        async with trio.open_nursery() as nursery:
            await nursery.start(Discovery(core, store, lambda _datagram, _address: None).run)
            nursery.cancel_scope.cancel()
        assert core.loaded == loaded
        assert await store.call(Store.setting, STATE_SETTING) == b"tables"


async def test_an_answer_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOKUP_SECONDS", "EVENT_SECONDS", "REFRESH_SECONDS"):
        monkeypatch.setattr(shell, name, 0.01)
    core = KnowingCore()
    core.silent = True
    async with open_store(tmp_path / "node.db") as store:
        discovery = Discovery(core, store, lambda _datagram, _address: None)
        assert await discovery.find_machine(b"m" * 32, None, LOOKUP) is None
        assert await discovery.find_slug("ZEQ07000000001") is None
        assert not await discovery.refresh_market("ANY")


async def test_a_slow_listener_loses_the_newest_and_stops_nobody(tmp_path: Path) -> None:
    core = KnowingCore()
    async with open_store(tmp_path / "node.db") as store:
        discovery = Discovery(core, store, lambda _datagram, _address: None)
        async with discovery.listen("a.b") as heard:
            for number in range(shell.HEARD_MAX + 3):
                assert discovery.publish_tag("a.b", str(number).encode()) == 1
            assert (await heard.receive()).body == b"0"
        assert core.counters["tag event lost by a slow listener"] == 3
        assert discovery.publish_tag("a.b", b"nobody") == 0
        with pytest.raises(Usage, match="a tag has words"):
            async with discovery.listen("a b"):
                pass
        with pytest.raises(Usage, match="at most 900 bytes"):
            discovery.publish_tag("a.b", bytes(901))


# ---------------------------------------------------------------------------- beginning


async def test_it_begins_at_seeds_peers_and_invitations(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit]:
        await kit.context.heard_of(["192.0.2.7:51777"])
        assert await kit.store.call(Store.seeds) == ["192.0.2.7:51777"]
        assert kit.found.asked_for("bootstrap")[-1] == ([bytes([192, 0, 2, 7]) + (51777).to_bytes(2, "big")],)
        config = kit.context.config
        kit.context.config = replace(config, dht=replace(config.dht, seeds=("192.0.2.8:1",)))
        kit.mesh.reload()
        await until(lambda: len(kit.found.asked_for("bootstrap")[-1][0]) == 2)  # type: ignore[arg-type]


async def test_who_joins_is_named_by_the_owner_and_who_is_met_in_the_local_network_is_not(
    tmp_path: Path,
) -> None:
    async with kits(tmp_path, 1) as [kit]:
        places = [bytes([192, 0, 2, number]) + (51777).to_bytes(2, "big") for number in (9, 10)]
        kit.mesh.peer_at(("::ffff:192.0.2.9", 51777))
        kit.mesh._met(("::ffff:192.0.2.10", 51777))
        assert kit.found.asked_for("bootstrap")[-2:] == [([places[0]],), ([places[1]],)]
        assert kit.found.unnamed == [places[1]]


# ---------------------------------------------------------------------------- own offers


async def test_an_offer_is_published_listed_and_survives_a_restart(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit]:
        assert kit.found.asked_for("publish") == [([kit.endpoint()], False)]
        offer = await kit.mesh.offering.make(TERMS)
        assert offer.accept_country_classes == ("EU", "CH")
        assert kit.found.asked_for("offer") == [(offer,)]
        assert kit.found.asked_for("publish")[-1] == ([kit.endpoint()], True)
        assert kit.status.snapshot()["discovery"]["offer"] == described(offer)
        assert kit.core.door._guard.listed
        again = type(kit.mesh.offering)(
            kit.keys.machine_id, kit.store, kit.mesh.discovery, kit.core, lambda: None
        )
        await again.load()
        assert again.own == offer
        changed = await kit.mesh.offering.make(TERMS | {"per_gb": 60})
        assert (changed.price_per_gb_zeq, changed.since) == (60, offer.since)


async def test_a_withdrawal_is_said_again_after_a_restart_as_long_as_an_offer_may_be_about(
    tmp_path: Path,
) -> None:
    async with kits(tmp_path, 1) as [kit]:
        await kit.mesh.offering.make(TERMS)
        withdrawn = await kit.mesh.offering.withdraw()
        assert not withdrawn.active
        assert kit.found.asked_for("withdraw") == [(withdrawn,)]
        assert not kit.core.door._guard.listed
        with pytest.raises(Usage, match="offers nothing"):
            await kit.mesh.offering.withdraw()
        await kit.mesh.offering.load()
        assert len(kit.found.asked_for("withdraw")) == 2
        kept = msgspec.msgpack.encode([withdrawn, unix_now() - WITHDRAWN_SECONDS - 1])
        await kit.store.call(Store.set_setting, OFFER_SETTING, kept)
        await kit.mesh.offering.load()
        assert len(kit.found.asked_for("withdraw")) == 2
        await kit.store.call(Store.set_setting, OFFER_SETTING, b"damaged")
        await kit.mesh.offering.load()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"per_gb": -1}, "--per-gb is a whole number from 0"),
        ({"per_gb": None}, "--per-gb is a whole number"),
        ({"per_gb": True}, "--per-gb is a whole number"),
        ({"per_zeqond": 10**9 + 1}, "--per-zeqond is a whole number"),
        ({"max_tunnels": 0}, "--max-tunnels is a whole number from 1"),
        ({"country": "Germany"}, "--country is a code of two capital letters"),
        ({"country": 7}, "--country is a code"),
        ({"accept": []}, "--accept has one to 16"),
        ({"accept": ["EU", "EU"]}, "--accept has one to 16 country classes, each once"),
        ({"accept": ["Europe"]}, "--accept has codes of two capital letters, or ANY, not 'Europe'"),
        ({"accept": [1]}, "--accept has codes"),
        ({"accept": [["EU"]]}, "--accept has codes"),
        ({"accept": "EU"}, "--accept has one to 16"),
    ],
)
def test_terms_that_cannot_be_are_a_sentence(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Usage, match=f"^{sentence}"):
        from_arguments(bytes(32), TERMS | changed, 0)


# ---------------------------------------------------------------------------- probes


async def test_a_relay_that_is_there_is_seen_to_be_and_how_far_it_is(tmp_path: Path) -> None:
    async with kits(tmp_path, 2) as [asker, relay]:
        await relay.mesh.offering.make(TERMS)
        asker.found.offers[relay.keys.bundle.ed25519] = listing(relay.keys)
        asker.found.locations[listed(relay)] = Location(1, (relay.endpoint(),))
        [answer] = await market(asker)
        assert answer["reachable"]
        assert 0 < answer["rtt_ms"] < 2000
        assert asker.found.asked_for("proven") == [(relay.keys.bundle,)]
        again = len(asker.found.asked_for("lookup"))
        assert await market(asker) == [answer]
        assert len(asker.found.asked_for("lookup")) == again, "what was tried a moment ago is not tried again"


async def test_an_offer_in_another_machines_name_is_not_taken_for_its_own(tmp_path: Path) -> None:
    async with kits(tmp_path, 2) as [asker, relay]:
        await relay.mesh.offering.make(TERMS)
        forger = MachineKeys.generate()
        forged = replace(listing(relay.keys), signer=forger.bundle.ed25519)
        asker.found.offers[forged.signer] = forged
        asker.found.locations[listed(relay)] = Location(1, (relay.endpoint(),))
        [answer] = await market(asker)
        assert (answer["reachable"], answer["rtt_ms"]) == (False, None)


async def test_a_machine_that_is_not_listed_does_not_answer_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.acquainting.KEYS_SECONDS", 0.3)
    async with kits(tmp_path, 2) as [asker, other]:
        asker.found.offers[other.keys.bundle.ed25519] = listing(other.keys)
        asker.found.locations[listed(other)] = Location(1, (other.endpoint(),))
        [answer] = await market(asker)
        assert answer["reachable"] is False
        await until(lambda: other.core.counters["mac1 refused"])


async def test_nothing_is_tried_where_nobody_wants_it_and_never_oneself(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit]:
        stranger = MachineKeys.generate()
        kit.found.offers[stranger.bundle.ed25519] = listing(stranger, price_per_gb_zeq=70)
        kit.found.offers[kit.keys.bundle.ed25519] = listing(kit.keys)
        assert [row["checked"] for row in await market(kit, probe=False)] == [None, None]
        rows = await market(kit)
        assert [(row["own"], row["reachable"]) for row in rows] == [(False, False), (True, None)]
        assert [row["own"] for row in await market(kit, max_per_gb=60)] == [True]


async def market(kit: Kit, **arguments: Any) -> list[dict[str, Any]]:
    answer = await kit.mesh.finding.operations["market"](arguments, silent())
    rows: list[dict[str, Any]] = answer["offers"]
    return rows


class _Silent(Asker):
    def __init__(self) -> None:
        pass

    async def __call__(self, text: str) -> None:
        assert text


def silent() -> Asker:
    return _Silent()


# ---------------------------------------------------------------------------- peers found again


async def test_a_peer_that_moved_is_found_by_its_record(tmp_path: Path) -> None:
    async with kits(tmp_path, 2) as [home, cafe]:
        home.found.locations[cafe.keys.machine_id, LOOKUP] = Location(1, (cafe.endpoint(),))
        await cafe.knows(home)
        await home.knows(cafe, "127.77.9.9:9")
        await until(lambda: home.is_connected_to(cafe))
        assert home.found.asked_for("lookup")[0] == (cafe.keys.machine_id, cafe.keys.bundle.ed25519)


async def test_a_peer_that_cannot_be_reached_is_asked_to_call_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "CALL_SECONDS", 0.1)
    async with kits(tmp_path, 2) as [home, cafe]:
        homes = ((home.endpoint(), b"h" * 16),)
        home.found.locations[cafe.keys.machine_id, LOOKUP] = Location(1, (), homes)
        await cafe.knows(home)
        await home.knows(cafe)
        await until(lambda: home.found.asked_for("send"))
        [(to, tag, body)] = home.found.asked_for("send")
        assert (to.bundle, to.secret, to.homes) == (cafe.keys.bundle, LOOKUP, homes)  # type: ignore[attr-defined]
        assert tag == CALL_TAG
        assert not home.is_connected_to(cafe)
        called(cafe, home, body)  # type: ignore[arg-type]
        await until(lambda: home.is_connected_to(cafe))


def called(kit: Kit, author: Kit, body: bytes, private: bool = True) -> None:
    """As discovery gives it when it has opened a sealed event."""
    bundle = author.keys.bundle.to_bytes() if private else b""
    numbers = tuple(number for number, tag in kit.found.subscriptions.items() if tag == CALL_TAG)
    kit.found.events.append(Tagged(numbers, CALL_TAG, author.keys.machine_id, bundle, body, 1))
    kit.mesh.discovery.poke()


async def test_calls_of_strangers_and_in_gossip_and_floods_of_them_lead_to_nothing(tmp_path: Path) -> None:
    async with kits(tmp_path, 3) as [home, cafe, stranger]:
        await home.knows(cafe)
        await until(lambda: home.found.subscriptions)
        called(home, stranger, told(stranger))
        await until(lambda: home.core.counters["call of a stranger"])
        called(home, cafe, told(stranger), private=False)
        called(home, cafe, b"\xc1")
        called(home, cafe, told(stranger))
        await until(lambda: home.core.counters["call of a peer that cannot be read"])
        await until(lambda: home.core.counters["call of a peer over the rate limit"])
        assert home.core.peers[cafe.keys.machine_id].handshakes.attempt is None


async def test_a_peer_that_stays_away_is_looked_up_ever_more_rarely(tmp_path: Path) -> None:
    async with kits(tmp_path, 2) as [home, cafe]:
        row = await home.knows(cafe)
        search, now = home.mesh._reaching, boot_us()
        search.network_changed()
        assert search.missing(now) == [row]
        assert search.missing(now + FIRST_WAIT_US - 1) == []
        assert search.missing(now + FIRST_WAIT_US) == [row]
        assert search.missing(now + 2 * FIRST_WAIT_US) == []
        search.network_changed()
        assert search.missing(now + 2 * FIRST_WAIT_US) == [row]
        await home.peers.enable(row, False)
        search.network_changed()
        assert search.missing(now + 9 * FIRST_WAIT_US) == []


def test_a_call_names_eight_places_at_most() -> None:
    places = [bytes([192, 0, 2, number, 0, 1]) for number in range(20)]
    assert decode_call(encode_call(places)) == places[:8]
    assert encode_call(places[:1]) == b"\x91\xc4\x06\xc0\x00\x02\x00\x00\x01"
    for wrong in (b"", b"\xc1", b"\x91\xc4\x01a", msgspec.msgpack.encode(places[:9]), b"\x80"):
        with pytest.raises(ValueError):
            decode_call(wrong)


# ---------------------------------------------------------------------------- what people ask


@asynccontextmanager
async def asking(kit: Kit, folder: Path) -> AsyncIterator[Callable[..., Any]]:
    """The control socket of the node's own operations."""

    async def handle(op: str, arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        return await kit.mesh.finding.operations[op](arguments, asker)

    path = folder / "control.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(path, handle, task_status=task_status))

        async def ask(op: str, **words: Any) -> dict[str, Any]:
            return await call(path, op, **words)

        yield ask
        nursery.cancel_scope.cancel()


async def test_a_peer_is_looked_up_by_name_and_a_stranger_by_its_whole_fingerprint(tmp_path: Path) -> None:
    async with kits(tmp_path, 2) as [home, cafe], asking(home, tmp_path) as ask:
        home.found.locations[cafe.keys.machine_id, LOOKUP] = Location(
            (unix_now() - 60) * 1000, (cafe.endpoint(),), ((home.endpoint(), b"h" * 16),)
        )
        await home.knows(cafe)
        [found] = (await ask("lookup", machine="other"))["machines"]
        assert (found["name"], found["found"], len(found["homes"])) == ("other", True, 1)
        assert 59 <= found["age_s"] <= 70
        stranger = MachineKeys.generate()
        with pytest.raises(Unreachable, match="no machine of this fingerprint is listed"):
            await ask("lookup", machine=fingerprint(stranger.machine_id))
        with pytest.raises(Usage, match=r"no peer's name \(known: other\), no slug and no whole fingerprint"):
            await ask("lookup", machine="nobody")


async def test_all_who_claim_a_slug_are_shown(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit], asking(kit, tmp_path) as ask:
        first, second = MachineKeys.generate(), MachineKeys.generate()
        with pytest.raises(Unreachable, match="no listed machine is called ZEQ07000000001"):
            await ask("lookup", machine="zeq07000000001")
        kit.found.claims = (first.bundle, second.bundle)
        found = (await ask("lookup", machine="ZEQ07000000001"))["machines"]
        assert [each["slug"] for each in found] == [slug(each.machine_id) for each in (first, second)]
        assert not any(each["found"] for each in found)


async def test_tags_are_heard_by_who_tails_them(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit], asking(kit, tmp_path) as ask, trio.open_nursery() as nursery:
        heard: list[dict[str, Any]] = []

        async def tail() -> None:
            await ask("tags_tail", tag="weather.berlin", on_item=heard.append, timeout=60)

        nursery.start_soon(tail)
        await until(lambda: "weather.berlin" in kit.found.subscriptions.values())
        assert (await ask("tags_publish", tag="weather.berlin", text="rain"))["subscribers_notified"] == 1
        await until(lambda: heard)
        nursery.cancel_scope.cancel()
    assert heard == [
        {
            "tag": "weather.berlin",
            "author": (b"K" * 32).hex(),
            "name": None,
            "private": False,
            "zeqond": 7,
            "text": "rain",
            "body": b"rain".hex(),
        }
    ]
    assert "weather.berlin" not in kit.found.subscriptions.values(), "nobody listens any more"


async def test_the_market_is_watched(tmp_path: Path) -> None:
    async with kits(tmp_path, 1) as [kit], asking(kit, tmp_path) as ask, trio.open_nursery() as nursery:
        seen: list[dict[str, Any]] = []

        async def watch() -> None:
            await ask("market_watch", probe=False, on_item=seen.append, timeout=60)

        nursery.start_soon(watch)
        await until(lambda: seen == [{"offers": []}])
        stranger = MachineKeys.generate()
        kit.found.offers[stranger.bundle.ed25519] = listing(stranger)
        await until(lambda: len(seen) == 2)
        nursery.cancel_scope.cancel()
    assert [row["per_gb"] for row in seen[1]["offers"]] == [50]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"country": "Europe"}, "--country is a code of two letters"),
        ({"country": 1}, "--country is a code"),
        ({"max_per_gb": -1}, "--max-per-gb is a whole number"),
        ({"max_per_gb": 1.5}, "--max-per-gb is a whole number"),
    ],
)
async def test_a_market_that_cannot_be_meant_is_a_sentence(
    words: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    async with kits(tmp_path, 1) as [kit]:
        with pytest.raises(Usage, match=sentence):
            await market(kit, **words)


async def test_a_node_without_discovery_says_how_to_get_it(tmp_path: Path) -> None:
    for operation in OFF.values():
        with pytest.raises(Usage, match=r"enabled = true. in \[dht\]"):
            await operation({}, silent())
