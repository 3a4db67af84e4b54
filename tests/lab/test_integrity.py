"""Whole nodes, and not one byte wrong: TCP by SHA-256, each UDP payload, pings; both ways, IPv4 and IPv6.

On each kind of link, with each offload missing, across everything that can change under a transfer. The first
test begins to keep two pairs of nodes busy, and others, an epoch later, look what came of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulations.lab.impairment import Changes
from tests.lab.checked import (
    DUAL,
    IPV4,
    IPV6,
    MEGABYTE,
    MODES,
    OFFLOADS,
    SILENCE,
    WIRE,
    Busy,
    Tunnel,
    all_comes_right,
    engine,
    full_speed,
    go_on,
    kill_worker,
    missing,
    tunnel,
)
from tests.lab.nodes import Node, Sections, eventually, needs_tun
from tests.scale import seconds, times

pytestmark = [pytest.mark.lab, needs_tun, pytest.mark.timeout(seconds(120))]

EPOCH = 46.6  # s
RENEWED = 5  # s


# ---------------------------------------------------------------------- beside all others


@dataclass
class Background:
    """since, epoch: when the traffic began, and home's count of epochs then."""

    pair: Tunnel
    traffic: Busy
    since: float
    epoch: int


@contextlib.contextmanager
def background(folder: Path, sections: Sections) -> Iterator[Background]:
    with tunnel(folder, home=sections) as pair, Busy(*pair.nodes) as traffic:
        yield Background(pair, traffic, time.monotonic(), pair.home.peer("cafe")["epoch"])


@pytest.fixture(scope="module")
def epochs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    with background(tmp_path_factory.mktemp("epochs"), {}) as found:
        yield found


@pytest.fixture(scope="module")
def renewals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    with background(tmp_path_factory.mktemp("renewals"), engine(rekey_seconds=RENEWED)) as found:
        yield found


def test_pairs_that_are_busy_from_now_on(epochs: Background, renewals: Background) -> None:
    """What becomes of them other tests tell."""
    for each in (epochs, renewals):
        assert each.pair.home.peer("cafe")["state"] == "connected"


# ---------------------------------------------------------------------- links


@pytest.fixture(scope="module", params=MODES)
def wired(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    folder = tmp_path_factory.mktemp("wired")
    with tunnel(folder, home=engine(mode=request.param)) as pair:
        yield pair


def impair(pair: Tunnel, changes: Changes) -> None:
    """Each datagram by itself, and the receiver's kernel joins what is left, as for a card."""
    pair.lab.link("wire").set(loss=0.0, duplicate=0.0)
    pair.lab.link("wire").set(**changes)
    for node in pair.nodes:
        node.host.run(["ethtool", "-K", "wire", "gro", "on"])


def test_a_clean_link(wired: Tunnel) -> None:
    pair = wired
    pair.lab.link("wire").set(loss=0.0, duplicate=0.0)
    all_comes_right(*pair.nodes, times(12 * MEGABYTE))


def test_one_datagram_in_a_hundred_is_lost(wired: Tunnel) -> None:
    impair(wired, {"loss": 0.01})
    all_comes_right(*wired.nodes, times(MEGABYTE), share=0)
    assert wired.lab.link("wire").counters().dropped > 0


def test_one_datagram_in_a_hundred_comes_twice(wired: Tunnel) -> None:
    impair(wired, {"duplicate": 0.01})
    all_comes_right(*wired.nodes, times(8 * MEGABYTE))
    assert wired.lab.link("wire").counters().duplicated > 0


@pytest.mark.parametrize("mode", MODES)
def test_datagrams_overtake_each_other(mode: str, tmp_path: Path) -> None:
    world = f"{DUAL}delay_ms = 1.0\njitter_ms = 0.5\nreorder = 0.03"
    with tunnel(tmp_path, world, engine(mode=mode)) as pair:
        for node in pair.nodes:
            node.host.run(["ethtool", "-K", "wire", "gro", "on"])
        all_comes_right(*pair.nodes, times(2 * MEGABYTE), rounds=3, share=0)
        assert pair.lab.link("wire").counters().reordered > 0


@pytest.mark.parametrize("offload", ["nic", "bare"])
def test_a_card_without_segmentation(offload: str, tmp_path: Path) -> None:
    """nic: the kernel cuts trains and joins them again; bare: nothing joins them."""
    with tunnel(tmp_path, f'{DUAL}offload = "{offload}"') as pair:
        all_comes_right(*pair.nodes, times(10 * MEGABYTE))


@pytest.mark.parametrize(
    ("subnet", "mtu", "inner", "payload"),
    [
        pytest.param(IPV6, 1500, 1404, 0, id="ipv6"),
        pytest.param(IPV4, 1280, 1280, 0, id="ipv4-1280"),
        pytest.param(IPV6, 1280, 1280, 0, id="ipv6-1280"),
        pytest.param(IPV6, 1280, 1404, 0, id="ipv6-1280-inside-1404"),
        pytest.param(IPV4, 9000, 8904, 0, id="jumbo"),
        pytest.param(IPV6, 9000, 1404, 8900, id="jumbo-outside"),
        pytest.param(IPV6, 1500, 8904, 0, id="jumbo-inside"),
    ],
)
def test_an_underlay(subnet: str, mtu: int, inner: int, payload: int, tmp_path: Path) -> None:
    """inner: MTU of the TUNs; payload: what the nodes may try at most, 0 what their TUNs need."""
    sections = engine(largest_payload=payload) | {"interface": {"mtu": inner}}
    with tunnel(tmp_path, f"{WIRE}{subnet}\nmtu = {mtu}", sections) as pair:
        all_comes_right(*pair.nodes, times(6 * MEGABYTE))


# ---------------------------------------------------------------------- meanwhile


def test_the_keys_change_with_the_epoch(epochs: Background) -> None:
    """Under slow traffic since the first test, and, where the end of the epoch is still to come, fast too."""
    home = epochs.pair.home

    def next_epoch() -> bool:
        return bool(home.peer("cafe")["epoch"] > epochs.epoch)

    def nearly() -> bool:
        return next_epoch() or time.monotonic() > epochs.since + EPOCH - SILENCE

    eventually(nearly, EPOCH, "the epoch nears its end")
    with full_speed(epochs.pair):
        eventually(next_epoch, 2 * SILENCE, "the next epoch")
    epochs.traffic.finish(0.98)
    assert home.peer("cafe")["last_handshake_s"] > EPOCH - SILENCE  # still the session of the join


# ---------------------------------------------------------------------- offloads


def implied(without: list[str]) -> set[str]:
    """TSO and USO are fields of the header that vnet_hdr brings; the kernel has USO only where it has TSO."""
    more = {"vnet_hdr": {"tso", "uso"}, "tso": {"uso"}}
    return {name for given in without for name in (given, *more.get(given, ()))}


@pytest.mark.parametrize("without", [[name] for name in OFFLOADS] + [list(OFFLOADS)], ids="-".join)
def test_one_side_lacks(without: list[str], tmp_path: Path) -> None:
    with tunnel(tmp_path, f'{DUAL}offload = "nic"', {}, engine(without=without)) as pair:
        assert missing(pair.cafe) - implied(without) <= missing(pair.home)
        assert set(without) <= missing(pair.cafe)
        all_comes_right(*pair.nodes, times(5 * MEGABYTE))


def test_both_sides_lack_all(tmp_path: Path) -> None:
    with tunnel(tmp_path, home=engine(without=OFFLOADS)) as pair:
        assert missing(pair.home) == missing(pair.cafe) == set(OFFLOADS)
        all_comes_right(*pair.nodes, times(5 * MEGABYTE))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("link", "payload", "share"),
    [
        pytest.param("", 0, 0.99, id="clean"),
        pytest.param("mtu = 9000", 8900, 0.99, id="jumbo"),
        pytest.param("loss = 0.003\nduplicate = 0.003\ndelay_ms = 1.0\nreorder = 0.01", 0, 0.0, id="faulty"),
    ],
)
def test_trains_that_no_kernel_cuts_or_joins(
    mode: str, link: str, payload: int, share: float, tmp_path: Path
) -> None:
    """Super-packets still, in datagrams that leave and come many with one call (tun/datagrams.py)."""
    sections = engine(mode=mode, largest_payload=payload, without=["udp_segment", "udp_gro"])
    with tunnel(tmp_path, f"{DUAL}{link}", sections) as pair:
        all_comes_right(*pair.nodes, times(5 * MEGABYTE if share else MEGABYTE), rounds=3, share=share)


# ---------------------------------------------------------------------- changes in mid-transfer


def is_known_at(pair: Tunnel, mover: Node, address: str) -> None:
    """The other node sends to that address."""
    other = pair.home if mover is pair.cafe else pair.cafe

    def known() -> bool:
        return bool(other.peer(mover.host.name)["endpoint"] == f"{address}:51777")

    eventually(known, SILENCE, f"{mover.host.name} is known to be at {address}")


@pytest.mark.parametrize("mode", MODES)
def test_roaming(mode: str, tmp_path: Path) -> None:
    """Each side moves twice, in turn."""
    with tunnel(tmp_path, f'{DUAL}offload = "nic"', engine(mode=mode)) as pair, full_speed(pair) as running:
        for number, mover in enumerate(pair.nodes * 2, 100):
            mover.host.set_address("wire", f"10.80.0.{number}")
            go_on(running)
            is_known_at(pair, mover, f"10.80.0.{number}")


@pytest.mark.parametrize("side", ["home", "cafe"])
def test_a_queue_that_is_killed_is_started_again(side: str, tmp_path: Path) -> None:
    with tunnel(tmp_path, DUAL, engine(queues=2)) as pair, full_speed(pair) as running:
        for place in (0, 1):
            kill_worker(pair.home if side == "home" else pair.cafe, place)
            go_on(running)
        assert pair.home.peer("cafe")["state"] == pair.cafe.peer("home")["state"] == "connected"


# ---------------------------------------------------------------------- the end of the other wait


def test_sessions_are_renewed_every_few_seconds(renewals: Background) -> None:
    """Slowly since the first test, and now at full speed."""
    home = renewals.pair.home

    def age() -> int:
        return int(home.peer("cafe")["last_handshake_s"])

    with full_speed(renewals.pair):
        before = age()
        assert before <= 2 * RENEWED
        eventually(lambda: age() < before or age() == 0, 2 * RENEWED, "a new session")
    renewals.traffic.finish(0.98)
