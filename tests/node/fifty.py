"""How fifty real nodes lived together for a quarter of a minute: what tests/node/test_fifty_nodes.py reads.

    start ─▶ join ─▶ offer ─▶ find ─▶ crawl ─▶ ask for the unlisted ─▶ withdraw, and a replay

All in one process, with real sockets, signatures, stamps, handshakes and tables on disk. home invites, 49
join it by the code of `zeqnode join`, each with an invitation of its own (a token is good once), and nobody
has any other address to begin with. Six are relays for a while, so listed; the others never are. One more,
the recluse, joins behind something that drops gossip: what it knows of the market, the DHT alone has told it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from crypto.identity import fingerprint
from dht import locations, offers, records
from dht.endpoints import Endpoint
from dht.locations import Locator
from dht.messages import GOSSIP
from dht.offers import Offer
from dht.records import Kind
from node.errors import Unreachable
from node.peers import unix_now
from tests.node.crawl import Crawler
from tests.node.crowd import Member, Result, Seen, crowd
from tun.engine import boot_us, unix_us

FIFTY = 50
RELAYS = range(10, 16)
LEAVING = range(10, 12)  # of the relays, those that withdraw
ASKER = 40
HOLDERS = 20  # k
LINKS = 2  # of gossip, that everybody has at least; six are wanted
JOINED_S = 30.0
HEARD_S = 20.0
FINDABLE_S = 30.0  # who began the mesh published when it had three nodes, and does so again
PUBLISHED_S = 20.0
WITHDRAWN_S = 10.0  # until no market has the offer: by gossip
BURIED_S = 10.0  # until the DHT says so too


@dataclass
class Crawl:
    """What the strongest reader has: nodes found on the wire, what they gave for a key, what they keep."""

    walked: set[Endpoint] = field(default_factory=set)
    given: dict[tuple[Endpoint, bytes], list[bytes]] = field(default_factory=dict)
    kept: dict[tuple[Endpoint, bytes], list[bytes]] = field(default_factory=dict)

    @property
    def raws(self) -> list[bytes]:
        found = [raw for kind in (self.given, self.kept) for raws in kind.values() for raw in raws]
        return list(dict.fromkeys(found))


@dataclass
class Story:
    """How it went."""

    members: list[Member]
    wire: list[Seen]  # until the crawl has ended: nobody has asked for an unlisted machine yet
    markets: dict[str, list[Result]] = field(default_factory=dict)
    looked_up: dict[str, list[Result]] = field(default_factory=dict)  # machines, by what was asked for
    refused: dict[str, str] = field(default_factory=dict)  # the sentence, by what was asked for
    located: dict[str, tuple[Endpoint, ...] | None] = field(default_factory=dict)  # by what secret was used
    crawl: Crawl = field(default_factory=Crawl)
    began: float = 0.0
    took: dict[str, float] = field(default_factory=dict)  # seconds
    after: dict[str, set[bytes]] = field(default_factory=dict)  # machine_ids in offers, after the withdrawal

    @property
    def relays(self) -> list[Member]:
        return [self.members[number] for number in RELAYS]

    @property
    def unlisted(self) -> list[Member]:
        return [one for number, one in enumerate(self.members) if number not in RELAYS]


async def until(missing: Callable[[], object], seconds: float, what: str) -> None:
    """Until nothing is missing."""
    began = trio.current_time()
    while left := missing():
        assert trio.current_time() - began < seconds, (
            f"after {seconds:g} s still not: {what}; missing: {left}"
        )
        await trio.sleep(0.05)  # it is other nodes that make it true


async def live(folder: Path) -> Story:
    """The whole of it, in a folder of its own."""
    async with crowd(folder, FIFTY + 1) as (members, wire):
        told = Story(members, wire)
        members[FIFTY].engine.lost = frozenset({GOSSIP})
        await _join(told)
        await _offer(told)
        await _find(told)
        await _crawl(told)
        told.wire = list(wire)
        await _ask_for_the_unlisted(told)
        await _withdraw(told)
        return told


async def _join(story: Story) -> None:
    home, *others = story.members
    texts = [(await home.ask("invite"))["invitation"] for _ in others]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for member, text in zip(others, texts, strict=True):
            nursery.start_soon(_redeem, member, text)
    story.took["tunnels"] = trio.current_time() - began
    await until(lambda: _unsettled(story), JOINED_S, "everybody knows others, is seen and is linked")
    story.took["joined"] = trio.current_time() - began
    story.began = began


def _unsettled(story: Story) -> list[str]:
    """Who lacks what."""
    lacks = []
    for number, one in enumerate(story.members):
        lacks += [f"{one.name} has few contacts: {one.contacts}"] * (one.contacts < HOLDERS)
        lacks += [f"{one.name} is seen nowhere"] * (one.core.overlays[0].endpoint != one.endpoint)
        lacks += [f"{one.name} has few links: {one.links}"] * (number < FIFTY and one.links < LINKS)
    return lacks


def _unfindable(story: Story) -> list[str]:
    """Whose own record, for those who have its secret, is on few shelves."""
    today = unix_now() // locations.DAY_S
    held = Counter(key for member in story.members for key in member.shelf())
    days = (today - 1, today, today + 1)
    most = {one.name: max(held[own_key(one, day)] for day in days) for one in story.members}
    return [f"{name}: {count}" for name, count in most.items() if count < HOLDERS // 2]


def own_key(member: Member, day: int) -> bytes:
    """Where it is found by who has its secret."""
    return Locator(Kind.LOCATION, member.keys.machine_id, member.lookup_secret, day).key


async def _redeem(member: Member, text: str) -> None:
    await member.ask("join", invitation=text)


async def _offer(story: Story) -> None:
    began = trio.current_time()
    for price, relay in enumerate(story.relays, 40):
        words = {"per_gb": price, "per_zeqond": 1, "max_tunnels": 8, "country": "DE", "accept": ["EU", "CH"]}
        await relay.ask("relay_offer", **words)
    hearing = story.members[:FIFTY]
    wanted = {relay.keys.machine_id for relay in story.relays}
    await until(
        lambda: [one.name for one in hearing if _offered_to(one) != wanted], HEARD_S, "all heard all offers"
    )
    story.took["heard"] = trio.current_time() - began

    def unpublished() -> list[str]:
        return [
            f"{name} of {relay.name}"
            for relay in story.relays
            for name in ("offer", "slug", "listed location 0", "listed bundle 0")
            if relay.core.presence.announcer.stored(name) < HOLDERS // 2
        ]

    await until(unpublished, PUBLISHED_S, "all that the relays publish is on shelves")
    story.took["published"] = trio.current_time() - began


def _offered_to(member: Member) -> set[bytes]:
    return {each.offer.machine_id for each in member.core.market("DE", None, unix_us())}


async def _find(story: Story) -> None:
    for name, number in (("asker", ASKER), ("recluse", FIFTY)):
        story.markets[name] = (await story.members[number].ask("market", country="DE"))["offers"]
    relay = story.relays[0]
    for name, wanted in (("slug", relay.slug), ("fingerprint", fingerprint(relay.keys.machine_id))):
        story.looked_up[name] = (await story.members[ASKER].ask("lookup", machine=wanted))["machines"]


async def _crawl(story: Story) -> None:
    await until(lambda: _unfindable(story), FINDABLE_S, "everybody's own record is on shelves")
    story.took["findable"] = trio.current_time() - story.began
    crawl = story.crawl
    async with Crawler("127.89.1.1") as crawler:
        crawl.walked = set(await crawler.walk(story.members[ASKER].endpoint))
        for member in story.members:
            for key in member.shelf():
                while True:
                    kept = member.kept(key)
                    given = await crawler.read(member.endpoint, key)
                    if kept == member.kept(key):  # else something new came meanwhile
                        break
                crawl.kept[member.endpoint, key] = kept
                crawl.given[member.endpoint, key] = given


async def _ask_for_the_unlisted(story: Story) -> None:
    asker, home, sought = story.members[ASKER], story.members[0], story.members[20]
    for name, wanted in (
        ("slug", sought.slug),
        ("fingerprint", fingerprint(sought.keys.machine_id)),
    ):
        story.refused[name] = await _sentence(asker.ask("lookup", machine=wanted))
    story.looked_up["a peer"] = (await home.ask("lookup", machine=sought.name))["machines"]
    wrong = bytes(locations.LOOKUP_SECRET_BYTES)
    for name, secret in (("secret", sought.lookup_secret), ("wrong secret", wrong)):
        bundle = sought.keys.bundle
        found = await asker.discovery.find_machine(bundle.machine_id, bundle.ed25519, secret)
        story.located[name] = found.endpoints if found is not None else None


async def _sentence(asking: Awaitable[Result]) -> str:
    """Why there is no answer."""
    try:
        return f"found: {await asking}"
    except Unreachable as error:
        return str(error)


async def _withdraw(story: Story) -> None:
    leaving = [story.members[number] for number in LEAVING]
    gone = {member.keys.machine_id for member in leaving}
    old = [raw for raw in story.crawl.raws if _offer_of(raw) in gone]
    assert old
    began = trio.current_time()
    for member in leaving:
        await member.ask("relay_withdraw")
    hearing = story.members[:FIFTY]
    await until(
        lambda: [one.name for one in hearing if _offered_to(one) & gone], WITHDRAWN_S, "the markets forget"
    )
    story.took["withdrawn"] = trio.current_time() - began
    await until(lambda: _unburied(story, gone), BURIED_S, "the DHT has the withdrawals")
    story.took["buried"] = trio.current_time() - began
    await _replay(story.members[ASKER], hearing, old)
    for name, number in (("asker", ASKER), ("recluse", FIFTY)):
        await story.members[number].ask("market", country="DE", probe=False)
        story.after[name] = _offered_to(story.members[number])
    story.after["anybody"] = set().union(*map(_offered_to, story.members))


def _offer_of(raw: bytes) -> bytes | None:
    """The machine that this record offers, if it does."""
    record = records.read(raw)
    if record.kind is not Kind.OFFER:
        return None
    offer: Offer = offers.read(record)
    return offer.machine_id if offer.active else None


def _unburied(story: Story, gone: set[bytes]) -> list[str]:
    """Keys under which fewer than half as many shelves as there should be say that an offer is withdrawn."""
    graves: dict[tuple[bytes, bytes], int] = {}
    for member in story.members:
        for key, raws in member.shelf().items():
            for record in map(records.read, raws):
                if record.kind is Kind.OFFER and (offer := offers.read(record)).machine_id in gone:
                    name = key, offer.machine_id
                    graves[name] = graves.get(name, 0) + (not offer.active)
    return [f"{key.hex()[:8]}: {count}" for (key, _), count in graves.items() if count < HOLDERS // 2]


async def _replay(attacker: Member, hearing: list[Member], old: list[bytes]) -> None:
    """Somebody who kept the offers says them again, to the DHT and in gossip, and all hear of it."""
    core, names = attacker.core, []
    for raw in old:
        core.overlays[0].put([raw], records.read(raw).key, boot_us())
        names.append(core._to_mesh("market.offer", raw, boot_us(), unix_us()))
    attacker.discovery.poke()
    await until(
        lambda: [one.name for one in hearing if not all(map(one.core.gossip._seen.knows, names))],
        HEARD_S,
        "all heard the replay",
    )
