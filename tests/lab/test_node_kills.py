"""`kill -9` of either side of a paid tunnel: no acknowledged voucher is lost, it goes on, and at its end both
sides agree."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from node.errors import Unreachable
from simulations.lab.lab import Lab
from tests.lab.flow import Flow
from tests.lab.nodes import Node, Sections, SmallDisk, eventually, needs_tun
from tests.lab.test_node_paid import typed
from tests.scale import SOAK, seconds

pytestmark = [pytest.mark.lab, needs_tun]

TOWNS = {"seed": 1, "relay": 2, "guest": 3}
WORLD = (
    "[routers.internet]\n"
    + "".join(f"[hosts.{name}]\n" for name in TOWNS)
    + "".join(
        f'[links.{name}]\nends = ["internet", "{name}"]\nsubnet = "203.{number}.113.0/24"\n'
        for name, number in TOWNS.items()
    )
)
DRIVER = (sys.executable, str(Path(__file__).with_name("heard_driver.py")))
MB = 1_000_000
UP, DOWN = 8001, 8002  # ports of the relay's host
RATE = 12 * MB  # a second, each way: some three vouchers
KILLS = 200 if SOAK else 10
SOON = 30.0  # s
PAUSE = 12.0  # s; a data path that is told nothing takes 15 to notice
KILLS_OF_ONE = 4
SEED = 20261127


@dataclass
class Market:
    """A relay and its guest. `heard`: where the guest writes down what it heard to be kept."""

    lab: Lab
    seed: Node
    relay: Node
    guest: Node
    heard: Path
    name: str = ""
    kills: dict[str, int] = field(default_factory=lambda: {"relay": 0, "guest": 0})
    pauses: list[float] = field(default_factory=list)

    @property
    def sides(self) -> tuple[Node, Node]:
        return self.guest, self.relay

    def connect(self) -> str:
        """A new tunnel that carries; its id. Who has just started may not have found the mesh yet."""
        until = time.monotonic() + SOON
        while (done := self.guest.command("connect", self.name, "--json")).returncode:
            assert done.returncode == Unreachable.exit_code, done.stderr
            assert time.monotonic() < until, done.stderr
            time.sleep(0.5)  # between two tries, bounded by `until`
        made = json.loads(done.stdout)
        assert (made["state"], made["carrying"]) == ("active", True)
        return str(made["id"])

    @contextlib.contextmanager
    def traffic(self) -> Iterator[tuple[Flow, Flow]]:
        """Both ways, for as long as the block lasts."""
        hosts, address = (self.guest.host, self.relay.host), str(typed(self.relay, "id")["address"])
        up, down = (Flow(*hosts, (address, port), RATE, up=port == UP) for port in (UP, DOWN))
        with up, down:
            yield up, down


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with made_market(tmp_path) as made:
        yield made


@contextlib.contextmanager
def made_market(folder: Path, disk: SmallDisk | None = None) -> Iterator[Market]:
    """`disk`: for the state of the relay."""
    with Lab.from_toml(WORLD) as lab, contextlib.ExitStack() as stack:
        own: Sections = {
            "dht": {"lan": False, "seeds": [f"{lab.host('seed').address('seed')}:51777"]},
            "api": {"enabled": False},
            "relay": {"ports": [UP, DOWN]},
            "credit": {"stranger_zeq": 10**9, "strangers_per_day_zeq": 10**9},
        }
        heard = folder / "heard"
        seed = Node(lab.host("seed"), folder, {**own, "dht": {"lan": False, "seeds": []}})
        guest = Node(lab.host("guest"), folder, own, command=(*DRIVER, str(heard)))
        if disk is None:
            relay = Node(lab.host("relay"), folder, own)
        else:
            state, seen = disk.path / "state", disk.seen / "state"
            relay = Node(lab.host("relay"), folder, own, state=state, seen=seen, command=disk.command)
        for node in (seed, relay, guest):
            stack.enter_context(node)
        market = Market(lab, seed, relay, guest, heard)
        assert relay.command("relay", "offer", "--per-gb", "50", "--country", "EU").returncode == 0
        offers = eventually(lambda: typed(guest, "market")["offers"], 30, "the offer is in the market")
        market.name = f"{offers[0]['slug']}~{offers[0]['fingerprint'][:19]}"
        yield market


# ---------------------------------------------------------------------- what each side has


def shown(node: Node, tunnel: str) -> dict[str, Any]:
    """The tunnel, as the node shows it."""
    rows: list[dict[str, Any]] = node.call("tunnels")["tunnels"]
    return next(row for row in rows if row["id"] == tunnel)


def kept(node: Node, tunnel: str, given: bool) -> int:
    """The sequence of the newest voucher on its disk, which is read past the node; 0: none."""
    query = "SELECT sequence FROM vouchers WHERE tunnel_id = ? AND given = ?"
    with closing(sqlite3.connect(f"file:{node.state}/ledger.db?mode=ro", uri=True)) as database:
        row = database.execute(query, (UUID(tunnel).bytes, given)).fetchone()
    return int(row[0]) if row is not None else 0


def heard(market: Market, tunnel: str) -> int:
    """The highest sequence that the payer ever heard to be kept, in all its lives; 0: none."""
    lines = [line.split() for line in market.heard.read_text().splitlines()] if market.heard.exists() else []
    of_this = [int(sequence) for tunnel_id, sequence in lines if tunnel_id == UUID(tunnel).hex]
    return max(of_this, default=0)


def nothing_is_lost(market: Market, tunnel: str) -> None:
    """What was acknowledged is on the payee's disk, and what is there the payer knows it has signed. Each is
    read before what it is compared with, as both may grow meanwhile."""
    acknowledged = heard(market, tunnel)
    taken = kept(market.relay, tunnel, False)
    given = kept(market.guest, tunnel, True)
    assert acknowledged <= taken <= given


def verify(market: Market) -> tuple[int, int]:
    """Both chains hold; the number of pairs of each."""
    found = [typed(node, "ledger", "verify") for node in market.sides]
    assert [each["open"] for each in found] == [0, 0], found
    return found[0]["pairs"], found[1]["pairs"]


def settled(market: Market, tunnel: str) -> dict[str, Any]:
    """Both have ended it, settled it, and say the same."""

    def both() -> bool:
        return all(shown(node, tunnel)["settled"] for node in market.sides)

    eventually(both, SOON, f"settled at both ends: {[shown(node, tunnel) for node in market.sides]}")
    payer, payee = (shown(node, tunnel) for node in market.sides)
    for each in (payer, payee):
        assert each["state"] in ("terminated", "expired")
    figures = ("millionths", "bytes", "zeqonds")
    assert [payer[key] for key in figures] == [payee[key] for key in figures]
    return payer


def goes_on(market: Market, tunnel: str, flows: tuple[Flow, Flow]) -> None:
    """Packets pass both ways, and both count on."""
    before = [shown(node, tunnel)["millionths"] for node in market.sides]
    for flow in flows:
        flow.wait_more(MB, SOON)

    def paid() -> bool:
        rows = [shown(node, tunnel) for node in market.sides]
        assert all(row["state"] == "active" for row in rows), rows
        return all(row["millionths"] > old for row, old in zip(rows, before, strict=True))

    eventually(paid, SOON, "both sides count on")


# ---------------------------------------------------------------------- kill -9


def kill(market: Market, victim: Node, tunnel: str) -> None:
    """At once, and what it leaves is looked at before it starts again."""
    victim.kill()
    market.kills[victim.host.name] += 1
    nothing_is_lost(market, tunnel)
    victim.start()


@pytest.mark.timeout(seconds(120))
def test_killed_at_random_while_it_carries_nothing_acknowledged_is_lost(market: Market) -> None:
    """Each tunnel is ended by one side or the other, and at times one of them is killed in the midst of
    that."""
    chance, rounds = random.Random(SEED), KILLS
    pairs, total = 0, 0
    while sum(market.kills.values()) < rounds:
        tunnel = market.connect()
        with market.traffic() as flows:
            goes_on(market, tunnel, flows)
            for _ in range(KILLS_OF_ONE):
                time.sleep(chance.uniform(0.0, 1.0))  # the moment of the kill is what is drawn
                since = time.monotonic()
                kill(market, chance.choice(market.sides), tunnel)
                goes_on(market, tunnel, flows)
                market.pauses.append(time.monotonic() - since)
            killed_while_it_ends(market, tunnel, chance)
        row = settled(market, tunnel)
        nothing_is_lost(market, tunnel)
        pairs, total = pairs + 1, total + row["millionths"]
        assert verify(market) == (pairs, pairs)
    owed = [each["net_millionths"] for node in market.sides for each in typed(node, "balance")["partners"]]
    assert owed == [-total, total]
    acknowledged = len(market.heard.read_text().splitlines())
    assert acknowledged > rounds
    counts = f"{market.kills}, {pairs} tunnels, {acknowledged} vouchers acknowledged"
    pause = statistics.median(market.pauses)
    assert pause < PAUSE
    print(f"{counts}, carrying {pause:.1f} s after a kill, {max(market.pauses):.1f} s at most")


def killed_while_it_ends(market: Market, tunnel: str, chance: random.Random) -> None:
    """By one side, and one is killed a moment later."""
    ending, victim = chance.choice(market.sides), chance.choice(market.sides)
    words = threading.Thread(target=lambda: ending.command("disconnect", tunnel))
    words.start()
    time.sleep(chance.uniform(0.0, 0.6))  # the moment of the kill is what is drawn
    kill(market, victim, tunnel)
    words.join()
    if all(shown(node, tunnel)["state"] == "active" for node in market.sides):
        typed(ending, "disconnect", tunnel)  # the first word died before it was written down


# ---------------------------------------------------------------------- other ends


@pytest.mark.parametrize("name", ["guest", "relay"])
def test_stopped_and_started_again_it_goes_on(name: str, market: Market) -> None:
    """SIGTERM, which says goodbye to the peers."""
    tunnel = market.connect()
    with market.traffic() as flows:
        goes_on(market, tunnel, flows)
        node = getattr(market, name)
        node.stop()
        nothing_is_lost(market, tunnel)
        node.start()
        goes_on(market, tunnel, flows)
    typed(node, "disconnect", tunnel)
    settled(market, tunnel)
    assert verify(market) == (1, 1)


def test_a_relay_that_cannot_be_reached_for_a_while(market: Market) -> None:
    """Its link is cut: nobody says goodbye, and nobody ends it."""
    tunnel = market.connect()
    with market.traffic() as flows:
        goes_on(market, tunnel, flows)
        market.lab.link("relay").set(loss=1.0)
        time.sleep(60 if SOAK else 20)  # longer than a data path waits for an answer
        assert [shown(node, tunnel)["state"] for node in market.sides] == ["active"] * 2
        market.lab.link("relay").set(loss=0.0)
        goes_on(market, tunnel, flows)
    typed(market.guest, "disconnect", tunnel)
    settled(market, tunnel)


def test_the_payees_disk_is_full_while_it_carries(tmp_path: Path) -> None:
    """What cannot be written down is not carried; it goes on when there is room."""
    with SmallDisk("6m") as disk, made_market(tmp_path, disk) as market:
        tunnel = market.connect()
        with market.traffic() as flows:
            goes_on(market, tunnel, flows)
            disk.fill()
            eventually(lambda: "carry nothing until" in market.relay.said(), SOON, "the relay notices")
            stands_still(flows)
            assert [shown(node, tunnel)["state"] for node in market.sides] == ["active"] * 2
            disk.free()
            goes_on(market, tunnel, flows)
        typed(market.relay, "disconnect", tunnel)
        settled(market, tunnel)


def stands_still(flows: tuple[Flow, Flow]) -> None:
    """For a second nothing comes."""

    def still() -> bool:
        before = [flow.received for flow in flows]
        time.sleep(1.0)
        return before == [flow.received for flow in flows]

    eventually(still, SOON, "nothing is carried")
