"""Fifty real nodes on loopback, from one invitation's address: they publish, find and withdraw; and a crawl.

The story (tests/node/fifty.py) is lived once; each test reads one thing of it.
"""

from __future__ import annotations

import pytest
import trio

from crypto.identity import fingerprint
from dht import bulletin, endpoints, locations
from dht.messages import DHT, GOSSIP, Push, decode_gossip
from dht.records import Kind
from dht.signatures import Ed25519Signatures
from node.peers import unix_now
from tests.node.crawl import Index, read_by_a_stranger
from tests.node.fifty import FIFTY, HOLDERS, JOINED_S, LEAVING, RELAYS, Story, live, own_key


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return trio.run(live, tmp_path_factory.mktemp("fifty"))


# ---------------------------------------------------------------------------- joined, found, withdrawn


def test_all_of_them_join_from_one_address(story: Story) -> None:
    print({name: round(seconds, 2) for name, seconds in story.took.items()})
    assert story.took["joined"] < JOINED_S
    assert all(member.core.overlays[0].serving for member in story.members)


def test_offers_are_heard_by_all_and_read_from_the_dht_alone(story: Story) -> None:
    wanted = {relay.slug for relay in story.relays}
    for name in ("asker", "recluse"):
        assert {row["slug"] for row in story.markets[name]} == wanted
        assert all(row["reachable"] and row["proven"] for row in story.markets[name])
    assert story.members[FIFTY].links == 0


def test_a_listed_machine_is_found_by_slug_and_by_fingerprint(story: Story) -> None:
    relay = story.relays[0]
    for name in ("slug", "fingerprint"):
        [machine] = story.looked_up[name]
        assert machine["fingerprint"] == fingerprint(relay.keys.machine_id)
        assert machine["addresses"] == [endpoints.text(relay.endpoint)]


def test_an_unlisted_machine_is_found_with_its_secret_only(story: Story) -> None:
    sought = story.members[20]
    assert "no listed machine is called" in story.refused["slug"]
    assert "no machine of this fingerprint is listed" in story.refused["fingerprint"]
    [machine] = story.looked_up["a peer"]
    assert machine["addresses"] == [endpoints.text(sought.endpoint)]
    assert story.located == {"secret": (sought.endpoint,), "wrong secret": None}


def test_a_withdrawn_offer_is_gone_everywhere_and_no_replay_brings_it_back(story: Story) -> None:
    staying = {story.members[number].keys.machine_id for number in RELAYS if number not in LEAVING}
    assert story.after == dict.fromkeys(("asker", "recluse", "anybody"), staying)


# ---------------------------------------------------------------------------- the crawl


def test_the_crawl_misses_no_node_and_no_record(story: Story) -> None:
    crawl = story.crawl
    assert crawl.walked == {member.endpoint for member in story.members}
    assert crawl.given == crawl.kept
    for member in story.members:
        today = unix_now() // locations.DAY_S
        keys = [own_key(member, day) for day in (today - 1, today, today + 1)]
        holders = [key for _, key in crawl.given if key in keys]
        assert len(holders) >= HOLDERS // 2, "everybody's own record is in it, for who can open it"


def test_every_record_read_tells_of_listed_machines_only(story: Story) -> None:
    """The reader has guessed everybody's machine_id; it reads what listed machines want to be read."""
    told = read_by_a_stranger(story.crawl.raws, [member.keys.bundle for member in story.members])
    assert told == {relay.keys.machine_id: set(Kind) for relay in story.relays}


def test_no_bytes_of_records_or_datagrams_name_an_unlisted_machine(story: Story) -> None:
    """Neither plainly nor by anything that follows from its keys; the same search finds every listed one."""
    index = Index(member.keys.bundle for member in story.members)
    listed = {relay.keys.machine_id for relay in story.relays}
    datagrams = [seen.datagram for seen in story.wire]
    assert index.found_in(story.crawl.raws) == listed
    assert index.found_in(datagrams) == listed
    whole = b"\0".join([*story.crawl.raws, *datagrams])
    assert not [member.name for member in story.members if member.name.encode() in whole]
    secrets = Index(())
    for member in story.members:
        secrets.add(member.lookup_secret, member.keys.machine_id)
    assert secrets.found_in([whole]) == set()


def test_no_record_has_an_address_that_can_be_read(story: Story) -> None:
    """Where everybody is, the crawl knows; no record says who that is, in any of its bytes."""
    whole = b"\0".join(story.crawl.raws)
    assert not [member.name for member in story.members if member.endpoint in whole]
    assert not [member.name for member in story.members if endpoints.text(member.endpoint).encode() in whole]


def test_gossip_names_only_who_is_listed(story: Story) -> None:
    pushed = [seen.datagram for seen in story.wire if seen.datagram[0] == GOSSIP]
    messages = [decode_gossip(datagram[1:]) for datagram in pushed]
    heard = [bulletin.parse(message.message) for message in messages if isinstance(message, Push)]
    authors = {
        one.author for one in heard if one is not None and bulletin.genuine(one, Ed25519Signatures(), 12)
    }
    assert authors == {relay.keys.bundle.ed25519 for relay in story.relays}
    assert {one.topic for one in heard if one is not None} == {"market.offer"}
    index = Index(member.keys.bundle for member in story.members)
    assert index.found_in(pushed) == {relay.keys.machine_id for relay in story.relays}
    assert {seen.datagram[0] for seen in story.wire} == {DHT, GOSSIP}
